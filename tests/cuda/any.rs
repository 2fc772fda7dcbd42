//! Any model, any selection, any buffers: what arrives is what is in the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use flashpack::cuda::{Device, LoadOptions, Loader, LoaderOptions, Select};
use flashpack::{Dtype, Layout, OpenOptions, Pack, PlanOptions, WriteOptions, Writer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::driver::with_driver;

#[derive(Clone, Debug)]
struct Given {
    layout: Layout,
    group_log2: u8,
    alignment: u64,
    /// Dtype and shape; the dtype of the first is that of all in v3.
    tensors: Vec<(Dtype, Vec<u64>)>,
    buffer_bytes: usize,
    pinned_buffers: usize,
    threads: usize,
    select: Chosen,
}

#[derive(Clone, Debug)]
enum Chosen {
    All,
    Some(Vec<bool>),
    Rows(u64, u64),
    Share(u64, u64),
    Bytes(u32, u32),
}

fn given() -> impl proptest::strategy::Strategy<Value = Given> {
    let dtypes = &[Dtype::UInt8, Dtype::Float32, Dtype::BFloat16, Dtype::Float4E2M1, Dtype::Complex128][..];
    let shape = prop_oneof![
        4 => prop::collection::vec(1_u64..40, 0..4),
        2 => (1_u64..60_000).prop_map(|dim| vec![dim]),
        1 => (1_u64..400, 1_u64..400).prop_map(|(a, b)| vec![a, b]),
        1 => Just(vec![0, 3]),
    ];
    let tensors = prop::collection::vec((prop::sample::select(dtypes), shape), 1..10);
    let select = prop_oneof![
        3 => Just(Chosen::All),
        3 => prop::collection::vec(any::<bool>(), 10).prop_map(Chosen::Some),
        2 => (1_u64..6).prop_flat_map(|of| (0..of, Just(of))).prop_map(|(rank, of)| Chosen::Rows(rank, of)),
        1 => (1_u64..6).prop_flat_map(|of| (0..of, Just(of))).prop_map(|(rank, of)| Chosen::Share(rank, of)),
        1 => any::<(u32, u32)>().prop_map(|(from, length)| Chosen::Bytes(from, length)),
    ];
    let layout = prop::sample::select(&[Layout::Sealed, Layout::Sealed, Layout::V4, Layout::V3][..]);
    let alignment = prop::sample::select(&[0_u64, 1, 16, 128, 4096][..]);
    let buffers = (1_usize..300_000, 0_usize..6, 1_usize..6);
    (layout, 16_u8..=18, alignment, tensors, buffers, select).prop_map(
        |(layout, group_log2, alignment, tensors, buffers, select)| {
            let (buffer_bytes, pinned_buffers, threads) = buffers;
            Given { layout, group_log2, alignment, tensors, buffer_bytes, pinned_buffers, threads, select }
        },
    )
}

/// Packs it, if this layout takes it.
fn pack(given: &Given) -> Option<Pack> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let &Given { layout, group_log2, alignment, .. } = given;
    let mut contents = Vec::new();
    for (number, (dtype, shape)) in given.tensors.iter().enumerate() {
        let dtype = if layout == Layout::V3 { given.tensors[0].0 } else { *dtype };
        let mut shape = shape.clone();
        if dtype.bits() < 8 {
            shape.push(2);
        }
        let length = dtype.bytes_of(shape.iter().product())?;
        let bytes: Vec<u8> = (0..length).map(|i| (i % 255) as u8 ^ number as u8 | 1).collect();
        contents.push((format!("t{number}"), dtype, shape, bytes));
    }
    let mut writer = Writer::new(PlanOptions { layout, group_log2, alignment, ..PlanOptions::default() });
    for (name, dtype, shape, bytes) in &contents {
        writer.add(name, *dtype, shape.clone(), bytes.as_slice());
    }
    writer.write(&path, &WriteOptions { sync: false, ..Default::default() }).ok()?;
    Some(OpenOptions::new().open_source(Arc::new(std::fs::read(&path).unwrap())).unwrap())
}

fn select(chosen: &Chosen, pack: &Pack) -> Select {
    let payload = pack.manifest().payload();
    let length = payload.end - payload.start;
    match *chosen {
        Chosen::All => Select::All,
        Chosen::Some(ref wanted) => {
            let names = pack.tensors().zip(wanted).filter(|(_, wanted)| **wanted).map(|(tensor, _)| tensor.name.to_owned());
            Select::Names(names.collect())
        }
        Chosen::Rows(rank, of) => Select::Rows { rank, of },
        Chosen::Share(rank, of) => Select::Share { rank, of },
        Chosen::Bytes(from, bytes) => {
            let start = payload.start + u64::from(from) % (length + 1);
            Select::Bytes(start..start + u64::from(bytes) % (payload.end - start + 1))
        }
    }
}

#[test]
fn whatever_is_selected_arrives() {
    with_driver(|driver| {
        let mut runner = TestRunner::new(Config { cases: 192, failure_persistence: None, ..Config::default() });
        let result = runner.run(&given(), |given| {
            let Some(pack) = pack(&given) else { return Ok(()) };
            let options = LoaderOptions::default()
                .buffer_bytes(given.buffer_bytes)
                .pinned_bytes(given.buffer_bytes.saturating_mul(given.pinned_buffers));
            let loader = Loader::with_options(&[Device::open(0).unwrap()], options);
            let select = select(&given.select, &pack);
            let options = LoadOptions {
                select: select.clone(),
                threads: Some(given.threads.try_into().unwrap()),
                ..LoadOptions::default()
            };
            let loaded = loader.load(&pack, &options);
            // Rows of 4-bit elements may not be whole bytes, which is an error.
            if let (Err(flashpack::Error::Input(message)), Chosen::Rows(..)) = (&loaded, &given.select) {
                prop_assert!(message.contains("whole bytes"), "{}", message);
                return Ok(());
            }
            let loaded = loaded.unwrap();
            let on_device = &loaded.packs[0];
            let mut expected: BTreeMap<String, Vec<u8>> =
                pack.tensors().map(|tensor| (tensor.name.to_owned(), pack.read(tensor.name).unwrap())).collect();
            match &select {
                Select::Rows { rank, of } => {
                    for tensor in pack.tensors() {
                        let Some(rows) = tensor.shape.iter().next() else { continue };
                        let at = |rank: u64| (rows * rank / of * tensor.length).checked_div(rows).unwrap_or(0) as usize;
                        let whole = expected.get_mut(tensor.name).unwrap();
                        *whole = whole[at(*rank)..at(rank + 1)].to_vec();
                    }
                }
                Select::Names(names) => expected.retain(|name, _| names.contains(name)),
                _ => {}
            }
            if let Select::Bytes(range) = &select {
                let region = on_device.read_region(0).unwrap();
                prop_assert_eq!(region.len() as u64, range.end - range.start);
                prop_assert_eq!(loaded.bytes, range.end - range.start);
            }
            for tensor in on_device.tensors() {
                prop_assert_eq!(&tensor.to_host().unwrap(), &expected[tensor.name()], "{}", tensor.name());
            }
            if matches!(select, Select::All | Select::Names(_) | Select::Rows { .. }) {
                prop_assert_eq!(on_device.len(), expected.len());
            }
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
        assert_eq!(driver.allocated(), 0);
    });
}
