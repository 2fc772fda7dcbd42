//! Models to measure with: made once, kept in the target folder.

use std::path::{Path, PathBuf};

use flashpack::convert::{ConvertOptions, convert};
use flashpack::{Dtype, Layout, PlanOptions, WriteOptions, Writer};

/// The same model as a sealed pack, a v4 pack and a safetensors file.
#[derive(Clone, Debug)]
pub struct Model {
    pub sealed: PathBuf,
    pub v4: PathBuf,
    pub safetensors: PathBuf,
}

/// A model of so many bfloat16 tensors with so many bytes in all.
pub fn model(tensors: u64, bytes: u64) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models");
    std::fs::create_dir_all(&folder).unwrap();
    let at = |extension: &str| folder.join(format!("{tensors}-{bytes}.{extension}"));
    let model = Model { sealed: at("flashpack"), v4: at("v4.flashpack"), safetensors: at("safetensors") };
    if !model.safetensors.exists() {
        make(&model, tensors, bytes);
    }
    model
}

fn make(model: &Model, tensors: u64, bytes: u64) {
    let elements = (bytes / 2 / tensors).max(1);
    // Not zeros, which some file systems and caches treat better; not random, which takes long to make.
    let data: Vec<u8> = (0..elements * 2).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let options = WriteOptions { replace: true, sync: false, progress: &() };
    let mut writer = Writer::new(PlanOptions::default());
    for number in 0..tensors {
        writer.add(
            format!("model.layers.{}.block{}.weight", number / 9, number % 9),
            Dtype::BFloat16,
            [elements],
            data.as_slice(),
        );
    }
    writer.write(&model.sealed, &options).unwrap();
    let mut to_v4 = ConvertOptions { write: options, ..ConvertOptions::default() };
    to_v4.plan.layout = Layout::V4;
    convert(&model.sealed, Some(&model.v4), &to_v4).unwrap();
    let revert = flashpack::convert::RevertOptions { write: options, ..Default::default() };
    flashpack::convert::revert(&model.sealed, Some(&model.safetensors), &revert).unwrap();
}
