//! The GPU loader, on a stand-in for the driver (`tests/fake-cuda`): it copies on threads of its own, late and out of order, fails where it
//! is told to, and reports what a real GPU would not: leaks, buffers rewritten in flight, streams that nobody ordered.

mod any;
mod driver;
mod faults;
mod loads;
mod model;
mod selftest;
mod sharing;
