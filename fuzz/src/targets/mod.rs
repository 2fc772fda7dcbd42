//! The targets. Each takes any bytes, and panics where a promise is broken.

mod casts;
mod conversions;
mod packs;
mod plans;
mod records;

pub use casts::cast;
pub use conversions::{convert, diff, revert};
pub use packs::{read, validate};
pub use plans::plan;
pub use records::{footer, header, tables};

use std::path::PathBuf;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// Names and functions, for whoever runs them all.
pub const ALL: [(&str, Target); 10] = [
    ("header", header),
    ("tables", tables),
    ("footer", footer),
    ("read", read),
    ("validate", validate),
    ("convert", convert),
    ("revert", revert),
    ("diff", diff),
    ("cast", cast),
    ("plan", plan),
];

/// A folder for one run, in memory where there is one.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Folder(folder.expect("a folder for temporary files"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, bytes).expect("room for a temporary file");
        path
    }
}
