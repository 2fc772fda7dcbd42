//! Opening and looking around, against the number of tensors. Each has 64 bytes: the payload plays no part.

mod models;

use divan::{Bencher, black_box};
use flashpack::{OpenOptions, Pack};

const COUNTS: [u64; 4] = [10, 300, 5_000, 100_000];

fn main() {
    divan::main();
}

fn model(tensors: u64) -> models::Model {
    models::model(tensors, tensors * 64)
}

#[divan::bench(args = COUNTS)]
fn open_sealed(bencher: Bencher, tensors: u64) {
    let path = model(tensors).sealed;
    bencher.bench(|| Pack::open(black_box(&path)).unwrap());
}

#[divan::bench(args = COUNTS)]
fn open_v4(bencher: Bencher, tensors: u64) {
    let path = model(tensors).v4;
    bencher.bench(|| Pack::open(black_box(&path)).unwrap());
}

/// What people use instead: the header of the same model, from memory.
#[divan::bench(args = COUNTS)]
fn safetensors_crate(bencher: Bencher, tensors: u64) {
    let bytes = std::fs::read(model(tensors).safetensors).unwrap();
    bencher.bench(|| safetensors::SafeTensors::read_metadata(black_box(&bytes)).unwrap());
}

#[divan::bench(args = COUNTS)]
fn lookup(bencher: Bencher, tensors: u64) {
    let pack = Pack::open(model(tensors).sealed).unwrap();
    let names: Vec<String> = pack.tensors().map(|tensor| tensor.name.to_owned()).collect();
    let mut next = names.iter().cycle();
    bencher.bench_local(|| pack.tensor(next.next().unwrap()).unwrap().length);
}

#[divan::bench(args = COUNTS)]
fn iterate(bencher: Bencher, tensors: u64) {
    let pack = Pack::open(model(tensors).sealed).unwrap();
    bencher.counter(tensors).bench(|| pack.tensors().map(|tensor| tensor.length).sum::<u64>());
}

#[divan::bench(args = COUNTS)]
fn validate_structure(bencher: Bencher, tensors: u64) {
    let path = model(tensors).sealed;
    bencher.bench(|| OpenOptions::new().validate(black_box(&path), true, &()).unwrap());
}
