//! Staging buffers kept between loads, bounded: pinning memory costs more than copying it.

use super::staging::Buffer;
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What takes up bytes of the pool.
pub(crate) trait Size {
    fn size(&self) -> usize;
}

/// Buffers that are lent and come back.
///
/// No load waits for a second buffer while it holds one, so loads that share a pool cannot wait for each other forever.
pub(crate) struct Pool<B: Size> {
    /// The most bytes, lent and idle together. One buffer is always lent, however large.
    most: usize,
    shelf: Mutex<Shelf<B>>,
    returned: Condvar,
}

struct Shelf<B> {
    idle: Vec<B>,
    idle_bytes: usize,
    lent_bytes: usize,
}

impl<B: Size> Pool<B> {
    pub(crate) fn new(most: usize) -> Pool<B> {
        let shelf = Shelf { idle: Vec::new(), idle_bytes: 0, lent_bytes: 0 };
        Pool { most, shelf: Mutex::new(shelf), returned: Condvar::new() }
    }

    /// Between one and `wanted` buffers of at least `size` bytes: as many as the bound allows now, and if that is none, one as soon as
    /// others come back. `make` makes a new one.
    pub(crate) fn take<E>(
        &self,
        wanted: usize,
        size: usize,
        make: impl Fn(usize) -> Result<B, E>,
    ) -> Result<Vec<Lent<'_, B>>, E> {
        let mut taken = Vec::new();
        while taken.len() < wanted.max(1) {
            match self.take_one(size, taken.is_empty(), &make)? {
                Some(buffer) => taken.push(buffer),
                None => break,
            }
        }
        Ok(taken)
    }

    fn take_one<E>(&self, size: usize, wait: bool, make: impl Fn(usize) -> Result<B, E>) -> Result<Option<Lent<'_, B>>, E> {
        let mut shelf = self.lock();
        loop {
            if let Some(buffer) = shelf.take_idle(size) {
                return Ok(Some(Lent { pool: self, buffer: Some(buffer) }));
            }
            // Those that are too small make room.
            let room = self.most.saturating_sub(shelf.lent_bytes);
            let too_small = shelf.shrink_to(room.saturating_sub(size));
            if size <= room || shelf.lent_bytes == 0 {
                shelf.lent_bytes = shelf.lent_bytes.saturating_add(size);
                // Freeing and pinning take long: others go on meanwhile.
                drop(shelf);
                drop(too_small);
                let made = make(size);
                if made.is_err() {
                    let mut shelf = self.lock();
                    shelf.lent_bytes = shelf.lent_bytes.saturating_sub(size);
                    self.returned.notify_all();
                }
                return made.map(|buffer| Some(Lent { pool: self, buffer: Some(buffer) }));
            }
            if !wait {
                return Ok(None);
            }
            shelf = self.returned.wait(shelf).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Bytes that are kept, lent and idle together.
    pub(crate) fn bytes(&self) -> usize {
        let shelf = self.lock();
        shelf.idle_bytes.saturating_add(shelf.lent_bytes)
    }

    /// Lets go of what is idle.
    pub(crate) fn release(&self) {
        let idle = self.lock().shrink_to(0);
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<B>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, buffer: B) {
        let mut shelf = self.lock();
        shelf.lent_bytes = shelf.lent_bytes.saturating_sub(buffer.size());
        shelf.idle_bytes = shelf.idle_bytes.saturating_add(buffer.size());
        shelf.idle.push(buffer);
        let room = self.most.saturating_sub(shelf.lent_bytes);
        let too_many = shelf.shrink_to(room);
        self.returned.notify_all();
        drop(shelf);
        drop(too_many);
    }
}

impl<B: Size> Shelf<B> {
    fn take_idle(&mut self, size: usize) -> Option<B> {
        let number = self.idle.iter().position(|buffer| buffer.size() >= size)?;
        let buffer = self.idle.swap_remove(number);
        self.idle_bytes = self.idle_bytes.saturating_sub(buffer.size());
        self.lent_bytes = self.lent_bytes.saturating_add(buffer.size());
        Some(buffer)
    }

    /// Takes idle buffers off until no more than `most` bytes are left.
    fn shrink_to(&mut self, most: usize) -> Vec<B> {
        let mut taken = Vec::new();
        while self.idle_bytes > most {
            let Some(buffer) = self.idle.pop() else { break };
            self.idle_bytes = self.idle_bytes.saturating_sub(buffer.size());
            taken.push(buffer);
        }
        taken
    }
}

/// A buffer that goes back to its pool when dropped.
pub(crate) struct Lent<'a, B: Size> {
    pool: &'a Pool<B>,
    /// There until the drop.
    buffer: Option<B>,
}

impl<B: Size + Buffer> Buffer for Lent<'_, B> {
    fn read<R>(&self, reader: impl FnOnce(&[u8]) -> R) -> R {
        match &self.buffer {
            Some(buffer) => buffer.read(reader),
            None => reader(&[]),
        }
    }

    fn write<R>(&mut self, writer: impl FnOnce(&mut [u8]) -> R) -> R {
        match &mut self.buffer {
            Some(buffer) => buffer.write(writer),
            None => writer(&mut []),
        }
    }
}

impl<B: Size> Drop for Lent<'_, B> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.put_back(buffer);
        }
    }
}
