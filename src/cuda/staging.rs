//! The life of a staging slot: free -> filled -> verified -> in flight -> free.
//!
//! Each state is a type, and each step takes the slot by value. So what was not verified cannot be sent, and what a copy may still read
//! can be neither written nor freed: the only ways from [`InFlight`] on are to wait for the copy and to drop the slot, which waits too.

use std::ops::Range;

/// Memory of a slot. Access goes through closures, so that a model checker can watch it.
pub(crate) trait Buffer {
    fn read<R>(&self, reader: impl FnOnce(&[u8]) -> R) -> R;
    fn write<R>(&mut self, writer: impl FnOnce(&mut [u8]) -> R) -> R;
}

/// The end of the copies that read a slot.
pub(crate) trait Fence {
    type Error;

    /// Waits until they have ended. After an error too they have: the device does no more work.
    fn wait(&self) -> Result<(), Self::Error>;
}

/// A buffer, and what may be done with it now.
///
/// The fields are dropped in order: a fence in the state is waited for before the buffer goes.
pub(crate) struct Slot<B, S> {
    state: S,
    buffer: B,
}

/// Nobody uses the buffer.
pub(crate) struct Free;

/// Bytes were read into the buffer, and there they lie.
pub(crate) struct Filled(Range<usize>);

/// Those bytes are the ones that were sealed, or nobody asked.
pub(crate) struct Verified(Range<usize>);

/// Copies are reading the buffer.
pub(crate) struct InFlight<F: Fence>(F);

impl<B: Buffer> Slot<B, Free> {
    pub(crate) fn new(buffer: B) -> Slot<B, Free> {
        Slot { state: Free, buffer }
    }

    /// Fills the buffer; `fill` says where the bytes lie in it.
    pub(crate) fn fill<E>(mut self, fill: impl FnOnce(&mut [u8]) -> Result<Range<usize>, E>) -> Result<Slot<B, Filled>, E> {
        let filled = self.buffer.write(fill)?;
        Ok(Slot { state: Filled(filled), buffer: self.buffer })
    }
}

impl<B: Buffer> Slot<B, Filled> {
    /// Checks the bytes.
    pub(crate) fn verify<E>(self, check: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<Slot<B, Verified>, E> {
        let range = self.state.0;
        // A range outside the buffer leaves nothing to check, nor to send.
        self.buffer.read(|bytes| check(bytes.get(range.clone()).unwrap_or_default()))?;
        Ok(Slot { state: Verified(range), buffer: self.buffer })
    }
}

impl<B: Buffer> Slot<B, Verified> {
    /// Hands the bytes to copies.
    ///
    /// `send` enqueues them and returns their fence. If it fails, it must have waited for those that it enqueued: the buffer is let go.
    pub(crate) fn send<F: Fence, E>(self, send: impl FnOnce(&[u8]) -> Result<F, E>) -> Result<Slot<B, InFlight<F>>, E> {
        let range = self.state.0;
        let fence = self.buffer.read(|bytes| send(bytes.get(range).unwrap_or_default()))?;
        Ok(Slot { state: InFlight(fence), buffer: self.buffer })
    }
}

impl<B: Buffer, F: Fence> Slot<B, InFlight<F>> {
    /// Waits until the copies have ended.
    pub(crate) fn land(self) -> Result<Slot<B, Free>, F::Error> {
        self.state.0.wait()?;
        let Slot { buffer, state } = self;
        // Waited for just now; once more costs nothing, and there is only one way out of this state.
        drop(state);
        Ok(Slot { state: Free, buffer })
    }
}

impl<F: Fence> Drop for InFlight<F> {
    fn drop(&mut self) {
        // An error is for the path that still has someone to tell.
        let _ = self.0.wait();
    }
}
