//! Dropping files from the page cache, and seeing whether they are gone: the system takes it as advice.

use std::io;
use std::path::Path;

/// Where the files of a model were before each load. Of several states the greatest is what can be said of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nothing can be evicted there"))]
pub(super) enum State {
    /// In the page cache, by an earlier load.
    Hot,
    /// On the disk only.
    Cold,
    /// Evicted, but the system does not tell whether they are gone.
    Evicted,
    /// Evicted, and still read without the disk: a file system in memory, a sparse file, or somebody else who uses it.
    StillCached,
}

impl State {
    /// As in CSV and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Hot => "hot",
            State::Cold => "cold",
            State::Evicted => "evicted-unconfirmed",
            State::StillCached => "not-evicted",
        }
    }

    pub(super) fn meaning(self) -> &'static str {
        match self {
            State::Hot => "hot: files in the page cache",
            State::Cold => "cold: files dropped from the page cache",
            State::Evicted => "page cache told to drop the files, whether it did is not known",
            State::StillCached => "not cold: dropped files could still be read without the disk",
        }
    }
}

/// Whether files can be evicted at all.
pub(super) const CAN_EVICT: bool = cfg!(target_os = "linux");

/// Drops a file from the page cache.
#[cfg(target_os = "linux")]
pub(super) fn evict(path: &Path) -> io::Result<State> {
    use rustix::fs::{Advice, fadvise};
    let file = std::fs::File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let state = state(&file, file.metadata()?.len())?;
    // Looking may have brought pages back.
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(state)
}

/// Never called: see [`CAN_EVICT`].
#[cfg(not(target_os = "linux"))]
pub(super) fn evict(_path: &Path) -> io::Result<State> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Tries to read bytes all over a file, but only from the page cache.
#[cfg(target_os = "linux")]
fn state(file: &std::fs::File, length: u64) -> io::Result<State> {
    use std::os::unix::fs::FileExt;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    const SAMPLES: u64 = 16;
    /// Farther than the system reads ahead.
    const APART: u64 = 1 << 20;
    let (mut samples, mut cached) = (0, 0);
    let mut end = length;
    // From the end, as the system may read ahead of each sample. The last byte of each stretch is looked at.
    while end > 0 {
        let mut byte = [0];
        samples += 1;
        match preadv2(file, &mut [io::IoSliceMut::new(&mut byte)], end - 1, ReadWriteFlags::NOWAIT) {
            Ok(_) => cached += 1,
            // What was begun all the same must be over before it can be dropped.
            Err(Errno::AGAIN) => file.read_exact_at(&mut byte, end - 1)?,
            Err(_) => return Ok(State::Evicted),
        }
        end = end.saturating_sub((length / SAMPLES).max(APART));
    }
    // A page or two that somebody else holds make no load hot.
    Ok(if cached * 8 > samples { State::StillCached } else { State::Cold })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn evicting_takes_nothing_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 10_000]).unwrap();
        assert_ne!(evict(&path).unwrap(), State::Hot);
        assert_eq!(std::fs::read(&path).unwrap(), [7; 10_000]);
        assert!(evict(&folder.path().join("none")).is_err());
    }
}
