//! Events.

use super::Out;
use crate::{
    clock::Clock,
    handle::{EventId, Handle, Kind},
    operation::Work,
    result::{INVALID_HANDLE, INVALID_VALUE, NOT_READY, Result},
    state::{Event, Record, State, call, call_to_release, wait},
};
use std::{ffi::c_uint, time::Instant};

/// The flag of an event that takes no time.
const DISABLE_TIMING: c_uint = 2;
/// All flags that there are.
const ALL_FLAGS: c_uint = 7;

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: Out<Handle>, flags: c_uint) -> u32 {
    call("cuEventCreate", |mut state| {
        let context = state.current("cuEventCreate")?;
        if flags & !ALL_FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        let id = state.new_id();
        state.events.insert(id, Event { context, timing: flags & DISABLE_TIMING == 0, record: None });
        event.set(Handle::new(Kind::Event, id))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: Handle) -> u32 {
    call_to_release("cuEventDestroy_v2", |mut state| {
        let id = state.event("cuEventDestroy_v2", event)?;
        let event = state.events.remove(&id).expect("it was found");
        state.check_context(event.context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> u32 {
    call("cuEventRecord", |mut state| {
        let id = state.event("cuEventRecord", event)?;
        let stream = state.stream("cuEventRecord", stream)?;
        let context = state.streams[&stream].context;
        if state.events[&id].context != context {
            state.fault("cuEventRecord: the event and the stream belong to different contexts".to_owned());
            return Err(INVALID_HANDLE);
        }
        state.check_context(context)?;
        let point = state.enqueue("cuEventRecord", stream, Vec::new(), Work::Record(id));
        let clock = state.streams[&stream].clock.clone();
        state.events.get_mut(&id).expect("it was found").record = Some(Record { point, clock, time: None });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: Handle) -> u32 {
    call("cuEventSynchronize", |mut state| {
        let id = state.event("cuEventSynchronize", event)?;
        let event = &state.events[&id];
        let context = event.context;
        let (points, clock) =
            event.record.as_ref().map_or((Vec::new(), Clock::default()), |record| (vec![record.point], record.clock.clone()));
        state = wait(state, &points);
        state.host_learns(&clock);
        state.check_context(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: Handle) -> u32 {
    call("cuEventQuery", |mut state| {
        let id = state.event("cuEventQuery", event)?;
        let event = &state.events[&id];
        state.check_context(event.context)?;
        let Some(record) = &event.record else { return Ok(()) };
        if !state.is_complete(&[record.point]) {
            return Err(NOT_READY);
        }
        let clock = record.clock.clone();
        state.host_learns(&clock);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) -> u32 {
    call("cuEventElapsedTime", |mut state| elapsed(&mut state, "cuEventElapsedTime", milliseconds, start, end))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) -> u32 {
    call("cuEventElapsedTime_v2", |mut state| elapsed(&mut state, "cuEventElapsedTime_v2", milliseconds, start, end))
}

fn elapsed(state: &mut State, function: &str, milliseconds: Out<f32>, start: Handle, end: Handle) -> Result {
    let start = state.event(function, start)?;
    let end = state.event(function, end)?;
    let (start, end) = (time(state, start)?, time(state, end)?);
    milliseconds.set(if end >= start { (end - start).as_secs_f32() } else { -(start - end).as_secs_f32() } * 1000.0)
}

fn time(state: &State, event: EventId) -> Result<Instant> {
    let event = &state.events[&event];
    state.check_context(event.context)?;
    event.record.as_ref().filter(|_| event.timing).ok_or(INVALID_HANDLE)?.time.ok_or(NOT_READY)
}
