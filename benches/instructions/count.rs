//! One call of one case, for `benches/instructions/run` to count the instructions of. Everything before and after it is not counted.

#[path = "../models/mod.rs"]
mod models;

use std::hint::black_box;

use flashpack::format::header::{Header, SIZE};
use flashpack::{Dtype, OpenOptions, Pack, Plan, PlanOptions, TensorInfo};

/// What is counted: callgrind collects between the entry of this function and its end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn measured(work: &mut &mut dyn FnMut()) {
    work();
}

fn count(mut work: impl FnMut()) {
    // Once before, so that what is done once in a process is not counted.
    work();
    measured(&mut (&mut work as &mut dyn FnMut()));
}

fn main() {
    let case = std::env::args().nth(1).unwrap_or_default();
    let (name, number) = case.split_once('-').expect("a case: open-300");
    let number: u64 = number.parse().expect("a number of tensors");
    let model = || models::model(number, number * 64);
    match name {
        "open" => {
            let path = model().sealed;
            count(|| {
                black_box(Pack::open(&path).unwrap());
            });
        }
        "openv4" => {
            let path = model().v4;
            count(|| {
                black_box(Pack::open(&path).unwrap());
            });
        }
        "validate" => {
            let path = model().sealed;
            count(|| {
                black_box(OpenOptions::new().validate(&path, true, &()).unwrap());
            });
        }
        "lookup" => {
            let pack = Pack::open(model().sealed).unwrap();
            let name = pack.tensors().nth(number as usize / 3).unwrap().name.to_owned();
            count(|| {
                black_box(pack.tensor(&name).unwrap());
            });
        }
        "iterate" => {
            let pack = Pack::open(model().sealed).unwrap();
            count(|| {
                black_box(pack.tensors().map(|tensor| tensor.length).sum::<u64>());
            });
        }
        "header" => {
            let bytes = std::fs::read(model().sealed).unwrap();
            let record: &[u8; SIZE] = bytes.first_chunk().unwrap();
            count(|| {
                black_box(Header::from_bytes(black_box(record)));
            });
        }
        "plan" => {
            let name = |number: u64| format!("model.layers.{}.block{}.weight", number / 9, number % 9);
            let infos: Vec<TensorInfo> =
                (0..number).map(|number| TensorInfo::new(name(number), Dtype::BFloat16, [number % 4096, 64])).collect();
            count(|| {
                black_box(Plan::new(&infos, &PlanOptions::default()).unwrap());
            });
        }
        other => panic!("no such case: {other}"),
    }
}
