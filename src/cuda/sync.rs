//! The primitives that [`super::pool`] is built on. The model checker's test puts its own in their place.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
