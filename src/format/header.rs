//! The header record of a sealed file (spec chapter 5): 288 bytes at offset 0.
//!
//! ```text
//!   0  magic 89 46 50 4B 0D 0A 1A 0A
//!   8  u16 major, u16 minor
//!  12  u32 header size = 288
//!  16  u64 file size
//!  24  u64 required features
//!  32  u64 optional features
//!  40  9 x (u64 offset, u64 length): blocks, tensors, dims, digests, names, metadata, extra, payload, footer
//! 184  u32 alignment
//! 188  u8 log2 of the group size
//! 189  3 zero bytes
//! 192  tables digest
//! 224  footer digest
//! 256  header digest = BLAKE3 of bytes 0 to 256 = the pack id
//! ```

use std::io::Cursor;

use binrw::{BinRead, BinWrite, binrw};

/// The first eight bytes of a sealed file. As in PNG, the high bit and the line ends catch damage by text-mode transfers.
pub const MAGIC: [u8; 8] = *b"\x89FPK\r\n\x1a\n";

/// The length of the header record in bytes.
pub const SIZE: usize = 288;

/// The same, as it stands in the record.
pub const SIZE_FIELD: u32 = 288;

/// The bytes that the header digest covers: all of the record before the digest itself.
pub const DIGESTED: usize = 256;

/// Where a section lies in the file, in bytes.
#[binrw]
#[brw(little)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Section {
    /// The offset of the first byte after it; `None` on overflow.
    #[must_use]
    pub fn end(self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

/// The sections of a sealed file, in file order.
#[binrw]
#[brw(little)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    /// Block records.
    pub blocks: Section,
    /// Tensor records.
    pub tensors: Section,
    /// Dims of all tensors.
    pub dims: Section,
    /// Group digests.
    pub digests: Section,
    /// Names of all tensors.
    pub names: Section,
    /// Metadata pairs.
    pub metadata: Section,
    /// Bytes for later versions.
    pub extra: Section,
    /// The blocks themselves.
    pub payload: Section,
    /// The JSON footer.
    pub footer: Section,
}

impl Sections {
    /// Their names in the spec, in file order.
    pub const NAMES: [&'static str; 9] =
        ["blocks", "tensors", "dims", "digests", "names", "metadata", "extra", "payload", "footer"];

    /// All nine, in file order.
    #[must_use]
    pub fn all(&self) -> [Section; 9] {
        let Sections { blocks, tensors, dims, digests, names, metadata, extra, payload, footer } = *self;
        [blocks, tensors, dims, digests, names, metadata, extra, payload, footer]
    }
}

/// The header record, as it stands in the file: nothing is checked yet.
#[binrw]
#[brw(little)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Major version: 1.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// [`SIZE`].
    pub header_size: u32,
    /// Length of the file in bytes.
    pub file_size: u64,
    /// Features that a reader must know.
    pub required_features: u64,
    /// Features that a reader may pass over.
    pub optional_features: u64,
    /// Where everything lies.
    pub sections: Sections,
    /// Alignment of tensors in their block, in bytes.
    pub alignment: u32,
    /// Log2 of the digest group size in bytes.
    pub group_log2: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// BLAKE3 of the bytes from 4096 to the payload.
    pub tables_digest: [u8; 32],
    /// BLAKE3 of the footer.
    pub footer_digest: [u8; 32],
    /// BLAKE3 of the 256 bytes before it: the pack id.
    pub header_digest: [u8; 32],
}

impl Header {
    /// Reads the record from its bytes. Any bytes make a record.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a record of fixed-size fields cannot fail to read from enough bytes")]
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Header {
        Header::read(&mut Cursor::new(bytes)).expect("288 bytes hold every field")
    }

    /// The record's bytes, with the header digest as it stands in the field.
    #[must_use]
    #[expect(clippy::expect_used, reason = "writing to memory cannot fail")]
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        self.write(&mut Cursor::new(bytes.as_mut_slice())).expect("288 bytes hold every field");
        bytes
    }

    /// The BLAKE3 of the record's first 256 bytes: what the header digest must be.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let bytes = self.to_bytes();
        let (digested, _) = bytes.split_at(DIGESTED);
        *blake3::hash(digested).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let bytes: [u8; SIZE] = std::array::from_fn(|i| (i % 251) as u8);
        assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
    }
}
