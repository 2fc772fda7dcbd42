//! How bytes come from the file into a staging slot: through the page cache, or past it.

use std::io;
use std::ops::Range;
#[cfg(target_os = "linux")]
use std::sync::atomic::Ordering;

use crate::pack::Pack;
use crate::source::ReadAt;

/// Reads past the page cache begin and end at multiples of this.
pub(super) const PAGE: u64 = 4096;

/// How the bytes of a pack are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Past the page cache if little of the file is in it, else through it.
    Auto,
    /// Through the page cache.
    Buffered,
    /// Past the page cache (`O_DIRECT`), which leaves it as it is. From the first chunk that cannot be read so, it is
    /// read through it, and said to be.
    Direct,
    /// No host copy at all: the device reads the file's mapping. Nothing is verified: [`Loader::load_registered`](super::Loader::load_registered).
    Registered,
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Strategy::Auto => "auto",
            Strategy::Buffered => "buffered",
            Strategy::Direct => "direct",
            Strategy::Registered => "registered",
        })
    }
}

/// A file opened for one strategy.
pub(super) struct Reading<'a> {
    source: &'a dyn ReadAt,
    #[cfg(target_os = "linux")]
    direct: Option<std::fs::File>,
    /// Whether a chunk could not be read past the page cache: then none is, from there on.
    #[cfg(target_os = "linux")]
    fell_back: std::sync::atomic::AtomicBool,
}

#[cfg(target_os = "linux")]
impl<'a> Reading<'a> {
    /// Prepares the strategy; `samples` are places in the file at which `Auto` looks whether they are cached.
    pub(super) fn new(pack: &'a Pack, strategy: Strategy, samples: impl Iterator<Item = u64>) -> Reading<'a> {
        let direct = match strategy {
            Strategy::Direct => direct(pack),
            Strategy::Auto if pack.file().is_some_and(|file| !mostly_cached(file.file(), samples)) => direct(pack),
            _ => None,
        };
        Reading { source: pack.source(), direct, fell_back: false.into() }
    }

    /// How the chunks were read; past the page cache only if all were.
    pub(super) fn strategy(&self) -> Strategy {
        if self.direct.is_some() && !self.fell_back.load(Ordering::Relaxed) { Strategy::Direct } else { Strategy::Buffered }
    }

    /// Reads bytes of the file into a slot, and says where they lie in it: as far behind a multiple of [`PAGE`] as in the file. The slot has
    /// room for them and a page on either side.
    ///
    /// # Errors
    /// As [`ReadAt::read_exact_at`].
    pub(super) fn read(&self, range: &Range<u64>, slot: &mut [u8]) -> io::Result<Range<usize>> {
        if let Some(file) = self.direct.as_ref().filter(|_| !self.fell_back.load(Ordering::Relaxed)) {
            if let Some(place) = read_direct(file, range, slot) {
                return Ok(place);
            }
            self.fell_back.store(true, Ordering::Relaxed);
        }
        read_buffered(self.source, range, slot)
    }
}

#[cfg(not(target_os = "linux"))]
impl<'a> Reading<'a> {
    /// Elsewhere there is one way.
    pub(super) fn new(pack: &'a Pack, _strategy: Strategy, _samples: impl Iterator<Item = u64>) -> Reading<'a> {
        Reading { source: pack.source() }
    }

    pub(super) fn strategy(&self) -> Strategy {
        Strategy::Buffered
    }

    pub(super) fn read(&self, range: &Range<u64>, slot: &mut [u8]) -> io::Result<Range<usize>> {
        read_buffered(self.source, range, slot)
    }
}

fn read_buffered(source: &dyn ReadAt, range: &Range<u64>, slot: &mut [u8]) -> io::Result<Range<usize>> {
    let place = place(range).ok_or(io::ErrorKind::InvalidInput)?;
    source.read_exact_at(slot.get_mut(place.clone()).ok_or(io::ErrorKind::InvalidInput)?, range.start)?;
    Ok(place)
}

/// Where bytes of the file lie in a slot.
fn place(range: &Range<u64>) -> Option<Range<usize>> {
    let start = usize::try_from(range.start.checked_rem(PAGE)?).ok()?;
    let length = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    Some(start..start.checked_add(length)?)
}

/// The file that was opened, once more, past the page cache: by its descriptor, as its path may be another file's by now.
#[cfg(target_os = "linux")]
fn direct(pack: &Pack) -> Option<std::fs::File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    let file = pack.file()?.file();
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = std::fs::OpenOptions::new().read(true).custom_flags(flag).open(path).ok()?;
    let (one, other) = (file.metadata().ok()?, again.metadata().ok()?);
    ((one.dev(), one.ino()) == (other.dev(), other.ino())).then_some(again)
}

/// `None` if it cannot be read so: the page cache is asked then, which also says what is wrong if something is.
#[cfg(target_os = "linux")]
fn read_direct(file: &std::fs::File, range: &Range<u64>, slot: &mut [u8]) -> Option<Range<usize>> {
    let place = place(range)?;
    let start = range.start.checked_sub(place.start as u64)?;
    let end = usize::try_from(range.end.checked_next_multiple_of(PAGE)?.checked_sub(start)?).ok()?;
    let mut filled = 0;
    while filled < place.end {
        let at = start.checked_add(filled as u64)?;
        match rustix::io::pread(file, slot.get_mut(filled..end)?, at) {
            // The file ends with what it gave. A part of a page before that: what comes next would not be aligned.
            Ok(read) => {
                filled = filled.checked_add(read)?;
                let aligned = (filled as u64).is_multiple_of(PAGE);
                if read == 0 || (!aligned && filled < place.end) {
                    return None;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(place)
}

/// Whether at least three of four samples are in the page cache. Asked by reading without waiting, which says what a read would find;
/// `mincore`, which tells of pages, is known to tell too much or nothing in containers. Where that cannot be asked, the cache is used.
#[cfg(target_os = "linux")]
fn mostly_cached(file: &std::fs::File, samples: impl Iterator<Item = u64>) -> bool {
    use std::io::IoSliceMut;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    let (mut asked, mut cached) = (0_u32, 0_u32);
    for offset in samples {
        let mut byte = [0];
        match preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) {
            Ok(_) => cached = cached.saturating_add(1),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return true,
        }
        asked = asked.saturating_add(1);
    }
    cached.saturating_mul(4) >= asked.saturating_mul(3)
}
