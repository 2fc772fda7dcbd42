//! A pack back to safetensors: one file, or shards and their index.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo as HeaderEntry;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Error, Result};
use crate::manifest::Tensor;
use crate::pack::{OpenOptions, Pack};
use crate::writer::{Folder, Prepared, Target, WriteOptions, write_small};

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
/// The pack is checked whole as it is copied, and the file appears only if all of it is right. Without a `target` the file goes beside the
/// pack, under its name.
///
/// # Errors
/// [`Error::Input`] for a tensor that safetensors cannot hold (complex128, complex32), [`Error::Invalid`] for a broken pack,
/// [`Error::Exists`], [`Error::Cancelled`], [`Error::Io`].
pub fn revert(source: &Path, target: Option<&Path>, options: &RevertOptions<'_>) -> Result<Vec<PathBuf>> {
    let pack = options.open.open(source)?;
    let target = target.map_or_else(|| source.with_extension("safetensors"), Path::to_owned);
    let tensors = in_header_order(&pack)?;
    let shards = shard(&tensors, options.max_shard_bytes);
    let runs = shards.iter().map(|range| tensors.get(range.clone()).unwrap_or_default());
    let not_a_file = || Error::Input(format!("{}: names no file that can be written", target.display()));
    let stem = target.file_stem().and_then(|stem| stem.to_str());
    if target.file_name().is_none() {
        return Err(not_a_file());
    }
    // Shards are named in their index, so their names must be text; a single file may be named anything.
    let sharded = shards.len() > 1;
    let stem = if sharded { stem.ok_or_else(not_a_file)? } else { "" };
    let count = shards.len();
    let names: Vec<String> = (1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}.safetensors")).collect();
    let path = |name: &String| if sharded { target.with_file_name(name) } else { target.clone() };
    let files: Vec<NewFile<'_>> = names.iter().zip(runs).map(|(name, tensors)| NewFile { path: path(name), tensors }).collect();

    let index_path = target.with_file_name(format!("{stem}.safetensors.index.json"));
    if sharded && !options.write.replace && index_path.symlink_metadata().is_ok() {
        return Err(Error::Exists(index_path));
    }
    // Every file is whole before the first appears.
    let mut prepared = Vec::with_capacity(files.len());
    let folder = Folder::of(&target)?;
    for some in files.chunks(OPEN_FILES) {
        prepared.extend(write_files(&pack, some, &folder, options)?);
    }
    let mut paths: Vec<PathBuf> = prepared.iter().map(|file| file.path().to_owned()).collect();
    prepared.into_iter().try_for_each(Prepared::publish)?;
    if sharded {
        let holds = names.iter().zip(&files).flat_map(|(name, file)| file.tensors.iter().map(move |tensor| (tensor.name, name)));
        let total_size = tensors.iter().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.length));
        let weight_map: BTreeMap<_, _> = holds.collect();
        let index = serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        write_small(&index_path, format!("{index:#}\n").as_bytes(), &options.write)?;
        paths.push(index_path);
    }
    Ok(paths)
}

/// Files written in one pass over the pack. More shards take more passes, as a process may only have so many files open.
const OPEN_FILES: usize = 256;

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

/// A safetensors file to be written.
struct NewFile<'a> {
    path: PathBuf,
    /// Its tensors, in the order of its header.
    tensors: &'a [Tensor<'a>],
}

/// A tensor on its way: where its bytes lie in the pack, and where they begin in which of the new files.
struct Move {
    from: Range<u64>,
    file: usize,
    to: u64,
}

/// Writes files in one pass: each piece of the pack is read once, checked, and its parts written to where they go.
fn write_files(pack: &Pack, files: &[NewFile<'_>], folder: &Folder, options: &RevertOptions<'_>) -> Result<Vec<Prepared>> {
    let mut targets = Vec::with_capacity(files.len());
    let mut moves = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let header = Header { pack, tensors: file.tensors }.render()?;
        if header.len() as u64 > MAX_HEADER {
            let message = format!("the safetensors header would have {} bytes, over its limit of {MAX_HEADER}", header.len());
            return Err(Error::Input(message));
        }
        let target = Target::create_in(folder.clone(), &file.path, options.write.replace)?;
        let mut cursor = PREFIX.saturating_add(header.len() as u64);
        for tensor in file.tensors.iter().filter(|tensor| tensor.length > 0) {
            moves.push(Move { from: tensor.range(), file: number, to: cursor });
            cursor = cursor.saturating_add(tensor.length);
        }
        target.set_len(cursor)?;
        target.write_at(&(header.len() as u64).to_le_bytes(), 0)?;
        target.write_at(&header, PREFIX)?;
        targets.push(target);
    }
    moves.sort_unstable_by_key(|tensor| tensor.from.start);
    pack.verify_each(|piece, bytes| {
        let first = moves.partition_point(|tensor| tensor.from.end <= piece.start);
        for tensor in moves.iter().skip(first).take_while(|tensor| tensor.from.start < piece.end) {
            let start = tensor.from.start.max(piece.start);
            let end = tensor.from.end.min(piece.end);
            let within = |offset: u64| usize::try_from(offset.saturating_sub(piece.start)).unwrap_or(usize::MAX);
            let part = bytes.get(within(start)..within(end)).unwrap_or_default();
            if let Some(target) = targets.get(tensor.file) {
                target.write_at(part, tensor.to.saturating_add(start.saturating_sub(tensor.from.start)))?;
            }
        }
        match options.write.progress.advance(bytes.len() as u64) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    })?;
    targets.into_iter().map(|target| target.prepare(options.write.sync)).collect()
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
