//! Tensors into the memory of this machine, as a program loads a model: few large reads, verified on the way.

use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::source::zeroed;

/// From this many bytes on, memory comes in large pages where the system has them: the first touch of each page is what a load into new memory
/// mostly takes.
const LARGE: u64 = 4 << 20;

/// Tensors in memory. They lie in it as in the file, padding included, so one read serves them all.
#[derive(Debug)]
pub struct Loaded<'a> {
    pack: &'a Pack,
    /// Runs of the file's bytes: where each begins in the file, and its bytes.
    runs: Vec<(u64, Memory)>,
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

    fn load_run(&self, offset: u64, length: u64) -> Result<(u64, Memory)> {
        let mut memory = Memory::new(length).map_err(|error| self.io(error))?;
        self.read_range(offset, memory.as_mut())?;
        Ok((offset, memory))
    }
}

/// Bytes of our own, large pages or not.
#[derive(Debug)]
enum Memory {
    Small(Vec<u8>),
    Large(memmap2::MmapMut),
}

impl Memory {
    fn new(length: u64) -> std::io::Result<Memory> {
        if length < LARGE {
            return zeroed(length).map(Memory::Small);
        }
        let length = usize::try_from(length).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        let memory = memmap2::MmapMut::map_anon(length)?;
        // A wish: without large pages it is only slower.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Memory::Large(memory))
    }

    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Small(bytes) => bytes,
            Memory::Large(bytes) => bytes,
        }
    }

    fn as_ref(&self) -> &[u8] {
        match self {
            Memory::Small(bytes) => bytes,
            Memory::Large(bytes) => bytes,
        }
    }
}

impl Loaded<'_> {
    /// The bytes of a tensor.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`], also for one of the pack that was not loaded.
    pub fn tensor(&self, name: &str) -> Result<&[u8]> {
        let range = self.pack.tensor(name)?.range();
        let found = self.runs.iter().find_map(|(start, memory)| {
            let from = usize::try_from(range.start.checked_sub(*start)?).ok()?;
            let to = usize::try_from(range.end.checked_sub(*start)?).ok()?;
            memory.as_ref().get(from..to)
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
        self.runs.iter().map(|(_, memory)| memory.as_ref().len() as u64).fold(0, u64::saturating_add)
    }
}
