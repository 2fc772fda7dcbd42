//! plan -> write -> parse: what was written is what was planned, and no flipped bit of a sealed pack passes.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use flashpack::{Layout, OpenOptions, Plan, TensorInfo};

use super::super::generate::Model;
use super::Folder;

/// Packs a generated model, reads it back, and flips a bit.
pub fn plan(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok(model) = Model::arbitrary(&mut bytes) else { return };
    let infos: Vec<TensorInfo> = model.tensors.iter().map(|(info, _)| info.clone()).collect();
    let plan = Plan::new(&infos, &model.options);
    if !model.is_whole() {
        // Too large to have bytes here: planning it is all, and must not fail but by an error.
        return;
    }
    let folder = Folder::new();
    let path = folder.at("m.flashpack");
    let written = model.write(&path);
    let (plan, written) = match (plan, written) {
        (Ok(plan), Ok(written)) => (plan, written),
        // Writing may refuse what planning cannot see: a first tensor that looks like a sealed head.
        (_, Err(flashpack::Error::Input(_))) => return,
        (plan, written) => panic!("{plan:?}, {written:?}"),
    };
    let mut file = std::fs::read(&path).expect("it was written");
    assert_eq!(file.len() as u64, plan.file_size());
    let pack = OpenOptions::new().strict(true).open_source(Arc::new(file.clone())).expect("what we write is valid");
    assert_eq!(*pack.manifest(), written.manifest);
    assert_eq!(pack.id(), written.id);
    assert_eq!(pack.manifest().len(), model.tensors.len());
    for (info, content) in &model.tensors {
        let tensor = pack.tensor(&info.name).expect("it was packed");
        assert_eq!((tensor.dtype, tensor.shape.to_vec()), (info.dtype, info.shape.clone()));
        assert_eq!(pack.read(&info.name).expect("it is valid"), *content);
    }
    super::super::oracle::judge(&file).expect("the oracle accepts what we write");
    if model.options.layout == Layout::Sealed {
        let at = bytes.int_in_range(0..=file.len() - 1).unwrap_or_default();
        file[at] ^= 1 << bytes.int_in_range(0..=7).unwrap_or(0_u8);
        let damaged = OpenOptions::new().strict(true).open_source(Arc::new(file));
        assert!(damaged.is_err(), "a bit of byte {at} was flipped");
    }
}
