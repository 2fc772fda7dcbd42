//! A stand-in for the CUDA driver library, for tests on machines without a device.
//!
//! It is built as `libcuda.so` and exports the part of the driver's interface that the tests reach. Host memory stands
//! for device memory, a thread for each stream does that stream's work, and every rule that the real driver leaves to its
//! caller is checked: who owns what, what is still in flight, and which operations are ordered.
//!
//! The functions that tests steer it with are in [`control`].

#![allow(non_snake_case, reason = "the exported names are the driver's")]

mod api;
mod clock;
mod control;
mod findings;
mod handle;
mod history;
mod injection;
mod memory;
mod operation;
mod result;
mod state;
mod worker;
