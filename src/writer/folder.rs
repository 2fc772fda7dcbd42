//! The folder in which files are being written: what an earlier run left there when it was killed is swept.
//!
//! Every run that writes into a folder holds a shared lock on it until its files have appeared. A run that gets the lock alone knows that no
//! temporary file there is anyone's, and removes them. The lock is the kernel's, on the folder itself: it ends with the process, and leaves
//! no file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// How the names of temporary files begin and end: recognizable, and hidden. Between them are [`RANDOM`] letters and digits.
pub(super) const PREFIX: &str = ".flashpack-";
pub(super) const SUFFIX: &str = ".tmp";
pub(super) const RANDOM: usize = 8;

/// A folder that is written to. While any clone lives, no other run sweeps it.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    /// `None` where folders cannot be locked: nothing is swept there.
    _lock: Option<Arc<File>>,
}

impl Folder {
    /// Makes the folder of a file, if there is none, and enters it.
    pub(crate) fn of(path: &Path) -> Result<Folder> {
        let folder = folder(path);
        // As the Python package does. A folder is no harm should the rest fail.
        std::fs::create_dir_all(folder).map_err(|error| Error::io(path, error))?;
        Ok(Folder { _lock: lock(folder).map(Arc::new) })
    }
}

/// The folder in which a file lies.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn lock(folder: &Path) -> Option<File> {
    let handle = File::open(folder).ok()?;
    if handle.try_lock().is_ok() {
        sweep(folder);
        handle.unlock().ok()?;
    }
    // Waits for no longer than another run takes to sweep.
    handle.lock_shared().ok()?;
    Some(handle)
}

#[cfg(not(unix))]
fn lock(_folder: &Path) -> Option<File> {
    None
}

/// Removes temporary files. What cannot be removed, or is someone else's, stays.
#[cfg(unix)]
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_temporary);
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(unix)]
fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}
