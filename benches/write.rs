//! Planning against the number of tensors; writing against the size. Files go to the target folder, and are not flushed.

mod models;

use std::path::PathBuf;

use divan::{Bencher, black_box, counter::BytesCount};
use flashpack::convert::{ConvertOptions, RevertOptions, convert, revert};
use flashpack::{Dtype, Layout, Plan, PlanOptions, TensorInfo, WriteOptions, Writer};

const SIZES: [u64; 3] = [1 << 20, 64 << 20, 1 << 30];
const QUICK: WriteOptions<'static> = WriteOptions { replace: true, sync: false, progress: &() };

fn main() {
    divan::main();
    let _ = std::fs::remove_file(target());
}

fn target() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("written")
}

#[divan::bench(args = [10, 300, 5_000, 100_000])]
fn plan(bencher: Bencher, tensors: u64) {
    let name = |number: u64| format!("model.layers.{}.block{}.weight", number / 9, number % 9);
    let infos: Vec<TensorInfo> =
        (0..tensors).map(|number| TensorInfo::new(name(number), Dtype::BFloat16, [number % 4096, 64])).collect();
    bencher.bench(|| Plan::new(black_box(&infos), &PlanOptions::default()).unwrap());
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn write_from_memory(bencher: Bencher, bytes: u64) {
    let data = vec![7; bytes as usize];
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        let mut writer = Writer::new(PlanOptions::default());
        writer.add("w", Dtype::UInt8, [bytes], data.as_slice());
        writer.write(&target(), &QUICK).unwrap()
    });
}

fn converting(bencher: Bencher, bytes: u64, layout: Layout) {
    let model = models::model(300, bytes);
    let mut options = ConvertOptions { write: QUICK, ..ConvertOptions::default() };
    options.plan.layout = layout;
    bencher.counter(BytesCount::new(bytes)).bench(|| convert(&model.safetensors, Some(&target()), &options).unwrap());
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn convert_sealed(bencher: Bencher, bytes: u64) {
    converting(bencher, bytes, Layout::Sealed);
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn convert_v4(bencher: Bencher, bytes: u64) {
    converting(bencher, bytes, Layout::V4);
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn revert_sealed(bencher: Bencher, bytes: u64) {
    let model = models::model(300, bytes);
    let options = RevertOptions { write: QUICK, ..RevertOptions::default() };
    bencher.counter(BytesCount::new(bytes)).bench(|| revert(&model.sealed, Some(&target()), &options).unwrap());
}

/// The bound: a copy by the system.
#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn plain_copy(bencher: Bencher, bytes: u64) {
    let model = models::model(300, bytes);
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        let _ = std::fs::remove_file(target());
        std::fs::copy(&model.sealed, target()).unwrap()
    });
}
