//! The exported functions of the driver, and what they share.

mod context;
mod copy;
mod device;
mod event;
mod memory;
mod stream;

use crate::result::{INVALID_VALUE, Result};

/// A pointer that a call returns something through.
#[repr(transparent)]
struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Returns the value.
    fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver's caller promises that it can be written to. It may not be aligned where it is a `void *`.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }
}
