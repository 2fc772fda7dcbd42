//! Tensors into the memory of this machine, as a program loads a model: few large reads, verified on the way.

use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::source::zeroed;

/// Tensors in memory. They lie in it as in the file, padding included, so one read serves them all.
#[derive(Debug)]
pub struct Loaded<'a> {
    pack: &'a Pack,
    /// Runs of the file's bytes: where each begins in the file, and its bytes.
    runs: Vec<(u64, Vec<u8>)>,
    tensors: usize,
}

impl Pack {
    /// Loads every tensor: one pass over the payload on all cores, verified if the pack is sealed.
    ///
    /// # Errors
    /// As [`Pack::read`].
    pub fn load(&self) -> Result<Loaded<'_>> {
        let payload = self.manifest().payload();
        let run = self.load_run(payload.start, payload.end.saturating_sub(payload.start))?;
        Ok(Loaded { pack: self, runs: vec![run], tensors: self.manifest().len() })
    }

    /// Loads some tensors. Only they are read, and verified with the groups that they touch.
    ///
    /// # Errors
    /// As [`Pack::read`].
    pub fn load_tensors(&self, names: &[impl AsRef<str>]) -> Result<Loaded<'_>> {
        let mut runs = Vec::with_capacity(names.len());
        for name in names {
            let tensor = self.tensor(name.as_ref())?;
            runs.push(self.load_run(tensor.offset, tensor.length)?);
        }
        Ok(Loaded { pack: self, tensors: runs.len(), runs })
    }

    fn load_run(&self, offset: u64, length: u64) -> Result<(u64, Vec<u8>)> {
        let mut bytes = zeroed(length).map_err(|error| self.io(error))?;
        self.read_range(offset, &mut bytes)?;
        Ok((offset, bytes))
    }
}

impl Loaded<'_> {
    /// The bytes of a tensor.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`], also for one of the pack that was not loaded.
    pub fn tensor(&self, name: &str) -> Result<&[u8]> {
        let range = self.pack.tensor(name)?.range();
        let found = self.runs.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(range.start.checked_sub(*start)?).ok()?;
            let to = usize::try_from(range.end.checked_sub(*start)?).ok()?;
            bytes.get(from..to)
        });
        found.ok_or_else(|| Error::NoSuchTensor(name.to_owned()))
    }

    /// Number of tensors loaded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors == 0
    }

    /// Bytes in memory, padding included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|(_, bytes)| bytes.len() as u64).fold(0, u64::saturating_add)
    }
}
