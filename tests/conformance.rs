//! The reference passes its own suite, through every door: a file, memory, the structure alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flashpack::{Limits, OpenOptions, Pack};
use serde_json::Value;

struct Vector {
    row: Value,
    path: PathBuf,
    options: OpenOptions,
}

fn vectors() -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(root.join("manifest.json")).unwrap()).unwrap();
    let rows = manifest["vectors"].as_array().unwrap().clone();
    assert!(rows.len() >= 250);
    rows.into_iter()
        .map(|row| Vector { path: root.join(row["file"].as_str().unwrap()), options: options(&row["arguments"]), row })
        .collect()
}

fn options(arguments: &Value) -> OpenOptions {
    let number = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let mut limits = Limits::default();
    for (key, value) in arguments["limits"].as_object().into_iter().flatten() {
        match key.as_str() {
            "table_bytes" => limits.table_bytes = number(value),
            "footer_bytes" => limits.footer_bytes = number(value),
            "tensors" => limits.tensors = number(value),
            "blocks" => limits.blocks = number(value),
            "name_bytes" => limits.name_bytes = number(value),
            "rank" => limits.rank = number(value),
            "json_depth" => limits.json_depth = number(value),
            other => panic!("no limit {other}"),
        }
    }
    let options = OpenOptions::new().limits(limits).require_seal(arguments["require_seal"] == true);
    match arguments["id"].as_str() {
        Some(id) => options.expect_id(id.parse().unwrap()),
        None => options,
    }
}

#[test]
fn files_are_those_of_the_manifest() {
    let mut listed = BTreeSet::new();
    for Vector { row, path, .. } in vectors() {
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(blake3::hash(&bytes).to_string(), row["blake3"].as_str().unwrap(), "{}", row["id"]);
        assert_eq!(bytes.len().to_string(), row["size"].as_str().unwrap());
        listed.insert(path);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/vectors");
    for entry in std::fs::read_dir(folder).unwrap() {
        assert!(listed.contains(&entry.unwrap().path()));
    }
}

#[test]
fn every_vector_gets_its_verdict_stage_and_rule() {
    for Vector { row, path, options } in vectors() {
        let id = &row["id"];
        let report = options.validate(&path, false, &()).unwrap();
        match report.violations.first_failing() {
            None => {
                assert_eq!(row["verdict"], "accept", "{id}");
                let warnings: BTreeSet<_> = report.violations.iter().map(|violation| violation.rule.id).collect();
                let expected = row["expect"]["warnings"].as_array().unwrap();
                assert_eq!(expected.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(), warnings, "{id}");
                assert_content(&row["expect"], &options.open(&path).unwrap());
            }
            Some((stage, errors)) => {
                assert_eq!(row["verdict"], "reject", "{id}: {}", errors[0]);
                assert_eq!(row["stage"], stage.name(), "{id}");
                let rules: BTreeSet<_> = errors.iter().map(|violation| violation.rule.id).collect();
                let listed: BTreeSet<_> = row["rules"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                assert!(!rules.is_empty() && rules.is_subset(&listed), "{id}: {rules:?}");
            }
        }
    }
}

/// The pack holds what the row says, tensor by tensor.
fn assert_content(expected: &Value, pack: &Pack) {
    assert_eq!(expected["layout"], pack.layout().name());
    assert_eq!(expected["id"], pack.id().map_or(Value::Null, |id| id.to_string().into()));
    let metadata: serde_json::Map<String, Value> =
        pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.into())).collect();
    assert_eq!(*expected["metadata"].as_object().unwrap(), metadata);
    let Some(tensors) = expected["tensors"].as_array() else {
        assert_eq!(expected["tensor_count"], pack.manifest().len().to_string());
        return;
    };
    assert_eq!(tensors.len(), pack.manifest().len());
    for (expected, tensor) in tensors.iter().zip(pack.tensors()) {
        assert_eq!(expected["name"], tensor.name);
        assert_eq!(expected["dtype"], tensor.dtype.name());
        assert_eq!(expected["offset"], tensor.offset.to_string());
        assert_eq!(expected["length"], tensor.length.to_string());
        let shape: Vec<String> = tensor.shape.iter().map(|dim| dim.to_string()).collect();
        assert_eq!(expected["shape"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>(), shape);
        assert_eq!(expected["blake3"], blake3::hash(&pack.read(tensor.name).unwrap()).to_string());
        assert_eq!(pack.tensor(tensor.name).unwrap(), tensor);
    }
}

/// A strict open refuses what `validate` refuses, from a file and from memory, with the same rule; an ordinary open refuses what structure
/// alone shows.
#[test]
fn every_door_says_the_same() {
    for Vector { row, path, options } in vectors() {
        let id = &row["id"];
        let accepted = row["verdict"] == "accept";
        let strict = options.clone().strict(true);
        let memory: Arc<Vec<u8>> = Arc::new(std::fs::read(&path).unwrap());
        for opened in [strict.open(&path), strict.open_source(memory.clone())] {
            match opened {
                Ok(_) => assert!(accepted, "{id}"),
                Err(error) => {
                    assert!(!accepted, "{id}: {error}");
                    let rule = error.violation().expect("the file is at fault").rule;
                    assert!(row["rules"].as_array().unwrap().iter().any(|listed| listed == rule.id), "{id}: {error}");
                }
            }
        }
        let structure = options.open(&path);
        match row["stage"].as_str() {
            None => {
                let pack = structure.unwrap();
                for tensor in pack.tensors() {
                    assert_eq!(pack.read(tensor.name).unwrap().len() as u64, tensor.length, "{id}");
                }
                assert_eq!(pack.load().unwrap().len(), pack.manifest().len());
            }
            // Found only by who reads the footer or the payload.
            Some("footer" | "integrity") => {
                let _ = structure.unwrap();
            }
            Some(_) => assert!(structure.is_err(), "{id}"),
        }
    }
}

/// A tensor whose group is damaged is never handed out, and neither is any part of it.
#[test]
fn a_damaged_group_gives_an_error_and_a_cleared_buffer() {
    for Vector { row, path, options } in vectors() {
        if row["rules"][0] != "SEAL-INT-01" {
            continue;
        }
        let pack = options.open(&path).unwrap();
        let mut refused = 0;
        for tensor in pack.tensors() {
            let mut buffer = vec![0xAA; usize::try_from(tensor.length).unwrap()];
            if let Err(error) = pack.read_into(tensor.name, &mut buffer) {
                assert_eq!(error.violation().unwrap().rule.id, "SEAL-INT-01");
                assert!(buffer.iter().all(|&byte| byte == 0), "{}", row["id"]);
                refused += 1;
            }
        }
        assert!(refused > 0, "{}", row["id"]);
        assert!(pack.load().is_err());
    }
}

#[test]
fn every_flipped_bit_of_the_small_sealed_file_is_refused() {
    let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/vectors/sealed-small.flashpack")).unwrap();
    let options = OpenOptions::new().strict(true);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut broken = whole.clone();
            broken[at] ^= 1 << bit;
            assert!(options.open_source(Arc::new(broken)).is_err(), "byte {at}, bit {bit}");
        }
    }
}
