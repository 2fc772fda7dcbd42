//! Handles of contexts, streams and events: made-up values that no memory lies behind.

pub type ContextId = u64;
pub type StreamId = u64;
pub type EventId = u64;
pub type DeviceId = i32;

/// A handle as it crosses the interface: a pointer that nobody but the driver may look behind.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Handle(usize);

/// What a handle stands for. The kind is part of the handle's value, so that one passed for another is noticed.
#[derive(Clone, Copy)]
pub enum Kind {
    Context = 0xC,
    Stream = 0x5,
    Event = 0xE,
}

impl Handle {
    pub const NULL: Self = Self(0);
    /// The value that names the null stream explicitly (`CU_STREAM_LEGACY`).
    pub const LEGACY_STREAM: Self = Self(1);

    pub fn new(kind: Kind, id: u64) -> Self {
        Self((kind as usize) << 56 | (id as usize) << 4)
    }

    /// The number behind the handle, where it is of that kind.
    pub fn id(self, kind: Kind) -> Option<u64> {
        (self.0 >> 56 == kind as usize).then_some((self.0 << 8 >> 12) as u64)
    }
}
