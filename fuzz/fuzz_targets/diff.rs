#![no_main]

use flashpack_fuzz::{repair, targets};

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::diff(data));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    if let Some((&mut [_, high, low], files)) = data[..size].split_first_chunk_mut::<3>() {
        let at = usize::from(u16::from_be_bytes([high, low])).min(files.len());
        let (a, b) = files.split_at_mut(at);
        repair::repair(a, repair::Choice::by_lot(seed));
        repair::repair(b, repair::Choice::by_lot(seed.rotate_left(7)));
    }
    size
});
