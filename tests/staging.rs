//! The staging protocol under a model checker: loom runs it in every order that threads could take.
//!
//! The code is the loader's own, with loom's primitives in place of the standard library's, and a device whose copies run on a thread of
//! their own. loom watches each access to a buffer: a slot written or let go while a copy reads it fails in some order, whatever the
//! timing of a real run.

#[path = "../src/cuda/pool.rs"]
mod pool;
#[path = "../src/cuda/staging.rs"]
mod staging;
mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use pool::{Pool, Size};
use staging::{Buffer, Fence, Slot};

/// A buffer of one byte, each access to which loom checks against all others. A copy on the device keeps what it reads by its own handle,
/// as a real one keeps an address.
struct Watched(Arc<UnsafeCell<u8>>);

impl Watched {
    fn new() -> Watched {
        Watched(Arc::new(UnsafeCell::new(0)))
    }
}

impl Buffer for Watched {
    fn read<R>(&self, reader: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: loom fails the run if anyone writes meanwhile.
        self.0.with(|byte| reader(std::slice::from_ref(unsafe { &*byte })))
    }

    fn write<R>(&mut self, writer: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: loom fails the run if anyone reads or writes meanwhile.
        self.0.with_mut(|byte| writer(std::slice::from_mut(unsafe { &mut *byte })))
    }
}

impl Size for Watched {
    fn size(&self) -> usize {
        1
    }
}

/// Letting go of a buffer is a write: nobody may be reading it.
impl Drop for Watched {
    fn drop(&mut self) {
        self.write(|bytes| bytes.fill(0xDD));
    }
}

/// A copy that is under way.
struct Copying(std::cell::RefCell<Option<thread::JoinHandle<()>>>);

impl Fence for Copying {
    type Error = ();

    fn wait(&self) -> Result<(), ()> {
        self.0.borrow_mut().take().map_or(Ok(()), |copy| copy.join().map_err(drop))
    }
}

/// Starts a copy of a buffer's byte to the device.
fn copy(source: &Arc<UnsafeCell<u8>>, destination: &Arc<AtomicUsize>) -> Copying {
    let (source, destination) = (source.clone(), destination.clone());
    let copy = thread::spawn(move || {
        // SAFETY: loom fails the run if anyone writes meanwhile.
        let byte = source.with(|byte| unsafe { *byte });
        destination.store(byte.into(), Ordering::Release);
    });
    Copying(std::cell::RefCell::new(Some(copy)))
}

fn filled_with(byte: u8) -> impl FnOnce(&mut [u8]) -> Result<std::ops::Range<usize>, ()> {
    move |bytes| {
        bytes[0] = byte;
        Ok(0..1)
    }
}

#[test]
fn a_slot_is_filled_again_only_when_its_copy_has_ended() {
    loom::model(|| {
        let destinations: Vec<_> = (0..2).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let buffer = Watched::new();
        let memory = buffer.0.clone();
        let mut slot = Slot::new(buffer);
        for (byte, destination) in (1..).zip(&destinations) {
            let verified = slot.fill(filled_with(byte)).unwrap().verify(|_| Ok::<(), ()>(())).unwrap();
            slot = verified.send(|_| Ok::<_, ()>(copy(&memory, destination))).unwrap().land().unwrap();
        }
        let arrived: Vec<_> = destinations.iter().map(|byte| byte.load(Ordering::Acquire)).collect();
        assert_eq!(arrived, [1, 2]);
    });
}

#[test]
fn a_slot_that_is_dropped_in_flight_waits_for_its_copy() {
    loom::model(|| {
        let pool = Pool::<Watched>::new(1);
        let destination = Arc::new(AtomicUsize::new(0));
        let memory = Arc::new(UnsafeCell::new(0));
        let lent = pool.take(1, 1, |_| Ok::<_, ()>(Watched(memory.clone()))).unwrap().remove(0);
        let verified = Slot::new(lent).fill(filled_with(7)).unwrap().verify(|_| Ok::<(), ()>(())).unwrap();
        // As when another chunk fails: nobody lands this one.
        drop(verified.send(|_| Ok::<_, ()>(copy(&memory, &destination))).unwrap());
        // The next load gets the same buffer, and fills it.
        let again = pool.take(1, 1, |_| Err(())).unwrap().remove(0);
        drop(Slot::new(again).fill(filled_with(8)).unwrap());
        assert_eq!(destination.load(Ordering::Acquire), 7);
    });
}

#[test]
fn what_does_not_verify_is_never_sent_and_its_buffer_comes_back() {
    loom::model(|| {
        let pool = Pool::<Watched>::new(1);
        let lent = pool.take(1, 1, |_| Ok::<_, ()>(Watched::new())).unwrap().remove(0);
        assert!(Slot::new(lent).fill(filled_with(1)).unwrap().verify(|_| Err("other bytes")).is_err());
        assert!(pool.take(1, 1, |_| Err(())).is_ok());
    });
}

#[test]
fn loads_that_share_a_bounded_pool_never_wait_forever() {
    loom::model(|| {
        let pool = Arc::new(Pool::<Watched>::new(2));
        let made = Arc::new(AtomicUsize::new(0));
        let load = |pool: Arc<Pool<Watched>>, made: Arc<AtomicUsize>| {
            // Each wants all there is; together they want twice that.
            let make = |_| {
                made.fetch_add(1, Ordering::Relaxed);
                Ok::<_, ()>(Watched::new())
            };
            let mut lent = pool.take(2, 1, make).unwrap();
            assert!(!lent.is_empty() && lent.len() <= 2);
            lent.iter_mut().for_each(|buffer| buffer.write(|bytes| bytes[0] = 1));
            assert!(pool.bytes() <= 2);
        };
        let (other, others_count) = (pool.clone(), made.clone());
        let thread = thread::spawn(move || load(other, others_count));
        load(pool.clone(), made.clone());
        thread.join().unwrap();
        // Bounded and kept: as many were made as fit, and they are still there.
        assert!(made.load(Ordering::Relaxed) <= 2);
        assert_eq!(pool.bytes(), made.load(Ordering::Relaxed));
        pool.release();
        assert_eq!(pool.bytes(), 0);
    });
}

#[test]
fn a_buffer_that_cannot_be_made_leaves_its_room_to_others() {
    loom::model(|| {
        let pool = Arc::new(Pool::<Watched>::new(1));
        let other = pool.clone();
        let fails = thread::spawn(move || {
            // Fails if it is its turn to make one; gets the other's if that came first.
            let _ = other.take(1, 1, |_| Err("no pinned memory"));
        });
        assert_eq!(pool.take(1, 1, |_| Ok::<_, ()>(Watched::new())).unwrap().len(), 1);
        fails.join().unwrap();
    });
}
