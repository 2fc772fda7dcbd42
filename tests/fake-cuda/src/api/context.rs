//! Primary contexts.

use super::Out;
use crate::{
    clock::Clock,
    handle::{ContextId, DeviceId, Handle, Kind},
    operation::Dependency,
    result::{INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, PEER_ACCESS_ALREADY_ENABLED, PEER_ACCESS_UNSUPPORTED, Result},
    state::{CHANGED, CURRENT, Context, Guard, State, StreamKind, call, call_to_release, wait},
};
use std::{collections::BTreeSet, ffi::c_uint};

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: DeviceId) -> u32 {
    call("cuDevicePrimaryCtxRetain", |mut state| {
        state.check_device(device)?;
        let id = match state.contexts.iter().find(|(_, context)| context.device == device) {
            Some((id, _)) => *id,
            None => add_context(&mut state, device),
        };
        context.set(Handle::new(Kind::Context, id))?;
        state.contexts.get_mut(&id).expect("it was found or added").retained += 1;
        Ok(())
    })
}

fn add_context(state: &mut State, device: DeviceId) -> ContextId {
    let id = state.new_id();
    let null_stream = state.add_stream(id, StreamKind::Null);
    state.contexts.insert(id, Context { device, retained: 0, null_stream, peers: BTreeSet::new(), failure: None });
    id
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: DeviceId) -> u32 {
    call_to_release("cuDevicePrimaryCtxRelease_v2", |mut state| {
        state.check_device(device)?;
        let mut contexts = state.contexts.iter_mut();
        let Some((id, context)) = contexts.find(|(_, context)| context.device == device && context.retained > 0) else {
            state.fault(format!("cuDevicePrimaryCtxRelease_v2: the context of device {device} isn't retained"));
            return Err(INVALID_CONTEXT);
        };
        context.retained -= 1;
        if context.retained == 0 {
            let id = *id;
            destroy(state, id);
        }
        Ok(())
    })
}

/// Destroys a context with all that is in it, which should be nothing.
fn destroy(mut state: Guard, id: ContextId) {
    let (points, clock) = everything(&state, id);
    state = wait(state, &points);
    // Another thread may have retained or destroyed it during the wait.
    if state.contexts.get(&id).is_none_or(|context| context.retained > 0) {
        return;
    }
    for leak in state.leaks_of(id) {
        state.fault(format!("cuDevicePrimaryCtxRelease_v2: the context still had {leak}"));
    }
    for stream in state.streams.values_mut().filter(|stream| stream.context == id) {
        stream.destroyed = true;
    }
    state.host_learns(&clock);
    state.events.retain(|_, event| event.context != id);
    let allocations = state.device_memory.allocations.iter();
    let gone: Vec<u64> = allocations.filter(|(_, memory)| memory.context == id).map(|(base, _)| *base).collect();
    gone.into_iter().for_each(|base| state.device_memory.remove(base));
    // The host memory stays allocated, for somebody may hold its address; it only isn't pinned any more.
    state.pinned.ranges.retain(|_, pinned| pinned.context != id);
    state.contexts.remove(&id);
    CHANGED.notify_all();
}

/// The ends of all queues of a context, and what has happened before them.
fn everything(state: &State, context: ContextId) -> (Vec<Dependency>, Clock) {
    let mut clock = Clock::default();
    let mut points = Vec::new();
    for (id, stream) in state.streams.iter().filter(|(_, stream)| stream.context == context) {
        points.push((*id, stream.enqueued));
        clock.join(&stream.clock);
    }
    (points, clock)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: Handle) -> u32 {
    call("cuCtxSetCurrent", |mut state| {
        if context != Handle::NULL {
            state.context("cuCtxSetCurrent", context)?;
        }
        CURRENT.set(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: Out<Handle>) -> u32 {
    call("cuCtxGetCurrent", |_| context.set(CURRENT.get()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(device: Out<DeviceId>) -> u32 {
    call("cuCtxGetDevice", |mut state| {
        let context = state.current_or_failed("cuCtxGetDevice")?;
        device.set(state.contexts[&context].device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    call("cuCtxSynchronize", |mut state| {
        let context = state.current_or_failed("cuCtxSynchronize")?;
        let (points, clock) = everything(&state, context);
        state = wait(state, &points);
        state.host_learns(&clock);
        state.check_context(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(peer: Handle, flags: c_uint) -> u32 {
    call("cuCtxEnablePeerAccess", |mut state| enable_peer_access(&mut state, peer, flags))
}

fn enable_peer_access(state: &mut State, peer: Handle, flags: c_uint) -> Result {
    let context = state.current("cuCtxEnablePeerAccess")?;
    let peer = state.context("cuCtxEnablePeerAccess", peer)?;
    if flags != 0 {
        return Err(INVALID_VALUE);
    }
    if peer == context {
        return Err(INVALID_DEVICE);
    }
    if !state.configuration.peers {
        return Err(PEER_ACCESS_UNSUPPORTED);
    }
    let context = state.contexts.get_mut(&context).expect("it is current");
    if context.peers.insert(peer) { Ok(()) } else { Err(PEER_ACCESS_ALREADY_ENABLED) }
}
