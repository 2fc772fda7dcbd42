//! Where every byte of a pack belongs: header, tables, tensors, padding, footer, trailer, and bytes that nothing refers to.
//!
//! ```text
//!  sealed  header . tables . tensor tensor . tensor . | tensor . footer trailer
//!  v3, v4                    tensor tensor . tensor ! | tensor . footer trailer
//!                                            padding ^ ^ unreferenced: only here
//! ```
//!
//! [`explain`](mod@crate::explain) shows the same files field by field; this is the view from farther away, for pictures and sums.

use crate::error::Result;
use crate::format::PAGE;
use crate::format::header::{self, Header, Sections};
use crate::manifest::Tensor;
use crate::pack::Pack;
use crate::rule::Layout;

/// What a region of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The header record of a sealed file.
    Header,
    /// A section of a sealed file's tables.
    Table,
    /// The bytes of a tensor.
    Tensor,
    /// Zeros that rounding asks for, between tensors, blocks and sections.
    Padding,
    /// Other bytes that nothing refers to: longer than rounding explains, or not all zero. In v3 and v4 files they are legal
    /// (`BLOCK-GAP-01`); strangers can hide things there.
    Unreferenced,
    /// The JSON footer.
    Footer,
    /// The length of the footer, and the magic.
    Trailer,
}

impl Kind {
    /// All kinds, in the order in which they are listed.
    pub const ALL: [Kind; 7] =
        [Kind::Header, Kind::Table, Kind::Tensor, Kind::Padding, Kind::Unreferenced, Kind::Footer, Kind::Trailer];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Header => "header",
            Kind::Table => "table",
            Kind::Tensor => "tensor",
            Kind::Padding => "padding",
            Kind::Unreferenced => "unreferenced",
            Kind::Footer => "footer",
            Kind::Trailer => "trailer",
        }
    }
}

/// A run of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region<'a> {
    /// What it is.
    pub kind: Kind,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes; never 0.
    pub length: u64,
    /// The tensor's name, or the table's; empty for other kinds.
    pub name: &'a str,
    /// The number of the block in which it lies.
    pub block: Option<usize>,
    /// The tensor whose bytes it is.
    pub tensor: Option<Tensor<'a>>,
}

impl Region<'_> {
    /// The offset of the first byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// The regions of a pack, in file order: each byte of the file lies in exactly one. Tensors without elements have no bytes, and so no region.
///
/// Only padding is read, to see that it is zero, and it is not verified: what is shown is what the file holds.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
pub fn regions(pack: &Pack) -> Result<Vec<Region<'_>>> {
    let mut walk = Walk { pack, regions: Vec::with_capacity(pack.manifest().len()), cursor: 0, block: None, buffer: Vec::new() };
    if let Some(header) = pack.header() {
        walk.head(header)?;
    }
    walk.blocks()?;
    walk.tail()?;
    Ok(walk.regions)
}

struct Walk<'a> {
    pack: &'a Pack,
    regions: Vec<Region<'a>>,
    cursor: u64,
    block: Option<usize>,
    buffer: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// Header and tables of a sealed file. What lies between them the format fixes, so it is padding however long it is.
    fn head(&mut self, header: &Header) -> Result<()> {
        self.region(Kind::Header, header::SIZE as u64, "", None);
        self.gap(PAGE, u64::MAX)?;
        for (name, section) in Sections::NAMES.into_iter().zip(header.sections.all()) {
            // The last two sections are payload and footer, which every layout has.
            if matches!(name, "payload" | "footer") {
                break;
            }
            if section.length > 0 {
                self.gap(section.offset, u64::MAX)?;
                self.up_to(section.end().unwrap_or(self.cursor), Kind::Table, name, None);
            }
        }
        self.gap(header.sections.payload.offset, u64::MAX)
    }

    fn blocks(&mut self) -> Result<()> {
        let manifest = self.pack.manifest();
        let numbers = manifest.tiling_order();
        let tensors = numbers.into_iter().filter_map(|number| manifest.nth(usize::try_from(number).ok()?));
        let mut tensors = tensors.peekable();
        for (number, block) in manifest.blocks().enumerate() {
            // A sealed file has no gaps but those of rounding: the parser saw to that.
            let unit = match manifest.layout() {
                Layout::Sealed => u64::MAX,
                Layout::V3 | Layout::V4 => block.dtype.rounding_unit(manifest.alignment()).unwrap_or_default(),
            };
            self.gap(block.offset, unit)?;
            self.block = Some(number);
            // Those without elements have no region, but a place all the same, which explains the gap before it.
            while let Some(tensor) = tensors.next_if(|tensor| tensor.block == number) {
                self.gap(tensor.offset, unit)?;
                self.up_to(tensor.range().end, Kind::Tensor, tensor.name, Some(tensor));
            }
            // A block ends with its last tensor: what follows in it, no rounding explains.
            self.gap(block.offset.saturating_add(block.length), 0)?;
            self.block = None;
        }
        Ok(())
    }

    fn tail(&mut self) -> Result<()> {
        let footer = self.pack.footer_range();
        let unit = if self.pack.layout() == Layout::Sealed { u64::MAX } else { 0 };
        self.gap(footer.start, unit)?;
        self.up_to(footer.end, Kind::Footer, "", None);
        self.up_to(self.pack.source().length(), Kind::Trailer, "", None);
        Ok(())
    }

    fn up_to(&mut self, end: u64, kind: Kind, name: &'a str, tensor: Option<Tensor<'a>>) {
        self.region(kind, end.saturating_sub(self.cursor), name, tensor);
    }

    fn region(&mut self, kind: Kind, length: u64, name: &'a str, tensor: Option<Tensor<'a>>) {
        if length > 0 {
            self.regions.push(Region { kind, offset: self.cursor, length, name, block: self.block, tensor });
            self.cursor = self.cursor.saturating_add(length);
        }
    }

    /// What lies before `end` and belongs to nothing: padding, if it is shorter than the rounding unit and zero.
    fn gap(&mut self, end: u64, unit: u64) -> Result<()> {
        let length = end.saturating_sub(self.cursor);
        // Longer gaps are not read: they are no padding whatever is in them, and may be most of the file.
        let kind = if length < unit && self.is_zero(self.cursor, end)? { Kind::Padding } else { Kind::Unreferenced };
        self.up_to(end, kind, "", None);
        Ok(())
    }

    fn is_zero(&mut self, mut start: u64, end: u64) -> Result<bool> {
        const PIECE: u64 = 1 << 16;
        while start < end {
            let length = end.saturating_sub(start).min(PIECE);
            self.buffer.resize(usize::try_from(length).unwrap_or_default(), 0);
            self.pack.source().read_exact_at(&mut self.buffer, start).map_err(|error| self.pack.io(error))?;
            if self.buffer.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            start = start.saturating_add(length);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Dtype, OpenOptions};

    /// A v4 file: two tensors of 4 bytes at 0 and 8, so with a gap of 4 where an alignment of `alignment` explains it or not.
    fn v4(alignment: u64, gap: [u8; 4], tail: &[u8]) -> Pack {
        let mut bytes = vec![1; 4];
        bytes.extend(gap);
        bytes.extend([2; 4]);
        bytes.extend(tail);
        let payload = bytes.len();
        let footer = format!(
            r#"{{"format":"flashpack_v4","align_bytes":{alignment},"total_payload_bytes":{payload},"total_elems":12,"macroblocks":[{{"dtype":"uint8","offset_bytes":0,"length_bytes":12,"length_elems":12}}],"index":[{{"name":"a","shape":[4],"offset":0,"length":4,"macroblock":0}},{{"name":"b","shape":[4],"offset":8,"length":4,"macroblock":0}},{{"name":"e","shape":[0],"offset":0,"length":0,"macroblock":0}}]}}"#
        );
        bytes.extend(footer.as_bytes());
        bytes.extend((footer.len() as u64).to_le_bytes());
        bytes.extend(b"FLASHPK\0");
        OpenOptions::new().open_source(Arc::new(bytes)).unwrap()
    }

    fn kinds(pack: &Pack) -> Vec<(Kind, u64, u64)> {
        regions(pack).unwrap().iter().map(|region| (region.kind, region.offset, region.length)).collect()
    }

    #[test]
    fn padding_is_zero_and_what_rounding_explains() {
        let start = |pack: &Pack| kinds(pack)[..3].to_vec();
        let expected = |gap| [(Kind::Tensor, 0, 4), (gap, 4, 4), (Kind::Tensor, 8, 4)];
        assert_eq!(start(&v4(8, [0; 4], &[])), expected(Kind::Padding));
        assert_eq!(start(&v4(8, [0, 0, 7, 0], &[])), expected(Kind::Unreferenced));
        assert_eq!(start(&v4(4, [0; 4], &[])), expected(Kind::Unreferenced), "a multiple of 4 is there already");
        let pack = v4(8, [0; 4], &[0; 3]);
        assert_eq!(kinds(&pack)[3], (Kind::Unreferenced, 12, 3), "nothing rounds the end of a payload");
    }

    #[test]
    fn tensors_have_names_and_blocks() {
        let pack = v4(8, [0; 4], &[]);
        let regions = regions(&pack).unwrap();
        let named: Vec<_> = regions.iter().map(|region| (region.name, region.block)).collect();
        assert_eq!(named, [("a", Some(0)), ("", Some(0)), ("b", Some(0)), ("", None), ("", None)]);
        assert_eq!(regions[0].tensor.map(|tensor| tensor.dtype), Some(Dtype::UInt8));
    }
}
