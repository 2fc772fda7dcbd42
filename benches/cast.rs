//! The cast kernels, on one core: elements as many as `convert` casts at a time, and more than a cache holds. Bytes per second are the source's.

mod models;

use std::fmt;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use flashpack::Dtype;
use flashpack::convert::cast::{cast, is_supported};

fn main() {
    divan::main();
}

#[derive(Clone, Copy)]
struct Pair(Dtype, Dtype);

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.0, self.1)
    }
}

/// Each kind of kernel once, and those that models are cast with.
const PAIRS: [Pair; 14] = [
    Pair(Dtype::Float32, Dtype::Float32),
    Pair(Dtype::Float32, Dtype::BFloat16),
    Pair(Dtype::Float32, Dtype::Float16),
    Pair(Dtype::BFloat16, Dtype::Float32),
    Pair(Dtype::BFloat16, Dtype::Float16),
    Pair(Dtype::Float16, Dtype::Float32),
    Pair(Dtype::Float64, Dtype::Float32),
    Pair(Dtype::BFloat16, Dtype::Float8E4M3Fn),
    Pair(Dtype::BFloat16, Dtype::Float8E5M2),
    Pair(Dtype::BFloat16, Dtype::Float8E8M0Fnu),
    Pair(Dtype::Float8E4M3Fn, Dtype::BFloat16),
    Pair(Dtype::Int64, Dtype::Int32),
    Pair(Dtype::Int64, Dtype::Float32),
    Pair(Dtype::Float32, Dtype::Bool),
];

#[divan::bench(args = PAIRS, consts = [32 << 10, 16 << 20], max_time = 0.5)]
fn elements<const COUNT: usize>(bencher: Bencher, Pair(from, to): Pair) {
    let source = values(from, COUNT);
    let mut target = vec![0; bytes(to, COUNT)];
    bencher
        .counter(BytesCount::of_slice(&source))
        .counter(ItemsCount::new(COUNT))
        .bench_local(|| cast(from, to, &source, &mut target));
}

/// Values from -1 to 1, as weights are: kernels that branch take longer on any bits. Integers are any.
fn values(dtype: Dtype, count: usize) -> Vec<u8> {
    if !is_supported(Dtype::Float32, dtype) {
        return models::random_bytes(bytes(dtype, count) as u64);
    }
    let mut random = models::Random(5);
    let floats: Vec<u8> = (0..count).flat_map(|_| (random.unit() as f32 * 2.0 - 1.0).to_le_bytes()).collect();
    let mut values = vec![0; bytes(dtype, count)];
    cast(Dtype::Float32, dtype, &floats, &mut values);
    values
}

fn bytes(dtype: Dtype, count: usize) -> usize {
    let bytes = dtype.bytes_of(count as u64).expect("whole bytes");
    usize::try_from(bytes).expect("fits memory")
}
