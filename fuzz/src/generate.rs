//! Packs from a fuzzer's bytes: any tensors, names, metadata and options that a plan may take or refuse.

use std::collections::BTreeMap;
use std::path::Path;

use arbitrary::{Arbitrary, Result, Unstructured};
use flashpack::{Dtype, Layout, Order, PlanOptions, TensorInfo, WriteOptions, Writer, Written};

/// Tensors with their bytes, and how they are to be packed.
#[derive(Debug)]
pub struct Model {
    pub tensors: Vec<(TensorInfo, Vec<u8>)>,
    pub options: PlanOptions,
}

/// The most bytes of one tensor.
const MOST: u64 = 1 << 18;

impl<'a> Arbitrary<'a> for Model {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Model> {
        let layout = *bytes.choose(&[Layout::Sealed, Layout::Sealed, Layout::V4, Layout::V3])?;
        let mut metadata = BTreeMap::new();
        if bytes.ratio(1, 4)? {
            metadata = bytes.arbitrary()?;
        }
        let options = PlanOptions {
            layout,
            alignment: *bytes.choose(&[0, 1, 2, 16, 100, 128, 4096, 8192, u64::MAX])?,
            order: *bytes.choose(&[Order::Size, Order::Name, Order::Source])?,
            group_log2: *bytes.choose(&[16, 17, 20, 26, 15, 27])?,
            metadata,
        };
        let mut tensors = Vec::new();
        let one_dtype = *bytes.choose(Dtype::ALL)?;
        while tensors.len() < 24 && !bytes.is_empty() && bytes.ratio(9, 10)? {
            let dtype = if layout == Layout::V3 { one_dtype } else { *bytes.choose(Dtype::ALL)? };
            let rank = bytes.int_in_range(0..=4)?;
            let dim = |bytes: &mut Unstructured<'a>| {
                Ok(match bytes.int_in_range(0..=9_u8)? {
                    0 => 0,
                    1 => bytes.int_in_range(0..=70_000)?,
                    2 => bytes.arbitrary()?,
                    _ => bytes.int_in_range(1..=12)?,
                })
            };
            let shape: Vec<u64> = (0..rank).map(|_| dim(bytes)).collect::<Result<_>>()?;
            let name: String = if bytes.ratio(1, 3)? { bytes.arbitrary()? } else { format!("layer.{}", tensors.len()) };
            let info = TensorInfo::new(name, dtype, shape);
            let length = info.bytes().filter(|&length| length <= MOST).unwrap_or_default();
            let seed: u8 = bytes.arbitrary()?;
            let content = (0..length).map(|i| (i % 251) as u8 ^ seed).collect();
            tensors.push((info, content));
        }
        Ok(Model { tensors, options })
    }
}

impl Model {
    /// Packs it, if it can be.
    pub fn write(&self, path: &Path) -> flashpack::Result<Written> {
        let mut writer = Writer::new(self.options.clone());
        for (info, bytes) in &self.tensors {
            writer.add(&info.name, info.dtype, info.shape.clone(), bytes.as_slice());
        }
        writer.write(path, &WriteOptions { replace: true, sync: false, progress: &() })
    }

    /// Whether each tensor came with all of its bytes.
    pub fn is_whole(&self) -> bool {
        self.tensors.iter().all(|(info, bytes)| info.bytes() == Some(bytes.len() as u64))
    }
}
