//! A file that appears whole or not at all.
//!
//! The bytes go to a temporary file in the folder of the target, then to disk, then a rename puts the file in its place and the folder
//! goes to disk as well. The temporary file is removed when anything goes wrong, a cancelled run included.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::{NamedTempFile, TempPath};

use super::folder::{Folder, PREFIX, RANDOM, SUFFIX, folder};
use crate::error::{Error, Result};
use crate::source::write_all_at;

/// Bytes of one write. Linux makes page cache for a large write of large pages, which it may first have to find: writes of 1 MiB took twice the
/// system time of these, writes of 2 MiB seven times.
const AT_ONCE: usize = 256 << 10;

pub(crate) struct Target {
    temporary: NamedTempFile,
    /// The kernel lets one thread write a file at a time, and has the others spin: here they sleep.
    writing: Mutex<()>,
    path: PathBuf,
    replace: bool,
    /// Until the file has appeared, nobody sweeps.
    folder: Folder,
}

impl Target {
    /// Begins a file. Without `replace`, a file at the target is an error now, and at the end if one has appeared by then.
    pub(crate) fn create(path: &Path, replace: bool) -> Result<Target> {
        refuse_existing(path, replace)?;
        Target::create_in(Folder::of(path)?, path, replace)
    }

    /// The same in a folder that was entered for several files.
    pub(crate) fn create_in(folder: Folder, path: &Path, replace: bool) -> Result<Target> {
        refuse_existing(path, replace)?;
        let parent = self::folder(path);
        let temporary = builder().tempfile_in(parent).map_err(|error| Error::io(path, error))?;
        Ok(Target { temporary, writing: Mutex::new(()), path: path.to_owned(), replace, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// Writes bytes at an offset. Threads may do so at once.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offset = offset;
        for part in bytes.chunks(AT_ONCE) {
            write_all_at(self.file(), part, offset).map_err(|error| Error::io(&self.path, error))?;
            offset = offset.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// Sets the length. What is not written later reads as zeros.
    pub(crate) fn set_len(&self, length: u64) -> Result<()> {
        self.file().set_len(length).map_err(|error| Error::io(&self.path, error))
    }

    /// Has the bytes on disk, if so wished, and closes the file. It is still under its temporary name.
    pub(crate) fn prepare(self, sync: bool) -> Result<Prepared> {
        let Target { temporary, path, replace, folder, writing: _ } = self;
        if sync {
            temporary.as_file().sync_all().map_err(|error| Error::io(&path, error))?;
        }
        Ok(Prepared { temporary: temporary.into_temp_path(), path, replace, sync, _folder: folder })
    }
}

/// A file that is whole and waits to appear.
pub(crate) struct Prepared {
    temporary: TempPath,
    path: PathBuf,
    replace: bool,
    sync: bool,
    _folder: Folder,
}

impl Prepared {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in its place.
    pub(crate) fn publish(self) -> Result<()> {
        let Prepared { temporary, path, replace, sync, _folder } = self;
        let persisted = if replace { temporary.persist(&path) } else { temporary.persist_noclobber(&path) };
        match persisted {
            Ok(()) => {}
            Err(failed) if !replace && failed.error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(path)),
            Err(failed) => return Err(Error::io(&path, failed.error)),
        }
        if sync { sync_folder(&path) } else { Ok(()) }
    }
}

fn refuse_existing(path: &Path, replace: bool) -> Result<()> {
    // A link is not followed: it is the link itself that would be replaced.
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if metadata.is_dir() {
        return Err(Error::io(path, io::Error::new(io::ErrorKind::IsADirectory, "is a directory")));
    }
    if !metadata.is_file() && !metadata.is_symlink() {
        return Err(Error::io(path, io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")));
    }
    if replace { Ok(()) } else { Err(Error::Exists(path.to_owned())) }
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    {
        // As for any new file: what the umask leaves. The default of `tempfile` is for secrets.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
}

/// Has the rename itself on disk. Only Unix lets a folder be opened for that.
#[cfg(unix)]
fn sync_folder(path: &Path) -> Result<()> {
    File::open(folder(path)).and_then(|folder| folder.sync_all()).map_err(|error| Error::io(path, error))
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> Result<()> {
    Ok(())
}
