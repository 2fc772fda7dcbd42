//! A pack, or a part of one, in the memory of a device.

use std::sync::Arc;

use super::dlpack::DlpackTensor;
use super::driver::{Device, DeviceMemory};
use super::schedule::{Placed, Schedule, length};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::source::zeroed;

/// Tensors in the memory of one device. Freed when dropped, in the order of the stream that [`DevicePack::stream`] gives.
///
/// All copies have ended before one of these is handed out, so any stream may use it at once. Whoever hands addresses to work of their own
/// has that work end before they drop this, or keeps it by [`DeviceTensor::to_dlpack`], or calls [`DevicePack::share`].
#[derive(Debug)]
pub struct DevicePack {
    device: Device,
    regions: Vec<Arc<DeviceMemory>>,
    /// In order of names.
    tensors: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    region: usize,
    offset: u64,
    length: u64,
}

impl DevicePack {
    pub(super) fn new(device: &Device, regions: Vec<Arc<DeviceMemory>>, schedule: &Schedule, manifest: &Manifest) -> DevicePack {
        let entry = |placed: &Placed| {
            let tensor = manifest.nth(placed.number)?;
            Some(Entry {
                name: tensor.name.to_owned(),
                dtype: tensor.dtype,
                shape: placed.shape.clone(),
                region: placed.region,
                offset: placed.offset,
                length: length(&placed.range),
            })
        };
        DevicePack { device: device.clone(), regions, tensors: schedule.tensors.iter().filter_map(entry).collect() }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tensors, by name in order of bytes. Those of a part ([`Select::Rows`](super::Select::Rows)) have the part's shape.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = DeviceTensor<'_>> + '_ {
        self.tensors.iter().map(|entry| DeviceTensor { pack: self, entry })
    }

    /// The tensor with this name.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`], also for one of the file that was not loaded whole.
    pub fn tensor(&self, name: &str) -> Result<DeviceTensor<'_>> {
        let found = self.tensors.binary_search_by(|entry| entry.name.as_bytes().cmp(name.as_bytes())).ok();
        let entry = found.and_then(|number| self.tensors.get(number));
        entry.map(|entry| DeviceTensor { pack: self, entry }).ok_or_else(|| Error::NoSuchTensor(name.to_owned()))
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The allocations: address on the device (0 for an empty one) and bytes. One a block when all was selected, else one.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.regions.iter().map(|memory| (memory.address(), memory.length()))
    }

    /// Copies a region back to the host.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Input`] if there is no such region.
    pub fn read_region(&self, number: usize) -> Result<Vec<u8>> {
        let memory = self.regions.get(number).ok_or_else(|| Error::Input(format!("there is no region {number}")))?;
        read(memory, 0, memory.length())
    }

    /// The `CUstream` in whose order the memory is freed: work that waits for it there ends before. Null where there is no memory.
    #[must_use]
    pub fn stream(&self) -> *mut std::ffi::c_void {
        self.regions.first().map_or(std::ptr::null_mut(), |memory| memory.owner().handle())
    }

    /// From now on the memory is freed only when everything on the device has ended: for addresses that were handed to streams that nobody
    /// else orders.
    pub fn share(&self) {
        self.regions.iter().for_each(|memory| memory.share());
    }
}

fn read(memory: &DeviceMemory, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = zeroed(length).map_err(|error| Error::Input(format!("no memory for {length} bytes: {error}")))?;
    memory.read(offset, &mut bytes)?;
    Ok(bytes)
}

/// A tensor in the memory of a device: dense, row by row.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTensor<'a> {
    pack: &'a DevicePack,
    entry: &'a Entry,
}

impl<'a> DeviceTensor<'a> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.entry.name
    }

    /// The type of its elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.entry.dtype
    }

    /// Its dims, outermost first. A scalar has none.
    #[must_use]
    pub fn shape(&self) -> &'a [u64] {
        &self.entry.shape
    }

    /// Bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.entry.length
    }

    /// Where it begins in device memory (a `CUdeviceptr`); 0 for one without bytes. Valid while the pack lives.
    #[must_use]
    pub fn address(&self) -> u64 {
        let start = self.memory().map_or(0, |memory| memory.address());
        if self.entry.length == 0 { 0 } else { start.saturating_add(self.entry.offset) }
    }

    /// Copies it back to the host.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn to_host(&self) -> Result<Vec<u8>> {
        match self.memory() {
            Some(memory) if self.entry.length > 0 => read(memory, self.entry.offset, self.entry.length),
            _ => Ok(Vec::new()),
        }
    }

    /// The tensor for a framework to adopt without a copy. It keeps the memory until the framework lets go of it, beyond the life of the
    /// pack.
    ///
    /// # Errors
    /// [`Error::Input`] for shapes that DLPack cannot say (dims over 2^63 - 1), and for a tensor whose address is no multiple of its element's
    /// size: a part of the payload ([`Select::Bytes`](super::Select::Bytes)) may begin anywhere.
    pub fn to_dlpack(&self) -> Result<DlpackTensor> {
        let element = self.dtype().bits() / 8;
        if self.address().checked_rem(element).is_some_and(|rest| rest > 0) {
            return Err(Error::Input(format!("tensor {:?} begins within an element's size: no framework takes it", self.name())));
        }
        let memory = self.memory().ok_or_else(|| Error::Input(format!("tensor {:?} has no memory", self.name())))?;
        DlpackTensor::new(memory.clone(), self.address(), self.dtype(), self.shape())
    }

    fn memory(&self) -> Option<&'a Arc<DeviceMemory>> {
        self.pack.regions.get(self.entry.region)
    }
}
