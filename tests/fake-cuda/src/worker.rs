//! The threads that do what is queued, one for each stream.

use crate::{
    handle::StreamId,
    memory,
    operation::{Copy, HostFunction, Operation, Place, Work},
    state::{CHANGED, Guard, IN_HOST_FUNCTION, State, lock},
};
use std::{
    ffi::c_void,
    time::{Duration, Instant},
};

/// Works off the queue of a stream until the stream is destroyed and its queue is empty, or everything is reset.
pub fn run(id: StreamId) {
    let mut buffer = Vec::new();
    let mut state = lock();
    loop {
        state = CHANGED.wait_while(state, |state| !has_something_to_do(state, id)).expect("the stand-in itself doesn't panic");
        let Some(stream) = state.streams.get_mut(&id) else { return };
        let Some(operation) = stream.queue.pop_front() else { return };
        let time = jitter(&state, id, operation.sequence);
        state = pause(state, time);
        state = execute(state, id, &operation, &mut buffer);
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.completed = operation.sequence;
        }
        state.forget_streams();
        CHANGED.notify_all();
    }
}

fn has_something_to_do(state: &State, id: StreamId) -> bool {
    let Some(stream) = state.streams.get(&id) else { return true };
    stream.queue.front().map_or(stream.destroyed, |operation| state.is_complete(&operation.dependencies))
}

/// How long to wait before an operation: pseudo-random, but the same in each run with the same seed.
fn jitter(state: &State, id: StreamId, sequence: u64) -> Duration {
    let most = state.configuration.jitter.as_micros() as u64;
    if most == 0 {
        return Duration::ZERO;
    }
    let words = [state.configuration.seed, id, sequence].map(u64::to_le_bytes);
    Duration::from_micros((memory::hash(words.as_flattened()) >> 16) % (most + 1))
}

/// Lets time pass without the lock.
fn pause(state: Guard, time: Duration) -> Guard {
    if time.is_zero() {
        return state;
    }
    drop(state);
    std::thread::sleep(time);
    lock()
}

fn execute(mut state: Guard, id: StreamId, operation: &Operation, buffer: &mut Vec<u8>) -> Guard {
    let Some(stream) = state.streams.get(&id) else { return state };
    let failure = state.contexts.get(&stream.context).and_then(|context| context.failure);
    match &operation.work {
        Work::Point => {}
        Work::Record(event) => {
            let record = state.events.get_mut(event).and_then(|event| event.record.as_mut());
            if let Some(record) = record.filter(|record| record.point == (id, operation.sequence)) {
                record.time = Some(Instant::now());
            }
        }
        // The memory goes even where the context failed: there is no other moment for it.
        Work::Free { base } => state.device_memory.remove(*base),
        Work::HostFunction(function) => {
            state.host_learns(&operation.clock);
            return call_host(state, function, failure.map_or(0, |error| error.0));
        }
        Work::Fill { .. } | Work::Copy(_) if failure.is_some() => {}
        Work::Fill { base, offset, size, value } => match state.device_memory.allocations.get_mut(base) {
            Some(allocation) => allocation.bytes[*offset..][..*size].fill(*value),
            None => state.fault(format!("{}: the memory was freed before the work was done", operation.function)),
        },
        Work::Copy(copy) => return execute_copy(state, id, operation, copy, buffer),
    }
    state
}

fn call_host(state: Guard, function: &HostFunction, status: u32) -> Guard {
    drop(state);
    IN_HOST_FUNCTION.set(true);
    match function {
        // The driver drops these where the context failed.
        HostFunction::Plain { .. } if status != 0 => {}
        HostFunction::Plain { function, argument } => {
            let argument: *mut c_void = std::ptr::with_exposed_provenance_mut(*argument);
            // SAFETY: the driver's caller passed the function to be called once with this argument, from any thread.
            unsafe { function(argument) }
        }
        HostFunction::Callback { function, argument, stream } => {
            let argument: *mut c_void = std::ptr::with_exposed_provenance_mut(*argument);
            // SAFETY: the driver's caller passed the function to be called once with this argument, from any thread.
            unsafe { function(*stream, status, argument) }
        }
    }
    IN_HOST_FUNCTION.set(false);
    lock()
}

fn execute_copy(mut state: Guard, id: StreamId, operation: &Operation, copy: &Copy, buffer: &mut Vec<u8>) -> Guard {
    let delay = state.configuration.copy_delay;
    if !delay.is_zero() {
        // A look at the source before the delay and one after it: it must stay what it was all along.
        let unchanged = read(&mut state, operation.function, copy, buffer);
        state = pause(state, delay);
        let Some(stream) = state.streams.get(&id) else { return state };
        if !unchanged || state.check_context(stream.context).is_err() {
            return state;
        }
    }
    if let Some(failure) = copy.failure {
        let context = state.streams[&id].context;
        if let Some(context) = state.contexts.get_mut(&context) {
            context.failure = Some(failure);
        }
        return state;
    }
    if !read(&mut state, operation.function, copy, buffer) {
        return state;
    }
    let from_host = !matches!(copy.source, Place::Device { .. });
    match &copy.destination {
        Place::Device { base, offset } => match state.device_memory.allocations.get_mut(base) {
            Some(allocation) => {
                allocation.bytes[*offset..][..copy.size].copy_from_slice(buffer);
                state.bytes_copied += if from_host { copy.size as u64 } else { 0 };
            }
            None => state.fault(format!("{}: its destination was freed before it was done", operation.function)),
        },
        Place::Host { address, pinned } if pinned.is_none_or(|id| state.pinned.contains(id)) => {
            memory::write_host(*address, buffer);
        }
        Place::Host { .. } => {
            state.fault(format!("{}: its destination was unpinned before it was done", operation.function));
        }
        Place::Staged(_) => unreachable!("only sources are staged"),
    }
    state
}

/// Reads what a copy copies; false, once that is reported, where it can't or where it shouldn't have changed.
fn read(state: &mut State, function: &str, copy: &Copy, buffer: &mut Vec<u8>) -> bool {
    match &copy.source {
        Place::Device { base, offset } => match state.device_memory.allocations.get(base) {
            Some(allocation) => {
                buffer.clear();
                buffer.extend_from_slice(&allocation.bytes[*offset..][..copy.size]);
            }
            None => {
                state.fault(format!("{function}: its source was freed before it was done"));
                return false;
            }
        },
        Place::Host { address, pinned } if pinned.is_none_or(|id| state.pinned.contains(id)) => {
            memory::read_host(*address, copy.size, buffer);
        }
        Place::Host { .. } => {
            state.fault(format!("{function}: its source was unpinned before it was done"));
            return false;
        }
        Place::Staged(bytes) => bytes.clone_into(buffer),
    }
    if copy.source_hash.is_some_and(|expected| memory::hash(buffer) != expected) {
        state.fault(format!("{function} of {} bytes: the source changed between the call and the copy", copy.size));
    }
    true
}
