//! v3 and v4 packs are those of the Python package `flashpack` 0.4.5, byte for byte, both ways. `conformance/upstream/make.py` made the files.

use std::path::{Path, PathBuf};

use flashpack::convert::cast::cast;
use flashpack::convert::{ConvertOptions, Filter, convert};
use flashpack::{Dtype, Layout, OpenOptions, Order, PlanOptions, WriteOptions, Writer};
use serde_json::Value;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/upstream/golden")
}

fn packs() -> Vec<Value> {
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(golden().join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["flashpack"], "0.4.5");
    let packs = manifest["packs"].as_array().unwrap().clone();
    assert!(packs.len() >= 60);
    packs
}

struct Given {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn shape(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect()
}

/// The tensors that the Python package saw, in its order.
fn state_dict(row: &Value) -> Vec<Given> {
    if let Some(tensors) = row["state_dict"].as_array() {
        let hex = |text: &str| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
        return tensors
            .iter()
            .map(|tensor| Given {
                name: tensor["name"].as_str().unwrap().into(),
                dtype: tensor["dtype"].as_str().unwrap().parse().unwrap(),
                shape: shape(&tensor["shape"]),
                bytes: hex(tensor["data"].as_str().unwrap()),
            })
            .collect();
    }
    let file = std::fs::read(golden().join(row["source"].as_str().unwrap())).unwrap();
    let header_length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    // The order of the header, which `serde_json` keeps; or of the data, in which safetensors hands a file's tensors out.
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&file[8..8 + header_length]).unwrap();
    let mut header: Vec<(String, Value)> = header.into_iter().collect();
    if row["through"] == "convert" {
        header.sort_by_key(|(_, entry)| [0, 1].map(|at| entry["data_offsets"][at].as_u64()));
    }
    let data = &file[8 + header_length..];
    header
        .iter()
        .filter(|(name, _)| name != "__metadata__")
        .map(|(name, entry)| {
            let dtype: safetensors::Dtype = serde_json::from_value(entry["dtype"].clone()).unwrap();
            let [start, end] = [0, 1].map(|at| entry["data_offsets"][at].as_u64().unwrap() as usize);
            Given {
                name: name.clone(),
                dtype: Dtype::from_safetensors(dtype).unwrap(),
                shape: shape(&entry["shape"]),
                bytes: data[start..end].to_vec(),
            }
        })
        .collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn filter(options: &Value) -> Filter {
    Filter {
        names: texts(&options["ignore_names"]),
        prefixes: texts(&options["ignore_prefixes"]),
        suffixes: texts(&options["ignore_suffixes"]),
    }
}

fn plan_options(row: &Value) -> PlanOptions {
    let options = &row["options"];
    PlanOptions {
        layout: if row["layout"] == "v3" { Layout::V3 } else { Layout::V4 },
        alignment: options["align_bytes"].as_u64().unwrap(),
        order: if options["name_order"].is_null() { Order::Size } else { Order::Source },
        ..Default::default()
    }
}

fn quick() -> WriteOptions<'static> {
    WriteOptions { sync: false, ..Default::default() }
}

#[test]
fn the_same_tensors_and_options_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for row in packs() {
        let name = row["name"].as_str().unwrap();
        let options = &row["options"];
        let mut given = state_dict(&row);
        let filter = filter(options);
        given.retain(|tensor| !filter.ignores(&tensor.name));
        if let Some(order) = options["name_order"].as_array() {
            given.retain(|tensor| order.iter().any(|name| *name == tensor.name));
            given.sort_by_key(|tensor| order.iter().position(|name| *name == tensor.name));
        }
        if let Some(to) = options["dtype"].as_str() {
            let to: Dtype = to.parse().unwrap();
            for tensor in &mut given {
                let elements = tensor.dtype.elements_in(tensor.bytes.len() as u64).unwrap();
                let mut target = vec![0; to.bytes_of(elements).unwrap() as usize];
                cast(tensor.dtype, to, &tensor.bytes, &mut target);
                (tensor.dtype, tensor.bytes) = (to, target);
            }
        }
        let path = folder.path().join(name);
        let mut writer = Writer::new(plan_options(&row));
        for tensor in &given {
            writer.add(&tensor.name, tensor.dtype, tensor.shape.clone(), tensor.bytes.as_slice());
        }
        writer.write(&path, &quick()).unwrap();
        let theirs = std::fs::read(golden().join(row["file"].as_str().unwrap())).unwrap();
        assert!(std::fs::read(&path).unwrap() == theirs, "{name} differs");
    }
}

#[test]
fn converting_the_same_file_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut converted = 0;
    for row in packs().into_iter().filter(|row| row["through"] == "convert") {
        let name = row["name"].as_str().unwrap();
        let path = folder.path().join(name);
        let options = ConvertOptions {
            plan: plan_options(&row),
            dtype: row["options"]["dtype"].as_str().map(|dtype| dtype.parse().unwrap()),
            filter: filter(&row["options"]),
            write: quick(),
            ..Default::default()
        };
        convert(&golden().join(row["source"].as_str().unwrap()), Some(&path), &options).unwrap();
        let theirs = std::fs::read(golden().join(row["file"].as_str().unwrap())).unwrap();
        assert!(std::fs::read(&path).unwrap() == theirs, "{name} differs");
        converted += 1;
    }
    assert!(converted >= 15);
}

#[test]
fn what_it_wrote_is_read_bit_for_bit() {
    for row in packs() {
        let name = row["name"].as_str().unwrap();
        let pack = OpenOptions::new().strict(true).open(golden().join(row["file"].as_str().unwrap())).unwrap();
        assert_eq!(pack.layout().name(), row["layout"], "{name}");
        let tensors = row["tensors"].as_array().unwrap();
        assert_eq!(pack.manifest().len(), tensors.len(), "{name}");
        for expected in tensors {
            let tensor = pack.tensor(expected["name"].as_str().unwrap()).unwrap();
            assert_eq!(tensor.dtype.name(), expected["dtype"], "{name}");
            assert_eq!(tensor.shape.to_vec(), shape(&expected["shape"]), "{name}");
            assert_eq!(blake3::hash(&pack.read(tensor.name).unwrap()).to_string(), expected["blake3"], "{name}: {}", tensor.name);
        }
    }
}

/// Sealing keeps every tensor of what the Python package wrote.
#[test]
fn what_it_wrote_can_be_sealed() {
    let folder = tempfile::tempdir().unwrap();
    for row in packs() {
        let name = row["name"].as_str().unwrap();
        let path = folder.path().join(name);
        let options = ConvertOptions { write: quick(), ..Default::default() };
        convert(&golden().join(row["file"].as_str().unwrap()), Some(&path), &options).unwrap();
        let pack = OpenOptions::new().strict(true).require_seal(true).open(&path).unwrap();
        for expected in row["tensors"].as_array().unwrap() {
            let bytes = pack.read(expected["name"].as_str().unwrap()).unwrap();
            assert_eq!(blake3::hash(&bytes).to_string(), expected["blake3"], "{name}");
        }
    }
}
