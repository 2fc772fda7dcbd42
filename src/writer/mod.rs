//! A plan and the tensors' bytes to a file: streaming, in bounded memory, atomic.
//!
//! ```text
//! Writer --plan--> Plan --+
//!                         +--> assemble: payload in chunks, hashed as they pass --> header, tables, footer --> rename
//! tensors' bytes ---------+
//! ```

pub(crate) mod assemble;
mod folder;
mod target;

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub(crate) use folder::Folder;
pub(crate) use target::{Prepared, Target};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::header;
use crate::format::trailer::{self, Trailer};
use crate::manifest::Manifest;
use crate::plan::{Plan, PlanOptions, TensorInfo};
use crate::rule::Layout;
use crate::seal::{self, PackId};
use crate::source::{FileSource, ReadAt, read_exact_at};
use assemble::Piece;

/// The bytes of one tensor, to be read in pieces, in any order, from several threads at once.
pub trait TensorBytes: Send + Sync {
    /// Fills `buffer` with the tensor's bytes that begin at `offset`.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being had. The pack is not written then.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
}

/// Where a tensor's bytes come from.
#[non_exhaustive]
pub enum TensorData<'a> {
    /// Memory.
    Bytes(&'a [u8]),
    /// Something that gives any piece of them when asked: copied and hashed on all cores.
    Positional(Box<dyn TensorBytes + 'a>),
    /// A stream that gives them once, from the beginning.
    Stream(Box<dyn Read + Send + 'a>),
}

impl std::fmt::Debug for TensorData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TensorData::Bytes(_) => "Bytes",
            TensorData::Positional(_) => "Positional",
            TensorData::Stream(_) => "Stream",
        })
    }
}

impl<'a> From<&'a [u8]> for TensorData<'a> {
    fn from(bytes: &'a [u8]) -> TensorData<'a> {
        TensorData::Bytes(bytes)
    }
}

/// Hears how far long work has come, and may end it.
pub trait Progress: Sync {
    /// Called from any thread after `bytes` more bytes. `Break` ends the work with [`Error::Cancelled`]; nothing is left behind.
    fn advance(&self, bytes: u64) -> ControlFlow<()>;
}

/// No progress is shown, nothing is cancelled.
impl Progress for () {
    fn advance(&self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// How a file comes to its place.
#[derive(Clone, Copy)]
pub struct WriteOptions<'a> {
    /// Replace a file that is there already. Otherwise it is an error.
    pub replace: bool,
    /// Have the bytes on disk before the file appears. Without it a power failure soon after may leave an incomplete file.
    pub sync: bool,
    /// Hears of bytes written.
    pub progress: &'a dyn Progress,
}

impl Default for WriteOptions<'_> {
    fn default() -> Self {
        WriteOptions { replace: false, sync: true, progress: &() }
    }
}

impl std::fmt::Debug for WriteOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteOptions").field("replace", &self.replace).field("sync", &self.sync).finish_non_exhaustive()
    }
}

/// What was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Written {
    /// The contents, digests included: what opening the file gives.
    pub manifest: Manifest,
    /// The pack id of a sealed file.
    pub id: Option<PackId>,
    /// The length of the file in bytes.
    pub bytes: u64,
}

/// Collects tensors and writes them as one pack.
///
/// ```
/// # fn main() -> flashpack::Result<()> {
/// use flashpack::{Dtype, PlanOptions, WriteOptions, Writer};
///
/// let directory = tempfile::tempdir().unwrap();
/// let path = directory.path().join("model.flashpack");
/// let weights: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
///
/// let mut writer = Writer::new(PlanOptions::default());
/// writer.add("linear.weight", Dtype::Float32, [2, 2], weights.as_slice());
/// writer.metadata("format", "pt");
/// let written = writer.write(&path, &WriteOptions::default())?;
///
/// let pack = flashpack::Pack::open(&path)?;
/// assert_eq!(pack.id(), written.id);
/// assert_eq!(pack.read("linear.weight")?, weights);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Writer<'a> {
    options: PlanOptions,
    tensors: Vec<TensorInfo>,
    data: Vec<TensorData<'a>>,
}

impl<'a> Writer<'a> {
    /// Begins a pack.
    #[must_use]
    pub fn new(options: PlanOptions) -> Writer<'a> {
        Writer { options, tensors: Vec::new(), data: Vec::new() }
    }

    /// Adds a tensor. Its elements are little-endian, contiguous, the last dim varying fastest.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<u64>>,
        data: impl Into<TensorData<'a>>,
    ) -> &mut Writer<'a> {
        self.tensors.push(TensorInfo::new(name, dtype, shape));
        self.data.push(data.into());
        self
    }

    /// Adds a tensor whose bytes come from a stream, which must hold exactly as many as the shape has.
    pub fn add_stream(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<u64>>,
        stream: impl Read + Send + 'a,
    ) -> &mut Writer<'a> {
        self.add(name, dtype, shape, TensorData::Stream(Box::new(stream)))
    }

    /// Sets a metadata key. v3 and v4 packs do not keep any.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut Writer<'a> {
        self.options.metadata.insert(key.into(), value.into());
        self
    }

    /// The tensors so far.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Where everything will be.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self) -> Result<Plan> {
        Plan::new(&self.tensors, &self.options)
    }

    /// Writes the pack. The file appears at `path` only when it is whole; whatever goes wrong, what was there before stays as it was.
    ///
    /// # Errors
    /// [`Error::Input`] for tensors that make no pack, [`Error::Exists`], [`Error::Cancelled`], [`Error::Io`], and what the tensors'
    /// sources say.
    pub fn write(self, path: &Path, options: &WriteOptions<'_>) -> Result<Written> {
        let plan = self.plan()?;
        let lengths: Vec<u64> = self.tensors.iter().map(|tensor| tensor.bytes().unwrap_or_default()).collect();
        for (tensor, (data, length)) in self.tensors.iter().zip(self.data.iter().zip(&lengths)) {
            if let TensorData::Bytes(bytes) = data
                && bytes.len() as u64 != *length
            {
                let name = tensor.name.clone();
                return Err(Error::BufferLength { tensor: name, expected: *length, found: bytes.len() as u64 });
            }
        }
        write(plan, self.data, path, options)
    }
}

fn write(mut plan: Plan, mut data: Vec<TensorData<'_>>, path: &Path, options: &WriteOptions<'_>) -> Result<Written> {
    let target = Target::create(path, options.replace)?;
    let size = plan.file_size();
    target.set_len(size)?;
    let pieces = pieces(&plan);
    let chunk = plan.manifest.group_size();
    let digests = assemble::assemble(&target, plan.manifest.payload(), &pieces, &mut data, chunk, options.progress)?;

    if plan.manifest.layout != Layout::Sealed {
        refuse_head_magic(&target, size)?;
    }

    let put = |bytes: &[u8], offset: u64| target.write_at(bytes, offset);
    let mut id = None;
    if let Some(mut header) = plan.header {
        plan.manifest.tables.digests_mut().copy_from_slice(&digests);
        let tables = plan.manifest.tables.as_bytes();
        header.tables_digest = seal::digest(tables);
        header.footer_digest = seal::digest(&plan.footer);
        header.header_digest = header.digest();
        put(&header.to_bytes(), 0)?;
        put(tables, PAGE)?;
        id = Some(PackId(header.header_digest));
    }
    let footer_offset = plan.manifest.payload().end;
    put(&plan.footer, footer_offset)?;
    let trailer = Trailer { footer_length: plan.footer.len() as u64, magic: trailer::MAGIC };
    put(&trailer.to_bytes(), footer_offset.saturating_add(plan.footer.len() as u64))?;
    target.prepare(options.sync)?.publish()?;
    debug_assert_eq!(id.is_some(), plan.manifest.layout == Layout::Sealed);
    Ok(Written { manifest: plan.manifest, id, bytes: size })
}

/// A v3 or v4 file that begins with the magic of sealed ones would be taken for one, and refused (`WRITE-LEG-05`).
fn refuse_head_magic(target: &Target, size: u64) -> Result<()> {
    let mut head = [0; header::MAGIC.len()];
    if size >= head.len() as u64 {
        read_exact_at(target.file(), &mut head, 0).map_err(|error| Error::io(target.path(), error))?;
    }
    if head == header::MAGIC {
        return Err(Error::Input(
            "the first tensor begins with the bytes that mark sealed packs: only a sealed pack can hold it first".into(),
        ));
    }
    Ok(())
}

/// The tensors' places in the file, in its order.
fn pieces(plan: &Plan) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = plan
        .manifest
        .tensors()
        .zip(&plan.origins)
        .map(|(tensor, &data)| Piece { offset: tensor.offset, length: tensor.length, data })
        .collect();
    pieces.sort_unstable_by_key(|piece| piece.offset);
    pieces
}

/// Writes a small file the same way: whole or not at all.
pub(crate) fn write_small(path: &Path, bytes: &[u8], options: &WriteOptions<'_>) -> Result<()> {
    let target = Target::create(path, options.replace)?;
    target.write_at(bytes, 0)?;
    target.prepare(options.sync)?.publish()
}

/// Copies a regular file the same way.
pub(crate) fn copy_file(source: &Path, path: &Path, options: &WriteOptions<'_>) -> Result<()> {
    let from = Arc::new(FileSource::open(source).map_err(|error| Error::io(source, error))?);
    let target = Target::create(path, options.replace)?;
    let length = from.length();
    target.set_len(length)?;
    let bytes = FileBytes { source: from, offset: 0, path: source.into() };
    let pieces = [Piece { offset: 0, length, data: 0 }];
    let mut data = [TensorData::Positional(Box::new(bytes))];
    assemble::assemble(&target, 0..length, &pieces, &mut data, None, options.progress)?;
    target.prepare(options.sync)?.publish()
}

/// Bytes of a file that nothing verifies.
pub(crate) struct FileBytes {
    pub source: Arc<dyn ReadAt>,
    /// Where they begin in the file.
    pub offset: u64,
    pub path: Arc<Path>,
}

impl TensorBytes for FileBytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.source.read_exact_at(buffer, self.offset.saturating_add(offset)).map_err(|error| Error::io(&self.path, error))
    }
}
