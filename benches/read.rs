//! Every byte of a pack that is in the page cache: hashed, checked, read, mapped. Bytes per second.

mod models;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use flashpack::{Layout, OpenOptions, Pack};
use models::{MODELS, Model};

fn main() {
    models::with_folder(divan::main);
}

fn unverified() -> OpenOptions {
    OpenOptions::new().verify_reads(false)
}

/// BLAKE3 over memory, on all cores: what everything that verifies has to pay.
#[divan::bench(args = [1, 64, 1024], max_time = 2)]
fn digest_mib(bencher: Bencher, mib: u64) {
    let bytes = models::random_bytes(mib << 20);
    bencher.counter(BytesCount::of_slice(&bytes)).bench(|| flashpack::seal::digest(&bytes));
}

#[divan::bench(args = MODELS, max_time = 2)]
fn validate(bencher: Bencher, model: Model) {
    let path = model.pack(Layout::Sealed);
    let options = OpenOptions::new();
    bencher.counter(BytesCount::new(model.bytes())).bench(|| {
        let report = options.validate(&path, false, &()).expect("a report");
        assert!(report.is_valid());
    });
}

#[divan::bench(args = MODELS, max_time = 2)]
fn load_verified(bencher: Bencher, model: Model) {
    load(bencher, model, &OpenOptions::new());
}

#[divan::bench(args = MODELS, max_time = 2)]
fn load_unverified(bencher: Bencher, model: Model) {
    load(bencher, model, &unverified());
}

fn load(bencher: Bencher, model: Model, options: &OpenOptions) {
    let pack = options.open(model.pack(Layout::Sealed)).expect("a pack");
    bencher.counter(BytesCount::new(model.bytes())).bench(|| {
        black_box(pack.load().expect("tensors"));
    });
}

/// One tensor after the other, into memory of its own.
#[divan::bench(args = MODELS, max_time = 2)]
fn read_each_verified(bencher: Bencher, model: Model) {
    read_each(bencher, model, &OpenOptions::new());
}

#[divan::bench(args = MODELS, max_time = 2)]
fn read_each_unverified(bencher: Bencher, model: Model) {
    read_each(bencher, model, &unverified());
}

fn read_each(bencher: Bencher, model: Model, options: &OpenOptions) {
    let pack = options.open(model.pack(Layout::Sealed)).expect("a pack");
    let mut tensors: Vec<_> = pack.tensors().collect();
    // As they lie in the file, which is how a program that reads all of them would go.
    tensors.sort_unstable_by_key(|tensor| tensor.offset);
    bencher.counter(BytesCount::new(model.bytes())).bench(|| {
        for tensor in &tensors {
            black_box(pack.read(tensor.name).expect("a tensor"));
        }
    });
}

/// A new mapping, and every byte of every tensor touched in it: page faults are part of the price.
#[divan::bench(args = MODELS, max_time = 2)]
fn read_mapped(bencher: Bencher, model: Model) {
    let pack = Pack::open(model.pack(Layout::Sealed)).expect("a pack");
    bencher.counter(BytesCount::new(model.bytes())).bench(|| {
        // SAFETY: the file is this program's own, in a folder of its own.
        let mapped = unsafe { pack.map() }.expect("a mapping");
        let sum_of = |name| {
            let (words, _) = mapped.bytes(name).expect("a tensor").as_chunks::<8>();
            words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
        };
        pack.tensors().fold(0, |sum: u64, tensor| sum.wrapping_add(sum_of(tensor.name)))
    });
}
