//! The last 16 bytes of every pack (spec chapter 4): the footer's length and the magic.

use std::io::Cursor;

use binrw::{BinRead, BinWrite, binrw};

/// The last eight bytes of every pack: `FLASHPK` and a zero.
pub const MAGIC: [u8; 8] = *b"FLASHPK\0";

/// The length of the trailer in bytes.
pub const SIZE: usize = 16;

/// The trailer, as it stands in the file.
#[binrw]
#[brw(little)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Length of the footer in bytes.
    pub footer_length: u64,
    /// [`MAGIC`].
    pub magic: [u8; 8],
}

impl Trailer {
    /// Reads the trailer from its bytes. Any bytes make one.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a record of fixed-size fields cannot fail to read from enough bytes")]
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Trailer {
        Trailer::read(&mut Cursor::new(bytes)).expect("16 bytes hold both fields")
    }

    /// The trailer's bytes.
    #[must_use]
    #[expect(clippy::expect_used, reason = "writing to memory cannot fail")]
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        self.write(&mut Cursor::new(bytes.as_mut_slice())).expect("16 bytes hold both fields");
        bytes
    }
}
