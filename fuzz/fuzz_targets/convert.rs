#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flashpack_fuzz::targets::convert(data));
