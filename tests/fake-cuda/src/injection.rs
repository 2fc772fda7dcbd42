//! Failures that a test asked for.

use crate::result::Error;
use std::collections::BTreeMap;

/// The failures asked for, and the counts that decide when they are due.
#[derive(Default)]
pub struct Injection {
    calls: BTreeMap<&'static str, u64>,
    failing_calls: BTreeMap<(String, u64), Error>,
    copies: u64,
    failing_copies: BTreeMap<u64, Error>,
}

impl Injection {
    /// Makes the call of that number of a function fail.
    pub fn fail_call(&mut self, function: String, nth: u64, error: Error) {
        self.failing_calls.insert((function, nth), error);
    }

    /// Makes the asynchronous copy of that number fail when it is carried out.
    pub fn fail_copy(&mut self, nth: u64, error: Error) {
        self.failing_copies.insert(nth, error);
    }

    /// Counts a call; the failure that is due with it.
    pub fn call(&mut self, function: &'static str) -> Option<Error> {
        let count = self.calls.entry(function).or_default();
        let nth = *count;
        *count += 1;
        if self.failing_calls.is_empty() { None } else { self.failing_calls.get(&(function.to_owned(), nth)).copied() }
    }

    /// Counts an asynchronous copy at its enqueuing, so that the count doesn't depend on how threads run; the failure that
    /// is due with it.
    pub fn copy(&mut self) -> Option<Error> {
        let nth = self.copies;
        self.copies += 1;
        self.failing_copies.get(&nth).copied()
    }

    /// The number of calls of a function so far.
    pub fn calls(&self, function: &str) -> u64 {
        self.calls.get(function).copied().unwrap_or_default()
    }
}
