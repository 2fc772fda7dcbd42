//! What a program does before it reads any weights: open, look up, iterate, validate the structure. Per tensor where that is the unit.

mod models;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use flashpack::{Layout, OpenOptions, Pack};
use models::{MODELS, Model};

fn main() {
    models::with_folder(divan::main);
}

#[divan::bench(args = MODELS, max_time = 1)]
fn open_sealed(bencher: Bencher, model: Model) {
    let path = model.pack(Layout::Sealed);
    bencher.counter(ItemsCount::new(model.tensors)).bench(|| Pack::open(&path).expect("a pack"));
}

#[divan::bench(args = MODELS, max_time = 1)]
fn open_v4(bencher: Bencher, model: Model) {
    let path = model.pack(Layout::V4);
    bencher.counter(ItemsCount::new(model.tensors)).bench(|| Pack::open(&path).expect("a pack"));
}

/// What the safetensors crate does in the place of opening, for comparison.
#[divan::bench(args = MODELS, max_time = 1)]
fn safetensors_metadata(bencher: Bencher, model: Model) {
    let bytes = std::fs::read(model.safetensors()).expect("a file");
    let read = || safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    bencher.counter(ItemsCount::new(model.tensors)).bench(read);
}

/// Every name once, in another order than the pack's.
#[divan::bench(args = MODELS, max_time = 1)]
fn look_up_by_name(bencher: Bencher, model: Model) {
    let pack = Pack::open(model.pack(Layout::Sealed)).expect("a pack");
    let mut names: Vec<String> = model.infos().into_iter().map(|info| info.name).collect();
    let mut random = models::Random(3);
    names.sort_by_cached_key(|_| random.next());
    bencher.counter(ItemsCount::new(names.len())).bench(|| {
        for name in &names {
            black_box(pack.tensor(black_box(name)).expect("a tensor"));
        }
    });
}

#[divan::bench(args = MODELS, max_time = 1)]
fn iterate(bencher: Bencher, model: Model) {
    let pack = Pack::open(model.pack(Layout::Sealed)).expect("a pack");
    bencher.counter(ItemsCount::new(model.tensors)).bench(|| {
        for tensor in pack.tensors() {
            black_box(tensor);
        }
    });
}

#[divan::bench(args = MODELS, max_time = 1)]
fn validate_structure(bencher: Bencher, model: Model) {
    let path = model.pack(Layout::Sealed);
    let options = OpenOptions::new();
    bencher.counter(ItemsCount::new(model.tensors)).bench(|| {
        let report = options.validate(&path, true, &()).expect("a report");
        assert!(report.is_valid());
    });
}
