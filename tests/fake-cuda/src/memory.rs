//! The memory that the driver hands out: tables of what is alive, and of what once was.

use crate::{
    handle::{ContextId, DeviceId},
    history::History,
};
use std::{alloc::Layout, collections::BTreeMap};

/// What fresh memory holds: whoever reads it before writing it shall see that.
const UNINITIALIZED: u8 = 0xA5;
/// Device addresses begin here, and no host memory lies at them.
const FIRST_ADDRESS: u64 = 0x0700_0000_0000;
/// Each device has this much room for addresses, none of which is given out twice.
const ROOM: u64 = 0x0100_0000_0000;
/// Addresses are multiples of this, and at least this far from the end of the allocation before.
const ALIGNMENT: u64 = 256;
/// The alignment of pinned host memory.
const PAGE: usize = 4096;

/// An allocation of device memory.
pub struct DeviceAllocation {
    pub context: ContextId,
    pub device: DeviceId,
    pub bytes: Vec<u8>,
    /// The function that made it.
    pub function: &'static str,
    pub history: History,
    /// Set once it may no longer be used; the bytes stay until the stream gets to the free.
    pub freed: bool,
}

/// All memory of all devices.
#[derive(Default)]
pub struct DeviceMemory {
    /// By address. An allocation whose free is queued is still here.
    pub allocations: BTreeMap<u64, DeviceAllocation>,
    /// The sizes of the allocations that are gone, by address.
    gone: BTreeMap<u64, u64>,
    /// The next address of each device.
    next: BTreeMap<DeviceId, u64>,
    /// How many allocations held anything but zeros when they were freed.
    pub freed_nonzero: u64,
}

/// What lies at an address.
pub enum Lookup {
    /// An allocation that is alive, by its address, and the place in it.
    Alive { base: u64, offset: usize },
    /// Freed memory.
    Freed,
    /// Nothing that was ever allocated.
    Unknown,
}

impl DeviceMemory {
    /// Empty tables that go on with the addresses of these.
    pub fn successor(&self) -> Self {
        Self { next: self.next.clone(), ..Self::default() }
    }

    /// The bytes of a device that are alive.
    pub fn used(&self, device: DeviceId) -> u64 {
        let alive = |allocation: &&DeviceAllocation| allocation.device == device && !allocation.freed;
        self.allocations.values().filter(alive).map(|allocation| allocation.bytes.len() as u64).sum()
    }

    /// Adds an allocation and returns its address.
    pub fn allocate(&mut self, device: DeviceId, context: ContextId, size: usize, function: &'static str) -> u64 {
        let next = self.next.entry(device).or_insert(FIRST_ADDRESS + device as u64 * ROOM);
        let base = *next;
        *next = (base + size as u64).next_multiple_of(ALIGNMENT) + ALIGNMENT;
        let bytes = vec![UNINITIALIZED; size];
        let history = History::default();
        self.allocations.insert(base, DeviceAllocation { context, device, bytes, function, history, freed: false });
        base
    }

    /// Removes an allocation for good.
    pub fn remove(&mut self, base: u64) {
        if let Some(allocation) = self.allocations.remove(&base) {
            self.freed_nonzero += u64::from(allocation.bytes.iter().any(|byte| *byte != 0));
            self.gone.insert(base, allocation.bytes.len() as u64);
        }
    }

    /// What lies at an address. One just past the end of an allocation still counts as the allocation's, for the message.
    pub fn find(&self, address: u64) -> Lookup {
        if let Some((base, allocation)) = self.allocations.range(..=address).next_back() {
            let offset = address - base;
            if offset <= allocation.bytes.len() as u64 {
                return if allocation.freed { Lookup::Freed } else { Lookup::Alive { base: *base, offset: offset as usize } };
            }
        }
        match self.gone.range(..=address).next_back() {
            Some((base, size)) if address - base <= *size => Lookup::Freed,
            _ => Lookup::Unknown,
        }
    }
}

/// Host memory that the device can reach.
pub struct HostMemory {
    /// Told apart by number, for an address can be pinned again.
    pub id: u64,
    pub size: usize,
    /// The function that pinned it.
    pub function: &'static str,
    /// Whether the driver allocated it, rather than registered the caller's.
    pub allocated: bool,
    pub context: ContextId,
    pub history: History,
}

/// All pinned host memory, by address.
#[derive(Default)]
pub struct PinnedMemory {
    pub ranges: BTreeMap<usize, HostMemory>,
    next_id: u64,
}

impl PinnedMemory {
    /// Empty tables that go on with the numbers of these. Memory that was never freed stays allocated: somebody may still
    /// hold its address.
    pub fn successor(&self) -> Self {
        Self { ranges: BTreeMap::new(), next_id: self.next_id }
    }

    /// Adds a range; false where it overlaps one that is there.
    pub fn add(&mut self, address: usize, size: usize, allocated: bool, context: ContextId, function: &'static str) -> bool {
        let end = address.saturating_add(size);
        if self.ranges.range(..end).next_back().is_some_and(|(base, range)| base + range.size > address) {
            return false;
        }
        self.next_id += 1;
        let history = History::default();
        self.ranges.insert(address, HostMemory { id: self.next_id, size, function, allocated, context, history });
        true
    }

    /// The range that an address lies in, by its own address.
    pub fn find(&self, address: usize) -> Option<usize> {
        let (base, range) = self.ranges.range(..=address).next_back()?;
        (address - base < range.size).then_some(*base)
    }

    /// Whether the range of that number is still there.
    pub fn contains(&self, id: u64) -> bool {
        self.ranges.values().any(|range| range.id == id)
    }
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, PAGE).ok().filter(|layout| layout.size() > 0)
}

/// Allocates host memory to be pinned.
pub fn allocate_host(size: usize) -> Option<usize> {
    let layout = layout(size)?;
    // SAFETY: the layout has a size that isn't zero.
    let address = unsafe { std::alloc::alloc(layout) };
    if address.is_null() {
        return None;
    }
    // SAFETY: the allocation is of that size, and nobody else knows it yet.
    unsafe { address.write_bytes(UNINITIALIZED, size) };
    Some(address.expose_provenance())
}

/// Frees what [`allocate_host`] returned, once.
pub fn free_host(address: usize, size: usize) {
    let layout = layout(size).expect("it was allocated with this layout");
    // SAFETY: the address is one that `allocate_host` returned for this size, and the caller has just taken it out of the
    // table of live ranges, so it isn't freed twice.
    unsafe { std::alloc::dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
}

/// Reads host memory into a buffer, replacing what that held.
pub fn read_host(address: usize, size: usize, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.reserve(size);
    // SAFETY: the driver's caller promised that the range is readable until the copy from it is complete, and what it
    // unpinned is no longer read. The buffer has room for `size` bytes, all of which are written before its length is set.
    // Should the caller write there meanwhile, then the bytes are any mixture, which the hash is there to notice.
    unsafe {
        std::ptr::copy_nonoverlapping(std::ptr::with_exposed_provenance(address), buffer.as_mut_ptr(), size);
        buffer.set_len(size);
    }
}

/// Writes to host memory.
pub fn write_host(address: usize, bytes: &[u8]) {
    let destination = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: the driver's caller promised that the range is writable, and nobody else's, until the copy to it is complete,
    // and what it unpinned is no longer written.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), destination, bytes.len()) };
}

/// A hash that tells changed bytes from unchanged ones; not meant against anybody who tries.
pub fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let mut words = bytes.chunks_exact(8);
    let hash = words
        .by_ref()
        .fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(word.try_into().expect("a chunk has 8 bytes"))));
    words.remainder().iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}
