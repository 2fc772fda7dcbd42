//! The CUDA driver, as much of it as a loader needs: each object of its own type, freed when dropped.
//!
//! This is the only place that calls the driver. It goes through cudarc's raw results rather than its safe layer, as the loader must know
//! itself when a copy has ended: see [`super::staging`]. Every call here runs in the context of its device and leaves the thread's
//! context as it was, since other users of the driver in this process keep theirs there.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use crate::error::{Error, Result};

/// What the driver says to a call.
type Said<T> = std::result::Result<T, DriverError>;

/// The oldest driver with all functions that are called: 11.4.
const OLDEST_DRIVER: c_int = 11_040;

/// A GPU. Cheap to clone; its context is the primary one, which frameworks in the same process use too.
#[derive(Clone, Debug)]
pub struct Device(Arc<Context>);

#[derive(Debug)]
struct Context {
    ordinal: u32,
    device: sys::CUdevice,
    handle: sys::CUcontext,
    /// Whether memory can be allocated and freed in the order of a stream.
    has_pools: bool,
}

// SAFETY: a context handle may be used from any thread; the driver locks it.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Device {
    /// The number of GPUs.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, or none that can be used.
    pub fn count() -> Result<u32> {
        load_driver()?;
        let count = said("cuda", "counting devices", result::device::get_count())?;
        Ok(u32::try_from(count).unwrap_or_default())
    }

    /// The GPU with this number, as CUDA counts them.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, or no such device.
    pub fn open(ordinal: u32) -> Result<Device> {
        let count = Device::count()?;
        let name = format!("cuda:{ordinal}");
        if ordinal >= count {
            let message = format!("there is no such device: the driver finds {count}");
            return Err(Error::Device { device: name, action: "opening", message });
        }
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        let device = said(&name, "opening", result::device::get(number))?;
        // SAFETY: the device was just given by the driver.
        let pools = unsafe { result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED) };
        let has_pools = said(&name, "asking for its attributes", pools)? != 0;
        // SAFETY: as above; released once, by the drop of `Context`.
        let handle = said(&name, "taking its context", unsafe { result::primary_ctx::retain(device) })?;
        Ok(Device(Arc::new(Context { ordinal, device, handle, has_pools })))
    }

    /// Its number.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    /// What it is called.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn name(&self) -> Result<String> {
        self.said("asking for its name", result::device::get_name(self.0.device))
    }

    /// Bytes of its memory: free, and in all.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn memory(&self) -> Result<(u64, u64)> {
        let _current = self.enter()?;
        let (free, total) = self.said("asking for its memory", result::mem_get_info())?;
        Ok((free as u64, total as u64))
    }

    /// Waits until everything that anyone has asked of the device is done.
    ///
    /// # Errors
    /// [`Error::Device`], also with what went wrong in earlier work.
    pub fn synchronize(&self) -> Result<()> {
        let _current = self.enter()?;
        self.said("waiting for it", result::ctx::synchronize())
    }

    /// Whether `other` can be reached from this device without a way through host memory; if so, opens that way.
    pub(super) fn reach(&self, other: &Device) -> Result<bool> {
        if !self.0.has_pools || !other.0.has_pools {
            return Ok(false);
        }
        let mut can: c_int = 0;
        // SAFETY: writes one integer; both devices were given by the driver.
        let asked = unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, self.0.device, other.0.device) }.result();
        self.said("asking which devices it can reach", asked)?;
        if can == 0 {
            return Ok(false);
        }
        // Memory from a pool is opened by its pool.
        // SAFETY: the device was given by the driver; its default pool lives as long as it does.
        let pool = self.said("asking for a device's pool", unsafe { result::device::get_default_mem_pool(other.0.device) })?;
        let access = sys::CUmemAccessDesc {
            location: sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: self.0.device },
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the pool is valid; one record is read.
        let opened = unsafe { sys::cuMemPoolSetAccess(pool, &raw const access, 1) }.result();
        self.said("opening a way to another device", opened)?;
        Ok(true)
    }

    /// Makes the device's context this thread's, until the guard is dropped.
    fn enter(&self) -> Result<Current> {
        let previous = self.said("asking for the current context", result::ctx::get_current())?;
        // SAFETY: the context is retained for as long as `self` lives.
        self.said("entering its context", unsafe { result::ctx::set_current(self.0.handle) })?;
        Ok(Current { previous: previous.unwrap_or(std::ptr::null_mut()), _thread: PhantomData })
    }

    /// The same where a failure would leak: once more if need be. What is freed without a context is the driver's to refuse.
    fn enter_to_free(&self) -> Option<Current> {
        self.enter().or_else(|_| self.enter()).ok()
    }

    fn said<T>(&self, action: &'static str, result: Said<T>) -> Result<T> {
        said(&format!("cuda:{}", self.0.ordinal), action, result)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, when this was made. An error leaves nothing to be done.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// While it lives, a device's context is this thread's.
struct Current {
    previous: sys::CUcontext,
    /// It is about this thread, and must end on it.
    _thread: PhantomData<*mut ()>,
}

impl Drop for Current {
    fn drop(&mut self) {
        // SAFETY: the context that the thread had before; null for none.
        let _ = unsafe { result::ctx::set_current(self.previous) };
    }
}

fn load_driver() -> Result<()> {
    // Calls would panic without it.
    // SAFETY: loads the library by its name, as every later call would.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device {
            device: "cuda".into(),
            action: "loading the driver",
            message: "no NVIDIA driver (libcuda) was found: install one, or load to cpu".into(),
        });
    }
    said("cuda", "initializing the driver", result::init())?;
    let mut version: c_int = 0;
    // SAFETY: writes one integer.
    said("cuda", "asking for the driver's version", unsafe { sys::cuDriverGetVersion(&raw mut version) }.result())?;
    if version < OLDEST_DRIVER {
        let message = format!("it is for CUDA {}.{}: at least 11.4 is needed", version / 1000, version % 1000 / 10);
        return Err(Error::Device { device: "cuda".into(), action: "checking the driver", message });
    }
    Ok(())
}

fn said<T>(device: &str, action: &'static str, result: Said<T>) -> Result<T> {
    result.map_err(|error| {
        let text = |text: Said<&std::ffi::CStr>| text.ok().map(|text| text.to_string_lossy().into_owned());
        let name = text(error.error_name()).unwrap_or_else(|| format!("{:?}", error.0));
        let message = text(error.error_string()).map_or_else(|| name.clone(), |means| format!("{name}: {means}"));
        Error::Device { device: device.to_owned(), action, message }
    })
}

/// A queue of work on a device. It does not wait for the default stream.
#[derive(Debug)]
pub(super) struct Stream {
    device: Device,
    handle: sys::CUstream,
}

// SAFETY: a stream handle may be used from any thread; the driver locks it.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(device: &Device) -> Result<Stream> {
        let _current = device.enter()?;
        let handle = device.said("making a stream", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        Ok(Stream { device: device.clone(), handle })
    }

    pub(super) fn handle(&self) -> *mut std::ffi::c_void {
        self.handle.cast()
    }

    /// Enqueues a copy of `bytes` to device memory.
    ///
    /// # Safety
    /// Nobody writes or frees `bytes` before the copy has ended. The destination has that many bytes, is allocated before this in the
    /// order of streams and events, and stays so until the copy has ended.
    pub(super) unsafe fn copy_to_device(&self, destination: u64, bytes: &[u8]) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: the caller's promise.
        self.device.said("copying to it", unsafe { result::memcpy_htod_async(destination, bytes, self.handle) })
    }

    /// Enqueues a copy from another device's memory.
    ///
    /// # Safety
    /// Both ranges are allocated before this in the order of streams and events and stay so until the copy has ended.
    pub(super) unsafe fn copy_from_peer(&self, destination: u64, peer: &Device, source: u64, length: usize) -> Result<()> {
        let _current = self.device.enter()?;
        let (to, from) = (self.device.0.handle, peer.0.handle);
        // SAFETY: the caller's promise.
        let copied = unsafe { result::memcpy_peer_async(to, destination, from, source, length, self.handle) };
        self.device.said("copying from another device", copied)
    }

    /// What is enqueued after this waits for the event, which may be another device's.
    pub(super) fn wait_for(&self, event: &Event) -> Result<()> {
        let _current = self.device.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live; the driver keeps what it needs of the event.
        self.device.said("ordering streams", unsafe { result::stream::wait_event(self.handle, event.handle, flags) })
    }

    /// An event that comes when all that was enqueued before has ended.
    pub(super) fn event(&self) -> Result<Event> {
        let _current = self.device.enter()?;
        // Whoever waits sleeps: other threads are hashing meanwhile.
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let made = unsafe { sys::cuEventCreate(&raw mut handle, flags) }.result();
        self.device.said("making an event", made)?;
        let event = Event { device: self.device.clone(), handle };
        // SAFETY: both were made by the driver in this context and live.
        self.device.said("recording an event", unsafe { result::event::record(event.handle, self.handle) })?;
        Ok(event)
    }

    /// Waits until all that was enqueued has ended.
    pub(super) fn synchronize(&self) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: the stream lives.
        self.device.said("waiting for copies", unsafe { result::stream::synchronize(self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let current = self.device.enter_to_free();
        // SAFETY: destroyed once. Work that was enqueued still ends: the driver keeps the stream until then.
        let _ = unsafe { result::stream::destroy(self.handle) };
        drop(current);
    }
}

/// A moment in a stream.
#[derive(Debug)]
pub(super) struct Event {
    device: Device,
    handle: sys::CUevent,
}

// SAFETY: an event handle may be used from any thread; the driver locks it.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Waits for it.
    pub(super) fn synchronize(&self) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: the event lives.
        self.device.said("waiting for a copy", unsafe { result::event::synchronize(self.handle) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let current = self.device.enter_to_free();
        // SAFETY: destroyed once; a stream that waits for it keeps what it needs.
        let _ = unsafe { result::event::destroy(self.handle) };
        drop(current);
    }
}

/// Host memory that a device reads by itself. All devices may.
#[derive(Debug)]
pub(super) struct PinnedBuffer {
    device: Device,
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its bytes, as a `Box<[u8]>` does.
unsafe impl Send for PinnedBuffer {}
// SAFETY: as above.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    /// `length` bytes, of which there must be some; zero.
    pub(super) fn new(device: &Device, length: usize) -> Result<PinnedBuffer> {
        let _current = device.enter()?;
        // SAFETY: freed once, by the drop.
        let start = unsafe { result::malloc_host(length, sys::CU_MEMHOSTALLOC_PORTABLE) };
        let start: *mut u8 = device.said("allocating pinned memory", start)?.cast();
        let Some(start) = NonNull::new(start) else {
            let message = "the driver gave none".to_owned();
            return Err(Error::Device {
                device: format!("cuda:{}", device.ordinal()),
                action: "allocating pinned memory",
                message,
            });
        };
        // SAFETY: the driver gave `length` bytes. They are written once, as references to uninitialised bytes must not be.
        unsafe { start.as_ptr().write_bytes(0, length) };
        Ok(PinnedBuffer { device: device.clone(), start, length })
    }
}

impl super::staging::Buffer for PinnedBuffer {
    fn read<R>(&self, reader: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: `length` initialised bytes that this owns; writing takes `&mut self`.
        reader(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) })
    }

    fn write<R>(&mut self, writer: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: as above, and `&mut self`: nobody else holds a reference. That no copy is reading them is the staging slot's care.
        writer(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) })
    }
}

impl super::pool::Size for PinnedBuffer {
    fn size(&self) -> usize {
        self.length
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let current = self.device.enter_to_free();
        // SAFETY: freed once, and no copy reads it: slots wait for theirs before they let go of their buffer.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
        drop(current);
    }
}

/// Host memory that was there before, made readable for the device.
#[derive(Debug)]
pub(super) struct Registration<'a> {
    device: Device,
    bytes: &'a [u8],
}

impl<'a> Registration<'a> {
    /// Registers bytes that begin where a page does.
    pub(super) fn new(device: &Device, bytes: &'a [u8]) -> Result<Registration<'a>> {
        let _current = device.enter()?;
        let flags = sys::CU_MEMHOSTREGISTER_READ_ONLY | sys::CU_MEMHOSTREGISTER_PORTABLE;
        let start: *mut std::ffi::c_void = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the device only reads them, and they outlive the registration by the lifetime.
        let registered = unsafe { sys::cuMemHostRegister_v2(start, bytes.len(), flags) }.result();
        device.said("registering the mapped file", registered)?;
        Ok(Registration { device: device.clone(), bytes })
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let current = self.device.enter_to_free();
        let start: *mut std::ffi::c_void = self.bytes.as_ptr().cast_mut().cast();
        // SAFETY: registered once, unregistered once; the copies from it have ended, as their streams were drained before.
        let _ = unsafe { sys::cuMemHostUnregister(start) }.result();
        drop(current);
    }
}

/// Memory of a device, freed in the order of the stream that owns it. Until it is handed out it is cleared first: what part of the weights
/// came here is nobody's to find in memory that is allocated next.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    owner: Arc<Stream>,
    address: u64,
    length: u64,
    handed_out: AtomicBool,
    /// Whether others were given the address, whose streams are not known here.
    shared: AtomicBool,
}

impl DeviceMemory {
    /// Allocates `length` bytes in the order of `owner`. No bytes take no memory.
    pub(super) fn new(owner: &Arc<Stream>, length: u64) -> Result<DeviceMemory> {
        let device = &owner.device;
        let (handed_out, shared) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut memory = DeviceMemory { owner: owner.clone(), address: 0, length, handed_out, shared };
        if length == 0 {
            return Ok(memory);
        }
        let _current = device.enter()?;
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let address = if device.0.has_pools {
            // SAFETY: the stream lives; freed once, by the drop.
            unsafe { result::malloc_async(owner.handle, bytes) }
        } else {
            // SAFETY: as above.
            unsafe { result::malloc_sync(bytes) }
        };
        memory.address = device.said("allocating memory", address)?;
        Ok(memory)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn device(&self) -> &Device {
        &self.owner.device
    }

    pub(super) fn owner(&self) -> &Stream {
        &self.owner
    }

    /// All that belongs here has arrived.
    pub(super) fn hand_out(&self) {
        self.handed_out.store(true, Ordering::Release);
    }

    /// From now on the memory is freed only after everything on the device has ended.
    pub(super) fn share(&self) {
        self.shared.store(true, Ordering::Release);
    }

    /// Enqueues zeros on the owner's stream.
    pub(super) fn clear(&self) -> Result<()> {
        if self.length == 0 {
            return Ok(());
        }
        let device = &self.owner.device;
        let _current = device.enter()?;
        let bytes = usize::try_from(self.length).unwrap_or(usize::MAX);
        // SAFETY: the memory was allocated with this length in the order of this stream.
        device.said("clearing memory", unsafe { result::memset_d8_async(self.address, 0, bytes, self.owner.handle) })
    }

    /// Copies a part back and waits for it.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let device = &self.owner.device;
        let within = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.length);
        let address = self.address.checked_add(offset).filter(|_| within);
        let address = address.ok_or_else(|| Error::Input("a read past the end of device memory".into()))?;
        let _current = device.enter()?;
        // SAFETY: the range lies within the memory. Whoever wrote it last waited for the end of that.
        device.said("copying from it", unsafe { result::memcpy_dtoh_sync(bytes, address) })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.length == 0 || self.address == 0 {
            return;
        }
        let device = &self.owner.device;
        let current = device.enter_to_free();
        if !self.handed_out.load(Ordering::Acquire) {
            // The lanes that filled it were drained before this is dropped.
            let _ = self.clear();
        }
        if self.shared.load(Ordering::Acquire) {
            let _ = result::ctx::synchronize();
        }
        if device.0.has_pools {
            // SAFETY: allocated on this stream, freed once. What reads or writes it either ran on this stream, or has ended.
            let _ = unsafe { result::free_async(self.address, self.owner.handle) };
        } else {
            let _ = self.owner.synchronize();
            // SAFETY: as above.
            let _ = unsafe { result::free_sync(self.address) };
        }
        drop(current);
    }
}
