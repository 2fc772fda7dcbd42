//! Which operations have used a piece of memory, as far as later operations may still have to be ordered after them.

use crate::{clock::Clock, handle::StreamId};
use std::ops::Range;

/// One operation's use of one piece of memory.
#[derive(Clone)]
pub struct Access {
    pub function: &'static str,
    pub stream: StreamId,
    pub sequence: u64,
    pub range: Range<usize>,
    pub write: bool,
    /// The hash of the bytes at the enqueuing, where the operation reads host memory that nothing else is writing.
    pub source: Option<u64>,
}

impl Access {
    fn conflicts(&self, other: &Self) -> bool {
        (self.write || other.write) && self.range.start < other.range.end && other.range.start < self.range.end
    }
}

/// The uses of one piece of memory that the host does not yet know to be complete.
#[derive(Default)]
pub struct History(Vec<Access>);

impl History {
    /// Adds a use by an operation with that clock, and returns the earlier ones that it conflicts with and isn't ordered
    /// after.
    pub fn add(&mut self, access: Access, clock: &Clock) -> Vec<Access> {
        let ordered = |earlier: &Access| clock.covers(earlier.stream, earlier.sequence);
        let races = self.0.iter().filter(|earlier| !ordered(earlier) && access.conflicts(earlier)).cloned().collect();
        // What a write covers and comes after needn't be kept: whoever is ordered after the write is ordered after it.
        let covered =
            |earlier: &Access| access.write && access.range.start <= earlier.range.start && earlier.range.end <= access.range.end;
        self.0.retain(|earlier| earlier.source.is_some() || !covered(earlier) || !ordered(earlier));
        self.0.push(access);
        races
    }

    /// The uses that the host doesn't know to be complete.
    pub fn pending(&self) -> &[Access] {
        &self.0
    }

    /// Whether such a use writes into the range.
    pub fn is_being_written(&self, range: &Range<usize>) -> bool {
        self.0.iter().any(|access| access.write && access.range.start < range.end && range.start < access.range.end)
    }

    /// Takes out the uses that the host now knows to be complete.
    pub fn settle(&mut self, host: &Clock) -> Vec<Access> {
        self.0.extract_if(.., |access| host.covers(access.stream, access.sequence)).collect()
    }
}
