//! A checkpoint or a pack to a pack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::{header, trailer};
use crate::pack::{OpenOptions, Pack};
use crate::plan::{PlanOptions, TensorInfo};
use crate::rule::Layout;
use crate::source::{FileSource, ReadAt};
use crate::writer::{FileBytes, TensorBytes, TensorData, WriteOptions, Writer, Written};

use super::cast;
use super::checkpoint::{self, Checkpoint};
use super::{Filter, PackPart};

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions<'a> {
    /// The layout of the pack. Metadata given here is added to the source's, and wins.
    pub plan: PlanOptions,
    /// Casts every tensor to this dtype, as PyTorch's `Tensor.to` does.
    pub dtype: Option<Dtype>,
    /// Tensors to leave out.
    pub filter: Filter,
    /// Which files of a directory to take: `fp16` for `model.fp16.safetensors`.
    pub variant: Option<String>,
    /// How the pack comes to its place.
    pub write: WriteOptions<'a>,
    /// How a source that is a pack is opened.
    pub open: OpenOptions,
}

/// A pack that was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Converted {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub written: Written,
    /// Number of tensors in it.
    pub tensors: usize,
    /// Number of tensors left out by the filter.
    pub ignored: usize,
    /// Whether the source had metadata that the layout has no place for.
    pub dropped_metadata: bool,
}

/// A model to be packed: its tensors, in its own order, and its metadata.
pub(super) struct Source {
    tensors: Vec<(TensorInfo, Box<dyn TensorBytes>)>,
    metadata: BTreeMap<String, String>,
}

impl Source {
    pub(super) fn open(path: &Path, options: &ConvertOptions<'_>) -> Result<Source> {
        if !path.is_dir() && is_pack(path)? {
            let pack = options.open.open(path)?;
            // With the caller's progress, so that this pass shows and can be cancelled too.
            pack.verify(options.write.progress)?;
            return Source::of_pack(pack, path);
        }
        refuse_unknown(path)?;
        if options.open.demands_a_pack() {
            return Err(Error::Input(format!("{}: only a pack can have a seal and a pack id", path.display())));
        }
        Source::of_checkpoint(Checkpoint::open(path, options.variant.as_deref())?)
    }

    fn of_checkpoint(checkpoint: Checkpoint) -> Result<Source> {
        let mut source = Source { tensors: Vec::new(), metadata: BTreeMap::new() };
        for (path, file) in checkpoint.files {
            let path: Arc<Path> = path.into();
            for (info, range) in file.tensors() {
                let bytes = FileBytes { source: file.source().clone(), offset: range.start, path: path.clone() };
                source.tensors.push((info.clone(), Box::new(bytes)));
            }
            // Shards say the same; where they do not, the first one's word stands.
            for (key, value) in file.metadata() {
                source.metadata.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Ok(source)
    }

    fn of_pack(pack: Pack, path: &Path) -> Result<Source> {
        let pack = Arc::new(pack);
        let mut source = Source { tensors: Vec::new(), metadata: BTreeMap::new() };
        source.metadata.extend(pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.to_owned())));
        for number in pack.manifest().tiling_order() {
            let tensor = usize::try_from(number).ok().and_then(|number| pack.manifest().nth(number));
            let tensor = tensor.ok_or_else(|| Error::Input(format!("{}: too many tensors", path.display())))?;
            let info = TensorInfo::new(tensor.name, tensor.dtype, tensor.shape.to_vec());
            source.tensors.push((info, Box::new(PackPart { pack: pack.clone(), offset: tensor.offset })));
        }
        Ok(source)
    }
}

/// Writes a model as a pack.
pub(super) fn write(source: Source, target: &Path, options: &ConvertOptions<'_>) -> Result<Converted> {
    let mut plan = options.plan.clone();
    let dropped_metadata = plan.layout != Layout::Sealed && !source.metadata.is_empty();
    for (key, value) in source.metadata {
        plan.metadata.entry(key).or_insert(value);
    }
    let all = source.tensors.len();
    let mut writer = Writer::new(plan);
    for (info, bytes) in source.tensors {
        if options.filter.ignores(&info.name) {
            continue;
        }
        let TensorInfo { name, dtype, shape } = info;
        let to = options.dtype.unwrap_or(dtype);
        if to == dtype {
            writer.add(name, dtype, shape, TensorData::Positional(bytes));
        } else if cast::is_supported(dtype, to) {
            writer.add(name, to, shape, TensorData::Positional(Box::new(CastBytes { bytes, from: dtype, to })));
        } else {
            return Err(Error::Input(format!("tensor {name:?}: {dtype} cannot be cast to {to}")));
        }
    }
    let tensors = writer.tensors().len();
    if tensors == 0 && all > 0 {
        return Err(Error::Input("every tensor of the source is ignored: nothing to pack".into()));
    }
    let written = writer.write(target, &options.write)?;
    Ok(Converted { path: target.to_owned(), written, tensors, ignored: all.saturating_sub(tensors), dropped_metadata })
}

/// Whether a file is a pack, by its first or last bytes or, for a broken one, by its name.
fn is_pack(path: &Path) -> Result<bool> {
    let source = FileSource::open(path).map_err(|error| Error::io(path, error))?;
    let mut head = [0; header::MAGIC.len()];
    let mut tail = [0; trailer::MAGIC.len()];
    let last = source.length().checked_sub(tail.len() as u64);
    if let Some(last) = last {
        source
            .read_exact_at(&mut head, 0)
            .and_then(|()| source.read_exact_at(&mut tail, last))
            .map_err(|error| Error::io(path, error))?;
    }
    let named = |extension: &str| path.extension().is_some_and(|found| found == extension);
    // The last bytes of a safetensors file are weights: they may be anything.
    Ok(head == header::MAGIC || named("flashpack") || (tail == trailer::MAGIC && !named("safetensors")))
}

fn refuse_unknown(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if path.is_dir() || name.ends_with(".safetensors") || name.contains(".safetensors.index") {
        return Ok(());
    }
    if checkpoint::is_weights(&name) {
        return Err(Error::Input(format!(
            "{}: only safetensors files and packs are read; pickled files can run code, so convert them to safetensors first",
            path.display()
        )));
    }
    Err(Error::Input(format!("{}: neither a safetensors file, nor an index of some, nor a pack", path.display())))
}

/// A tensor whose elements are cast as they are read.
struct CastBytes {
    bytes: Box<dyn TensorBytes>,
    from: Dtype,
    to: Dtype,
}

impl TensorBytes for CastBytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        /// Elements cast at a time: few enough that both ends stay in the cache.
        const ELEMENTS: usize = 32 << 10;
        let size = |dtype: Dtype| usize::try_from(dtype.bits() / 8).unwrap_or(1);
        let (from, to) = (size(self.from), size(self.to));
        let mut element = self.to.elements_in(offset).ok_or_else(|| Error::Input("a read within an element".into()))?;
        let mut source = vec![0; ELEMENTS.saturating_mul(from)];
        for part in buffer.chunks_mut(ELEMENTS.saturating_mul(to)) {
            let elements = part.len().checked_div(to).unwrap_or_default();
            let source = source.get_mut(..elements.saturating_mul(from)).unwrap_or_default();
            self.bytes.read_at(source, self.from.bytes_of(element).unwrap_or(u64::MAX))?;
            cast::cast(self.from, self.to, source, part);
            element = element.saturating_add(elements as u64);
        }
        Ok(())
    }
}
