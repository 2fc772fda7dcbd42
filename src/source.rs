//! The one door to bytes: sized, positional, shareable between threads.
//!
//! Everything above reads with [`ReadAt`] into memory that it owns, so a file that another process truncates or rewrites gives an
//! error or other bytes, never a fault. The exception is [`Mapping`], whose constructor is `unsafe` for that reason.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a fixed length that can be read at any place, from several threads at once.
pub trait ReadAt: Send + Sync {
    /// The length in bytes, as it was when the source was opened.
    fn length(&self) -> u64;

    /// Fills `buffer` from the bytes that begin at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the source ends before the buffer is full; otherwise what the operating system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(buffer.len()));
        let bytes = start.zip(end).and_then(|(start, end)| self.get(start..end)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn length(&self) -> u64 {
        self.as_slice().length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn length(&self) -> u64 {
        (**self).length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn length(&self) -> u64 {
        (**self).length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// An open regular file. The path is looked up once: whatever happens to it later, these are the bytes of one file.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    length: u64,
}

impl FileSource {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// What the operating system says, and `InvalidInput` for anything but a regular file: a pipe or a device has no length.
    pub fn open(path: &Path) -> io::Result<FileSource> {
        // Asked before opening too, as opening a pipe would wait for its writer.
        refuse_irregular(&std::fs::metadata(path)?)?;
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        refuse_irregular(&metadata)?;
        Ok(FileSource { length: metadata.len(), file })
    }
}

#[cfg(feature = "cuda")]
impl FileSource {
    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

fn refuse_irregular(metadata: &std::fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let kind = if metadata.is_dir() { "is a directory" } else { "is not a regular file" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, kind))
}

impl ReadAt for FileSource {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(&self.file, buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the file became shorter while it was read"),
            _ => error,
        })
    }
}

#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = buffer.get_mut(read..).unwrap_or_default();
                offset = offset.saturating_add(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset = offset.saturating_add(written as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A file mapped into memory.
#[derive(Debug)]
pub struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Maps a whole open file.
    ///
    /// # Safety
    /// Nobody may change or truncate the file while the mapping lives: its bytes are handed out as `&[u8]`, which promises that they
    /// stay as they are, and touching a page past a new end of the file kills the process (SIGBUS).
    ///
    /// # Errors
    /// What the operating system says.
    pub unsafe fn of(source: &FileSource) -> io::Result<Mapping> {
        // SAFETY: the caller promises that the file stays as it is for as long as the mapping lives.
        Ok(Mapping(unsafe { memmap2::Mmap::map(&source.file)? }))
    }

    /// The bytes of the file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl ReadAt for Mapping {
    fn length(&self) -> u64 {
        self.0.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.as_ref().read_exact_at(buffer, offset)
    }
}

/// New memory for `length` bytes that will be overwritten; memory that cannot be had is an error.
///
/// Only fresh pages come zeroed for nothing, and only `vec!` asks for them: filling a reserved vector would touch all of it once more.
/// As `vec!` ends the process when memory cannot be had, that is asked first.
pub(crate) fn zeroed(length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    Vec::<u8>::new().try_reserve_exact(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    Ok(vec![0; length])
}

/// Reads `length` bytes into new memory. The caller has checked the length against the source and its limits.
pub(crate) fn read_vec(source: &dyn ReadAt, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = zeroed(length)?;
    source.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
