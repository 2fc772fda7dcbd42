//! A pack taken apart, field by field: offset, bytes, meaning, clause of the spec. For authors of ports.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::footer;
use crate::format::header::{self, Header, Section, Sections};
use crate::format::tables::{BLOCK_SIZE, DIGEST_SIZE, DIM_SIZE, TENSOR_SIZE, metadata_pairs};
use crate::format::trailer;
use crate::manifest::name_bytes;
use crate::pack::Pack;
use crate::rule::Layout;
use crate::source::read_vec;

/// One field of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// The part of the file it belongs to: a chapter of the spec.
    pub part: &'static str,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Its bytes; of long runs, only the first.
    pub bytes: Vec<u8>,
    /// Its length in bytes.
    pub length: u64,
    /// What it says.
    pub meaning: String,
    /// The clauses that govern it.
    pub clause: &'static str,
}

/// The most bytes shown of one field.
const SHOWN: u64 = 256;

/// Every field of header, tables, payload, footer and trailer, in file order. Each byte of the file lies in exactly one field.
///
/// # Errors
/// [`Error::Io`], and [`Error::Invalid`] for a sealed footer of another digest.
pub fn explain(pack: &Pack) -> Result<Vec<Field>> {
    let mut reader = Reader { pack, fields: Vec::new(), cursor: 0 };
    if let Some(header) = pack.header() {
        reader.header(header)?;
        reader.tables(header)?;
    }
    reader.payload()?;
    reader.footer()?;
    reader.trailer()?;
    Ok(reader.fields)
}

struct Reader<'a> {
    pack: &'a Pack,
    fields: Vec<Field>,
    cursor: u64,
}

impl Reader<'_> {
    /// Adds the field of `length` bytes that begins where the one before ended.
    fn field(&mut self, part: &'static str, length: u64, clause: &'static str, meaning: impl Into<String>) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let bytes = read_vec(self.pack.source(), self.cursor, length.min(SHOWN)).map_err(|error| self.pack.io(error))?;
        self.fields.push(Field { part, offset: self.cursor, bytes, length, meaning: meaning.into(), clause });
        self.cursor = self.cursor.saturating_add(length);
        Ok(())
    }

    fn header(&mut self, header: &Header) -> Result<()> {
        const PART: &str = "header";
        self.field(PART, 8, "SEAL-MAGIC-01", "magic: a sealed pack")?;
        self.field(PART, 2, "SEAL-HDR-02", format!("major version {}", header.major))?;
        self.field(PART, 2, "SEAL-HDR-10", format!("minor version {}", header.minor))?;
        self.field(PART, 4, "SEAL-HDR-04", format!("header size {}", header.header_size))?;
        self.field(PART, 8, "SEAL-HDR-05", format!("file size {}", header.file_size))?;
        self.field(PART, 8, "SEAL-HDR-03", format!("required features {:#x}", header.required_features))?;
        self.field(PART, 8, "SEAL-HDR-11", format!("optional features {:#x}", header.optional_features))?;
        const CLAUSES: [&str; 9] = [
            "SEAL-SEC-01",
            "SEAL-SEC-02",
            "SEAL-SEC-02",
            "SEAL-SEC-02",
            "SEAL-SEC-02",
            "SEAL-SEC-02",
            "SEAL-SEC-02",
            "SEAL-SEC-03",
            "SEAL-SEC-06",
        ];
        for ((name, section), clause) in Sections::NAMES.iter().zip(header.sections.all()).zip(CLAUSES) {
            self.field(PART, 16, clause, format!("{name}: offset {}, length {}", section.offset, section.length))?;
        }
        self.field(PART, 4, "SEAL-HDR-06", format!("alignment {}", header.alignment))?;
        self.field(PART, 1, "SEAL-HDR-07", format!("groups of 2^{} bytes", header.group_log2))?;
        self.field(PART, 3, "SEAL-HDR-08", "reserved")?;
        self.field(PART, 32, "SEAL-TAB-01", "tables digest: BLAKE3 of the bytes from 4096 to the payload")?;
        self.field(PART, 32, "SEAL-FOOT-01", "footer digest: BLAKE3 of the footer")?;
        self.field(PART, 32, "SEAL-HDR-01", "header digest: BLAKE3 of bytes 0 to 256; the pack id")?;
        self.field(PART, PAGE.saturating_sub(header::SIZE as u64), "SEAL-HDR-09", "fill")
    }

    fn tables(&mut self, header: &Header) -> Result<()> {
        let tables = self.pack.manifest().tables.clone();
        for (number, block) in tables.blocks().iter().enumerate() {
            let dtype = Dtype::from_code(block.dtype.get()).map_or("unknown", Dtype::name);
            let meaning = format!("block {number}: {dtype}, offset {}, length {}", block.offset, block.length);
            self.field("blocks", BLOCK_SIZE, "SEAL-BLK-01", meaning)?;
        }
        for record in tables.tensors() {
            let name = String::from_utf8_lossy(name_bytes(tables.names(), record)).into_owned();
            let meaning = format!(
                "tensor {name:?}: name at {} + {}, dims at {} + {}, block {}, offset {}, length {}",
                record.name_offset, record.name_length, record.first_dim, record.rank, record.block, record.offset, record.length
            );
            self.field("tensors", TENSOR_SIZE, "SEAL-TEN-01", meaning)?;
        }
        for dim in tables.dims() {
            self.field("dims", DIM_SIZE, "SEAL-TEN-04", format!("{dim}"))?;
        }
        for number in 0..tables.digests().len() {
            self.field("digests", DIGEST_SIZE, "SEAL-INT-01", format!("BLAKE3 of group {number} of the payload"))?;
        }
        for record in tables.tensors() {
            let name = String::from_utf8_lossy(name_bytes(tables.names(), record)).into_owned();
            self.field("names", record.name_length.get().into(), "SEAL-TEN-02", format!("{name:?}"))?;
        }
        for (_, key, value) in metadata_pairs(tables.metadata()).filter_map(std::result::Result::ok) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.field("metadata", 4, "SEAL-META-01", format!("key of {} bytes", key.len()))?;
            self.field("metadata", key.len() as u64, "SEAL-META-02", format!("{:?}", text(key)))?;
            self.field("metadata", 4, "SEAL-META-01", format!("value of {} bytes", value.len()))?;
            self.field("metadata", value.len() as u64, "SEAL-META-02", format!("{:?}", text(value)))?;
        }
        self.field("extra", tables.extra().len() as u64, "SEAL-EXTRA-01", "for later versions")?;
        let Section { offset, .. } = header.sections.payload;
        self.field("fill of the tables", offset.saturating_sub(self.cursor), "SEAL-TAB-02", "fill")
    }

    fn payload(&mut self) -> Result<()> {
        const PART: &str = "payload";
        let sealed = self.pack.layout() == Layout::Sealed;
        let gap = if sealed { "SEAL-INT-02" } else { "BLOCK-GAP-01" };
        let place = if sealed { "TENSOR-TILE-01" } else { "TENSOR-RANGE-01" };
        let manifest = self.pack.manifest();
        for number in manifest.tiling_order() {
            let Some(tensor) = usize::try_from(number).ok().and_then(|number| manifest.nth(number)) else { continue };
            self.field(PART, tensor.offset.saturating_sub(self.cursor), gap, "fill")?;
            let meaning = format!("tensor {:?}: {} {}, {} bytes", tensor.name, tensor.dtype, tensor.shape, tensor.length);
            self.field(PART, tensor.length, place, meaning)?;
        }
        let end = manifest.payload().end;
        self.field(PART, end.saturating_sub(self.cursor), gap, "fill")
    }

    /// The footer in pieces that can be read: one a member, and one a record of its lists.
    fn footer(&mut self) -> Result<()> {
        const PART: &str = "footer";
        let bytes = self.pack.footer()?;
        let range = self.pack.footer_range();
        let text = str::from_utf8(&bytes).map_err(|error| Error::Input(error.to_string()))?;
        let mut starts = vec![0];
        if let Ok(Some(top)) = footer::document(text).and_then(footer::members) {
            for (_, value) in top.members {
                let begin = |raw: footer::Raw<'_>| raw.get().as_ptr().addr().saturating_sub(text.as_ptr().addr());
                // A value that is no list is one piece; a footer that opened has no faults.
                let _ = footer::for_each_element(value, u64::MAX, |record| starts.push(begin(record)));
                // What follows a value belongs to the next member.
                starts.push(begin(value).saturating_add(value.get().len()));
            }
        }
        starts.push(text.len());
        starts.dedup();
        for (start, end) in starts.iter().zip(starts.iter().skip(1)) {
            let piece = text.get(*start..*end).unwrap_or_default();
            self.field(PART, piece.len() as u64, clause_of(piece), piece)?;
        }
        debug_assert_eq!(self.cursor, range.end);
        Ok(())
    }

    fn trailer(&mut self) -> Result<()> {
        let range = self.pack.footer_range();
        let length = range.end.saturating_sub(range.start);
        let clause = if self.pack.header().is_some() { "TRAIL-LENGTH-02" } else { "TRAIL-LENGTH-01" };
        self.field("trailer", 8, clause, format!("footer length {length}"))?;
        self.field("trailer", (trailer::MAGIC.len()) as u64, "TRAIL-MAGIC-01", "magic: FLASHPK and a zero")
    }
}

/// The clause that a piece of the footer is about, by the key in it.
fn clause_of(piece: &str) -> &'static str {
    const CLAUSES: [(&str, &str); 9] = [
        ("\"format\":", "FOOT-SCH-02"),
        ("\"target_dtype\":", "FOOT-SCH-06"),
        ("\"align_bytes\":", "TENSOR-ALIGN-01"),
        ("\"total_payload_bytes\":", "BLOCK-PAYLOAD-01"),
        ("\"total_elems\":", "BLOCK-TOTAL-01"),
        ("\"macroblocks\":", "FOOT-SCH-10"),
        ("\"flashpack_seal\":", "FOOT-SCH-09"),
        ("\"dtype\":", "BLOCK-LENGTH-01"),
        ("\"shape\":", "TENSOR-LENGTH-01"),
    ];
    CLAUSES.iter().find(|(key, _)| piece.contains(key)).map_or("", |(_, clause)| clause)
}
