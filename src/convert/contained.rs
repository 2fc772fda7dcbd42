//! Folders come from strangers too: what they name must lie in them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Refuses a path in a folder that leads out of it by a link. A link that stays within is fine, and so is one into the model's own cache:
/// Hugging Face keeps a model as `models--NAME/snapshots/REVISION/` full of links to `models--NAME/blobs/`.
pub(super) fn check(folder: &Path, path: &Path) -> Result<()> {
    let resolve = |path: &Path| path.canonicalize().map_err(|error| Error::io(path, error));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (root, found) = (cache_root(resolve(folder)?), resolve(path)?);
    if found.starts_with(&root) {
        return Ok(());
    }
    Err(Error::Input(format!("{}: a link that leads out of {} is not followed", path.display(), root.display())))
}

/// The folder of the whole model, for a snapshot (or a component in one) in a cache; otherwise the folder itself.
fn cache_root(folder: PathBuf) -> PathBuf {
    let snapshots = folder.ancestors().find(|ancestor| ancestor.file_name().is_some_and(|name| name == "snapshots"));
    match snapshots.and_then(Path::parent) {
        Some(model) if model.join("blobs").is_dir() => model.to_owned(),
        _ => folder,
    }
}
