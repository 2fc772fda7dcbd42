//! A model in one or several safetensors files, found from a file, an index, or a directory that holds either.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::contained;
use super::safetensors::SafetensorsFile;

/// How the index of a sharded checkpoint is named.
pub(crate) const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// The longest index that is read, in bytes. One of 100,000 tensors has about 10 MB.
const MAX_INDEX: u64 = 256 << 20;

/// The stems under which libraries save a model, for directories with several files.
const USUAL_STEMS: [&str; 3] = ["model", "diffusion_pytorch_model", "pytorch_model"];

/// The files of a model.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Path and contents of each file, in the order of their names.
    pub files: Vec<(PathBuf, SafetensorsFile)>,
}

impl Checkpoint {
    /// Opens the model at a path. In a directory, `variant` chooses among files such as `model.fp16.safetensors`.
    pub(crate) fn open(path: &Path, variant: Option<&str>) -> Result<Checkpoint> {
        let path = if path.is_dir() {
            let chosen = choose(path, variant)?;
            contained::check(path, &chosen)?;
            chosen
        } else {
            path.to_owned()
        };
        if is_index(&path) {
            return open_sharded(&path);
        }
        let file = SafetensorsFile::open(&path)?;
        Ok(Checkpoint { files: vec![(path, file)] })
    }
}

/// Whether a directory holds a model that [`Checkpoint::open`] would find, of this variant or without one.
pub(crate) fn is_in(directory: &Path, variant: Option<&str>) -> Result<bool> {
    Ok(!candidates(directory, variant)?.is_empty())
}

/// Whether a file is part of a model's weights: these are converted, not copied.
pub(crate) fn is_weights(name: &str) -> bool {
    const ENDINGS: [&str; 11] =
        [".safetensors", ".flashpack", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".gguf"];
    let index = name.ends_with(".json") && (name.contains(".safetensors.index.") || name.contains(".bin.index."));
    index || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_index(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".json") && name.contains(".safetensors.index")
}

/// The file of a directory that stands for its model.
fn choose(directory: &Path, variant: Option<&str>) -> Result<PathBuf> {
    let mut found = candidates(directory, variant)?;
    if found.len() > 1 {
        let usual = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            USUAL_STEMS.iter().any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.')))
        };
        let usual: Vec<PathBuf> = found.iter().filter(|path| usual(path)).cloned().collect();
        if usual.len() == 1 {
            found = usual;
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::Input(match variant {
            Some(variant) => format!("{}: no safetensors files of variant {variant:?} in it", directory.display()),
            None => format!("{}: no safetensors files in it", directory.display()),
        })),
        several => {
            let names: Vec<_> = several.iter().filter_map(|path| path.file_name()?.to_str()).collect();
            Err(Error::Input(format!("{}: several models in it, name one: {}", directory.display(), names.join(", "))))
        }
    }
}

/// Indexes, and files that by their names are whole models and no shards, of the given variant.
fn candidates(directory: &Path, variant: Option<&str>) -> Result<Vec<PathBuf>> {
    let io_error = |error| Error::io(directory, error);
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(io_error)? {
        let entry = entry.map_err(io_error)?;
        if entry.path().is_file()
            && let Some(name) = entry.file_name().to_str()
        {
            names.insert(name.to_owned());
        }
    }
    let found = names.iter().filter(|name| match Kind::of(name) {
        Some(Kind::Index(found)) => found == variant,
        Some(Kind::Whole(found)) => found == variant,
        Some(Kind::Shard) | None => false,
    });
    Ok(found.map(|name| directory.join(name)).collect())
}

/// What a file name says.
#[derive(Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// `STEM.safetensors.index.json`, `STEM.safetensors.index.VARIANT.json` or `STEM.VARIANT.safetensors.index.json`.
    Index(Option<&'a str>),
    /// `STEM.safetensors` or `STEM.VARIANT.safetensors`.
    Whole(Option<&'a str>),
    /// `STEM-00001-of-00003.safetensors`, with a variant before or after the numbers.
    Shard,
}

impl<'a> Kind<'a> {
    fn of(name: &'a str) -> Option<Kind<'a>> {
        let variant_of = |stem: &'a str| stem.rsplit_once('.').map(|(_, variant)| variant);
        if let Some(stem) = name.strip_suffix(INDEX_SUFFIX) {
            return Some(Kind::Index(variant_of(stem)));
        }
        if let Some((_, rest)) = name.split_once(".safetensors.index.") {
            return rest.strip_suffix(".json").map(|variant| Kind::Index(Some(variant)));
        }
        let stem = name.strip_suffix(".safetensors")?;
        let is_shard = stem.split(['.', '-']).collect::<Vec<_>>().windows(3).any(|parts| {
            matches!(parts, [number, "of", count] if number.len() == 5 && [number, count].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit())))
        });
        Some(if is_shard { Kind::Shard } else { Kind::Whole(variant_of(stem)) })
    }
}

/// The part of an index that matters: which file holds which tensor.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_sharded(path: &Path) -> Result<Checkpoint> {
    let invalid = |message: String| Error::Malformed { path: path.to_owned(), what: "index of safetensors files", message };
    let io_error = |error| Error::io(path, error);
    let length = std::fs::metadata(path).map_err(io_error)?.len();
    if length > MAX_INDEX {
        return Err(invalid(format!("it has {length} bytes")));
    }
    let bytes = std::fs::read(path).map_err(io_error)?;
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    for name in weight_map.values().collect::<BTreeSet<_>>() {
        // Only files beside the index: one from a stranger must not reach elsewhere.
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0', ':']) {
            return Err(invalid(format!("shard {name:?} is not a plain file name")));
        }
        let shard = folder.join(name);
        contained::check(folder, &shard)?;
        files.push((SafetensorsFile::open(&shard)?, shard));
    }
    let mut missing: BTreeMap<&str, &str> = weight_map.iter().map(|(tensor, file)| (tensor.as_str(), file.as_str())).collect();
    for (file, shard) in &files {
        let shard = shard.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for (tensor, _) in file.tensors() {
            if weight_map.get(&tensor.name).map(String::as_str) != Some(shard) {
                return Err(invalid(format!("{shard:?} holds tensor {:?}, the index says otherwise", tensor.name)));
            }
            missing.remove(tensor.name.as_str());
        }
    }
    if let Some((tensor, shard)) = missing.into_iter().next() {
        return Err(invalid(format!("tensor {tensor:?} is not in {shard:?}")));
    }
    Ok(Checkpoint { files: files.into_iter().map(|(file, path)| (path, file)).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whole_files_from_shards_and_variants() {
        assert_eq!(Kind::of("model.safetensors"), Some(Kind::Whole(None)));
        assert_eq!(Kind::of("model.fp16.safetensors"), Some(Kind::Whole(Some("fp16"))));
        assert_eq!(Kind::of("model-00001-of-00002.safetensors"), Some(Kind::Shard));
        assert_eq!(Kind::of("model-00001-of-00002.fp16.safetensors"), Some(Kind::Shard));
        assert_eq!(Kind::of("model.fp16-00001-of-00002.safetensors"), Some(Kind::Shard));
        assert_eq!(Kind::of("model.safetensors.index.json"), Some(Kind::Index(None)));
        assert_eq!(Kind::of("model.safetensors.index.fp16.json"), Some(Kind::Index(Some("fp16"))));
        assert_eq!(Kind::of("model.fp16.safetensors.index.json"), Some(Kind::Index(Some("fp16"))));
        assert_eq!(Kind::of("config.json"), None);
    }
}
