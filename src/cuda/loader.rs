//! The loader: threads that read, check and send chunks, and what happens when one of them fails.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::device_pack::DevicePack;
use super::driver::{Device, DeviceMemory, Event, PinnedBuffer, Registration, Stream};
use super::pool::{Lent, Pool};
use super::reading::{PAGE, Reading, Strategy};
use super::schedule::{Chunk, Piece, Schedule, chunk_size, length};
use super::select::Select;
use super::staging::{Fence, Free, InFlight, Slot};
use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::seal;
use crate::source::{Mapping, ReadAt};
use crate::writer::Progress;

/// How a [`Loader`] is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoaderOptions {
    /// The most bytes of pinned memory, in use and kept together: default 320 MiB, which is two buffers for each of 16 threads and some room.
    /// One buffer is always allowed.
    pub pinned_bytes: usize,
    /// Bytes of one staging buffer: default 8 MiB. Packs with larger digest groups take buffers of one group.
    pub buffer_bytes: usize,
}

impl Default for LoaderOptions {
    fn default() -> LoaderOptions {
        LoaderOptions { pinned_bytes: 320 << 20, buffer_bytes: 8 << 20 }
    }
}

impl LoaderOptions {
    /// The same with another bound on pinned memory, in bytes.
    #[must_use]
    pub fn pinned_bytes(mut self, bytes: usize) -> LoaderOptions {
        self.pinned_bytes = bytes;
        self
    }

    /// The same with other staging buffers, in bytes.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> LoaderOptions {
        self.buffer_bytes = bytes;
        self
    }
}

/// How one load goes.
#[derive(Clone)]
pub struct LoadOptions<'a> {
    /// What is loaded: default all.
    pub select: Select,
    /// How it is read: default [`Strategy::Auto`].
    pub strategy: Strategy,
    /// Reader threads: default one a core, at most 16. There are never more than chunks, nor than pinned buffers.
    pub threads: Option<NonZero<usize>>,
    /// Hears of bytes sent, and may end the load.
    pub progress: &'a dyn Progress,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        LoadOptions { select: Select::All, strategy: Strategy::Auto, threads: None, progress: &() }
    }
}

/// What a load gave.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// One a device, in the loader's order.
    pub packs: Vec<DevicePack>,
    /// How the file was read.
    pub strategy: Strategy,
    /// Whether the digests were checked.
    pub verified: bool,
    /// Bytes on each device.
    pub bytes: u64,
    /// Reader threads.
    pub threads: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// Where the time of a load went. All but `total` and `allocate` are sums over the reader threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// From the call to its return.
    pub total: Duration,
    /// Device memory, and pinned buffers that were not there from an earlier load.
    pub allocate: Duration,
    /// Reading the file into pinned buffers.
    pub read: Duration,
    /// Hashing them.
    pub hash: Duration,
    /// Handing them to the driver.
    pub copy: Duration,
    /// Waiting for copies to end: for a buffer to fill again, and for the last ones.
    pub wait: Duration,
}

/// Loads packs onto one or more devices, and keeps pinned buffers from one load to the next.
///
/// One loader serves many threads. Several devices get the same bytes, each of which is read and hashed once; where the first device can
/// reach the others, they copy from it, else each copies from the pinned buffer.
pub struct Loader {
    devices: Vec<Device>,
    options: LoaderOptions,
    pool: Pool<PinnedBuffer>,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("devices", &self.devices).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Loader {
    /// A loader with the default options.
    #[must_use]
    pub fn new(devices: &[Device]) -> Loader {
        Loader::with_options(devices, LoaderOptions::default())
    }

    /// A loader for these devices.
    #[must_use]
    pub fn with_options(devices: &[Device], options: LoaderOptions) -> Loader {
        Loader { devices: devices.to_vec(), pool: Pool::new(options.pinned_bytes), options }
    }

    /// Bytes of pinned memory held now, by running loads and for the next ones.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Gives back the pinned memory that no load is using.
    pub fn release(&self) {
        self.pool.release();
    }

    /// Loads what is selected onto every device; verified if the pack is sealed and was opened so.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Io`], [`Error::Invalid`] with `SEAL-INT-01`, [`Error::NoSuchTensor`], [`Error::Input`] and
    /// [`Error::Cancelled`]. Nothing is left on a device then.
    pub fn load(&self, pack: &Pack, options: &LoadOptions<'_>) -> Result<Loaded> {
        if options.strategy == Strategy::Registered {
            return Err(Error::Input("`registered` reads a mapping that nothing verifies: it has a call of its own".into()));
        }
        let started = Instant::now();
        let (schedule, targets) = self.prepare(pack, &options.select)?;
        let samples = samples(&schedule);
        let reading = Reading::new(pack, options.strategy, samples);
        let slot_bytes = self.slot_bytes(pack);
        let threads = threads(options).min(schedule.chunks.len()).max(1);
        // Two buffers a thread: one fills while the other is copied.
        let wanted = threads.saturating_mul(2).min(schedule.chunks.len());
        let mut buffers = match self.devices.first() {
            Some(device) if wanted > 0 => self.pool.take(wanted, slot_bytes, |bytes| PinnedBuffer::new(device, bytes))?,
            _ => Vec::new(),
        };
        let threads = threads.min(buffers.len());
        let allocate = started.elapsed();

        let work =
            Work { pack, reading, targets, next: AtomicUsize::new(0), chunks: &schedule.chunks, progress: options.progress };
        let mut shares: Vec<Vec<Lent<'_, PinnedBuffer>>> = Vec::with_capacity(threads);
        for left in (1..=threads).rev() {
            let share = buffers.len().checked_div(left).unwrap_or_default();
            shares.push(buffers.split_off(buffers.len().saturating_sub(share)));
        }
        let mut timings = run(shares, |buffers| work.read_chunks(buffers), || work.stop())?;
        timings.allocate = allocate;
        timings.total = started.elapsed();
        let strategy = work.reading.strategy();
        Ok(Loaded {
            packs: work.targets.finish(&schedule, pack),
            strategy,
            verified: pack.is_verified(),
            bytes: schedule.bytes,
            threads,
            timings,
        })
    }

    /// Loads what is selected with no host copy at all: the file is mapped, the mapping is registered with the driver, and the devices read
    /// it themselves. Nothing is verified, as what would be checked is not what is sent: `pack` must have been opened with
    /// [`verify_reads(false)`](crate::OpenOptions::verify_reads), so that nobody believes otherwise.
    ///
    /// # Safety
    /// As [`Pack::map`]: nobody may change or truncate the file while this runs.
    ///
    /// # Errors
    /// As [`Loader::load`]; [`Error::Device`] where the system cannot register a read-only mapping.
    pub unsafe fn load_registered(&self, pack: &Pack, options: &LoadOptions<'_>) -> Result<Loaded> {
        if pack.is_verified() {
            return Err(Error::Input(
                "`registered` cannot verify what it loads: only for packs opened without (--no-verify)".into(),
            ));
        }
        let file = pack.file().ok_or_else(|| Error::Input("only a file can be mapped".into()))?;
        let started = Instant::now();
        let (schedule, targets) = self.prepare(pack, &options.select)?;
        // SAFETY: the caller promises that the file stays as it is.
        let mapping = unsafe { Mapping::of(file) }.map_err(|error| pack.io(error))?;
        if mapping.length() < pack.manifest().payload().end {
            return Err(pack.io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let mut timings = Timings::default();
        if let Some(device) = self.devices.first().filter(|_| !schedule.chunks.is_empty()) {
            // Only the pages that are needed: registering brings them into memory and keeps them there.
            let first = schedule.chunks.first().map_or(0, |chunk| chunk.range.start);
            let first = first.saturating_sub(first.checked_rem(PAGE).unwrap_or_default());
            let end = schedule.chunks.last().map_or(0, |chunk| chunk.range.end);
            let span = usize::try_from(first).ok().zip(usize::try_from(end).ok());
            let span = span.and_then(|(first, end)| mapping.as_bytes().get(first..end)).ok_or_else(misplaced)?;
            let registration = Registration::new(device, span)?;
            timings.allocate = started.elapsed();
            let lane = Lane::new(&targets)?;
            for chunk in &schedule.chunks {
                let within = |offset: u64| usize::try_from(offset.checked_sub(first)?).ok();
                let bytes = within(chunk.range.start).zip(within(chunk.range.end));
                let bytes = bytes.and_then(|(start, end)| registration.bytes().get(start..end));
                let bytes = bytes.ok_or_else(|| pack.io(std::io::ErrorKind::UnexpectedEof.into()))?;
                // SAFETY: the mapping outlives the lane, which is dropped, and with that drained, before it.
                // Its fence is of no use here: nothing is filled again, and the lane is drained in the end.
                timed(&mut timings.copy, || unsafe { lane.send(chunk, bytes, &targets) })?;
                advance(options.progress, chunk)?;
            }
            timed(&mut timings.wait, || lane.drain())?;
            drop(lane);
            drop(registration);
        }
        timings.total = started.elapsed();
        Ok(Loaded {
            packs: targets.finish(&schedule, pack),
            strategy: Strategy::Registered,
            verified: false,
            bytes: schedule.bytes,
            threads: 1,
            timings,
        })
    }

    fn prepare(&self, pack: &Pack, select: &Select) -> Result<(Schedule, Targets)> {
        if self.devices.is_empty() {
            return Err(Error::Input("a loader needs at least one device".into()));
        }
        let schedule = Schedule::new(pack, select, self.options.buffer_bytes as u64)?;
        let targets = Targets::allocate(&self.devices, &schedule)?;
        Ok((schedule, targets))
    }

    /// A chunk, and a page on either side for reads past the page cache.
    fn slot_bytes(&self, pack: &Pack) -> usize {
        let unit = if pack.is_verified() { pack.manifest().group_size() } else { None };
        let bytes = chunk_size(unit, self.options.buffer_bytes as u64).saturating_add(PAGE).saturating_add(PAGE);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// Places all over the selection at which to look whether the file is cached.
fn samples(schedule: &Schedule) -> impl Iterator<Item = u64> + '_ {
    const MOST: usize = 64;
    let step = schedule.chunks.len().div_ceil(MOST).max(1);
    let middle = |chunk: &Chunk| chunk.range.start.saturating_add(length(&chunk.range) / 2);
    schedule.chunks.iter().step_by(step).map(middle)
}

fn threads(options: &LoadOptions<'_>) -> usize {
    /// More gave upstream's loader nothing on an H100's host.
    const MOST: usize = 16;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    options.threads.map_or(cores.min(MOST), NonZero::get)
}

/// Runs one thread a share, and returns the sum of their timings, or the first error in time.
fn run<S: Send>(shares: Vec<S>, body: impl Fn(S) -> Result<Timings> + Sync, stop: impl Fn() + Sync) -> Result<Timings> {
    let first = Mutex::new(None);
    let sum = Mutex::new(Timings::default());
    std::thread::scope(|scope| {
        for share in shares {
            scope.spawn(|| match body(share) {
                Ok(timings) => {
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.add(&timings);
                }
                Err(error) => {
                    stop();
                    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

impl Timings {
    fn add(&mut self, other: &Timings) {
        self.read = self.read.saturating_add(other.read);
        self.hash = self.hash.saturating_add(other.hash);
        self.copy = self.copy.saturating_add(other.copy);
        self.wait = self.wait.saturating_add(other.wait);
    }
}

fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *sum = sum.saturating_add(started.elapsed());
    result
}

fn advance(progress: &dyn Progress, chunk: &Chunk) -> Result<()> {
    let bytes = chunk.pieces.iter().map(|piece| length(&piece.range)).fold(0, u64::saturating_add);
    match progress.advance(bytes) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// The memory that a load fills, on every device.
struct Targets {
    devices: Vec<Target>,
}

struct Target {
    device: Device,
    regions: Vec<Arc<DeviceMemory>>,
    /// When the memory may be used.
    ready: Event,
    /// Whether this device copies from the first one.
    from_first: bool,
}

impl Targets {
    fn allocate(devices: &[Device], schedule: &Schedule) -> Result<Targets> {
        let mut targets = Targets { devices: Vec::with_capacity(devices.len()) };
        for device in devices {
            let owner = Arc::new(Stream::new(device)?);
            let mut regions = Vec::with_capacity(schedule.regions.len());
            for region in &schedule.regions {
                let memory = DeviceMemory::new(&owner, region.length)?;
                if !region.filled {
                    memory.clear()?;
                }
                regions.push(Arc::new(memory));
            }
            let from_first = match devices.first() {
                Some(first) if first.ordinal() != device.ordinal() => device.reach(first)?,
                _ => false,
            };
            targets.devices.push(Target { device: device.clone(), regions, ready: owner.event()?, from_first });
        }
        Ok(targets)
    }

    /// Hands the memory out: everything has arrived and was found right.
    fn finish(self, schedule: &Schedule, pack: &Pack) -> Vec<DevicePack> {
        let whole = |target: Target| {
            target.regions.iter().for_each(|memory| memory.hand_out());
            DevicePack::new(&target.device, target.regions, schedule, pack.manifest())
        };
        self.devices.into_iter().map(whole).collect()
    }
}

/// What all reader threads share.
struct Work<'a> {
    pack: &'a Pack,
    reading: Reading<'a>,
    targets: Targets,
    chunks: &'a [Chunk],
    /// The chunk that is read next.
    next: AtomicUsize,
    progress: &'a dyn Progress,
}

type Flying<'a> = Slot<Lent<'a, PinnedBuffer>, InFlight<Landing>>;

impl Work<'_> {
    /// The life of a reader thread.
    fn read_chunks(&self, buffers: Vec<Lent<'_, PinnedBuffer>>) -> Result<Timings> {
        let mut timings = Timings::default();
        let lane = Lane::new(&self.targets)?;
        let mut free: Vec<_> = buffers.into_iter().map(Slot::new).collect();
        // Dropped before the lane, and each slot waits for its copies first, whichever way this ends.
        let mut flying: VecDeque<Flying<'_>> = VecDeque::with_capacity(free.len());
        while let Some(chunk) = self.claim() {
            let slot = self.free_slot(&mut free, &mut flying, &mut timings)?;
            let read = |bytes: &mut [u8]| self.reading.read(&chunk.range, bytes).map_err(|error| self.pack.io(error));
            let slot = timed(&mut timings.read, || slot.fill(read))?;
            let slot = timed(&mut timings.hash, || slot.verify(|bytes| self.verify(chunk, bytes)))?;
            // SAFETY: the slot keeps the bytes as they are until the fence that comes back was waited for.
            let send = |bytes: &[u8]| unsafe { lane.send(chunk, bytes, &self.targets) };
            flying.push_back(timed(&mut timings.copy, || slot.send(send))?);
            advance(self.progress, chunk)?;
        }
        timed(&mut timings.wait, || flying.into_iter().try_for_each(|slot| slot.land().map(drop)))?;
        timed(&mut timings.wait, || lane.drain())?;
        Ok(timings)
    }

    fn free_slot<'b>(
        &self,
        free: &mut Vec<Slot<Lent<'b, PinnedBuffer>, Free>>,
        flying: &mut VecDeque<Flying<'b>>,
        timings: &mut Timings,
    ) -> Result<Slot<Lent<'b, PinnedBuffer>, Free>> {
        if let Some(slot) = free.pop() {
            return Ok(slot);
        }
        let oldest = flying.pop_front().ok_or_else(|| Error::Input("a reader thread has no buffer".into()))?;
        timed(&mut timings.wait, || oldest.land())
    }

    fn claim(&self) -> Option<&Chunk> {
        self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets the other threads find no more chunks.
    fn stop(&self) {
        self.next.store(self.chunks.len(), Ordering::Relaxed);
    }

    fn verify(&self, chunk: &Chunk, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for number in chunk.groups.clone() {
            let group = seal::group_range(self.pack.manifest(), number);
            let size = usize::try_from(length(&group)).unwrap_or(usize::MAX);
            let (bytes, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
            seal::check_group(self.pack.manifest(), number, bytes).map_err(|violation| self.pack.damaged(*violation))?;
            rest = after;
        }
        Ok(())
    }
}

/// A reader thread's streams, one a device. Dropping it waits for all that was enqueued.
struct Lane {
    streams: Vec<Stream>,
}

impl Lane {
    fn new(targets: &Targets) -> Result<Lane> {
        let mut lane = Lane { streams: Vec::with_capacity(targets.devices.len()) };
        for target in &targets.devices {
            let stream = Stream::new(&target.device)?;
            stream.wait_for(&target.ready)?;
            lane.streams.push(stream);
        }
        Ok(lane)
    }

    /// Enqueues the copies of a chunk to all devices. When it fails, all that it enqueued has ended.
    ///
    /// # Safety
    /// The bytes stay as they are until the fence was waited for, or the lane was drained.
    unsafe fn send(&self, chunk: &Chunk, bytes: &[u8], targets: &Targets) -> Result<Landing> {
        // SAFETY: the caller's promise.
        let sent = unsafe { self.enqueue(chunk, bytes, targets) };
        if sent.is_err() {
            let _ = self.drain();
        }
        sent
    }

    /// # Safety
    /// As [`Lane::send`], also after an error.
    unsafe fn enqueue(&self, chunk: &Chunk, bytes: &[u8], targets: &Targets) -> Result<Landing> {
        let mut landing = Landing { events: Vec::with_capacity(self.streams.len()) };
        for (number, (stream, target)) in self.streams.iter().zip(&targets.devices).enumerate() {
            let first = targets.devices.first().filter(|_| target.from_first).zip(landing.events.first());
            if let Some((_, arrived)) = first {
                stream.wait_for(arrived)?;
            }
            for piece in &chunk.pieces {
                let destination = place(target, piece)?;
                if let Some((first, _)) = first {
                    let source = place(first, piece)?;
                    let length = usize::try_from(length(&piece.range)).unwrap_or(usize::MAX);
                    // SAFETY: both ranges lie in their regions, which live until the lanes have ended; the first device has its part, as
                    // the stream waits for that.
                    unsafe { stream.copy_from_peer(destination, &first.device, source, length) }?;
                    continue;
                }
                let start = piece.range.start.checked_sub(chunk.range.start).and_then(|start| usize::try_from(start).ok());
                let end = piece.range.end.checked_sub(chunk.range.start).and_then(|end| usize::try_from(end).ok());
                let part = start.zip(end).and_then(|(start, end)| bytes.get(start..end)).ok_or_else(misplaced)?;
                // SAFETY: the caller's promise for the source; the destination lies in its region, as above.
                unsafe { stream.copy_to_device(destination, part) }?;
            }
            // Only copies that read the buffer need to be waited for before it is filled again; the lane waits for the others in the end.
            if number == 0 || first.is_none() {
                landing.events.push(stream.event()?);
            }
        }
        Ok(landing)
    }

    fn drain(&self) -> Result<()> {
        all(self.streams.iter().map(Stream::synchronize))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let _ = self.drain();
    }
}

/// Does all of them, whatever one says; then the first error.
fn all(results: impl Iterator<Item = Result<()>>) -> Result<()> {
    let mut first = Ok(());
    for result in results {
        first = first.and(result);
    }
    first
}

/// Where a piece goes on a device. Regions were allocated for the schedule that the piece is from, so this holds; it is checked all the
/// same, as a copy past the end could not be undone.
fn place(target: &Target, piece: &Piece) -> Result<u64> {
    let memory = target.regions.get(piece.region).ok_or_else(misplaced)?;
    let end = piece.offset.checked_add(length(&piece.range)).ok_or_else(misplaced)?;
    if end > memory.length() {
        return Err(misplaced());
    }
    memory.address().checked_add(piece.offset).ok_or_else(misplaced)
}

fn misplaced() -> Error {
    Error::Input("a piece of the load lies outside its region".into())
}

/// When the copies from one buffer have ended, on every device that reads it.
struct Landing {
    events: Vec<Event>,
}

impl Fence for Landing {
    type Error = Error;

    fn wait(&self) -> Result<()> {
        all(self.events.iter().map(Event::synchronize))
    }
}
