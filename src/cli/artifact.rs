//! A picture or a table that a command writes beside what it prints: it appears whole, and replaces nothing unasked.

use std::io::{self, Write};
use std::path::Path;

use flashpack::Error;

/// Refuses a file that exists, unless replacing it was asked for. To be asked before long work, not only after.
pub(crate) fn refuse_existing(path: &Path, force: bool) -> flashpack::Result<()> {
    if !force && path.symlink_metadata().is_ok() { Err(Error::Exists(path.to_owned())) } else { Ok(()) }
}

/// Writes a file.
pub(crate) fn write(path: &Path, bytes: &[u8], force: bool) -> flashpack::Result<()> {
    refuse_existing(path, force)?;
    let io_error = |error| Error::io(path, error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = builder().tempfile_in(folder).map_err(io_error)?;
    file.write_all(bytes).map_err(io_error)?;
    let persisted = if force { file.persist(path) } else { file.persist_noclobber(path) };
    match persisted {
        Ok(_) => Ok(()),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists(path.to_owned())),
        Err(failed) => Err(io_error(failed.error)),
    }
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".flashpack-").suffix(".tmp");
    #[cfg(unix)]
    {
        // As for any new file: what the umask leaves. The default of `tempfile` is for secrets.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
}
