//! Everything the driver knows, behind one lock, and the steps that most calls share.

use crate::{
    clock::Clock,
    findings::Findings,
    handle::{ContextId, DeviceId, EventId, Handle, Kind, StreamId},
    history::Access,
    injection::Injection,
    memory::{self, DeviceMemory, PinnedMemory},
    operation::{Dependency, Operation, Work},
    result::{
        CONTEXT_IS_DESTROYED, Error, INVALID_CONTEXT, INVALID_DEVICE, INVALID_HANDLE, NOT_INITIALIZED, NOT_PERMITTED, Result,
        SUCCESS,
    },
    worker,
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::{Condvar, LazyLock, Mutex, MutexGuard},
    thread::JoinHandle,
    time::{Duration, Instant},
};

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::default()));
/// Told of whatever somebody may be waiting for: work enqueued, work done, a stream destroyed.
pub static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// The context that is current in this thread.
    pub static CURRENT: Cell<Handle> = const { Cell::new(Handle::NULL) };
    /// Whether this thread is running a function of the caller's for a stream. It may not call the driver then.
    pub static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// The lock, held.
pub type Guard = MutexGuard<'static, State>;

/// Takes the lock.
pub fn lock() -> Guard {
    STATE.lock().expect("the stand-in itself doesn't panic")
}

/// What a test sets.
pub struct Configuration {
    pub devices: u32,
    /// Of each device.
    pub memory: u64,
    pub seed: u64,
    pub copy_delay: Duration,
    /// Up to this much time passes before each operation.
    pub jitter: Duration,
    pub peers: bool,
}

impl Default for Configuration {
    fn default() -> Self {
        Self { devices: 1, memory: 1 << 30, seed: 0, copy_delay: Duration::ZERO, jitter: Duration::ZERO, peers: false }
    }
}

/// A primary context.
pub struct Context {
    pub device: DeviceId,
    /// How many more times it was retained than released.
    pub retained: u64,
    pub null_stream: StreamId,
    /// The contexts whose memory it can reach.
    pub peers: BTreeSet<ContextId>,
    /// The error that ended its usefulness; every later call returns it.
    pub failure: Option<Error>,
}

/// A stream.
pub struct Stream {
    pub context: ContextId,
    pub kind: StreamKind,
    pub queue: VecDeque<Operation>,
    /// How many operations were ever enqueued.
    pub enqueued: u64,
    /// How many of them are done.
    pub completed: u64,
    /// What has happened before the end of its queue.
    pub clock: Clock,
    /// Its handle is no longer valid; the queue is still worked off.
    pub destroyed: bool,
    pub has_worker: bool,
}

/// How a stream goes along with the null stream of its context.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    Null,
    Blocking,
    NonBlocking,
}

/// An event.
pub struct Event {
    pub context: ContextId,
    pub timing: bool,
    pub record: Option<Record>,
}

/// The last record of an event.
pub struct Record {
    pub point: Dependency,
    pub clock: Clock,
    pub time: Option<Instant>,
}

/// A piece of memory that an operation uses.
pub struct Use {
    pub memory: Memory,
    pub range: Range<usize>,
    pub write: bool,
    pub source: Option<u64>,
}

/// Device or host memory, by its address in the tables.
#[derive(Clone, Copy)]
pub enum Memory {
    Device(u64),
    Host(usize),
}

/// Everything the driver knows.
#[derive(Default)]
pub struct State {
    pub configuration: Configuration,
    pub initialized: bool,
    /// The last number given to a context, stream or event. None is given out twice.
    pub last_id: u64,
    pub contexts: BTreeMap<ContextId, Context>,
    /// Those destroyed included, until nothing can be unordered with their work any more.
    pub streams: BTreeMap<StreamId, Stream>,
    pub events: BTreeMap<EventId, Event>,
    pub device_memory: DeviceMemory,
    pub pinned: PinnedMemory,
    /// What the host knows to have happened. All its threads count as one.
    pub host: Clock,
    pub injection: Injection,
    pub findings: Findings,
    pub bytes_copied: u64,
    pub workers: Vec<JoinHandle<()>>,
}

/// Runs a driver call: counts it, and returns the failure that a test asked for instead of carrying it out.
pub fn call(function: &'static str, body: impl FnOnce(Guard) -> Result) -> u32 {
    code(begin(function).and_then(|(state, failure)| failure.map_or_else(|| body(state), Err)))
}

/// Runs a driver call that releases something. It releases it also where it returns an error, as the real driver's do: the
/// error that they return is mostly an earlier operation's.
pub fn call_to_release(function: &'static str, body: impl FnOnce(Guard) -> Result) -> u32 {
    code(begin(function).and_then(|(state, failure)| {
        let result = body(state);
        failure.map_or(result, Err)
    }))
}

/// Runs a driver call that needs no initialized driver.
pub fn call_any_time(function: &'static str, body: impl FnOnce(Guard) -> Result) -> u32 {
    let mut state = lock();
    code(state.injection.call(function).map_or_else(|| body(state), Err))
}

fn begin(function: &'static str) -> Result<(Guard, Option<Error>)> {
    let mut state = lock();
    let failure = state.injection.call(function);
    if IN_HOST_FUNCTION.get() {
        state.fault(format!("{function}: called from within a host function of a stream"));
        return Err(NOT_PERMITTED);
    }
    if !state.initialized {
        state.fault(format!("{function}: called before cuInit"));
        return Err(NOT_INITIALIZED);
    }
    Ok((state, failure))
}

fn code(result: Result) -> u32 {
    result.map_or_else(|error| error.0, |()| SUCCESS)
}

/// Waits until the operations are done.
pub fn wait(state: Guard, points: &[Dependency]) -> Guard {
    CHANGED.wait_while(state, |state| !state.is_complete(points)).expect("the stand-in itself doesn't panic")
}

impl State {
    /// Notes a fault.
    pub fn fault(&mut self, text: String) {
        self.findings.add(format!("fault: {text}"));
    }

    /// A number for a new context, stream or event.
    pub fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether a device of that number exists.
    pub fn check_device(&self, device: DeviceId) -> Result {
        let exists = u32::try_from(device).is_ok_and(|device| device < self.configuration.devices);
        if exists { Ok(()) } else { Err(INVALID_DEVICE) }
    }

    /// The current context, where it can still be used.
    pub fn current(&mut self, function: &str) -> Result<ContextId> {
        let context = self.current_or_failed(function)?;
        self.check_context(context)?;
        Ok(context)
    }

    /// The current context, also where an error ended its usefulness.
    pub fn current_or_failed(&mut self, function: &str) -> Result<ContextId> {
        let handle = CURRENT.get();
        if handle == Handle::NULL {
            self.fault(format!("{function}: called with no current context"));
            return Err(INVALID_CONTEXT);
        }
        match handle.id(Kind::Context).filter(|context| self.contexts.contains_key(context)) {
            Some(context) => Ok(context),
            None => {
                self.fault(format!("{function}: called with a current context that was released"));
                Err(CONTEXT_IS_DESTROYED)
            }
        }
    }

    /// The context of a handle.
    pub fn context(&mut self, function: &str, handle: Handle) -> Result<ContextId> {
        match handle.id(Kind::Context).filter(|context| self.contexts.contains_key(context)) {
            Some(context) => Ok(context),
            None => {
                self.fault(format!("{function}: the context was released, or never was one"));
                Err(INVALID_CONTEXT)
            }
        }
    }

    /// The error that ended a context's usefulness, as the result of the call.
    pub fn check_context(&self, context: ContextId) -> Result {
        self.contexts.get(&context).and_then(|context| context.failure).map_or(Ok(()), Err)
    }

    /// The stream of a handle. A context must be current.
    pub fn stream(&mut self, function: &str, handle: Handle) -> Result<StreamId> {
        let context = self.current_or_failed(function)?;
        if handle == Handle::NULL || handle == Handle::LEGACY_STREAM {
            return Ok(self.contexts[&context].null_stream);
        }
        let id = handle.id(Kind::Stream);
        match id.filter(|id| self.streams.get(id).is_some_and(|stream| !stream.destroyed)) {
            Some(id) => Ok(id),
            None => {
                let what = if id.is_some_and(|id| id <= self.last_id) { "was destroyed" } else { "never was one" };
                self.fault(format!("{function}: the stream {what}"));
                Err(INVALID_HANDLE)
            }
        }
    }

    /// The stream of a handle that work is to be put on: it must belong to the current context, which must be usable.
    pub fn stream_for_work(&mut self, function: &str, handle: Handle) -> Result<StreamId> {
        let context = self.current_or_failed(function)?;
        let stream = self.stream(function, handle)?;
        if self.streams[&stream].context != context {
            self.fault(format!("{function}: the stream belongs to another context than the current one"));
            return Err(INVALID_HANDLE);
        }
        self.check_context(context)?;
        Ok(stream)
    }

    /// The event of a handle. A context must be current.
    pub fn event(&mut self, function: &str, handle: Handle) -> Result<EventId> {
        self.current_or_failed(function)?;
        let id = handle.id(Kind::Event);
        match id.filter(|id| self.events.contains_key(id)) {
            Some(id) => Ok(id),
            None => {
                let what = if id.is_some_and(|id| id <= self.last_id) { "was destroyed" } else { "never was one" };
                self.fault(format!("{function}: the event {what}"));
                Err(INVALID_HANDLE)
            }
        }
    }

    /// Adds a stream.
    pub fn add_stream(&mut self, context: ContextId, kind: StreamKind) -> StreamId {
        let id = self.new_id();
        let stream = Stream {
            context,
            kind,
            queue: VecDeque::new(),
            enqueued: 0,
            completed: 0,
            clock: Clock::default(),
            destroyed: false,
            has_worker: false,
        };
        self.streams.insert(id, stream);
        id
    }

    /// Whether the operations are done. A stream that is gone has none left to do.
    pub fn is_complete(&self, points: &[Dependency]) -> bool {
        points.iter().all(|(stream, sequence)| self.streams.get(stream).is_none_or(|stream| stream.completed >= *sequence))
    }

    /// Puts an operation on a stream; returns where it stands.
    pub fn enqueue(&mut self, function: &'static str, id: StreamId, uses: Vec<Use>, work: Work) -> Dependency {
        self.enqueue_after(function, id, None, uses, work)
    }

    /// Puts an operation on a stream that waits for one of another stream; returns where it stands.
    pub fn enqueue_after(
        &mut self,
        function: &'static str,
        id: StreamId,
        after: Option<(Dependency, Clock)>,
        uses: Vec<Use>,
        work: Work,
    ) -> Dependency {
        let (context, kind) = (self.streams[&id].context, self.streams[&id].kind);
        let mut clock = self.host.clone();
        let mut dependencies = Vec::new();
        if let Some((dependency, happened)) = after {
            dependencies.push(dependency);
            clock.join(&happened);
        }
        // The null stream and the blocking ones of its context take turns.
        let takes_turns_with = match kind {
            StreamKind::Null => Some(StreamKind::Blocking),
            StreamKind::Blocking => Some(StreamKind::Null),
            StreamKind::NonBlocking => None,
        };
        for (other, stream) in &self.streams {
            if stream.context == context && Some(stream.kind) == takes_turns_with {
                dependencies.push((*other, stream.enqueued));
                clock.join(&stream.clock);
            }
        }
        let stream = self.streams.get_mut(&id).expect("the caller found it");
        stream.enqueued += 1;
        let sequence = stream.enqueued;
        stream.clock.join(&clock);
        stream.clock.advance(id, sequence);
        let clock = stream.clock.clone();
        for used in uses {
            self.check_order(function, (id, sequence), &clock, used);
        }
        let stream = self.streams.get_mut(&id).expect("the caller found it");
        stream.queue.push_back(Operation { sequence, dependencies, clock, function, work });
        if !stream.has_worker {
            stream.has_worker = true;
            self.workers.retain(|worker| !worker.is_finished());
            self.workers.push(std::thread::spawn(move || worker::run(id)));
        }
        CHANGED.notify_all();
        (id, sequence)
    }

    /// Notes that an operation uses memory, and reports the earlier operations that it isn't ordered with.
    fn check_order(&mut self, function: &'static str, (stream, sequence): Dependency, clock: &Clock, used: Use) {
        let Use { memory, range, write, source } = used;
        let (history, size, kind) = match memory {
            Memory::Device(base) => {
                let allocation = self.device_memory.allocations.get_mut(&base).expect("the caller found it");
                (&mut allocation.history, allocation.bytes.len(), "device")
            }
            Memory::Host(base) => {
                let pinned = self.pinned.ranges.get_mut(&base).expect("the caller found it");
                (&mut pinned.history, pinned.size, "pinned host")
            }
        };
        // What streams did that are gone lies behind the host, and so behind everything.
        history.settle(&self.host);
        let access = Access { function, stream, sequence, range: range.clone(), write, source };
        let races = history.add(access, clock);
        // Where the context failed, nothing queued is carried out any more.
        if self.streams.get(&stream).is_some_and(|stream| self.check_context(stream.context).is_err()) {
            return;
        }
        for race in races {
            let verb = |write| if write { "writes" } else { "reads" };
            self.fault(format!(
                "{function} {} bytes {range:?} of {size} bytes of {kind} memory, but isn't ordered after {}, which {} bytes \
                 {:?} on another stream",
                verb(write),
                race.function,
                verb(race.write),
                race.range,
            ));
        }
    }

    /// The host has come to know that all this has happened.
    pub fn host_learns(&mut self, clock: &Clock) {
        self.host.join(clock);
        for allocation in self.device_memory.allocations.values_mut() {
            allocation.history.settle(&self.host);
        }
        let settled: Vec<(usize, Access)> = (self.pinned.ranges.iter_mut())
            .flat_map(|(base, pinned)| pinned.history.settle(&self.host).into_iter().map(|access| (*base, access)))
            .collect();
        let mut buffer = Vec::new();
        for (base, access) in settled {
            // Up to here nobody could know that the bytes had been read, so nobody may have replaced them. Those that a
            // failed context was to read were never read.
            let failed = self.streams.get(&access.stream).is_some_and(|stream| self.check_context(stream.context).is_err());
            let Some(source) = access.source.filter(|_| !failed) else { continue };
            memory::read_host(base + access.range.start, access.range.len(), &mut buffer);
            if memory::hash(&buffer) != source {
                self.fault(format!(
                    "{} of {} bytes: the source changed before the host knew that the copy was complete",
                    access.function,
                    access.range.len(),
                ));
            }
        }
        self.forget_streams();
    }

    /// Drops the destroyed streams that are done and that the host knows to be done: whatever comes now comes after them.
    pub fn forget_streams(&mut self) {
        let done = |(id, stream): (&StreamId, &Stream)| {
            let done = stream.destroyed && stream.completed == stream.enqueued && self.host.covers(*id, stream.enqueued);
            done.then_some(*id)
        };
        let gone: Vec<StreamId> = self.streams.iter().filter_map(done).collect();
        for id in gone {
            self.streams.remove(&id);
            let clocks = self.streams.values_mut().map(|stream| &mut stream.clock);
            let records = self.events.values_mut().filter_map(|event| event.record.as_mut());
            clocks.chain(records.map(|record| &mut record.clock)).for_each(|clock| clock.forget(id));
            self.host.forget(id);
            for stream in self.streams.values_mut() {
                stream.queue.iter_mut().for_each(|operation| operation.clock.forget(id));
            }
        }
    }
}
