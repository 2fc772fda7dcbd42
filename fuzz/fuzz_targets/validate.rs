#![no_main]

use flashpack_fuzz::{repair, targets};

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::validate(data));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    repair::repair(&mut data[..size], repair::Choice::by_lot(seed));
    size
});
