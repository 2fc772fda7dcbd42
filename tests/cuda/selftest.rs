//! Tests of the stand-in itself: that it does what a driver does, and that it finds each kind of fault.
#![allow(clippy::undocumented_unsafe_blocks, reason = "nearly every line breaks a rule of the driver's on purpose, or nearly")]

use crate::driver::{DEVICES, Driver, MEMORY, with_driver, without_driver};
use cudarc::driver::{
    DriverError,
    result::{self, ctx, device, event, primary_ctx, stream},
    sys::{self, CUcontext, CUdeviceptr, CUevent, CUevent_flags, CUevent_wait_flags, CUpointer_attribute, CUresult, CUstream},
};
use std::{
    ffi::c_void,
    sync::Mutex,
    time::{Duration, Instant},
};

const SIZE: usize = 4096;
const ILLEGAL_ADDRESS: u32 = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS as u32;
const INVALID_VALUE: u32 = CUresult::CUDA_ERROR_INVALID_VALUE as u32;

/// A device's primary context, current in this thread.
struct Device {
    ordinal: i32,
    context: CUcontext,
}

impl Device {
    fn new(ordinal: i32) -> Self {
        result::init().unwrap();
        let ordinal = device::get(ordinal).unwrap();
        let context = unsafe { primary_ctx::retain(ordinal) }.unwrap();
        let device = Self { ordinal, context };
        device.make_current();
        device
    }

    fn make_current(&self) {
        unsafe { ctx::set_current(self.context) }.unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        unsafe { primary_ctx::release(self.ordinal) }.unwrap();
    }
}

/// Pinned host memory.
struct Pinned(*mut u8);

impl Pinned {
    fn new(value: u8) -> Self {
        let pinned = Self(unsafe { result::malloc_host(SIZE, 0) }.unwrap().cast());
        pinned.fill(value);
        pinned
    }

    fn bytes(&self) -> &'static mut [u8] {
        unsafe { std::slice::from_raw_parts_mut(self.0, SIZE) }
    }

    fn fill(&self, value: u8) {
        self.bytes().fill(value);
    }

    fn free(self) -> Result<(), DriverError> {
        unsafe { result::free_host(self.0.cast()) }
    }
}

fn new_stream() -> CUstream {
    stream::create(stream::StreamKind::NonBlocking).unwrap()
}

fn new_blocking_stream() -> CUstream {
    stream::create(stream::StreamKind::Default).unwrap()
}

fn new_event() -> CUevent {
    event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
}

fn allocate() -> CUdeviceptr {
    unsafe { result::malloc_sync(SIZE) }.unwrap()
}

fn free(memory: CUdeviceptr) -> Result<(), DriverError> {
    unsafe { result::free_sync(memory) }
}

fn copy_to(memory: CUdeviceptr, source: &Pinned, stream: CUstream) -> Result<(), DriverError> {
    unsafe { result::memcpy_htod_async(memory, &*source.bytes(), stream) }
}

fn copy_from(target: &Pinned, memory: CUdeviceptr, stream: CUstream) -> Result<(), DriverError> {
    unsafe { result::memcpy_dtoh_async(target.bytes(), memory, stream) }
}

fn clear(memory: CUdeviceptr, stream: CUstream) -> Result<(), DriverError> {
    unsafe { result::memset_d8_async(memory, 0, SIZE, stream) }
}

fn synchronize(stream: CUstream) -> Result<(), DriverError> {
    unsafe { stream::synchronize(stream) }
}

fn destroy(stream: CUstream) -> Result<(), DriverError> {
    unsafe { stream::destroy(stream) }
}

/// Puts the second stream's future work after the first one's work so far.
fn order(first: CUstream, second: CUstream) {
    let event = new_event();
    unsafe {
        event::record(event, first).unwrap();
        stream::wait_event(second, event, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT).unwrap();
        event::destroy(event).unwrap();
    }
}

/// The bytes of device memory.
fn contents(memory: CUdeviceptr) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    unsafe { result::memcpy_dtoh_sync(&mut bytes, memory) }.unwrap();
    bytes
}

fn error_code(result: Result<(), DriverError>) -> u32 {
    result.map_or_else(|error| error.0 as u32, |()| 0)
}

/// Checks that the driver has found something with these words in one line, and nothing else.
#[track_caller]
fn assert_found(driver: &Driver, words: &[&str]) {
    let report = driver.expect_faults();
    let is_expected = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(!report.is_empty(), "nothing was found");
    assert!(report.lines().all(is_expected), "not only {words:?}:\n{report}");
}

#[test]
fn copies_go_there_and_back() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, source, target) = (new_stream(), Pinned::new(7), Pinned::new(0));
        let memory = allocate();
        assert_eq!(contents(memory), [0xA5; SIZE], "fresh memory holds no zeros");
        copy_to(memory, &source, stream).unwrap();
        copy_from(&target, memory, stream).unwrap();
        synchronize(stream).unwrap();
        assert_eq!(target.bytes(), [7; SIZE]);
        assert_eq!((driver.bytes_copied(), driver.allocated()), (SIZE as u64, SIZE as u64));

        let second = unsafe { result::malloc_async(stream, SIZE) }.unwrap();
        unsafe { result::memcpy_dtod_async(second, memory, SIZE / 2, stream) }.unwrap();
        unsafe { result::memset_d8_async(second + SIZE as u64 / 2, 9, SIZE / 2, stream) }.unwrap();
        synchronize(stream).unwrap();
        assert_eq!(contents(second), [[7; SIZE / 2], [9; SIZE / 2]].concat());
        unsafe { result::free_async(second, stream) }.unwrap();
        clear(memory, stream).unwrap();
        synchronize(stream).unwrap();
        free(memory).unwrap();
        assert_eq!((driver.freed_nonzero(), driver.allocated()), (1, 0));

        let third = allocate();
        assert!(third != memory && third != second, "addresses aren't used again");
        unsafe { result::memcpy_htod_sync(third, &*source.bytes()) }.unwrap();
        assert_eq!(contents(third), [7; SIZE]);
        free(third).unwrap();
        source.free().unwrap();
        target.free().unwrap();
        destroy(stream).unwrap();
        drop(device);
    });
}

#[test]
fn devices_describe_themselves() {
    with_driver(|driver| {
        let device = Device::new(1);
        assert_eq!(device::get_count().unwrap(), DEVICES as i32);
        assert_eq!(device::get(2).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_DEVICE);
        assert_eq!(device::get_name(1).unwrap(), "Stand-in device 1");
        assert_ne!(device::get_uuid(0).unwrap().bytes, device::get_uuid(1).unwrap().bytes);
        assert_eq!(unsafe { device::total_mem(1) }.unwrap() as u64, MEMORY);
        let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        assert_eq!(unsafe { device::get_attribute(1, major) }.unwrap(), 9);
        assert_eq!(result::mem_get_info().unwrap(), (MEMORY as usize, MEMORY as usize));
        let (mut version, mut ordinal, mut can) = (0, 0, 1);
        unsafe {
            sys::cuDriverGetVersion(&mut version).result().unwrap();
            sys::cuCtxGetDevice(&mut ordinal).result().unwrap();
            sys::cuDeviceCanAccessPeer(&mut can, 0, 1).result().unwrap();
        }
        assert_eq!((version, ordinal, can), (12080, 1, 0));
        assert_eq!(ctx::get_current().unwrap(), Some(device.context));
        assert!(format!("{}", device::get(2).unwrap_err()).contains("invalid device ordinal"));

        let memory = allocate();
        let (mut kind, mut owner) = (0_u32, -1);
        unsafe {
            let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
            sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, memory + 5).result().unwrap();
            let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
            sys::cuPointerGetAttribute((&raw mut owner).cast(), attribute, memory).result().unwrap();
        }
        assert_eq!((kind, owner), (sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32, 1));
        assert_eq!(result::mem_get_info().unwrap().0 as u64, MEMORY - SIZE as u64);
        free(memory).unwrap();
        assert_eq!(driver.calls("cuDeviceGetCount"), 1);
    });
}

#[test]
fn memory_runs_out() {
    with_driver(|driver| {
        driver.reset(1, 2 * SIZE as u64, 0);
        let _device = Device::new(0);
        let memory = [allocate(), allocate()];
        assert_eq!(unsafe { result::malloc_sync(1) }.unwrap_err().0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        free(memory[0]).unwrap();
        free(allocate()).unwrap();
        free(memory[1]).unwrap();
    });
}

#[test]
fn no_devices() {
    with_driver(|driver| {
        driver.reset(0, 0, 0);
        assert_eq!(result::init().unwrap_err().0, CUresult::CUDA_ERROR_NO_DEVICE);
    });
}

#[test]
fn no_driver() {
    without_driver(|| assert!(!unsafe { sys::is_culib_present() }));
}

#[test]
fn work_is_asynchronous_and_events_tell() {
    with_driver(|driver| {
        let _device = Device::new(0);
        driver.set_delay(100_000, 0);
        let (stream, source, memory) = (new_stream(), Pinned::new(1), allocate());
        let [start, end] = [0; 2].map(|_| event::create(CUevent_flags::CU_EVENT_DEFAULT).unwrap());
        let began = Instant::now();
        unsafe {
            event::query(start).unwrap();
            event::record(start, stream).unwrap();
            copy_to(memory, &source, stream).unwrap();
            event::record(end, stream).unwrap();
            assert_eq!(event::query(end).unwrap_err().0, CUresult::CUDA_ERROR_NOT_READY);
            assert_eq!(sys::cuStreamQuery(stream), CUresult::CUDA_ERROR_NOT_READY);
            assert!(began.elapsed() < Duration::from_millis(90));
            event::synchronize(end).unwrap();
            assert!(began.elapsed() >= Duration::from_millis(100));
            assert!(event::elapsed(start, end).unwrap() >= 100.0);
            event::query(end).unwrap();
            sys::cuStreamQuery(stream).result().unwrap();
            event::destroy(start).unwrap();
            event::destroy(end).unwrap();
        }
        source.free().unwrap();
        free(memory).unwrap();
        destroy(stream).unwrap();
    });
}

static LOG: Mutex<Vec<usize>> = Mutex::new(Vec::new());

unsafe extern "C" fn log(argument: *mut c_void) {
    LOG.lock().unwrap().push(argument.expose_provenance());
}

unsafe extern "C" fn log_callback(_: CUstream, status: CUresult, argument: *mut c_void) {
    LOG.lock().unwrap().push(argument.expose_provenance() + status as usize);
}

unsafe extern "C" fn log_call(_: *mut c_void) {
    LOG.lock().unwrap().push(unsafe { sys::cuCtxSynchronize() } as usize);
}

#[test]
fn host_functions_run_in_order() {
    with_driver(|driver| {
        let _device = Device::new(0);
        let (stream, source, memory) = (new_stream(), Pinned::new(1), allocate());
        copy_to(memory, &source, stream).unwrap();
        unsafe {
            stream::launch_host_function(stream, log, std::ptr::without_provenance_mut(1)).unwrap();
            let argument = std::ptr::without_provenance_mut(2);
            sys::cuStreamAddCallback(stream, Some(log_callback), argument, 0).result().unwrap();
        }
        while LOG.lock().unwrap().len() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(*LOG.lock().unwrap(), [1, 2]);
        // The function told the host that the copy is done.
        source.free().unwrap();
        free(memory).unwrap();
        assert_eq!(driver.report().lines().count(), 2, "the context and the stream");
        unsafe { stream::launch_host_function(stream, log_call, std::ptr::null_mut()) }.unwrap();
        synchronize(stream).unwrap();
        assert_eq!(LOG.lock().unwrap()[2], CUresult::CUDA_ERROR_NOT_PERMITTED as usize);
        destroy(stream).unwrap();
        drop(_device);
        assert_found(driver, &["cuCtxSynchronize", "called from within a host function"]);
    });
}

#[test]
fn jitter_reorders_streams() {
    with_driver(|driver| {
        let mut orders = Vec::new();
        for seed in 0..20 {
            driver.reset(1, MEMORY, seed);
            driver.set_delay(0, 5000);
            let _device = Device::new(0);
            let streams = [new_stream(), new_stream()];
            LOG.lock().unwrap().clear();
            for (number, stream) in streams.into_iter().enumerate() {
                for argument in [number, number + 10] {
                    let argument = std::ptr::without_provenance_mut(argument);
                    unsafe { stream::launch_host_function(stream, log, argument) }.unwrap();
                }
            }
            ctx::synchronize().unwrap();
            streams.into_iter().for_each(|stream| destroy(stream).unwrap());
            let log = LOG.lock().unwrap().clone();
            let place = |argument| log.iter().position(|logged| *logged == argument).unwrap();
            assert!(place(0) < place(10) && place(1) < place(11), "never within a stream");
            orders.push(place(0) < place(1));
        }
        assert!(orders.contains(&true) && orders.contains(&false));
    });
}

#[test]
fn thousands_of_small_loads_are_fast() {
    with_driver(|driver| {
        let _device = Device::new(0);
        let began = Instant::now();
        for round in 0..2000 {
            let (streams, source, memory) = ([new_stream(), new_stream()], Pinned::new(round as u8), allocate());
            for stream in streams {
                clear(memory, stream).unwrap();
                copy_to(memory, &source, stream).unwrap();
                order(streams[0], streams[1]);
            }
            streams.into_iter().for_each(|stream| synchronize(stream).unwrap());
            streams.into_iter().for_each(|stream| destroy(stream).unwrap());
            free(memory).unwrap();
            source.free().unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
        assert_eq!(driver.bytes_copied(), 4000 * SIZE as u64);
    });
}

#[test]
fn a_source_rewritten_before_the_copy() {
    with_driver(|driver| {
        let _device = Device::new(0);
        let (streams, source, memory) = ([new_stream(), new_stream()], Pinned::new(1), allocate());
        driver.set_delay(50_000, 0);
        // The second stream's copy begins when the first one's is done, so the bytes change before it begins.
        let second = allocate();
        copy_to(memory, &source, streams[0]).unwrap();
        order(streams[0], streams[1]);
        synchronize(streams[0]).unwrap();
        copy_to(second, &source, streams[1]).unwrap();
        source.fill(2);
        synchronize(streams[1]).unwrap();
        let report = driver.expect_faults();
        assert!(report.contains("cuMemcpyHtoDAsync_v2 of 4096 bytes: the source changed between the call and the copy"));
        assert!(report.contains("the source changed before the host knew that the copy was complete"));
    });
}

#[test]
fn a_source_rewritten_after_the_copy_but_before_anybody_could_know() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, source, memory) = (new_stream(), Pinned::new(1), allocate());
        copy_to(memory, &source, stream).unwrap();
        while driver.bytes_copied() == 0 {
            std::thread::yield_now();
        }
        source.fill(2);
        synchronize(stream).unwrap();
        source.fill(3);
        source.free().unwrap();
        free(memory).unwrap();
        destroy(stream).unwrap();
        drop(device);
        assert_found(driver, &["4096 bytes: the source changed before the host knew that the copy was complete"]);
    });
}

#[test]
fn device_memory_freed_in_flight() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, source, memory) = (new_stream(), Pinned::new(1), allocate());
        copy_to(memory, &source, stream).unwrap();
        free(memory).unwrap();
        synchronize(stream).unwrap();
        source.free().unwrap();
        destroy(stream).unwrap();
        drop(device);
        assert_found(driver, &["cuMemFree_v2: 4096 bytes were freed in flight"]);
    });
}

#[test]
fn pinned_memory_freed_in_flight() {
    with_driver(|driver| {
        let device = Device::new(0);
        driver.set_delay(10_000, 0);
        let (stream, source, memory) = (new_stream(), Pinned::new(1), allocate());
        copy_to(memory, &source, stream).unwrap();
        source.free().unwrap();
        synchronize(stream).unwrap();
        free(memory).unwrap();
        destroy(stream).unwrap();
        drop(device);
        assert_found(driver, &["cuMemFreeHost: 4096 bytes were released in flight"]);
    });
}

#[test]
fn registered_memory_unregistered_in_flight() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, mut source, memory) = (new_stream(), vec![1_u8; SIZE], allocate());
        let address = source.as_mut_ptr().cast();
        unsafe {
            sys::cuMemHostRegister_v2(address, SIZE, 0).result().unwrap();
            let again = sys::cuMemHostRegister_v2(address, 1, 0);
            assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
            result::memcpy_htod_async(memory, &source, stream).unwrap();
            sys::cuMemHostUnregister(address).result().unwrap();
        }
        synchronize(stream).unwrap();
        free(memory).unwrap();
        destroy(stream).unwrap();
        drop(device);
        assert_found(driver, &["cuMemHostUnregister: 4096 bytes were released in flight"]);
    });
}

#[test]
fn streams_that_are_ordered() {
    with_driver(|_| {
        let _device = Device::new(0);
        let (streams, source, memory) = ([new_stream(), new_stream()], Pinned::new(1), allocate());
        let blocking = [new_blocking_stream(), new_blocking_stream()];
        // By an event, and again by an event.
        clear(memory, streams[0]).unwrap();
        order(streams[0], streams[1]);
        copy_to(memory, &source, streams[1]).unwrap();
        order(streams[1], streams[0]);
        clear(memory, streams[0]).unwrap();
        // By the host.
        synchronize(streams[0]).unwrap();
        copy_to(memory, &source, streams[1]).unwrap();
        ctx::synchronize().unwrap();
        // By the null stream between blocking ones.
        clear(memory, blocking[0]).unwrap();
        clear(memory, stream::null()).unwrap();
        copy_to(memory, &source, blocking[1]).unwrap();
        synchronize(stream::null()).unwrap();
        assert_eq!(contents(memory), [1; SIZE]);
        // By nothing, but in different places, or only reading.
        unsafe {
            result::memset_d8_async(memory, 2, SIZE / 2, streams[0]).unwrap();
            result::memset_d8_async(memory + SIZE as u64 / 2, 2, SIZE / 2, streams[1]).unwrap();
        }
        ctx::synchronize().unwrap();
        let targets = [Pinned::new(0), Pinned::new(0)];
        copy_from(&targets[0], memory, streams[0]).unwrap();
        copy_from(&targets[1], memory, streams[1]).unwrap();
        ctx::synchronize().unwrap();
        for target in targets {
            assert_eq!(target.bytes(), [2; SIZE]);
            target.free().unwrap();
        }
        free(memory).unwrap();
        source.free().unwrap();
        streams.into_iter().chain(blocking).for_each(|stream| destroy(stream).unwrap());
    });
}

#[test]
fn a_stream_waits_for_the_event_of_another() {
    with_driver(|driver| {
        let _device = Device::new(0);
        let (streams, source, memory) = ([new_stream(), new_stream()], Pinned::new(1), allocate());
        let target = Pinned::new(0);
        copy_to(memory, &source, streams[0]).unwrap();
        synchronize(streams[0]).unwrap();
        // The filling comes after copies that together take far longer than the other stream's one.
        driver.set_delay(20_000, 0);
        for _ in 0..5 {
            copy_to(memory, &source, streams[0]).unwrap();
        }
        unsafe { result::memset_d8_async(memory, 2, SIZE, streams[0]) }.unwrap();
        order(streams[0], streams[1]);
        copy_from(&target, memory, streams[1]).unwrap();
        synchronize(streams[1]).unwrap();
        assert_eq!(target.bytes(), [2; SIZE]);
        free(memory).unwrap();
        source.free().unwrap();
        target.free().unwrap();
        streams.into_iter().for_each(|stream| destroy(stream).unwrap());
    });
}

#[test]
fn streams_that_are_not_ordered() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (streams, source, memory) = ([new_stream(), new_stream()], Pinned::new(1), allocate());
        clear(memory, streams[0]).unwrap();
        // The first stream's work is done by now, but only by luck.
        std::thread::sleep(Duration::from_millis(20));
        copy_to(memory, &source, streams[1]).unwrap();
        ctx::synchronize().unwrap();
        let words = ["cuMemcpyHtoDAsync_v2 writes bytes 0..4096", "isn't ordered after cuMemsetD8Async, which writes"];
        free(memory).unwrap();
        source.free().unwrap();
        streams.into_iter().for_each(|stream| destroy(stream).unwrap());
        drop(device);
        assert_found(driver, &words);
    });
}

#[test]
fn the_null_stream_does_not_order_non_blocking_ones() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, source, memory) = (new_stream(), Pinned::new(1), allocate());
        unsafe { result::memset_d8_sync(memory, 0, SIZE) }.unwrap();
        copy_to(memory, &source, stream).unwrap();
        ctx::synchronize().unwrap();
        free(memory).unwrap();
        source.free().unwrap();
        destroy(stream).unwrap();
        drop(device);
        assert_found(driver, &["cuMemcpyHtoDAsync_v2 writes", "isn't ordered after cuMemsetD8_v2"]);
    });
}

#[test]
fn pinned_memory_used_by_unordered_streams() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (streams, buffer, memory) = ([new_stream(), new_stream()], Pinned::new(1), [allocate(), allocate()]);
        copy_from(&buffer, memory[0], streams[0]).unwrap();
        copy_to(memory[1], &buffer, streams[1]).unwrap();
        ctx::synchronize().unwrap();
        memory.into_iter().for_each(|memory| free(memory).unwrap());
        buffer.free().unwrap();
        streams.into_iter().for_each(|stream| destroy(stream).unwrap());
        drop(device);
        assert_found(driver, &["cuMemcpyHtoDAsync_v2 reads", "pinned host memory", "after cuMemcpyDtoHAsync_v2, which writes"]);
    });
}

#[test]
fn stream_ordered_memory_used_out_of_order() {
    with_driver(|driver| {
        let device = Device::new(0);
        let streams = [new_stream(), new_stream()];
        let memory = unsafe { result::malloc_async(streams[0], SIZE) }.unwrap();
        clear(memory, streams[1]).unwrap();
        let report = driver.expect_faults();
        assert!(report.contains("cuMemsetD8Async writes bytes 0..4096"), "{report}");
        assert!(report.contains("isn't ordered after cuMemAllocAsync"), "{report}");
        unsafe { result::free_async(memory, streams[0]) }.unwrap();
        let report = driver.expect_faults();
        assert!(report.contains("cuMemFreeAsync writes bytes 0..4096"), "{report}");
        assert!(report.contains("isn't ordered after cuMemsetD8Async"), "{report}");
        ctx::synchronize().unwrap();
        streams.into_iter().for_each(|stream| destroy(stream).unwrap());
        drop(device);
    });
}

#[test]
fn memory_freed_by_another_stream_before_the_copy_runs() {
    with_driver(|driver| {
        let _device = Device::new(0);
        let (streams, source, memory) = ([new_stream(), new_stream()], Pinned::new(1), [allocate(), allocate()]);
        driver.set_delay(20_000, 0);
        copy_to(memory[0], &source, streams[0]).unwrap();
        copy_to(memory[1], &source, streams[0]).unwrap();
        unsafe { result::free_async(memory[1], streams[1]) }.unwrap();
        ctx::synchronize().unwrap();
        let report = driver.expect_faults();
        assert!(report.contains("cuMemcpyHtoDAsync_v2: its destination was freed before it was done"), "{report}");
        assert!(report.contains("cuMemFreeAsync writes"), "{report}");
    });
}

#[test]
fn leaks_of_every_kind() {
    with_driver(|driver| {
        let device = Device::new(0);
        let _ = (new_stream(), new_event(), allocate(), Pinned::new(1));
        let mut registered = vec![0_u8; 100];
        unsafe { sys::cuMemHostRegister_v2(registered.as_mut_ptr().cast(), 100, 0) }.result().unwrap();
        let expected = [
            "the context of device 0 is retained 1 times (cuDevicePrimaryCtxRetain)",
            "1 streams (cuStreamCreate)",
            "1 events (cuEventCreate)",
            "4096 bytes of device memory (cuMemAlloc_v2)",
            "4096 bytes of pinned host memory (cuMemHostAlloc)",
            "100 bytes of pinned host memory (cuMemHostRegister_v2)",
        ];
        let report = driver.expect_faults();
        assert_eq!(report.lines().count(), expected.len(), "{report}");
        assert!(expected.iter().all(|leak| report.contains(&format!("leak: {leak}"))), "{report}");
        drop(device);
        let report = driver.expect_faults();
        let in_context = |leak: &&str| report.contains(&format!("cuDevicePrimaryCtxRelease_v2: the context still had {leak}"));
        assert!(expected[1..].iter().all(in_context), "{report}");
        driver.reset(1, MEMORY, 0);
        assert_eq!(driver.report(), "");
    });
}

#[test]
fn double_frees() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (memory, pinned, mut registered) = (allocate(), Pinned::new(0), vec![0_u8; 100]);
        let pinned_address = pinned.0.cast();
        let registered_address = registered.as_mut_ptr().cast();
        free(memory).unwrap();
        pinned.free().unwrap();
        unsafe {
            sys::cuMemHostRegister_v2(registered_address, 100, 0).result().unwrap();
            sys::cuMemHostUnregister(registered_address).result().unwrap();
            assert_eq!(error_code(free(memory)), INVALID_VALUE);
            assert_eq!(error_code(result::free_async(memory, stream::null())), INVALID_VALUE);
            assert_eq!(error_code(result::free_host(pinned_address)), INVALID_VALUE);
            let code = sys::cuMemHostUnregister(registered_address);
            assert_eq!(code, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        }
        drop(device);
        assert_found(driver, &["(double free)"]);
        assert_eq!(driver.report().lines().count(), 4);
    });
}

#[test]
fn use_after_free_and_out_of_bounds() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, source, memory, next) = (new_stream(), Pinned::new(1), allocate(), allocate());
        unsafe { result::memset_d8_async(memory + 1, 0, SIZE, stream) }.unwrap_err();
        unsafe { result::memset_d8_async(memory + SIZE as u64, 0, 1, stream) }.unwrap_err();
        unsafe { result::memset_d8_async(memory - 64, 0, 1, stream) }.unwrap_err();
        assert_eq!(error_code(free(memory + 256)), INVALID_VALUE);
        unsafe { sys::cuMemcpyHtoDAsync_v2(memory, source.0.wrapping_add(1).cast(), SIZE, stream) }.result().unwrap_err();
        free(memory).unwrap();
        free(next).unwrap();
        copy_to(memory, &source, stream).unwrap_err();
        copy_from(&source, memory, stream).unwrap_err();
        source.free().unwrap();
        destroy(stream).unwrap();
        drop(device);
        let expected = [
            "cuMemsetD8Async: out of bounds: 4096 bytes at offset 1 of an allocation of 4096 bytes",
            "cuMemsetD8Async: out of bounds: 1 bytes at offset 4096 of an allocation of 4096 bytes",
            "cuMemsetD8Async: 1 bytes at an address where nothing was ever allocated",
            "cuMemFree_v2: the address isn't the beginning of its allocation",
            "cuMemcpyHtoDAsync_v2: out of bounds: 4096 bytes reach beyond 4096 bytes of pinned host memory",
            "cuMemcpyHtoDAsync_v2: use after free: 4096 bytes of freed device memory",
            "cuMemcpyDtoHAsync_v2: use after free: 4096 bytes of freed device memory",
        ];
        assert_eq!(driver.expect_faults().lines().collect::<Vec<_>>(), expected.map(|fault| format!("fault: {fault}")));
    });
}

#[test]
fn asynchronous_copies_of_pageable_memory() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, mut bytes, memory) = (new_stream(), vec![3_u8; SIZE], allocate());
        unsafe { result::memcpy_htod_async(memory, &bytes, stream) }.unwrap();
        bytes.fill(4);
        unsafe { result::memcpy_dtoh_async(&mut bytes, memory, stream) }.unwrap();
        assert_eq!(bytes, [3; SIZE]);
        free(memory).unwrap();
        destroy(stream).unwrap();
        drop(device);
        assert_found(driver, &["4096 bytes of host memory that is neither pinned nor registered"]);
        assert_eq!(driver.report().lines().count(), 2);
    });
}

#[test]
fn contexts_that_are_missing_or_wrong() {
    with_driver(|driver| {
        let devices = [Device::new(0), Device::new(1)];
        let (stream, event, memory) = (new_stream(), new_event(), allocate());
        devices[0].make_current();
        let foreign = clear(memory, stream);
        assert_eq!(foreign.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_HANDLE);
        let other = new_stream();
        assert_eq!(unsafe { event::record(event, other) }.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(error_code(clear(memory, other)), INVALID_VALUE);
        unsafe { ctx::set_current(std::ptr::null_mut()) }.unwrap();
        assert_eq!(unsafe { result::malloc_sync(1) }.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_CONTEXT);
        devices[1].make_current();
        free(memory).unwrap();
        destroy(stream).unwrap();
        destroy(other).unwrap();
        unsafe { event::destroy(event) }.unwrap();
        drop(devices);
        assert_eq!(unsafe { result::malloc_sync(1) }.unwrap_err().0, CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        let expected = [
            "cuMemsetD8Async: the stream belongs to another context than the current one",
            "cuEventRecord: the event and the stream belong to different contexts",
            "cuMemsetD8Async: the memory belongs to a context that the stream's one can't access",
            "cuMemAlloc_v2: called with no current context",
            "cuMemAlloc_v2: called with a current context that was released",
        ];
        assert_eq!(driver.expect_faults().lines().collect::<Vec<_>>(), expected.map(|fault| format!("fault: {fault}")));
    });
}

#[test]
fn destroyed_streams_and_events() {
    with_driver(|driver| {
        let device = Device::new(0);
        driver.set_delay(10_000, 0);
        let (stream, event, source, memory) = (new_stream(), new_event(), Pinned::new(1), allocate());
        copy_to(memory, &source, stream).unwrap();
        unsafe { event::record(event, stream) }.unwrap();
        // Both may be destroyed while they have work to do.
        unsafe { event::destroy(event) }.unwrap();
        destroy(stream).unwrap();
        ctx::synchronize().unwrap();
        assert_eq!(contents(memory), [1; SIZE]);
        assert!(!driver.report().contains("fault"));
        synchronize(stream).unwrap_err();
        destroy(stream).unwrap_err();
        unsafe { event::synchronize(event) }.unwrap_err();
        unsafe { sys::cuEventQuery(stream.cast()) }.result().unwrap_err();
        source.free().unwrap();
        free(memory).unwrap();
        drop(device);
        let expected = [
            "cuStreamSynchronize: the stream was destroyed",
            "cuStreamDestroy_v2: the stream was destroyed",
            "cuEventSynchronize: the event was destroyed",
            "cuEventQuery: the event never was one",
        ];
        assert_eq!(driver.expect_faults().lines().collect::<Vec<_>>(), expected.map(|fault| format!("fault: {fault}")));
    });
}

#[test]
fn peers() {
    with_driver(|driver| {
        let devices = [Device::new(0), Device::new(1)];
        let mut can = 0;
        let unsupported = unsafe { sys::cuCtxEnablePeerAccess(devices[0].context, 0) };
        assert_eq!(unsupported, CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
        driver.set_peer(true);
        let far = allocate();
        devices[0].make_current();
        let (near, stream) = (allocate(), new_stream());
        unsafe {
            sys::cuDeviceCanAccessPeer(&mut can, 0, 1).result().unwrap();
            result::memset_d8_async(near, 5, SIZE, stream).unwrap();
            result::memcpy_peer_async(devices[1].context, far, devices[0].context, near, SIZE, stream).unwrap();
            sys::cuCtxEnablePeerAccess(devices[1].context, 0).result().unwrap();
            result::memcpy_dtod_async(near, far, SIZE, stream).unwrap();
        }
        synchronize(stream).unwrap();
        assert_eq!((contents(far), can), (vec![5; SIZE], 1));
        free(near).unwrap();
        free(far).unwrap();
        destroy(stream).unwrap();
    });
}

/// Calls that together use nearly all functions, each returning its own result; what they make is released again.
fn everything() -> Vec<(&'static str, u32)> {
    let mut results = Vec::new();
    let mut note = |function: &'static str, code: CUresult| {
        results.push((function, code as u32));
        code == CUresult::CUDA_SUCCESS
    };
    unsafe {
        let (mut context, mut stream, mut event) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let (mut host, mut memory, mut ordered) = (std::ptr::null_mut(), 0, 0);
        let mut registered = vec![0_u8; SIZE];
        let registered = registered.as_mut_ptr().cast();
        if !note("cuInit", sys::cuInit(0)) {
            return results;
        }
        let mut number = 0;
        note("cuDeviceGetCount", sys::cuDeviceGetCount(&mut number));
        note("cuDeviceGet", sys::cuDeviceGet(&mut number, 0));
        if !note("cuDevicePrimaryCtxRetain", sys::cuDevicePrimaryCtxRetain(&mut context, 0)) {
            return results;
        }
        if note("cuCtxSetCurrent", sys::cuCtxSetCurrent(context)) {
            let has_stream = note("cuStreamCreate", sys::cuStreamCreate(&mut stream, 1));
            let has_event = note("cuEventCreate", sys::cuEventCreate(&mut event, 2));
            let has_host = note("cuMemHostAlloc", sys::cuMemHostAlloc(&mut host, SIZE, 0));
            let has_registered = note("cuMemHostRegister_v2", sys::cuMemHostRegister_v2(registered, SIZE, 0));
            let has_memory = note("cuMemAlloc_v2", sys::cuMemAlloc_v2(&mut memory, SIZE));
            let has_ordered = note("cuMemAllocAsync", sys::cuMemAllocAsync(&mut ordered, SIZE, stream));
            if has_ordered {
                note("cuMemsetD8Async", sys::cuMemsetD8Async(ordered, 0, SIZE, stream));
                note("cuMemFreeAsync", sys::cuMemFreeAsync(ordered, stream));
            }
            if has_memory && has_host && has_registered {
                note("cuMemcpyHtoDAsync_v2", sys::cuMemcpyHtoDAsync_v2(memory, registered, SIZE, stream));
                note("cuMemcpyDtoHAsync_v2", sys::cuMemcpyDtoHAsync_v2(host, memory, SIZE, stream));
            }
            if has_event {
                note("cuEventRecord", sys::cuEventRecord(event, stream));
                note("cuStreamWaitEvent", sys::cuStreamWaitEvent(stream, event, 0));
                note("cuEventSynchronize", sys::cuEventSynchronize(event));
            }
            note("cuStreamSynchronize", sys::cuStreamSynchronize(stream));
            note("cuCtxSynchronize", sys::cuCtxSynchronize());
            if has_event {
                note("cuEventQuery", sys::cuEventQuery(event));
                note("cuEventDestroy_v2", sys::cuEventDestroy_v2(event));
            }
            if has_host {
                note("cuMemFreeHost", sys::cuMemFreeHost(host));
            }
            if has_registered {
                note("cuMemHostUnregister", sys::cuMemHostUnregister(registered));
            }
            if has_memory {
                note("cuMemFree_v2", sys::cuMemFree_v2(memory));
            }
            if has_stream {
                note("cuStreamDestroy_v2", sys::cuStreamDestroy_v2(stream));
            }
        }
        note("cuDevicePrimaryCtxRelease_v2", sys::cuDevicePrimaryCtxRelease_v2(0));
    }
    results
}

#[test]
fn every_function_can_be_made_to_fail() {
    with_driver(|driver| {
        let functions = everything();
        assert!(functions.iter().all(|(_, code)| *code == 0), "{functions:?}");
        for (function, _) in functions {
            driver.reset(1, MEMORY, 0);
            driver.fail(function, 0, CUresult::CUDA_ERROR_UNKNOWN as u32);
            let results = everything();
            let failed: Vec<_> = results.iter().filter(|(_, code)| *code != 0).collect();
            assert_eq!(failed, [&(function, CUresult::CUDA_ERROR_UNKNOWN as u32)]);
            assert_eq!(driver.report(), "", "what was released is released after a failure of {function}, too");
            assert_eq!(driver.calls(function), results.iter().filter(|(called, _)| *called == function).count() as u64);
        }
        driver.fail("cuMemAlloc", 0, 1);
        assert_found(driver, &["the test asked for cuMemAlloc, which isn't a function of the stand-in"]);
    });
}

#[test]
fn the_nth_call_can_be_made_to_fail() {
    with_driver(|driver| {
        let _device = Device::new(0);
        driver.fail("cuMemAlloc_v2", 2, CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32);
        let memory = [allocate(), allocate()];
        assert_eq!(unsafe { result::malloc_sync(1) }.unwrap_err().0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        free(allocate()).unwrap();
        memory.into_iter().for_each(|memory| free(memory).unwrap());
        assert_eq!(driver.calls("cuMemAlloc_v2"), 4);
    });
}

#[test]
fn a_failed_copy_ends_the_context() {
    with_driver(|driver| {
        let device = Device::new(0);
        let (stream, event, source, memory) = (new_stream(), new_event(), Pinned::new(1), allocate());
        driver.fail_async(1, ILLEGAL_ADDRESS);
        copy_to(memory, &source, stream).unwrap();
        synchronize(stream).unwrap();
        source.fill(2);
        copy_to(memory, &source, stream).unwrap();
        assert_eq!(error_code(synchronize(stream)), ILLEGAL_ADDRESS);
        assert_eq!(driver.bytes_copied(), SIZE as u64, "the failed copy copies nothing");
        // From here on everything fails, but what is released is released.
        assert_eq!(error_code(clear(memory, stream)), ILLEGAL_ADDRESS);
        assert_eq!(error_code(unsafe { event::record(event, stream) }), ILLEGAL_ADDRESS);
        assert_eq!(error_code(unsafe { result::malloc_sync(1) }.map(drop)), ILLEGAL_ADDRESS);
        assert_eq!(error_code(ctx::synchronize()), ILLEGAL_ADDRESS);
        assert_eq!(error_code(free(memory)), ILLEGAL_ADDRESS);
        assert_eq!(error_code(source.free()), ILLEGAL_ADDRESS);
        assert_eq!(error_code(unsafe { event::destroy(event) }), ILLEGAL_ADDRESS);
        assert_eq!(error_code(destroy(stream)), ILLEGAL_ADDRESS);
        drop(device);
        assert_eq!(driver.report(), "");
        // A new context is as good as new.
        let _device = Device::new(0);
        free(allocate()).unwrap();
    });
}

#[test]
fn calls_before_initialization() {
    with_driver(|driver| {
        assert_eq!(device::get_count().unwrap_err().0, CUresult::CUDA_ERROR_NOT_INITIALIZED);
        assert_found(driver, &["cuDeviceGetCount: called before cuInit"]);
    });
}
