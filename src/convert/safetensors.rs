//! A safetensors file, opened and checked: where its tensors lie, read by nobody yet.
//!
//! The `safetensors` crate reads the header; around it stand a bound on the header's length before it is read, a check that the tensors
//! fill the file to its end, and a fixed order of tensors (the crate keeps them in a hash map).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::Metadata;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::footer;
use crate::plan::TensorInfo;
use crate::source::{FileSource, ReadAt, read_vec};

/// The longest header in bytes: as in the `safetensors` crate.
pub const MAX_HEADER: u64 = 100_000_000;

/// The bytes before the header: its length.
pub(crate) const PREFIX: u64 = size_of::<u64>() as u64;

/// The key of the header that is no tensor.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// An open safetensors file.
pub struct SafetensorsFile {
    source: Arc<dyn ReadAt>,
    tensors: Vec<(TensorInfo, Range<u64>)>,
    metadata: BTreeMap<String, String>,
}

impl std::fmt::Debug for SafetensorsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SafetensorsFile").field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

impl SafetensorsFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Malformed`] for a file that is no valid safetensors file.
    pub fn open(path: &Path) -> Result<SafetensorsFile> {
        let source = Arc::new(FileSource::open(path).map_err(|error| Error::io(path, error))?);
        SafetensorsFile::read(source, path)
    }

    /// Reads the header of anything that can be read at any place. The path is for messages.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn read(source: Arc<dyn ReadAt>, path: &Path) -> Result<SafetensorsFile> {
        let invalid = |message: String| Error::Malformed { path: path.to_owned(), what: "safetensors file", message };
        let io_error = |error| Error::io(path, error);
        let size = source.length();
        let mut length = [0; size_of::<u64>()];
        if size < PREFIX {
            return Err(invalid(format!("it has {size} bytes")));
        }
        source.read_exact_at(&mut length, 0).map_err(io_error)?;
        let length = u64::from_le_bytes(length);
        let data = PREFIX.checked_add(length).filter(|&data| length <= MAX_HEADER && data <= size);
        let data = data.ok_or_else(|| invalid(format!("a header of {length} bytes in a file of {size}")))?;
        let header = read_vec(&source, PREFIX, length).map_err(io_error)?;
        let header = str::from_utf8(&header).map_err(|error| invalid(error.to_string()))?;

        // The crate's hash map keeps the last of two equal names and says nothing.
        let document = footer::document(header).and_then(footer::members).map_err(|error| invalid(error.to_string()))?;
        if let Some(name) = document.as_ref().and_then(|members| members.repeated.as_ref()) {
            return Err(invalid(format!("{name:?} occurs twice in the header")));
        }
        let metadata = document.as_ref().and_then(|members| members.get(METADATA_KEY));
        let metadata = metadata.map(footer::members).transpose().map_err(|error| invalid(error.to_string()))?.flatten();
        if let Some(key) = metadata.and_then(|members| members.repeated) {
            return Err(invalid(format!("{key:?} occurs twice in its metadata")));
        }
        let parsed: Metadata = serde_json::from_str(header).map_err(|error| invalid(error.to_string()))?;
        let left = size.saturating_sub(data);
        if parsed.data_len() as u64 != left {
            return Err(invalid(format!("{} bytes of tensors where {left} follow the header", parsed.data_len())));
        }

        let mut tensors = Vec::new();
        for (name, info) in parsed.tensors() {
            let dtype = Dtype::from_safetensors(info.dtype)
                .ok_or_else(|| invalid(format!("tensor {name:?}: dtype {} is not supported", info.dtype)))?;
            let (start, end) = info.data_offsets;
            let range = data.saturating_add(start as u64)..data.saturating_add(end as u64);
            let shape: Vec<u64> = info.shape.iter().map(|&dim| dim as u64).collect();
            tensors.push((TensorInfo { name, dtype, shape }, range));
        }
        // In the order of their bytes in the file; empty tensors at one place by name.
        tensors.sort_by(|(a, at), (b, bt)| (at.start, at.end, &a.name).cmp(&(bt.start, bt.end, &b.name)));
        let metadata = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(SafetensorsFile { source, tensors, metadata })
    }

    /// The tensors in the order of their bytes, and where these lie in the file.
    #[must_use]
    pub fn tensors(&self) -> &[(TensorInfo, Range<u64>)] {
        &self.tensors
    }

    /// The file's metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file's bytes.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn ReadAt> {
        &self.source
    }
}
