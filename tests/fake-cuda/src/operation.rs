//! What is queued on a stream.

use crate::{
    clock::Clock,
    handle::{EventId, Handle, StreamId},
    result::Error,
};
use std::ffi::c_void;

/// An operation of a stream that another one waits for: the stream, and the operation's number in it.
pub type Dependency = (StreamId, u64);

/// One entry of a stream's queue.
pub struct Operation {
    /// Its number in its stream, from 1.
    pub sequence: u64,
    /// What of other streams it waits for.
    pub dependencies: Vec<Dependency>,
    /// What has happened before it, itself included.
    pub clock: Clock,
    /// The driver function that enqueued it.
    pub function: &'static str,
    pub work: Work,
}

/// What an operation does once it is its turn.
pub enum Work {
    /// Nothing: it stands for a point in the stream's order.
    Point,
    Record(EventId),
    Copy(Copy),
    Fill {
        base: u64,
        offset: usize,
        size: usize,
        value: u8,
    },
    Free {
        base: u64,
    },
    HostFunction(HostFunction),
}

/// A copy.
pub struct Copy {
    pub source: Place,
    pub destination: Place,
    pub size: usize,
    /// The hash that the source must have when it is read.
    pub source_hash: Option<u64>,
    /// The failure that a test asked for.
    pub failure: Option<Error>,
}

/// Where a copy reads or writes.
pub enum Place {
    Device {
        base: u64,
        offset: usize,
    },
    /// Host memory: pinned by the driver under that number, or anybody's, while the caller waits for the copy.
    Host {
        address: usize,
        pinned: Option<u64>,
    },
    /// Bytes that were read at the enqueuing, as the driver does with memory that isn't pinned.
    Staged(Vec<u8>),
}

/// A function of the caller's that runs in a stream's order.
pub enum HostFunction {
    /// As `cuLaunchHostFunc` takes it.
    Plain { function: unsafe extern "C" fn(*mut c_void), argument: usize },
    /// As `cuStreamAddCallback` takes it.
    Callback { function: unsafe extern "C" fn(Handle, u32, *mut c_void), argument: usize, stream: Handle },
}
