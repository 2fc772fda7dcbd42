//! What tests steer the stand-in with, and ask it.

use crate::{
    handle::ContextId,
    result::Error,
    state::{CHANGED, Configuration, Context, State, StreamKind, lock, wait},
};
use std::{
    ffi::{CStr, c_char},
    time::Duration,
};

/// All functions that can be counted and made to fail.
const FUNCTIONS: &[&str] = &[
    "cuCtxEnablePeerAccess",
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceCanAccessPeer",
    "cuDeviceGetDefaultMemPool",
    "cuMemPoolSetAccess",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventElapsedTime_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchHostFunc",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyHtoD_v2",
    "cuMemcpyPeerAsync",
    "cuMemsetD8Async",
    "cuMemsetD8_v2",
    "cuPointerGetAttribute",
    "cuStreamAddCallback",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

impl State {
    /// What a context holds that should have been released.
    pub fn leaks_of(&self, context: ContextId) -> Vec<String> {
        let mut leaks = Vec::new();
        let streams = self.streams.values().filter(|stream| stream.context == context);
        let alive = streams.filter(|stream| !stream.destroyed && stream.kind != StreamKind::Null).count();
        let events = self.events.values().filter(|event| event.context == context).count();
        leaks.extend((alive > 0).then(|| format!("{alive} streams (cuStreamCreate)")));
        leaks.extend((events > 0).then(|| format!("{events} events (cuEventCreate)")));
        for allocation in self.device_memory.allocations.values() {
            if allocation.context == context && !allocation.freed {
                leaks.push(format!("{} bytes of device memory ({})", allocation.bytes.len(), allocation.function));
            }
        }
        for pinned in self.pinned.ranges.values().filter(|pinned| pinned.context == context) {
            leaks.push(format!("{} bytes of pinned host memory ({})", pinned.size, pinned.function));
        }
        leaks
    }

    fn report(&self) -> String {
        let mut lines = self.findings.lines().to_vec();
        for (id, context) in &self.contexts {
            let Context { device, retained, .. } = context;
            lines.push(format!("leak: the context of device {device} is retained {retained} times (cuDevicePrimaryCtxRetain)"));
            lines.extend(self.leaks_of(*id).into_iter().map(|leak| format!("leak: {leak}")));
        }
        lines.join("\n")
    }
}

/// Begins anew with that many devices of that much memory each: nothing is allocated, nothing is asked for, nothing was
/// found. That the driver was initialized stays, for a process does that only once.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_reset(devices: u32, memory: u64, seed: u64) {
    let mut state = lock();
    let successor = State {
        configuration: Configuration { devices, memory, seed, ..Configuration::default() },
        initialized: state.initialized,
        last_id: state.last_id,
        device_memory: state.device_memory.successor(),
        pinned: state.pinned.successor(),
        ..State::default()
    };
    let former = std::mem::replace(&mut *state, successor);
    CHANGED.notify_all();
    drop(state);
    for worker in former.workers {
        worker.join().expect("the stand-in itself doesn't panic");
    }
}

/// Makes each copy take that long, and lets up to that much time pass before each operation.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_set_delay(copy_microseconds: u64, jitter_microseconds: u64) {
    let mut state = lock();
    state.configuration.copy_delay = Duration::from_micros(copy_microseconds);
    state.configuration.jitter = Duration::from_micros(jitter_microseconds);
}

/// Sets whether devices can access each other.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_set_peer(can: u32) {
    lock().configuration.peers = can != 0;
}

/// The name of a function that can be counted; one that can't is a fault of the test's.
fn known_function(state: &mut State, function: *const c_char) -> Option<&'static str> {
    // SAFETY: the test passes a string that ends with a zero byte.
    let name = unsafe { CStr::from_ptr(function) }.to_string_lossy();
    let known = FUNCTIONS.iter().find(|known| **known == name);
    if known.is_none() {
        state.fault(format!("the test asked for {name}, which isn't a function of the stand-in"));
    }
    known.copied()
}

/// Makes one call of a function fail, by its number since the reset, from 0.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_fail(function: *const c_char, nth: u64, code: u32) {
    let mut state = lock();
    if let Some(function) = known_function(&mut state, function) {
        state.injection.fail_call(function.to_owned(), nth, Error(code));
    }
}

/// Makes one asynchronous copy fail when it is carried out, by its number since the reset, from 0.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_fail_async(nth_copy: u64, code: u32) {
    lock().injection.fail_copy(nth_copy, Error(code));
}

/// How often a function was called since the reset.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_calls(function: *const c_char) -> u64 {
    let mut state = lock();
    known_function(&mut state, function).map_or(0, |function| state.injection.calls(function))
}

/// Writes what was found, one finding a line and a zero byte at the end, as far as there is room; returns how many bytes
/// it is without that one.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_report(buffer: *mut c_char, capacity: usize) -> usize {
    let report = lock().report();
    if !buffer.is_null() && capacity > 0 {
        let kept = report.len().min(capacity - 1);
        // SAFETY: the test promises room for `capacity` bytes, which is at least one more than are kept.
        unsafe {
            std::ptr::copy_nonoverlapping(report.as_ptr().cast(), buffer, kept);
            buffer.add(kept).write(0);
        }
    }
    report.len()
}

/// How many allocations of device memory held anything but zeros when they were freed, since the reset. Waits for the
/// frees that are queued.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_freed_nonzero() -> u64 {
    let state = lock();
    let freed = state.device_memory.allocations.values().filter(|allocation| allocation.freed);
    let pending = freed.flat_map(|allocation| allocation.history.pending());
    let points: Vec<_> = pending.map(|access| (access.stream, access.sequence)).collect();
    wait(state, &points).device_memory.freed_nonzero
}

/// How many bytes were copied from host to device since the reset.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_bytes_copied() -> u64 {
    lock().bytes_copied
}

/// How many bytes of device memory are alive.
#[unsafe(no_mangle)]
extern "C" fn fake_cuda_allocated() -> u64 {
    let state = lock();
    (0..state.configuration.devices).map(|device| state.device_memory.used(device as i32)).sum()
}
