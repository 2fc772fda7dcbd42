//! Memory of the device, and host memory that the device can reach.

use super::Out;
use crate::{
    clock::Clock,
    handle::{Handle, Kind},
    memory::{self, Lookup},
    operation::{Dependency, Work},
    result::{HOST_MEMORY_ALREADY_REGISTERED, HOST_MEMORY_NOT_REGISTERED, INVALID_VALUE, OUT_OF_MEMORY, Result},
    state::{Guard, Memory, State, Use, call, call_to_release, wait},
};
use std::ffi::{c_uint, c_void};

/// Room on the device of the current context.
fn allocate(state: &mut State, function: &'static str, size: usize) -> Result<u64> {
    let id = state.current(function)?;
    if size == 0 {
        return Err(INVALID_VALUE);
    }
    let device = state.contexts[&id].device;
    if state.device_memory.used(device).saturating_add(size as u64) > state.configuration.memory {
        return Err(OUT_OF_MEMORY);
    }
    Ok(state.device_memory.allocate(device, id, size, function))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: Out<u64>, size: usize) -> u32 {
    call("cuMemAlloc_v2", |mut state| {
        let base = allocate(&mut state, "cuMemAlloc_v2", size)?;
        address.set(base)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(address: Out<u64>, size: usize, stream: Handle) -> u32 {
    call("cuMemAllocAsync", |mut state| {
        let stream = state.stream_for_work("cuMemAllocAsync", stream)?;
        let base = allocate(&mut state, "cuMemAllocAsync", size)?;
        // It counts as a write, so that whoever uses the memory must come after it.
        let whole = Use { memory: Memory::Device(base), range: 0..size, write: true, source: None };
        state.enqueue("cuMemAllocAsync", stream, vec![whole], Work::Point);
        address.set(base)
    })
}

/// The allocation that begins at an address, to be freed.
fn find_to_free(state: &mut State, function: &str, address: u64) -> Result<u64> {
    let what = match state.device_memory.find(address) {
        Lookup::Alive { base, offset: 0 } => return Ok(base),
        Lookup::Alive { .. } => "the address isn't the beginning of its allocation",
        Lookup::Freed => "the memory was freed before (double free)",
        Lookup::Unknown => "the address was never allocated",
    };
    state.fault(format!("{function}: {what}"));
    Err(INVALID_VALUE)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    call_to_release("cuMemFree_v2", |mut state| {
        state.current_or_failed("cuMemFree_v2")?;
        let base = find_to_free(&mut state, "cuMemFree_v2", address)?;
        let allocation = state.device_memory.allocations.get_mut(&base).expect("it was found");
        // Nobody else may use it while this waits.
        allocation.freed = true;
        let (size, context) = (allocation.bytes.len(), allocation.context);
        let pending = allocation.history.pending().iter().map(|access| (access.stream, access.sequence)).collect();
        let text = format!("cuMemFree_v2: {size} bytes were freed");
        state = finish_pending(state, pending, &text);
        state.device_memory.remove(base);
        state.check_context(context)
    })
}

/// Waits for what still uses memory that is about to go, and reports that the caller didn't.
fn finish_pending(mut state: Guard, pending: Vec<Dependency>, text: &str) -> Guard {
    // Where the context failed, what is queued is no longer carried out, and there is no way to wait for more.
    let failed = |state: &State, (stream, _): &Dependency| {
        state.streams.get(stream).is_some_and(|stream| state.check_context(stream.context).is_err())
    };
    let unfinished = pending.iter().filter(|point| !failed(&state, point)).count();
    if unfinished > 0 {
        state.fault(format!("{text} in flight: the host didn't know that the {unfinished} last operations with them were done"));
    }
    state = wait(state, &pending);
    let mut clock = Clock::default();
    pending.iter().for_each(|(stream, sequence)| clock.advance(*stream, *sequence));
    state.host_learns(&clock);
    state
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> u32 {
    call_to_release("cuMemFreeAsync", |mut state| {
        let context = state.current_or_failed("cuMemFreeAsync")?;
        let stream = state.stream("cuMemFreeAsync", stream)?;
        if state.streams[&stream].context != context {
            state.fault("cuMemFreeAsync: the stream belongs to another context than the current one".to_owned());
        }
        let base = find_to_free(&mut state, "cuMemFreeAsync", address)?;
        let allocation = state.device_memory.allocations.get_mut(&base).expect("it was found");
        allocation.freed = true;
        // It counts as a write, so that it must come after whatever used the memory.
        let whole = Use { memory: Memory::Device(base), range: 0..allocation.bytes.len(), write: true, source: None };
        state.enqueue("cuMemFreeAsync", stream, vec![whole], Work::Free { base });
        state.check_context(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(address: Out<usize>, size: usize, _flags: c_uint) -> u32 {
    call("cuMemHostAlloc", |mut state| {
        let context = state.current("cuMemHostAlloc")?;
        if size == 0 {
            return Err(INVALID_VALUE);
        }
        let base = memory::allocate_host(size).ok_or(OUT_OF_MEMORY)?;
        state.pinned.add(base, size, true, context, "cuMemHostAlloc");
        address.set(base)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: *mut c_void) -> u32 {
    call_to_release("cuMemFreeHost", |state| unpin(state, "cuMemFreeHost", address.expose_provenance(), true))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(address: *mut c_void, size: usize, _flags: c_uint) -> u32 {
    call("cuMemHostRegister_v2", |mut state| {
        let context = state.current("cuMemHostRegister_v2")?;
        if address.is_null() || size == 0 {
            return Err(INVALID_VALUE);
        }
        let added = state.pinned.add(address.expose_provenance(), size, false, context, "cuMemHostRegister_v2");
        if added { Ok(()) } else { Err(HOST_MEMORY_ALREADY_REGISTERED) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(address: *mut c_void) -> u32 {
    call_to_release("cuMemHostUnregister", |state| unpin(state, "cuMemHostUnregister", address.expose_provenance(), false))
}

/// Takes host memory out of the device's reach; frees it where the driver allocated it.
fn unpin(mut state: Guard, function: &'static str, address: usize, allocated: bool) -> Result {
    let context = state.current_or_failed(function)?;
    let Some(pinned) = state.pinned.ranges.get(&address).filter(|pinned| pinned.allocated == allocated) else {
        state.fault(format!("{function}: the memory isn't there, or no longer (double free)"));
        return Err(if allocated { INVALID_VALUE } else { HOST_MEMORY_NOT_REGISTERED });
    };
    let (id, size) = (pinned.id, pinned.size);
    let pending = pinned.history.pending().iter().map(|access| (access.stream, access.sequence)).collect();
    let text = format!("{function}: {size} bytes were released");
    state = finish_pending(state, pending, &text);
    // Another thread may have released it during the wait.
    if state.pinned.ranges.get(&address).is_some_and(|pinned| pinned.id == id) {
        state.pinned.ranges.remove(&address);
        if allocated {
            memory::free_host(address, size);
        }
    }
    state.check_context(context)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> u32 {
    call("cuMemGetInfo_v2", |mut state| {
        let context = state.current("cuMemGetInfo_v2")?;
        let device = state.contexts[&context].device;
        free.set(state.configuration.memory.saturating_sub(state.device_memory.used(device)) as usize)?;
        total.set(state.configuration.memory as usize)
    })
}

/// What can be asked of a pointer.
mod attribute {
    use std::ffi::c_uint;

    pub const CONTEXT: c_uint = 1;
    pub const MEMORY_TYPE: c_uint = 2;
    pub const DEVICE_POINTER: c_uint = 3;
    pub const HOST_POINTER: c_uint = 4;
    pub const DEVICE_ORDINAL: c_uint = 9;
    pub const RANGE_START: c_uint = 11;
    pub const RANGE_SIZE: c_uint = 12;
}

#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttribute(data: *mut c_void, asked: c_uint, address: u64) -> u32 {
    call("cuPointerGetAttribute", |mut state| {
        state.current("cuPointerGetAttribute")?;
        let (on_device, context, start, size) = describe(&state, address).ok_or(INVALID_VALUE)?;
        match asked {
            attribute::CONTEXT => Out(data.cast::<Handle>()).set(Handle::new(Kind::Context, context)),
            attribute::MEMORY_TYPE => Out(data.cast::<c_uint>()).set(if on_device { 2 } else { 1 }),
            attribute::DEVICE_POINTER => Out(data.cast::<u64>()).set(address),
            attribute::HOST_POINTER if !on_device => Out(data.cast::<u64>()).set(address),
            attribute::DEVICE_ORDINAL => Out(data.cast::<i32>()).set(state.contexts[&context].device),
            attribute::RANGE_START => Out(data.cast::<u64>()).set(start),
            attribute::RANGE_SIZE => Out(data.cast::<usize>()).set(size),
            _ => Err(INVALID_VALUE),
        }
    })
}

/// Whether an address is the device's, its context, and the range it lies in.
fn describe(state: &State, address: u64) -> Option<(bool, u64, u64, usize)> {
    if let Lookup::Alive { base, .. } = state.device_memory.find(address) {
        let allocation = &state.device_memory.allocations[&base];
        return Some((true, allocation.context, base, allocation.bytes.len()));
    }
    let base = state.pinned.find(address as usize)?;
    let pinned = &state.pinned.ranges[&base];
    Some((false, pinned.context, base as u64, pinned.size))
}
