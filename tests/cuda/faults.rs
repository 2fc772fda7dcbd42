//! Whatever fails, wherever it fails: an error that names it, nothing handed out, nothing left, and no weights in memory that goes back.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flashpack::cuda::{Device, LoadOptions, Loader, LoaderOptions};
use flashpack::{Error, Layout, OpenOptions, Pack, Progress, ReadAt};

use crate::driver::{Driver, with_driver};
use crate::model::{File, Source, loader, threads};

/// The calls that can fail on the way to a load.
const CALLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceCanAccessPeer",
    "cuDeviceGetDefaultMemPool",
    "cuMemPoolSetAccess",
    "cuStreamCreate",
    "cuStreamWaitEvent",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuMemHostAlloc",
    "cuMemAllocAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyPeerAsync",
];

const LAUNCH_FAILED: u32 = 719;
const OUT_OF_MEMORY: u32 = 2;
const MEMORY: u64 = 1 << 30;

fn devices() -> Result<Vec<Device>, Error> {
    (0..2).map(Device::open).collect()
}

/// After a failed load with everything dropped.
fn assert_nothing_is_left(driver: &Driver, context: &str) {
    assert_eq!(driver.allocated(), 0, "{context}: device memory is left");
    assert_eq!(driver.freed_nonzero(), 0, "{context}: weights went back with the memory");
    assert_eq!(driver.report(), "", "{context}");
}

#[test]
fn every_call_that_fails_is_named_and_leaves_nothing() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        // On a thread of its own, as a call that fails to leave a context leaves the thread in it.
        let load = || {
            let load = || loader(&devices()?).load(&pack, &threads(2)).map(drop);
            std::thread::scope(|scope| scope.spawn(load).join().unwrap())
        };
        let mut injected = 0;
        for peers in [true, false] {
            driver.reset(2, MEMORY, 0);
            driver.set_peer(peers);
            load().unwrap();
            let counts: Vec<u64> = CALLS.iter().map(|call| driver.calls(call)).collect();
            for (call, &count) in CALLS.iter().zip(&counts) {
                // Entering a context happens everywhere: some of its many places are enough.
                let step = if call.starts_with("cuCtx") { 7 } else { 1 };
                for number in (0..count).step_by(step) {
                    driver.reset(2, MEMORY, number);
                    driver.set_peer(peers);
                    driver.fail(call, number, LAUNCH_FAILED);
                    let context = format!("{call} {number} of {count}, peers {peers}");
                    match load() {
                        Err(Error::Device { device, message, .. }) => {
                            assert!(device.starts_with("cuda") && message.contains("LAUNCH_FAILED"), "{context}: {message}");
                            // Where clearing is what fails, nothing is cleared.
                            if call.starts_with("cuCtx") || *call == "cuMemsetD8Async" {
                                assert_eq!(driver.allocated(), 0, "{context}");
                                assert!(!driver.report().contains("leak"), "{context}: {}", driver.report());
                            } else {
                                assert_nothing_is_left(driver, &context);
                            }
                        }
                        // A call of the clean-up, or one more than this run made: threads share the chunks as they come.
                        Ok(()) => assert_eq!(driver.allocated(), 0, "{context}"),
                        Err(other) => panic!("{context}: {other}"),
                    }
                    injected += 1;
                }
            }
        }
        assert!(injected > 200, "only {injected}");
        // And nothing remains that keeps the next load from working.
        driver.reset(2, MEMORY, 0);
        load().unwrap();
    });
}

#[test]
fn memory_that_cannot_be_had_is_an_error_and_leaves_nothing() {
    with_driver(|driver| {
        let file = File::new(Layout::Sealed);
        let pack = file.open();
        let needed: u64 = pack.manifest().blocks().map(|block| block.length).sum();
        for memory in [0, 1 << 16, needed / 2, needed - 1] {
            driver.reset(1, memory, 0);
            match loader(&[Device::open(0).unwrap()]).load(&pack, &threads(2)) {
                Err(Error::Device { device, action, message }) => {
                    assert_eq!((device.as_str(), action), ("cuda:0", "allocating memory"));
                    assert!(message.contains("OUT_OF_MEMORY"), "{message}");
                }
                other => panic!("{other:?}"),
            }
            assert_nothing_is_left(driver, &format!("{memory} of {needed} bytes"));
        }
        // Pinned memory, every time that it is asked for.
        for number in 0..4 {
            driver.reset(1, MEMORY, 0);
            driver.fail("cuMemHostAlloc", number, OUT_OF_MEMORY);
            assert!(loader(&[Device::open(0).unwrap()]).load(&pack, &threads(2)).is_err());
            assert_nothing_is_left(driver, &format!("pinned buffer {number}"));
        }
    });
}

#[test]
fn a_copy_that_fails_later_fails_the_load() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        for number in 0..8 {
            driver.reset(1, MEMORY, number);
            driver.set_delay(100, 0);
            driver.fail_async(number, LAUNCH_FAILED);
            let device = Device::open(0).unwrap();
            let result = loader(std::slice::from_ref(&device)).load(&pack, &threads(2));
            assert!(matches!(result, Err(Error::Device { .. })), "copy {number}: {result:?}");
            drop((result, device));
            // The context is lost, and its memory with it: there is nothing that could be cleared.
            assert_eq!(driver.allocated(), 0);
            assert_eq!(driver.report(), "", "copy {number}");
        }
    });
}

#[test]
fn a_byte_that_is_not_the_sealed_one_fails_the_load_wherever_it_is() {
    with_driver(|driver| {
        let good = File::new(Layout::Sealed).contents();
        let payload = OpenOptions::new().open_source(Arc::new(good.clone())).unwrap().manifest().payload();
        for offset in payload.clone().step_by(9973).chain([payload.end - 1]) {
            driver.reset(1, MEMORY, offset);
            let mut bad = good.clone();
            bad[offset as usize] ^= 1;
            let (pack, _) = Source::open(bad);
            let result = loader(&[Device::open(0).unwrap()]).load(&pack, &threads(3));
            let error = result.expect_err("it was changed");
            assert_eq!(error.violation().map(|violation| violation.rule.id), Some("SEAL-INT-01"), "{error}");
            assert_nothing_is_left(driver, &format!("byte {offset}"));
        }
    });
}

#[test]
fn a_read_that_fails_or_ends_early_fails_the_load() {
    with_driver(|driver| {
        let good = File::new(Layout::Sealed).contents();
        let (pack, source) = Source::open(good);
        drop(loader(&[Device::open(0).unwrap()]).load(&pack, &threads(2)).unwrap());
        for number in 0..source.reads() {
            driver.reset(1, MEMORY, number);
            source.fail_at(number);
            let error = loader(&[Device::open(0).unwrap()]).load(&pack, &threads(2)).expect_err("a read failed");
            assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("the disk is broken"), "{error}");
            assert_nothing_is_left(driver, &format!("read {number}"));
        }
        source.fail_at(u64::MAX);

        // Cut by another process after it was opened, through either way of reading.
        for strategy in [flashpack::cuda::Strategy::Buffered, flashpack::cuda::Strategy::Direct] {
            driver.reset(1, MEMORY, 0);
            let file = File::new(Layout::Sealed);
            let pack = file.open();
            let half = std::fs::metadata(&file.path).unwrap().len() / 2;
            std::fs::OpenOptions::new().write(true).open(&file.path).unwrap().set_len(half).unwrap();
            let options = LoadOptions { strategy, ..threads(2) };
            let error = loader(&[Device::open(0).unwrap()]).load(&pack, &options).expect_err("it was cut");
            assert!(error.to_string().contains("shorter"), "{error}");
            assert_nothing_is_left(driver, "a file that was cut");
        }
    });
}

/// Ends the load at its nth report.
struct CancelAt(AtomicU64, u64);

impl Progress for CancelAt {
    fn advance(&self, _: u64) -> ControlFlow<()> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= self.1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn cancelling_leaves_nothing_at_any_moment() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        for number in 0..6 {
            driver.reset(1, MEMORY, number);
            driver.set_delay(200, 200);
            let progress = CancelAt(AtomicU64::new(0), number);
            let options = LoadOptions { progress: &progress, ..threads(3) };
            let result = loader(&[Device::open(0).unwrap()]).load(&pack, &options);
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
            assert_nothing_is_left(driver, &format!("cancelled at {number}"));
        }
    });
}

/// A file that another process rewrites while it is loaded: each byte is right the first time that it is read, and never again.
struct RightOnce {
    bytes: Vec<u8>,
    payload: AtomicU64,
    seen: std::sync::Mutex<Vec<bool>>,
    armed: AtomicBool,
}

impl ReadAt for RightOnce {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.bytes.read_exact_at(buffer, offset)?;
        if self.armed.load(Ordering::Relaxed) && offset >= self.payload.load(Ordering::Relaxed) {
            let mut seen = self.seen.lock().unwrap();
            for (byte, seen) in buffer.iter_mut().zip(&mut seen[offset as usize..]) {
                if std::mem::replace(seen, true) {
                    *byte ^= 0xFF;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn what_was_verified_is_what_is_sent() {
    with_driver(|driver| {
        driver.set_delay(300, 0);
        let bytes = File::new(Layout::Sealed).contents();
        let truth = OpenOptions::new().open_source(Arc::new(bytes.clone())).unwrap();
        let source = Arc::new(RightOnce {
            seen: std::sync::Mutex::new(vec![false; bytes.len()]),
            payload: AtomicU64::new(truth.manifest().payload().start),
            bytes,
            armed: AtomicBool::new(false),
        });
        let pack = OpenOptions::new().open_source(source.clone()).unwrap();
        source.armed.store(true, Ordering::Relaxed);
        let loaded = loader(&[Device::open(0).unwrap()]).load(&pack, &threads(4)).unwrap();
        for tensor in truth.tensors() {
            assert_eq!(loaded.packs[0].tensor(tensor.name).unwrap().to_host().unwrap(), truth.read(tensor.name).unwrap());
        }
    });
}

#[test]
fn a_file_rewritten_during_the_load_is_an_error_or_the_verified_bytes() {
    with_driver(|_| {
        let file = File::new(Layout::Sealed);
        let pack: Pack = file.open();
        let payload = pack.manifest().payload();
        let truth: Vec<Vec<u8>> = pack.tensors().map(|tensor| pack.read(tensor.name).unwrap()).collect();
        let good = file.contents();
        let mut bad = good.clone();
        bad[payload.start as usize..payload.end as usize].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        let stop = AtomicBool::new(false);
        let (mut refused, mut loaded_count) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let rewrite = |bytes: &[u8]| {
                    use std::os::unix::fs::FileExt;
                    let handle = std::fs::OpenOptions::new().write(true).open(&file.path).unwrap();
                    handle.write_all_at(&bytes[payload.start as usize..payload.end as usize], payload.start).unwrap();
                };
                while !stop.load(Ordering::Relaxed) {
                    rewrite(&bad);
                    rewrite(&good);
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let loader: Loader = loader(&[Device::open(0).unwrap()]);
            for _ in 0..60 {
                match loader.load(&pack, &threads(2)) {
                    Ok(loaded) => {
                        loaded_count += 1;
                        for (tensor, bytes) in loaded.packs[0].tensors().zip(&truth) {
                            assert_eq!(&tensor.to_host().unwrap(), bytes);
                        }
                    }
                    Err(error) => {
                        refused += 1;
                        assert_eq!(error.violation().map(|violation| violation.rule.id), Some("SEAL-INT-01"), "{error}");
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(refused + loaded_count, 60);
    });
}

#[test]
fn buffers_of_a_failed_chunk_are_not_let_go_in_flight() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        for (call, devices) in [
            ("cuMemcpyHtoDAsync_v2", 1),
            ("cuEventRecord", 1),
            ("cuEventCreate", 1),
            ("cuEventCreate", 2),
            ("cuMemcpyHtoDAsync_v2", 2),
        ] {
            for number in 0..24 {
                driver.reset(2, 1 << 30, number);
                driver.set_delay(2000, 0);
                driver.fail(call, number, 719);
                let devices: Vec<_> = (0..devices).filter_map(|ordinal| Device::open(ordinal).ok()).collect();
                // No bound to spare: a buffer that comes back is freed at once.
                let tight = Loader::with_options(&devices, LoaderOptions::default().buffer_bytes(8 << 20).pinned_bytes(0));
                let _ = tight.load(&pack, &threads(1)).map(drop);
                drop((tight, devices));
                assert_eq!(driver.report(), "", "{call} {number}");
            }
        }
    });
}

#[test]
fn a_peer_copy_that_fails_later_fails_the_load() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        let mut failed = 0;
        for number in 0..20 {
            driver.reset(2, 1 << 30, number);
            driver.set_peer(true);
            driver.set_delay(100, 0);
            driver.fail_async(number, 719);
            let devices = [Device::open(0).unwrap(), Device::open(1).unwrap()];
            let result = loader(&devices).load(&pack, &threads(1));
            if driver.calls("cuMemcpyPeerAsync") + driver.calls("cuMemcpyHtoDAsync_v2") > number {
                assert!(result.is_err(), "copy {number}");
                failed += 1;
            }
            drop((result, devices));
            assert_eq!(driver.report(), "");
        }
        assert!(failed > 10);
    });
}
