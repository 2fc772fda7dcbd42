//! Vector clocks: which operations of which streams have happened before a point of the program.
//!
//! They follow from the order of the calls alone. What they show to be unordered is reported even when the threads happened
//! to run it in the right order.

use crate::handle::StreamId;
use std::collections::BTreeMap;

/// For each stream, the number of its operations, counted in the order of their enqueuing, that have happened before.
#[derive(Clone, Default)]
pub struct Clock(BTreeMap<StreamId, u64>);

impl Clock {
    /// Whether the stream's operation of that number has happened before.
    pub fn covers(&self, stream: StreamId, sequence: u64) -> bool {
        sequence == 0 || self.0.get(&stream).is_some_and(|known| *known >= sequence)
    }

    /// Everything up to that operation of the stream has happened before, too.
    pub fn advance(&mut self, stream: StreamId, sequence: u64) {
        let known = self.0.entry(stream).or_default();
        *known = sequence.max(*known);
    }

    /// Everything that happened before the other's point has happened before this one's, too.
    pub fn join(&mut self, other: &Self) {
        for (stream, sequence) in &other.0 {
            self.advance(*stream, *sequence);
        }
    }

    /// Forgets a stream that is gone.
    pub fn forget(&mut self, stream: StreamId) {
        self.0.remove(&stream);
    }
}
