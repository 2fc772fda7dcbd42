//! The tables of a sealed file (spec chapter 6): fixed-size records, read in place with no copy.
//!
//! ```text
//! blocks    32 bytes each   u16 dtype, u16 0, u32 0, u64 offset, u64 length, u64 0
//! tensors   32 bytes each   u32 name offset, u32 name length, u32 first dim, u16 rank, u16 block, u64 offset, u64 length
//! dims       8 bytes each   u64
//! digests   32 bytes each   BLAKE3 of one group of the payload
//! names     UTF-8, one after the other
//! metadata  u32 key length, key, u32 value length, value, ...
//! extra     bytes for later versions
//! ```
//!
//! [`Tables`] holds them as they stand in the file, zero fill included. Packs of the other layouts have no tables; `parse` builds
//! the same ones from their footer, so that everything after it has one thing to deal with.

use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{PAGE, round_up};

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

/// A block: a run of tensors of one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BlockRecord {
    /// Code of the dtype.
    pub dtype: U16,
    /// Zero.
    pub reserved: U16,
    /// Zero: no codec.
    pub codec: U32,
    /// Bytes from the start of the file.
    pub offset: U64,
    /// Bytes.
    pub length: U64,
    /// Zero: no codec, so nothing to decode.
    pub decoded_length: U64,
}

/// A tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TensorRecord {
    /// Bytes from the start of the names.
    pub name_offset: U32,
    /// Bytes.
    pub name_length: U32,
    /// Dims before its first.
    pub first_dim: U32,
    /// Number of dims.
    pub rank: U16,
    /// Number of its block.
    pub block: U16,
    /// Bytes from the start of the block.
    pub offset: U64,
    /// Bytes.
    pub length: U64,
}

/// The length of a block record in bytes.
pub const BLOCK_SIZE: u64 = 32;
/// The length of a tensor record in bytes.
pub const TENSOR_SIZE: u64 = 32;
/// The length of a dim in bytes.
pub const DIM_SIZE: u64 = 8;
/// The length of a digest in bytes.
pub const DIGEST_SIZE: u64 = 32;

/// The lengths of the seven table sections in bytes, in file order.
pub type SectionLengths = [usize; 7];

/// The tables, in the bytes in which they stand in a sealed file.
#[derive(Clone, PartialEq, Eq)]
pub struct Tables {
    bytes: Vec<u8>,
    /// The end of each section within `bytes`.
    ends: [usize; 7],
}

impl Tables {
    /// Takes the bytes from 4096 to the payload, and the lengths of the sections in them. `None` when the sections are longer than
    /// the bytes, or do not hold whole records.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>, lengths: SectionLengths) -> Option<Tables> {
        let mut ends = [0; 7];
        let mut cursor = 0_usize;
        for (end, length) in ends.iter_mut().zip(lengths) {
            cursor = cursor.checked_add(length)?;
            *end = cursor;
        }
        let tables = Tables { bytes, ends };
        let whole = cursor <= tables.bytes.len()
            && <[BlockRecord]>::ref_from_bytes(tables.section(0)).is_ok()
            && <[TensorRecord]>::ref_from_bytes(tables.section(1)).is_ok()
            && <[U64]>::ref_from_bytes(tables.section(2)).is_ok()
            && <[Digest]>::ref_from_bytes(tables.section(3)).is_ok();
        whole.then_some(tables)
    }

    /// Lays records out as a sealed file does, zero fill included. `None` when the sum of lengths overflows.
    #[must_use]
    pub fn new(
        blocks: &[BlockRecord],
        tensors: &[TensorRecord],
        dims: &[U64],
        digests: usize,
        names: &[u8],
        metadata: &[u8],
    ) -> Option<Tables> {
        let digests = vec![[0_u8; 32]; digests];
        let sections: [&[u8]; 7] =
            [blocks.as_bytes(), tensors.as_bytes(), dims.as_bytes(), digests.as_bytes(), names, metadata, &[]];
        let length: usize = sections.iter().map(|section| section.len()).sum();
        let filled = round_up(u64::try_from(length).ok()?, PAGE)?;
        let mut bytes = Vec::with_capacity(usize::try_from(filled).ok()?);
        sections.iter().for_each(|section| bytes.extend_from_slice(section));
        bytes.resize(usize::try_from(filled).ok()?, 0);
        Tables::from_bytes(bytes, sections.map(<[u8]>::len))
    }

    /// All bytes from 4096 to the payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The lengths of the sections in bytes.
    #[must_use]
    pub fn section_lengths(&self) -> SectionLengths {
        std::array::from_fn(|number| self.section(number).len())
    }

    /// The block records.
    #[must_use]
    pub fn blocks(&self) -> &[BlockRecord] {
        <[BlockRecord]>::ref_from_bytes(self.section(0)).unwrap_or_default()
    }

    /// The tensor records.
    #[must_use]
    pub fn tensors(&self) -> &[TensorRecord] {
        <[TensorRecord]>::ref_from_bytes(self.section(1)).unwrap_or_default()
    }

    /// The dims of all tensors.
    #[must_use]
    pub fn dims(&self) -> &[U64] {
        <[U64]>::ref_from_bytes(self.section(2)).unwrap_or_default()
    }

    /// The digests of all groups.
    #[must_use]
    pub fn digests(&self) -> &[Digest] {
        <[Digest]>::ref_from_bytes(self.section(3)).unwrap_or_default()
    }

    /// The digests of all groups, for a writer to fill in.
    pub fn digests_mut(&mut self) -> &mut [Digest] {
        let range = self.range(3);
        self.bytes.get_mut(range).and_then(|bytes| <[Digest]>::mut_from_bytes(bytes).ok()).unwrap_or_default()
    }

    /// The names of all tensors.
    #[must_use]
    pub fn names(&self) -> &[u8] {
        self.section(4)
    }

    /// The metadata pairs.
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        self.section(5)
    }

    /// The bytes for later versions.
    #[must_use]
    pub fn extra(&self) -> &[u8] {
        self.section(6)
    }

    /// The fill between the last section and the payload.
    #[must_use]
    pub fn fill(&self) -> &[u8] {
        let [.., end] = self.ends;
        self.bytes.get(end..).unwrap_or_default()
    }

    fn section(&self, number: usize) -> &[u8] {
        self.bytes.get(self.range(number)).unwrap_or_default()
    }

    fn range(&self, number: usize) -> Range<usize> {
        let end = self.ends.get(number).copied().unwrap_or_default();
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        start..end
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables")
            .field("blocks", &self.blocks())
            .field("tensors", &self.tensors())
            .field("digests", &self.digests().len())
            .finish_non_exhaustive()
    }
}

/// Appends one metadata pair; `None` when a text is 4 GiB or longer.
#[must_use]
pub fn push_metadata(bytes: &mut Vec<u8>, key: &str, value: &str) -> Option<()> {
    for text in [key, value] {
        bytes.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Some(())
}

/// The metadata pairs, with the offset of each from the start of the section. Ends with `Err` and the offset of what is not a
/// whole pair.
pub fn metadata_pairs(section: &[u8]) -> impl Iterator<Item = Result<(usize, &[u8], &[u8]), usize>> {
    let mut rest = section;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = section.len().saturating_sub(rest.len());
        let pair = take_text(rest).and_then(|(key, after)| Some((key, take_text(after)?)));
        Some(match pair {
            Some((key, (value, after))) => {
                rest = after;
                Ok((at, key, value))
            }
            None => {
                rest = &[];
                Err(at)
            }
        })
    })
}

fn take_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_sizes_of_the_spec() {
        assert_eq!(size_of::<BlockRecord>() as u64, BLOCK_SIZE);
        assert_eq!(size_of::<TensorRecord>() as u64, TENSOR_SIZE);
    }

    #[test]
    fn a_cut_metadata_pair_is_an_error_at_its_start() {
        let mut bytes = Vec::new();
        push_metadata(&mut bytes, "format", "pt").unwrap();
        let whole = bytes.len();
        bytes.extend_from_slice(&[9, 0, 0, 0, b'x']);
        let pairs: Vec<_> = metadata_pairs(&bytes).collect();
        assert_eq!(pairs, [Ok((0, &b"format"[..], &b"pt"[..])), Err(whole)]);
    }
}
