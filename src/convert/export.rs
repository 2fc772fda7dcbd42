//! A pack back to safetensors: one file, or shards and their index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::TensorInfo as HeaderEntry;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Error, Result};
use crate::manifest::Tensor;
use crate::pack::{OpenOptions, Pack};
use crate::source::write_all_at;
use crate::writer::assemble::{Piece, assemble};
use crate::writer::{Prepared, Target, TensorData, WriteOptions, write_small};

use super::PackPart;
use super::safetensors::{MAX_HEADER, METADATA_KEY, PREFIX};

/// How to turn a pack back into safetensors.
#[derive(Clone, Debug, Default)]
pub struct RevertOptions<'a> {
    /// The most bytes of tensors in one file. More make several, and an index; a tensor that is larger has a file of its own.
    pub max_shard_bytes: Option<u64>,
    /// How the files come to their places.
    pub write: WriteOptions<'a>,
    /// How the pack is opened.
    pub open: OpenOptions,
}

/// Turns a pack of any layout into a safetensors file with the same tensors, bit for bit, and the same metadata. Gives the paths of the
/// files written, the index last.
///
/// The pack is checked whole before anything is written, and verified again as it is copied. Without a `target` the file goes beside the
/// pack, under its name.
///
/// # Errors
/// [`Error::Input`] for a tensor that safetensors cannot hold (complex128, complex32), [`Error::Invalid`] for a broken pack,
/// [`Error::Exists`], [`Error::Cancelled`], [`Error::Io`].
pub fn revert(source: &Path, target: Option<&Path>, options: &RevertOptions<'_>) -> Result<Vec<PathBuf>> {
    let pack = Arc::new(options.open.open(source)?);
    pack.verify(options.write.progress)?;
    let target = target.map_or_else(|| source.with_extension("safetensors"), Path::to_owned);
    let tensors = in_header_order(&pack)?;
    let shards = shard(&tensors, options.max_shard_bytes);
    if shards.len() <= 1 {
        let file = write_file(&pack, &tensors, &target, options)?;
        file.publish()?;
        return Ok(vec![target]);
    }

    // Every shard is whole before the first appears.
    let stem = target.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model").to_owned();
    let mut files = Vec::new();
    let mut weight_map = BTreeMap::new();
    for (number, range) in (1..).zip(&shards) {
        let name = format!("{stem}-{number:05}-of-{:05}.safetensors", shards.len());
        let tensors = tensors.get(range.clone()).unwrap_or_default();
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.to_owned(), name.clone())));
        files.push(write_file(&pack, tensors, &target.with_file_name(name), options)?);
    }
    let total_size = tensors.iter().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.length));
    let index = serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    let index_path = target.with_file_name(format!("{stem}.safetensors.index.json"));
    if !options.write.replace && index_path.symlink_metadata().is_ok() {
        return Err(Error::Exists(index_path));
    }
    let mut paths: Vec<PathBuf> = files.iter().map(|file| file.path().to_owned()).collect();
    files.into_iter().try_for_each(Prepared::publish)?;
    write_small(&index_path, format!("{index:#}\n").as_bytes(), &options.write)?;
    paths.push(index_path);
    Ok(paths)
}

/// The tensors as the `safetensors` crate orders them: dtypes of larger alignment first, then by name.
fn in_header_order(pack: &Pack) -> Result<Vec<Tensor<'_>>> {
    let mut tensors: Vec<(safetensors::Dtype, Tensor<'_>)> = Vec::with_capacity(pack.manifest().len());
    for tensor in pack.tensors() {
        let dtype = tensor.dtype.to_safetensors().ok_or_else(|| {
            Error::Input(format!("tensor {:?}: safetensors has no {}; nothing was written", tensor.name, tensor.dtype))
        })?;
        if tensor.name == METADATA_KEY {
            return Err(Error::Input(format!("a tensor named {METADATA_KEY:?} cannot be kept in safetensors")));
        }
        tensors.push((dtype, tensor));
    }
    tensors.sort_by(|(a, left), (b, right)| b.cmp(a).then(left.name.cmp(right.name)));
    Ok(tensors.into_iter().map(|(_, tensor)| tensor).collect())
}

/// Cuts the tensors into runs of at most `most` bytes.
fn shard(tensors: &[Tensor<'_>], most: Option<u64>) -> Vec<Range<usize>> {
    let most = most.unwrap_or(u64::MAX);
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0_u64);
    for (number, tensor) in tensors.iter().enumerate() {
        if number > start && bytes.saturating_add(tensor.length) > most {
            shards.push(start..number);
            (start, bytes) = (number, 0);
        }
        bytes = bytes.saturating_add(tensor.length);
    }
    shards.push(start..tensors.len());
    shards
}

fn write_file(pack: &Arc<Pack>, tensors: &[Tensor<'_>], path: &Path, options: &RevertOptions<'_>) -> Result<Prepared> {
    let header = Header { pack, tensors }.render()?;
    if header.len() as u64 > MAX_HEADER {
        return Err(Error::Input(format!(
            "the safetensors header would have {} bytes, over its limit of {MAX_HEADER}",
            header.len()
        )));
    }
    let target = Target::create(path, options.write.replace)?;
    let data_offset = PREFIX.saturating_add(header.len() as u64);
    let mut cursor = data_offset;
    let mut pieces = Vec::with_capacity(tensors.len());
    let mut data = Vec::with_capacity(tensors.len());
    for (number, tensor) in tensors.iter().enumerate() {
        pieces.push(Piece { offset: cursor, length: tensor.length, data: number });
        data.push(TensorData::Positional(Box::new(PackPart { pack: pack.clone(), offset: tensor.offset })));
        cursor = cursor.saturating_add(tensor.length);
    }
    target.set_len(cursor)?;
    let put = |bytes: &[u8], offset| write_all_at(target.file(), bytes, offset).map_err(|error| Error::io(path, error));
    put(&(header.len() as u64).to_le_bytes(), 0)?;
    put(&header, PREFIX)?;
    assemble(&target, data_offset..cursor, &pieces, &mut data, None, options.write.progress)?;
    // Closed until the others are whole as well: there may be more shards than files may be open.
    target.prepare(options.write.sync)
}

/// The header of a safetensors file. Written here and not by the crate, whose metadata comes in the order of a hash map.
struct Header<'a> {
    pack: &'a Pack,
    tensors: &'a [Tensor<'a>],
}

impl Header<'_> {
    fn render(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| Error::Input(error.to_string()))?;
        // Spaces, so that the data begin on a multiple of eight.
        bytes.resize(bytes.len().next_multiple_of(8), b' ');
        Ok(bytes)
    }
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let metadata: BTreeMap<_, _> = self.pack.manifest().metadata().collect();
        if !metadata.is_empty() {
            map.serialize_entry(METADATA_KEY, &metadata)?;
        }
        let mut cursor = 0_usize;
        for tensor in self.tensors {
            let end = cursor.saturating_add(usize::try_from(tensor.length).unwrap_or(usize::MAX));
            let shape = tensor.shape.iter().map(|dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
            let dtype = tensor.dtype.to_safetensors().ok_or_else(|| serde::ser::Error::custom("no such safetensors dtype"))?;
            map.serialize_entry(tensor.name, &HeaderEntry { dtype, shape, data_offsets: (cursor, end) })?;
            cursor = end;
        }
        map.end()
    }
}
