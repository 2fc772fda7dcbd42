//! Models to packs and back: safetensors files, sharded checkpoints, pipeline directories, other packs.
//!
//! | module | is |
//! |---|---|
//! | [`safetensors`] | a safetensors file, opened and checked |
//! | `checkpoint` | a model in one or several safetensors files, found from a file, an index or a directory |
//! | `contained` | the rule that a folder's files lie in it |
//! | `pipeline` | a diffusers pipeline: a directory of models and their configurations |
//! | `import` | any of these, or another pack, to a pack |
//! | `export` | a pack to safetensors |
//! | [`cast`] | elements of one dtype to another |

pub mod cast;
mod checkpoint;
mod contained;
mod export;
mod import;
mod pipeline;
pub mod safetensors;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use export::{RevertOptions, revert};
pub use import::{ConvertOptions, Converted};

use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::writer::TensorBytes;

/// Tensors to leave out, by name. The default leaves none out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Names as they are.
    pub names: Vec<String>,
    /// How names begin.
    pub prefixes: Vec<String>,
    /// How names end.
    pub suffixes: Vec<String>,
}

impl Filter {
    /// Whether a tensor of this name is left out.
    #[must_use]
    pub fn ignores(&self, name: &str) -> bool {
        self.names.iter().any(|ignored| ignored == name)
            || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| name.ends_with(suffix))
    }
}

/// Converts a model to a pack, or a pipeline directory to a directory of packs.
///
/// `source` is a `.safetensors` file, a `.safetensors.index.json`, a directory with either, a pipeline directory (one with a
/// `model_index.json`), or a `.flashpack` file. Without a `target`, a file's pack goes beside it under its own name, a directory's into it as
/// `model.flashpack`.
///
/// A pack as source is checked whole before anything is written, and verified again as it is copied.
///
/// # Errors
/// [`Error::Input`] for a source that cannot be converted as asked, [`Error::Invalid`] and [`Error::Malformed`] for a broken one,
/// [`Error::Exists`], [`Error::Cancelled`], [`Error::Io`]. Whatever goes wrong, a target that is a file, or a folder that did not exist, stays as
/// it was; in a folder that is replaced, each file is the old or the new one.
pub fn convert(source: &Path, target: Option<&Path>, options: &ConvertOptions<'_>) -> Result<Vec<Converted>> {
    if source.is_dir() && source.join(pipeline::INDEX).is_file() {
        return pipeline::convert(source, target, options);
    }
    let target = match target {
        Some(target) => target.to_owned(),
        None => default_target(source, options.variant.as_deref())?,
    };
    let opened = import::Source::open(source, options)?;
    Ok(vec![import::write(opened, &target, options)?])
}

/// The safetensors files that a model consists of: the file itself, or the shards of a folder or an index.
///
/// # Errors
/// As [`convert`] for the same source.
pub fn safetensors_files(source: &Path, variant: Option<&str>) -> Result<Vec<PathBuf>> {
    let checkpoint = checkpoint::Checkpoint::open(source, variant)?;
    Ok(checkpoint.files.into_iter().map(|(path, _)| path).collect())
}

/// The pack's path when none is given.
fn default_target(source: &Path, variant: Option<&str>) -> Result<PathBuf> {
    if source.is_dir() {
        return Ok(source.join(match variant {
            Some(variant) => format!("model.{variant}.flashpack"),
            None => "model.flashpack".to_owned(),
        }));
    }
    let name = source.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::Input(format!("{}: name the target", source.display())))?;
    let stem = [checkpoint::INDEX_SUFFIX, ".safetensors", ".flashpack"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
    Ok(source.with_file_name(format!("{}.flashpack", stem.unwrap_or(name))))
}

/// A tensor in a pack, verified as it is read.
struct PackPart {
    pack: Arc<Pack>,
    /// Bytes from the start of the file.
    offset: u64,
}

impl TensorBytes for PackPart {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.pack.read_range(self.offset.saturating_add(offset), buffer)
    }
}
