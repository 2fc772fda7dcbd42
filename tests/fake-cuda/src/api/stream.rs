//! Streams.

use super::Out;
use crate::{
    handle::{Handle, Kind, StreamId},
    operation::{HostFunction, Work},
    result::{INVALID_HANDLE, INVALID_VALUE, NOT_READY, Result},
    state::{CHANGED, Guard, StreamKind, call, call_to_release, wait},
};
use std::ffi::{c_uint, c_void};

/// The flag of a stream that doesn't take turns with the null stream.
const NON_BLOCKING: c_uint = 1;

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) -> u32 {
    call("cuStreamCreate", |mut state| {
        let context = state.current("cuStreamCreate")?;
        let kind = match flags {
            0 => StreamKind::Blocking,
            NON_BLOCKING => StreamKind::NonBlocking,
            _ => return Err(INVALID_VALUE),
        };
        let id = state.add_stream(context, kind);
        stream.set(Handle::new(Kind::Stream, id))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: Handle) -> u32 {
    call_to_release("cuStreamDestroy_v2", |mut state| {
        let id = state.stream("cuStreamDestroy_v2", stream)?;
        let stream = state.streams.get_mut(&id).expect("it was found");
        if stream.kind == StreamKind::Null {
            return Err(INVALID_HANDLE);
        }
        stream.destroyed = true;
        let context = stream.context;
        state.forget_streams();
        CHANGED.notify_all();
        state.check_context(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: Handle) -> u32 {
    call("cuStreamSynchronize", |mut state| {
        let id = state.stream("cuStreamSynchronize", stream)?;
        synchronize(state, "cuStreamSynchronize", id)
    })
}

/// Waits for a stream.
fn synchronize(mut state: Guard, function: &'static str, id: StreamId) -> Result {
    if state.streams[&id].kind == StreamKind::Null {
        // The null stream is at its end when the streams that take turns with it are.
        state.enqueue(function, id, Vec::new(), Work::Point);
    }
    let stream = &state.streams[&id];
    let (context, end, clock) = (stream.context, stream.enqueued, stream.clock.clone());
    state = wait(state, &[(id, end)]);
    state.host_learns(&clock);
    state.check_context(context)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: Handle) -> u32 {
    call("cuStreamQuery", |mut state| {
        let id = state.stream("cuStreamQuery", stream)?;
        let stream = &state.streams[&id];
        let (context, done, clock) = (stream.context, stream.completed == stream.enqueued, stream.clock.clone());
        state.check_context(context)?;
        if !done {
            return Err(NOT_READY);
        }
        state.host_learns(&clock);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> u32 {
    call("cuStreamWaitEvent", |mut state| {
        let id = state.stream("cuStreamWaitEvent", stream)?;
        let event = state.event("cuStreamWaitEvent", event)?;
        state.check_context(state.streams[&id].context)?;
        if flags > 1 {
            return Err(INVALID_VALUE);
        }
        // Waiting for an event that was never recorded is waiting for nothing.
        if let Some(record) = &state.events[&event].record {
            let after = (record.point, record.clock.clone());
            state.enqueue_after("cuStreamWaitEvent", id, Some(after), Vec::new(), Work::Point);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
) -> u32 {
    call("cuLaunchHostFunc", |mut state| {
        let id = state.stream_for_work("cuLaunchHostFunc", stream)?;
        let function = function.ok_or(INVALID_VALUE)?;
        let function = HostFunction::Plain { function, argument: argument.expose_provenance() };
        state.enqueue("cuLaunchHostFunc", id, Vec::new(), Work::HostFunction(function));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamAddCallback(
    stream: Handle,
    function: Option<unsafe extern "C" fn(Handle, u32, *mut c_void)>,
    argument: *mut c_void,
    flags: c_uint,
) -> u32 {
    call("cuStreamAddCallback", |mut state| {
        let id = state.stream_for_work("cuStreamAddCallback", stream)?;
        let function = function.filter(|_| flags == 0).ok_or(INVALID_VALUE)?;
        let function = HostFunction::Callback { function, argument: argument.expose_provenance(), stream };
        state.enqueue("cuStreamAddCallback", id, Vec::new(), Work::HostFunction(function));
        Ok(())
    })
}
