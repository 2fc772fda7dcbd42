//! What can go wrong, coarsely: the detail is in the [`Violation`]s.

use std::io;
use std::path::{Path, PathBuf};

use crate::rule::{Violation, Violations};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The bytes break rules of the format. The first error is the one that stopped the reader.
    #[error("{}: {}", .path.display(), first(.violations))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        violations: Violations,
    },

    /// The file may be fine, but uses what this version of the crate does not know.
    #[error("{}: not supported: {violation}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not known.
        violation: Box<Violation>,
    },

    /// A source that is no pack, a safetensors file or the index of some, is broken.
    #[error("{}: not a valid {what}: {message}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        message: String,
    },

    /// Tensors, names or options that cannot make a pack, or a source that cannot be converted.
    #[error("{0}")]
    Input(String),

    /// No tensor has this name.
    #[error("no tensor is named {0:?}")]
    NoSuchTensor(String),

    /// The caller's buffer does not fit the tensor.
    #[error("tensor {tensor:?} has {expected} bytes, the buffer {found}")]
    BufferLength {
        /// The tensor's name.
        tensor: String,
        /// Its length in bytes.
        expected: u64,
        /// The buffer's length in bytes.
        found: u64,
    },

    /// The target exists and replacing it was not asked for.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),

    /// A GPU or its driver refused, or there is none.
    #[error("{device}: {action}: {message}")]
    Device {
        /// Which, as `cuda:0`; `cuda` for the driver itself.
        device: String,
        /// What was being done.
        action: &'static str,
        /// What the driver said.
        message: String,
    },

    /// The caller's progress handler asked to stop. Nothing is left behind.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// An I/O error with the file it is about.
    #[must_use]
    pub fn io(path: &Path, source: io::Error) -> Error {
        Error::Io { path: path.to_owned(), source }
    }

    /// The error for violations of which at least one is an error.
    #[must_use]
    pub fn from_violations(path: &Path, violations: Violations) -> Error {
        let path = path.to_owned();
        let unsupported = violations.errors().next().filter(|first| first.rule.means_unsupported()).cloned();
        match unsupported {
            Some(first) => Error::Unsupported { path, violation: Box::new(first) },
            None => Error::Invalid { path, violations },
        }
    }

    /// The violation that stopped the reader, if the file was at fault.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        match self {
            Error::Invalid { violations, .. } => violations.errors().next(),
            Error::Unsupported { violation, .. } => Some(violation),
            _ => None,
        }
    }
}

fn first(violations: &Violations) -> String {
    violations.errors().next().map_or_else(|| "invalid".to_owned(), ToString::to_string)
}
