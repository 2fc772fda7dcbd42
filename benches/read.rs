//! Reading payloads, hot in the page cache, against their size. 300 tensors each.

mod models;

use divan::{Bencher, black_box, counter::BytesCount};
use flashpack::{OpenOptions, Pack};

const SIZES: [u64; 3] = [1 << 20, 64 << 20, 1 << 30];

fn main() {
    divan::main();
}

fn pack(bytes: u64, verify: bool) -> Pack {
    OpenOptions::new().verify_reads(verify).open(models::model(300, bytes).sealed).unwrap()
}

/// Into new memory, verified.
#[divan::bench(args = SIZES, sample_count = 7, sample_size = 1)]
fn load_verified(bencher: Bencher, bytes: u64) {
    let pack = pack(bytes, true);
    bencher.counter(BytesCount::new(bytes)).bench(|| drop(pack.load().unwrap()));
}

/// Into new memory, not verified.
#[divan::bench(args = SIZES, sample_count = 7, sample_size = 1)]
fn load_unverified(bencher: Bencher, bytes: u64) {
    let pack = pack(bytes, false);
    bencher.counter(BytesCount::new(bytes)).bench(|| drop(pack.load().unwrap()));
}

/// The bound: the same bytes with one call and nothing else.
#[divan::bench(args = SIZES, sample_count = 7, sample_size = 1)]
fn plain_read(bencher: Bencher, bytes: u64) {
    let path = models::model(300, bytes).sealed;
    bencher.counter(BytesCount::new(bytes)).bench(|| drop(std::fs::read(&path).unwrap()));
}

/// Tensor by tensor, verified: groups that two tensors share are read once.
#[divan::bench(args = SIZES, sample_count = 7, sample_size = 1)]
fn read_each_verified(bencher: Bencher, bytes: u64) {
    let pack = pack(bytes, true);
    let names: Vec<String> = pack.tensors().map(|tensor| tensor.name.to_owned()).collect();
    bencher.counter(BytesCount::new(bytes)).bench(|| names.iter().map(|name| pack.read(name).unwrap().len()).sum::<usize>());
}

/// Every byte of a mapping, once.
#[divan::bench(args = SIZES, sample_count = 7, sample_size = 1)]
fn mapped(bencher: Bencher, bytes: u64) {
    let pack = pack(bytes, false);
    // SAFETY: nobody changes the models of the benchmarks.
    let mapped = unsafe { pack.map() }.unwrap();
    let names: Vec<String> = pack.tensors().map(|tensor| tensor.name.to_owned()).collect();
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| names.iter().map(|name| sum(black_box(mapped.bytes(name).unwrap()))).sum::<u64>());
}

/// The whole file, every rule and digest.
#[divan::bench(args = SIZES, sample_count = 7, sample_size = 1)]
fn validate(bencher: Bencher, bytes: u64) {
    let path = models::model(300, bytes).sealed;
    bencher.counter(BytesCount::new(bytes)).bench(|| OpenOptions::new().validate(&path, false, &()).unwrap());
}

/// The digest alone, of bytes in memory.
#[divan::bench(args = SIZES, sample_count = 7, sample_size = 1)]
fn digest(bencher: Bencher, bytes: u64) {
    let memory = vec![7; bytes as usize];
    bencher.counter(BytesCount::new(bytes)).bench(|| flashpack::seal::digest(black_box(&memory)));
}
