//! One case of the instruction counts: `benches/instructions/run` has callgrind count what `measured` runs.
//!
//! The case runs once before it is counted: what is done only once a process (features of the processor looked up, memory had from the
//! system) is not the case's own.

#[path = "../models/mod.rs"]
mod models;

use std::hint::black_box;

use flashpack::format::header::{self, Header};
use flashpack::{Layout, OpenOptions, Pack, Plan, PlanOptions};
use models::Model;

fn main() {
    let cases = cases();
    let wanted = std::env::args().nth(1);
    let Some((_, case)) = cases.iter().find(|(name, _)| wanted.as_deref() == Some(name)) else {
        cases.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    models::with_folder(case);
}

type Case = (&'static str, Box<dyn Fn()>);

/// Each makes what it needs, then counts.
fn cases() -> Vec<Case> {
    let case = |name, run: fn()| -> Case { (name, Box::new(run)) };
    vec![
        case("open_sealed_10", || open(10, Layout::Sealed)),
        case("open_sealed_300", || open(300, Layout::Sealed)),
        case("open_sealed_5000", || open(5000, Layout::Sealed)),
        case("open_v4_300", || open(300, Layout::V4)),
        case("open_v4_5000", || open(5000, Layout::V4)),
        case("parse_header", parse_header),
        case("look_up_5000", look_up),
        case("iterate_5000", iterate),
        case("validate_structure_5000", validate_structure),
        case("plan_sealed_5000", || plan(Layout::Sealed)),
        case("plan_v4_5000", || plan(Layout::V4)),
    ]
}

/// What callgrind counts, by its name: it must stay a function of its own.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

/// Results are dropped after the counting.
fn count<T>(work: impl Fn() -> T) {
    black_box(work());
    let mut result = None;
    measured(&mut || result = Some(work()));
    black_box(result);
}

fn model(tensors: usize) -> Model {
    Model { tensors, mib: 1 }
}

fn open(tensors: usize, layout: Layout) {
    let path = model(tensors).pack(layout);
    count(|| Pack::open(&path).expect("a pack"));
}

fn parse_header() {
    let pack = std::fs::read(model(10).pack(Layout::Sealed)).expect("a pack");
    let record = pack.first_chunk::<{ header::SIZE }>().expect("a header");
    count(|| Header::from_bytes(black_box(record)));
}

fn look_up() {
    let pack = Pack::open(model(5000).pack(Layout::Sealed)).expect("a pack");
    let names: Vec<String> = model(5000).infos().into_iter().map(|info| info.name).collect();
    count(|| {
        for name in &names {
            black_box(pack.tensor(black_box(name)).expect("a tensor"));
        }
    });
}

fn iterate() {
    let pack = Pack::open(model(5000).pack(Layout::Sealed)).expect("a pack");
    count(|| {
        for tensor in pack.tensors() {
            black_box(tensor);
        }
    });
}

fn validate_structure() {
    let path = model(5000).pack(Layout::Sealed);
    let options = OpenOptions::new();
    count(|| assert!(options.validate(&path, true, &()).expect("a report").is_valid()));
}

fn plan(layout: Layout) {
    let infos = model(5000).infos();
    let options = PlanOptions { layout, ..PlanOptions::default() };
    count(|| Plan::new(&infos, &options).expect("a plan"));
}
