//! Two models compared: tensors added, removed, changed; whatever their files are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;

use crate::convert::safetensors::SafetensorsFile;
use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::plan::TensorInfo;
use crate::source::ReadAt;

/// A model in a file of either kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum Model {
    /// A pack of any layout. Its tensors are verified as they are read.
    Pack(Box<Pack>),
    /// A safetensors file.
    Safetensors(SafetensorsFile),
}

impl Model {
    /// Opens a model: a safetensors file by the ending of its name, anything else as a pack.
    ///
    /// # Errors
    /// As [`Pack::open`] and [`SafetensorsFile::open`].
    pub fn open(path: &Path) -> Result<Model> {
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            return SafetensorsFile::open(path).map(Model::Safetensors);
        }
        Pack::open(path).map(Box::new).map(Model::Pack)
    }

    /// The tensors, and where their bytes begin in the file.
    fn tensors(&self) -> BTreeMap<String, (TensorInfo, u64)> {
        match self {
            Model::Pack(pack) => pack
                .tensors()
                .map(|tensor| {
                    let info = TensorInfo::new(tensor.name, tensor.dtype, tensor.shape.to_vec());
                    (tensor.name.to_owned(), (info, tensor.offset))
                })
                .collect(),
            Model::Safetensors(file) => {
                file.tensors().iter().map(|(info, range)| (info.name.clone(), (info.clone(), range.start))).collect()
            }
        }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        match self {
            Model::Pack(pack) => pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            Model::Safetensors(file) => file.metadata().clone(),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            Model::Pack(pack) => pack.read_range(offset, buffer),
            Model::Safetensors(file) => {
                file.source().read_exact_at(buffer, offset).map_err(|error| Error::io(Path::new("safetensors"), error))
            }
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the first model has this tensor.
    Removed(TensorInfo),
    /// Only the second model has this tensor.
    Added(TensorInfo),
    /// Dtype or shape differ.
    Described {
        /// In the first model.
        before: TensorInfo,
        /// In the second model.
        after: TensorInfo,
    },
    /// The tensor of this name has the same dtype and shape, and other bytes.
    Bytes(String),
    /// A metadata key differs.
    Metadata {
        /// The key.
        key: String,
        /// Its value in the first model.
        before: Option<String>,
        /// Its value in the second model.
        after: Option<String>,
    },
}

/// Bytes compared or hashed at a time.
const PIECE: u64 = 1 << 20;

/// What is different between two models, tensors by name, metadata last. Memory stays at two pieces of 1 MiB a thread.
///
/// # Errors
/// [`Error::Io`], and [`Error::Invalid`] for a sealed pack whose bytes are not those that were sealed.
pub fn compare(a: &Model, b: &Model) -> Result<Vec<Change>> {
    let (tensors_a, tensors_b) = (a.tensors(), b.tensors());
    let names: BTreeSet<&String> = tensors_a.keys().chain(tensors_b.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        changes.extend(match (tensors_a.get(name), tensors_b.get(name)) {
            (Some((before, at)), Some((after, bt))) if before == after => {
                bytes_differ(a, *at, b, *bt, before.bytes().unwrap_or_default())?.then_some(Change::Bytes(name.clone()))
            }
            (Some((before, _)), Some((after, _))) => Some(Change::Described { before: before.clone(), after: after.clone() }),
            (Some((before, _)), None) => Some(Change::Removed(before.clone())),
            (None, Some((after, _))) => Some(Change::Added(after.clone())),
            (None, None) => None,
        });
    }
    let (metadata_a, metadata_b) = (a.metadata(), b.metadata());
    for key in metadata_a.keys().chain(metadata_b.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (metadata_a.get(key).cloned(), metadata_b.get(key).cloned());
        if before != after {
            changes.push(Change::Metadata { key: key.clone(), before, after });
        }
    }
    Ok(changes)
}

/// Whether the bytes differ.
fn bytes_differ(a: &Model, at: u64, b: &Model, bt: u64, length: u64) -> Result<bool> {
    let differs = |buffers: &mut (Vec<u8>, Vec<u8>), piece: u64| -> Result<bool> {
        let start = piece.saturating_mul(PIECE);
        let size = usize::try_from(length.saturating_sub(start).min(PIECE)).unwrap_or_default();
        let (from_a, from_b) = buffers;
        from_a.resize(size, 0);
        from_b.resize(size, 0);
        a.read(at.saturating_add(start), from_a)?;
        b.read(bt.saturating_add(start), from_b)?;
        Ok(from_a != from_b)
    };
    let pieces = (0..length.div_ceil(PIECE)).into_par_iter();
    let found = pieces.map_init(Default::default, differs).find_any(|result| !matches!(result, Ok(false)));
    found.unwrap_or(Ok(false))
}

/// The BLAKE3 of a tensor's bytes, verified as they are read. Memory stays at a piece of 1 MiB.
///
/// # Errors
/// As [`Pack::read`].
pub fn digest(pack: &Pack, name: &str) -> Result<blake3::Hash> {
    let tensor = pack.tensor(name)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::new();
    let mut offset = 0_u64;
    while offset < tensor.length {
        let size = usize::try_from(tensor.length.saturating_sub(offset).min(PIECE)).unwrap_or_default();
        buffer.resize(size, 0);
        pack.read_range(tensor.offset.saturating_add(offset), &mut buffer)?;
        hasher.update(&buffer);
        offset = offset.saturating_add(size as u64);
    }
    Ok(hasher.finalize())
}
