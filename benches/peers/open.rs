//! What `run.py` asks of this crate within one process: opening a pack, tables verified, against the safetensors crate reading its header;
//! medians, on files that exist.
//!
//! `cargo run --release --example peers-open -- PACK.flashpack MODEL.safetensors`

use std::hint::black_box;
use std::time::{Duration, Instant};

fn median(times: usize, mut work: impl FnMut()) -> Duration {
    let mut taken: Vec<Duration> = (0..times)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .collect();
    taken.sort_unstable();
    taken[times / 2]
}

fn main() {
    let mut paths = std::env::args().skip(1);
    let (Some(pack), Some(model)) = (paths.next(), paths.next()) else {
        println!("usage: cargo run --release --example peers-open -- PACK.flashpack MODEL.safetensors");
        return;
    };
    let ours = median(101, || drop(black_box(flashpack::Pack::open(&pack).expect("a pack"))));
    let opened = flashpack::Pack::open(&pack).expect("a pack");
    let names: Vec<String> = opened.tensors().map(|tensor| tensor.name.to_owned()).collect();
    let lookups = median(101, || {
        for name in &names {
            black_box(opened.tensor(name).expect("a tensor"));
        }
    });
    // The crate wants the whole file in memory; reading it is not counted.
    let bytes = std::fs::read(&model).expect("a model");
    let theirs = median(101, || drop(black_box(safetensors::SafeTensors::read_metadata(&bytes).expect("a header"))));
    let lookup = lookups.as_nanos() / names.len().max(1) as u128;
    println!("tensors={} open_us={} lookup_ns={lookup} safetensors_us={}", names.len(), ours.as_micros(), theirs.as_micros());
}
