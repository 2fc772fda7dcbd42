//! A second reader, slow and obvious: the steps of chapter 10 of the spec in their order, each rule as it is written there, in integers that
//! cannot overflow. It shares no code with the crate.

mod json;
mod legacy;
mod sealed;

use std::collections::{BTreeMap, BTreeSet};

/// A tensor as the spec sees it: offset and length in bytes, from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub offset: u128,
    pub length: u128,
}

/// What an accepted file holds.
#[derive(Debug, Default)]
pub struct Content {
    pub layout: &'static str,
    pub id: Option<[u8; 32]>,
    pub metadata: BTreeMap<String, String>,
    /// By name.
    pub tensors: Vec<Tensor>,
}

/// Why a file is refused: the stage of the first failing step, and the rules that it finds broken.
#[derive(Debug)]
pub struct Refused {
    pub stage: &'static str,
    pub rules: BTreeSet<&'static str>,
}

/// One step: it collects what it finds broken, and refuses at its end.
struct Step {
    stage: &'static str,
    rules: BTreeSet<&'static str>,
}

impl Step {
    fn new(stage: &'static str) -> Step {
        Step { stage, rules: BTreeSet::new() }
    }

    fn must(&mut self, holds: bool, rule: &'static str) -> bool {
        if !holds {
            self.rules.insert(rule);
        }
        holds
    }

    fn end(self) -> Result<(), Refused> {
        if self.rules.is_empty() { Ok(()) } else { Err(Refused { stage: self.stage, rules: self.rules }) }
    }
}

/// A step of one rule.
fn must(stage: &'static str, holds: bool, rule: &'static str) -> Result<(), Refused> {
    let mut step = Step::new(stage);
    step.must(holds, rule);
    step.end()
}

/// Judges a file as a validator with default limits does: all steps, payload and footer included.
pub fn judge(file: &[u8]) -> Result<Content, Refused> {
    let mut content = if file.starts_with(b"\x89FPK\r\n\x1a\n") { sealed::judge(file) } else { legacy::judge(file) }?;
    content.tensors.sort();
    Ok(content)
}

/// Code, name in the footer, bits.
const DTYPES: [(u16, &str, u128); 24] = [
    (1, "float64", 64),
    (2, "float32", 32),
    (3, "float16", 16),
    (4, "bfloat16", 16),
    (5, "int64", 64),
    (6, "int32", 32),
    (7, "int16", 16),
    (8, "int8", 8),
    (9, "uint64", 64),
    (10, "uint32", 32),
    (11, "uint16", 16),
    (12, "uint8", 8),
    (13, "bool", 8),
    (14, "complex128", 128),
    (15, "complex64", 64),
    (16, "complex32", 32),
    (17, "float8_e4m3fn", 8),
    (18, "float8_e4m3fnuz", 8),
    (19, "float8_e5m2", 8),
    (20, "float8_e5m2fnuz", 8),
    (21, "float8_e8m0fnu", 8),
    (22, "float4_e2m1", 4),
    (23, "float6_e2m3", 6),
    (24, "float6_e3m2", 6),
];

const MAX: u128 = (1 << 53) - 1;

/// TENSOR-TILE-02: the smallest number of bytes that is a multiple of the alignment and holds whole elements.
fn rounding_unit(alignment: u128, bits: u128) -> u128 {
    let step = if alignment == 0 { 8 } else { 8 * alignment };
    let mut unit = step;
    while unit % bits != 0 {
        unit += step;
    }
    unit / 8
}

fn round_up(value: u128, unit: u128) -> u128 {
    value.div_ceil(unit) * unit
}

/// TENSOR-SHAPE-01: `None` where it is broken.
fn elements(shape: &[u64]) -> Option<u128> {
    let mut product = 1_u128;
    for &dim in shape.iter().filter(|&&dim| dim > 0) {
        product = product.checked_mul(dim.into()).filter(|&product| product <= MAX)?;
    }
    Some(if shape.contains(&0) { 0 } else { product })
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

fn place(offset: u128, length: u128) -> std::ops::Range<usize> {
    offset as usize..(offset + length) as usize
}
