//! From tensors to a plan, and to a file in the page cache: nothing here waits for the disk.

mod models;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use flashpack::convert::{ConvertOptions, RevertOptions, convert, revert};
use flashpack::{Layout, Plan, PlanOptions};
use models::{MODELS, Model};

fn main() {
    models::with_folder(divan::main);
}

#[divan::bench(args = MODELS, max_time = 1)]
fn plan_sealed(bencher: Bencher, model: Model) {
    plan(bencher, model, Layout::Sealed);
}

#[divan::bench(args = MODELS, max_time = 1)]
fn plan_v4(bencher: Bencher, model: Model) {
    plan(bencher, model, Layout::V4);
}

fn plan(bencher: Bencher, model: Model, layout: Layout) {
    let infos = model.infos();
    let options = PlanOptions { layout, ..PlanOptions::default() };
    bencher.counter(ItemsCount::new(model.tensors)).bench(|| Plan::new(&infos, &options).expect("a plan"));
}

#[divan::bench(args = MODELS, max_time = 2)]
fn write_sealed(bencher: Bencher, model: Model) {
    write(bencher, model, Layout::Sealed);
}

/// The same without digests.
#[divan::bench(args = MODELS, max_time = 2)]
fn write_v4(bencher: Bencher, model: Model) {
    write(bencher, model, Layout::V4);
}

fn write(bencher: Bencher, model: Model, layout: Layout) {
    let weights = models::random_bytes(model.bytes());
    bencher
        .counter(BytesCount::new(model.bytes()))
        .with_inputs(|| (model.writer(layout, &weights), models::target()))
        .bench_values(|(writer, target)| writer.write(&target, &models::unsynced()).expect("a pack"));
}

#[divan::bench(args = MODELS, max_time = 2)]
fn convert_safetensors(bencher: Bencher, model: Model) {
    let source = model.safetensors();
    let options = ConvertOptions { write: models::unsynced(), ..ConvertOptions::default() };
    bencher
        .counter(BytesCount::new(model.bytes()))
        .with_inputs(models::target)
        .bench_refs(|target| convert(&source, Some(target), &options).expect("a pack"));
}

#[divan::bench(args = MODELS, max_time = 2)]
fn revert_to_safetensors(bencher: Bencher, model: Model) {
    let source = model.pack(Layout::Sealed);
    let options = RevertOptions { write: models::unsynced(), ..RevertOptions::default() };
    bencher
        .counter(BytesCount::new(model.bytes()))
        .with_inputs(models::target)
        .bench_refs(|target| revert(&source, Some(target), &options).expect("a file"));
}

/// The copy that the system makes, for comparison.
#[divan::bench(args = MODELS, max_time = 2)]
fn copy_file(bencher: Bencher, model: Model) {
    let source = model.safetensors();
    bencher
        .counter(BytesCount::new(model.bytes()))
        .with_inputs(models::target)
        .bench_refs(|target| std::fs::copy(&source, target).expect("a copy"));
}
