//! Copies and fills.

use crate::{
    handle::{ContextId, Handle, StreamId},
    memory::{self, Lookup},
    operation::{Copy, Dependency, Place, Work},
    result::{INVALID_VALUE, Result},
    state::{Guard, Memory, State, Use, call, wait},
};
use std::ffi::{c_uchar, c_void};

/// A place in device memory, and the context that the memory belongs to.
struct DevicePlace {
    base: u64,
    offset: usize,
    context: ContextId,
}

/// The place of a range of device memory, all of which must be alive.
fn device_place(state: &mut State, function: &str, address: u64, size: usize) -> Result<DevicePlace> {
    let what = match state.device_memory.find(address) {
        Lookup::Alive { base, offset } => {
            let allocation = &state.device_memory.allocations[&base];
            if size <= allocation.bytes.len() - offset {
                return Ok(DevicePlace { base, offset, context: allocation.context });
            }
            let length = allocation.bytes.len();
            format!("out of bounds: {size} bytes at offset {offset} of an allocation of {length} bytes")
        }
        Lookup::Freed => format!("use after free: {size} bytes of freed device memory"),
        Lookup::Unknown => format!("{size} bytes at an address where nothing was ever allocated"),
    };
    state.fault(format!("{function}: {what}"));
    Err(INVALID_VALUE)
}

/// Reports device memory that the stream's context can't reach.
fn check_reach(state: &mut State, function: &str, stream: StreamId, memory: ContextId) -> Result {
    let context = state.streams[&stream].context;
    if memory == context || state.contexts[&context].peers.contains(&memory) {
        return Ok(());
    }
    state.fault(format!("{function}: the memory belongs to a context that the stream's one can't access"));
    Err(INVALID_VALUE)
}

/// Where a range of host memory lies in the pinned memory, and which that is; nothing where it isn't pinned.
fn pinned_place(state: &mut State, function: &str, address: usize, size: usize) -> Result<Option<(usize, u64)>> {
    let Some(base) = state.pinned.find(address) else { return Ok(None) };
    let pinned = &state.pinned.ranges[&base];
    if size <= pinned.size - (address - base) {
        return Ok(Some((base, pinned.id)));
    }
    let length = pinned.size;
    state.fault(format!("{function}: out of bounds: {size} bytes reach beyond {length} bytes of pinned host memory"));
    Err(INVALID_VALUE)
}

fn device_use(place: &DevicePlace, size: usize, write: bool) -> Use {
    Use { memory: Memory::Device(place.base), range: place.offset..place.offset + size, write, source: None }
}

/// How a copy between host and device treats its caller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Synchronous,
    Asynchronous,
}

/// Reports that an asynchronous copy has host memory that isn't pinned, and so would be synchronous.
fn check_pinned(state: &mut State, function: &str, mode: Mode, size: usize, pinned: bool) {
    if mode == Mode::Asynchronous && !pinned {
        state.fault(format!("{function}: {size} bytes of host memory that is neither pinned nor registered"));
    }
}

fn next_failure(state: &mut State, mode: Mode) -> Option<crate::result::Error> {
    if mode == Mode::Asynchronous { state.injection.copy() } else { None }
}

fn host_to_device(
    mut state: Guard,
    function: &'static str,
    mode: Mode,
    destination: u64,
    source: *const c_void,
    size: usize,
    stream: Handle,
) -> Result {
    let stream = state.stream_for_work(function, stream)?;
    if size == 0 {
        return Ok(());
    }
    let place = device_place(&mut state, function, destination, size)?;
    check_reach(&mut state, function, stream, place.context)?;
    let address = source.expose_provenance();
    let pinned = pinned_place(&mut state, function, address, size)?;
    check_pinned(&mut state, function, mode, size, pinned.is_some());
    let failure = next_failure(&mut state, mode);
    let mut bytes = Vec::new();
    let mut uses = vec![device_use(&place, size, true)];
    let mut source_hash = None;
    let source = match pinned {
        Some((base, id)) => {
            let range = address - base..address - base + size;
            // What a copy that is still queued is going to write can't be hashed yet.
            let written = state.pinned.ranges[&base].history.is_being_written(&range);
            if !written {
                memory::read_host(address, size, &mut bytes);
                source_hash = Some(memory::hash(&bytes));
            }
            uses.push(Use { memory: Memory::Host(base), range, write: false, source: source_hash });
            Place::Host { address, pinned: Some(id) }
        }
        None => {
            memory::read_host(address, size, &mut bytes);
            Place::Staged(bytes)
        }
    };
    let waits = mode == Mode::Synchronous && pinned.is_some();
    let destination = Place::Device { base: place.base, offset: place.offset };
    let copy = Copy { source, destination, size, source_hash, failure };
    let point = state.enqueue(function, stream, uses, Work::Copy(copy));
    // From memory that isn't pinned the driver copies by way of its own, and returns before those bytes are on the device.
    if waits { finish(state, point) } else { Ok(()) }
}

fn device_to_host(
    mut state: Guard,
    function: &'static str,
    mode: Mode,
    destination: *mut c_void,
    source: u64,
    size: usize,
    stream: Handle,
) -> Result {
    let stream = state.stream_for_work(function, stream)?;
    if size == 0 {
        return Ok(());
    }
    let place = device_place(&mut state, function, source, size)?;
    check_reach(&mut state, function, stream, place.context)?;
    let address = destination.expose_provenance();
    let pinned = pinned_place(&mut state, function, address, size)?;
    check_pinned(&mut state, function, mode, size, pinned.is_some());
    let failure = next_failure(&mut state, mode);
    let mut uses = vec![device_use(&place, size, false)];
    if let Some((base, _)) = pinned {
        let range = address - base..address - base + size;
        uses.push(Use { memory: Memory::Host(base), range, write: true, source: None });
    }
    let source = Place::Device { base: place.base, offset: place.offset };
    let destination = Place::Host { address, pinned: pinned.map(|(_, id)| id) };
    let copy = Copy { source, destination, size, source_hash: None, failure };
    let point = state.enqueue(function, stream, uses, Work::Copy(copy));
    if mode == Mode::Synchronous || pinned.is_none() { finish(state, point) } else { Ok(()) }
}

/// Waits for an operation that was just enqueued.
fn finish(mut state: Guard, point: Dependency) -> Result {
    let stream = &state.streams[&point.0];
    let (context, clock) = (stream.context, stream.clock.clone());
    state = wait(state, &[point]);
    state.host_learns(&clock);
    state.check_context(context)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(destination: u64, source: *const c_void, size: usize) -> u32 {
    call("cuMemcpyHtoD_v2", |state| {
        host_to_device(state, "cuMemcpyHtoD_v2", Mode::Synchronous, destination, source, size, Handle::NULL)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(destination: u64, source: *const c_void, size: usize, stream: Handle) -> u32 {
    call("cuMemcpyHtoDAsync_v2", |state| {
        host_to_device(state, "cuMemcpyHtoDAsync_v2", Mode::Asynchronous, destination, source, size, stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(destination: *mut c_void, source: u64, size: usize) -> u32 {
    call("cuMemcpyDtoH_v2", |state| {
        device_to_host(state, "cuMemcpyDtoH_v2", Mode::Synchronous, destination, source, size, Handle::NULL)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(destination: *mut c_void, source: u64, size: usize, stream: Handle) -> u32 {
    call("cuMemcpyDtoHAsync_v2", |state| {
        device_to_host(state, "cuMemcpyDtoHAsync_v2", Mode::Asynchronous, destination, source, size, stream)
    })
}

/// Enqueues a copy between places on devices.
fn between_devices(
    state: &mut State,
    function: &'static str,
    stream: StreamId,
    destination: &DevicePlace,
    source: &DevicePlace,
    size: usize,
) {
    let failure = state.injection.copy();
    let uses = vec![device_use(source, size, false), device_use(destination, size, true)];
    let source = Place::Device { base: source.base, offset: source.offset };
    let destination = Place::Device { base: destination.base, offset: destination.offset };
    let copy = Copy { source, destination, size, source_hash: None, failure };
    state.enqueue(function, stream, uses, Work::Copy(copy));
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(destination: u64, source: u64, size: usize, stream: Handle) -> u32 {
    const NAME: &str = "cuMemcpyDtoDAsync_v2";
    call(NAME, |mut state| {
        let stream = state.stream_for_work(NAME, stream)?;
        if size == 0 {
            return Ok(());
        }
        let destination = device_place(&mut state, NAME, destination, size)?;
        let source = device_place(&mut state, NAME, source, size)?;
        check_reach(&mut state, NAME, stream, destination.context)?;
        check_reach(&mut state, NAME, stream, source.context)?;
        between_devices(&mut state, NAME, stream, &destination, &source, size);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    destination: u64,
    destination_context: Handle,
    source: u64,
    source_context: Handle,
    size: usize,
    stream: Handle,
) -> u32 {
    const NAME: &str = "cuMemcpyPeerAsync";
    call(NAME, |mut state| {
        let stream = state.stream_for_work(NAME, stream)?;
        let contexts = (state.context(NAME, destination_context)?, state.context(NAME, source_context)?);
        if size == 0 {
            return Ok(());
        }
        let destination = device_place(&mut state, NAME, destination, size)?;
        let source = device_place(&mut state, NAME, source, size)?;
        if contexts != (destination.context, source.context) {
            state.fault(format!("{NAME}: the memory belongs to other contexts than those given"));
            return Err(INVALID_VALUE);
        }
        between_devices(&mut state, NAME, stream, &destination, &source, size);
        Ok(())
    })
}

fn fill(state: &mut State, function: &'static str, address: u64, value: u8, size: usize, stream: Handle) -> Result {
    let stream = state.stream_for_work(function, stream)?;
    if size == 0 {
        return Ok(());
    }
    let place = device_place(state, function, address, size)?;
    check_reach(state, function, stream, place.context)?;
    let work = Work::Fill { base: place.base, offset: place.offset, size, value };
    state.enqueue(function, stream, vec![device_use(&place, size, true)], work);
    Ok(())
}

/// Fills device memory on the null stream. As with the real driver, the call doesn't wait for it.
#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(address: u64, value: c_uchar, size: usize) -> u32 {
    call("cuMemsetD8_v2", |mut state| fill(&mut state, "cuMemsetD8_v2", address, value, size, Handle::NULL))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(address: u64, value: c_uchar, size: usize, stream: Handle) -> u32 {
    call("cuMemsetD8Async", |mut state| fill(&mut state, "cuMemsetD8Async", address, value, size, stream))
}
