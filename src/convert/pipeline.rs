//! A diffusers pipeline: a directory with a `model_index.json` and one directory a component.
//!
//! Each component with safetensors weights gets a `model.flashpack`, which is where the Python package's loaders look. Everything else is copied,
//! but for hidden files and for weights that a component has in other forms too. Weights that would get lost are an error.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::writer::{WriteOptions, copy_file};

use super::checkpoint::{self, Checkpoint};
use super::contained;
use super::import::{self, ConvertOptions, Converted, Source};

/// The file that makes a directory a pipeline.
pub(super) const INDEX: &str = "model_index.json";

/// The pack of a component.
const PACK: &str = "model.flashpack";

/// Converts a pipeline. Without a target the packs go beside the weights they were made from; with one, which must not exist unless
/// replacing is allowed, the whole pipeline is built elsewhere and appears at once.
pub(super) fn convert(source: &Path, target: Option<&Path>, options: &ConvertOptions<'_>) -> Result<Vec<Converted>> {
    let pipeline = Pipeline::read(source, options.variant.as_deref())?;
    pipeline.check()?;
    let Some(target) = target else { return pipeline.pack_into(source, options) };
    if target.exists() {
        if !options.write.replace {
            return Err(Error::Exists(target.to_owned()));
        }
        // Files are replaced one by one, each at once.
        pipeline.copy_into(target, &options.write)?;
        return pipeline.pack_into(target, options);
    }
    let io_error = |error| Error::io(target, error);
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(io_error)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".flashpack-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    // Removed when dropped, so a failure leaves nothing.
    let temporary = builder.tempdir_in(parent).map_err(io_error)?;
    pipeline.copy_into(temporary.path(), &options.write)?;
    let mut converted = pipeline.pack_into(temporary.path(), options)?;
    std::fs::rename(temporary.path(), target).map_err(io_error)?;
    for pack in &mut converted {
        if let Ok(within) = pack.path.strip_prefix(temporary.path()) {
            pack.path = target.join(within);
        }
    }
    // It is at its place under another name now: there is nothing to remove.
    let _ = temporary.keep();
    Ok(converted)
}

/// A pipeline's files, as paths relative to it.
struct Pipeline {
    root: PathBuf,
    /// Directories with weights, and the variant to take from each: those without the asked one give their plain weights.
    components: Vec<(PathBuf, Option<String>)>,
    /// Everything else.
    others: Vec<PathBuf>,
}

impl Pipeline {
    fn read(root: &Path, variant: Option<&str>) -> Result<Pipeline> {
        let mut pipeline = Pipeline { root: root.to_owned(), components: Vec::new(), others: Vec::new() };
        let mut with_variant = false;
        for (name, is_directory) in entries(root)? {
            let path = root.join(&name);
            if !is_directory {
                pipeline.add_other(PathBuf::from(name))?;
                continue;
            }
            if checkpoint::is_in(&path, variant)? {
                with_variant = true;
                pipeline.components.push((PathBuf::from(&name), variant.map(str::to_owned)));
            } else if checkpoint::is_in(&path, None)? {
                pipeline.components.push((PathBuf::from(&name), None));
            }
            pipeline.add_directory(Path::new(&name))?;
        }
        if pipeline.components.is_empty() {
            return Err(Error::Input(format!("{}: no component has safetensors weights", root.display())));
        }
        if let Some(variant) = variant.filter(|_| !with_variant) {
            return Err(Error::Input(format!("{}: no component has weights of variant {variant:?}", root.display())));
        }
        Ok(pipeline)
    }

    fn add_other(&mut self, within: PathBuf) -> Result<()> {
        let name = within.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !checkpoint::is_weights(name) {
            self.others.push(within);
            return Ok(());
        }
        // Other forms of a component's weights, and other variants, are what its pack is instead of.
        if self.components.iter().any(|(component, _)| within.parent() == Some(component)) {
            return Ok(());
        }
        let path = self.root.join(&within);
        Err(Error::Input(format!(
            "{}: weights that no pack would hold: only a component's own safetensors are packed",
            path.display()
        )))
    }

    fn add_directory(&mut self, within: &Path) -> Result<()> {
        for (name, is_directory) in entries(&self.root.join(within))? {
            let path = within.join(name);
            if is_directory {
                self.add_directory(&path)?;
            } else {
                self.add_other(path)?;
            }
        }
        Ok(())
    }

    /// Opens every component, so that a broken one is found before anything is written.
    fn check(&self) -> Result<()> {
        self.components
            .iter()
            .try_for_each(|(component, variant)| Checkpoint::open(&self.root.join(component), variant.as_deref()).map(|_| ()))
    }

    fn pack_into(&self, target: &Path, options: &ConvertOptions<'_>) -> Result<Vec<Converted>> {
        let mut converted = Vec::new();
        for (component, variant) in &self.components {
            let directory = self.root.join(component);
            let options = ConvertOptions { variant: variant.clone(), ..options.clone() };
            let source = Source::open(&directory, &options)?;
            converted.push(import::write(source, &target.join(component).join(PACK), &options)?);
        }
        Ok(converted)
    }

    fn copy_into(&self, target: &Path, options: &WriteOptions<'_>) -> Result<()> {
        for within in &self.others {
            contained::check(&self.root, &self.root.join(within))?;
            copy_file(&self.root.join(within), &target.join(within), options)?;
        }
        Ok(())
    }
}

/// The names in a directory, sorted, and whether each is a directory. Hidden ones are passed over; links to directories are refused, as they
/// may go round in circles.
fn entries(directory: &Path) -> Result<Vec<(String, bool)>> {
    let io_error = |error| Error::io(directory, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error)? {
        let entry = entry.map_err(io_error)?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| Error::Input(format!("{}: a name that is not UTF-8", directory.join(name).display())))?;
        if name.starts_with('.') {
            continue;
        }
        if entry.file_type().map_err(io_error)?.is_symlink() && entry.path().is_dir() {
            return Err(Error::Input(format!("{}: a link to a directory is not followed", entry.path().display())));
        }
        found.push((name, entry.path().is_dir()));
    }
    found.sort();
    Ok(found)
}
