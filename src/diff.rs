//! Two models compared: tensors added, removed, changed; whatever their files are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::convert::safetensors::SafetensorsFile;
use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::plan::TensorInfo;
use crate::source::ReadAt;
use crate::writer::Progress;

/// A model in a pack of any layout, whose tensors are verified as they are read, or in a safetensors file.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    file: File,
}

#[derive(Debug)]
enum File {
    Pack(Box<Pack>),
    Safetensors(SafetensorsFile),
}

impl Model {
    /// Opens a model: a safetensors file by the ending of its name, anything else as a pack.
    ///
    /// # Errors
    /// As [`Pack::open`] and [`SafetensorsFile::open`].
    pub fn open(path: &Path) -> Result<Model> {
        let file = if path.extension().is_some_and(|extension| extension == "safetensors") {
            File::Safetensors(SafetensorsFile::open(path)?)
        } else {
            File::Pack(Box::new(Pack::open(path)?))
        };
        Ok(Model { path: path.to_owned(), file })
    }

    /// The tensors, and where their bytes begin in the file.
    fn tensors(&self) -> BTreeMap<String, (TensorInfo, u64)> {
        match &self.file {
            File::Pack(pack) => pack
                .tensors()
                .map(|tensor| {
                    let info = TensorInfo::new(tensor.name, tensor.dtype, tensor.shape.to_vec());
                    (tensor.name.to_owned(), (info, tensor.offset))
                })
                .collect(),
            File::Safetensors(file) => {
                file.tensors().iter().map(|(info, range)| (info.name.clone(), (info.clone(), range.start))).collect()
            }
        }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        match &self.file {
            File::Pack(pack) => pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            File::Safetensors(file) => file.metadata().clone(),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.file {
            File::Pack(pack) => pack.read_range(offset, buffer),
            File::Safetensors(file) => file.source().read_exact_at(buffer, offset).map_err(|error| Error::io(&self.path, error)),
        }
    }

    fn piece(&self) -> u64 {
        match &self.file {
            File::Pack(pack) => piece(pack),
            File::Safetensors(_) => PIECE,
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
const PIECE: u64 = 4 << 20;

/// A piece of a pack is no smaller than a group: each read of a part of a group reads and verifies all of it.
fn piece(pack: &Pack) -> u64 {
    pack.manifest().group_size().unwrap_or_default().max(PIECE)
}

/// What is different between two models, tensors by name, metadata last. Memory stays at two pieces of 4 MiB a thread, or of a group where
/// groups are larger. `progress` hears of the bytes compared.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`], and [`Error::Invalid`] for a sealed pack whose bytes are not those that were sealed.
pub fn compare(a: &Model, b: &Model, progress: &dyn Progress) -> Result<Vec<Change>> {
    let (tensors_a, tensors_b) = (a.tensors(), b.tensors());
    let names: BTreeSet<&String> = tensors_a.keys().chain(tensors_b.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        changes.extend(match (tensors_a.get(name), tensors_b.get(name)) {
            (Some((before, at)), Some((after, bt))) if before == after => {
                let length = before.bytes().unwrap_or_default();
                bytes_differ((a, *at), (b, *bt), length, progress)?.then_some(Change::Bytes(name.clone()))
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

/// Whether bytes that begin at a place in one model differ from those at a place in the other.
fn bytes_differ((a, at): (&Model, u64), (b, bt): (&Model, u64), length: u64, progress: &dyn Progress) -> Result<bool> {
    let piece = a.piece().max(b.piece());
    let differs = |buffers: &mut (Vec<u8>, Vec<u8>), number: u64| -> Result<bool> {
        let start = number.saturating_mul(piece);
        let size = usize::try_from(length.saturating_sub(start).min(piece)).unwrap_or_default();
        let (from_a, from_b) = buffers;
        from_a.resize(size, 0);
        from_b.resize(size, 0);
        a.read(at.saturating_add(start), from_a)?;
        b.read(bt.saturating_add(start), from_b)?;
        advance(progress, size)?;
        Ok(from_a != from_b)
    };
    let pieces = (0..length.div_ceil(piece)).into_par_iter();
    // The first in the file and not just any: which of a difference and an error is told must not depend on chance.
    let found = pieces.map_init(Default::default, differs).find_first(|result| !matches!(result, Ok(false)));
    found.unwrap_or(Ok(false))
}

/// The BLAKE3 of a tensor's bytes, verified as they are read. Memory stays at a piece of 4 MiB, or of a group where groups are larger.
///
/// # Errors
/// As [`Pack::read`].
pub fn digest(pack: &Pack, name: &str) -> Result<blake3::Hash> {
    hash(pack, pack.tensor(name)?.range(), &mut Vec::new(), &())
}

/// The BLAKE3 of each tensor's bytes, in the order of [`Pack::tensors`], on all cores. Memory is that of [`digest`] for each thread; `progress`
/// hears of the bytes hashed.
///
/// # Errors
/// As [`Pack::read`], and [`Error::Cancelled`].
pub fn digests(pack: &Pack, progress: &dyn Progress) -> Result<Vec<blake3::Hash>> {
    // In the order of the file, so that tensors that share a group come one after the other.
    let order = pack.manifest().tiling_order();
    let hash_one = |buffer: &mut Vec<u8>, &number: &u32| -> Result<(u32, blake3::Hash)> {
        let tensor = usize::try_from(number).ok().and_then(|number| pack.manifest().nth(number));
        let range = tensor.map(|tensor| tensor.range()).unwrap_or_default();
        Ok((number, hash(pack, range, buffer, progress)?))
    };
    let mut digests = order.par_iter().map_init(Vec::new, hash_one).collect::<Result<Vec<_>>>()?;
    digests.sort_unstable_by_key(|&(number, _)| number);
    Ok(digests.into_iter().map(|(_, digest)| digest).collect())
}

fn hash(pack: &Pack, range: Range<u64>, buffer: &mut Vec<u8>, progress: &dyn Progress) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = range.start;
    while offset < range.end {
        let size = usize::try_from(range.end.saturating_sub(offset).min(piece(pack))).unwrap_or_default();
        buffer.resize(size, 0);
        pack.read_range(offset, buffer)?;
        hasher.update_rayon(buffer);
        advance(progress, size)?;
        offset = offset.saturating_add(size as u64);
    }
    Ok(hasher.finalize())
}

fn advance(progress: &dyn Progress, bytes: usize) -> Result<()> {
    if progress.advance(bytes as u64).is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
