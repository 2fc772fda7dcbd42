//! Sealed files: header, trailer, tables, layout, tensors (spec chapters 5, 6 and 8).

use std::io;

use crate::dtype::Dtype;
use crate::format::header::{self, Header, Section, Sections};
use crate::format::tables::{
    BLOCK_SIZE, BlockRecord, DIGEST_SIZE, DIM_SIZE, SectionLengths, TENSOR_SIZE, Tables, metadata_pairs,
};
use crate::format::trailer;
use crate::format::{MAX_INTEGER, PAGE, element_count, first_nonzero, round_up};
use crate::limits::Limits;
use crate::manifest::{self, Manifest, dims, name_bytes};
use crate::rule::{self, Layout, Rule, Violation, Violations};
use crate::seal::{self, GROUP_LOG2, PackId};
use crate::source::{ReadAt, read_vec};

use super::{Parsed, Policy, digest_text, hex, is_odd_name, is_plain, odd_name, over_limit, read_trailer};

/// The size of the smallest sealed file: the header page and the trailer.
const SMALLEST: u64 = PAGE + trailer::SIZE as u64;

pub(super) fn parse(source: &dyn ReadAt, policy: &Policy) -> io::Result<Parsed> {
    let mut parsed = Parsed::new(Some(Layout::Sealed));
    if source.length() < SMALLEST {
        let message = format!("the file has {} bytes", source.length());
        return Ok(parsed.with(Violation::new(&rule::SEAL_SIZE, 0, message)));
    }
    let page = read_vec(source, 0, PAGE)?;
    let (Some(record), Some(fill)) = (page.first_chunk::<{ header::SIZE }>(), page.get(header::SIZE..)) else {
        return Ok(parsed);
    };
    let header = Header::from_bytes(record);

    // Nothing else of the header means anything before its digest is right. This holds for every version under this magic.
    let digest = header.digest();
    if digest != header.header_digest {
        let message = format!("the header says {}, its bytes give {}", digest_text(&header.header_digest), digest_text(&digest));
        return Ok(parsed.with(Violation::new(&rule::SEAL_HDR_DIGEST, 256, message)));
    }
    parsed.header = Some(header);
    if let Some(expected) = policy.expected_id.filter(|expected| expected.0 != digest) {
        let message = format!("the pack id is {}, {expected} was expected", PackId(digest));
        return Ok(parsed.with(Violation::new(&rule::PIN_ID, 256, message)));
    }
    check_version(&header, &mut parsed.violations);
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }
    check_fields(&header, fill, source.length(), &mut parsed.violations);
    check_sections(&header, source.length(), &mut parsed.violations);
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }
    parsed.footer = header.sections.footer;
    check_limits(&header.sections, &policy.limits, &mut parsed.violations);
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }

    let trailer = read_trailer(source, &mut parsed.violations)?;
    if trailer.footer_length != header.sections.footer.length {
        let at = source.length().saturating_sub(trailer::SIZE as u64);
        let message = format!("{} where the header says {}", trailer.footer_length, header.sections.footer.length);
        parsed.violations.push(Violation::new(&rule::TRAIL_SEALED, at, message));
    }
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }

    let Some(tables) = read_tables(source, &header, &mut parsed.violations)? else { return Ok(parsed) };
    let reader =
        TableReader { sections: &header.sections, tables: &tables, limits: &policy.limits, alignment: header.alignment.into() };
    reader.check_limits(&mut parsed.violations);
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }
    reader.check_records(&mut parsed.violations);
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }
    reader.check_blocks(&mut parsed.violations);
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }
    reader.check_tensors(&mut parsed.violations);
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }
    parsed.manifest = Some(Manifest {
        layout: Layout::Sealed,
        alignment: header.alignment.into(),
        group_log2: header.group_log2,
        payload: header.sections.payload,
        tables,
    });
    Ok(parsed)
}

fn check_version(header: &Header, violations: &mut Violations) {
    if header.major != 1 {
        let message = format!("version {}.{}", header.major, header.minor);
        violations.push(Violation::new(&rule::SEAL_HDR_VERSION, 8, message));
        return;
    }
    if header.required_features != 0 {
        let message = format!("bits {:#x} are set, and this reader knows none", header.required_features);
        violations.push(Violation::new(&rule::SEAL_HDR_FEATURES, 24, message));
    }
    if header.minor != 0 {
        violations.push(Violation::new(&rule::SEAL_HDR_MINOR, 10, format!("version 1.{}", header.minor)));
    }
    if header.optional_features != 0 {
        let message = format!("bits {:#x} are set, and this reader knows none", header.optional_features);
        violations.push(Violation::new(&rule::SEAL_HDR_OPTIONAL, 32, message));
    }
}

fn check_fields(header: &Header, fill: &[u8], file_size: u64, violations: &mut Violations) {
    let mut demand = |holds: bool, rule: &'static Rule, offset: u64, message: String| {
        if !holds {
            violations.push(Violation::new(rule, offset, message));
        }
    };
    demand(header.header_size == header::SIZE_FIELD, &rule::SEAL_HDR_SIZE, 12, format!("{}", header.header_size));
    let message = format!("the header says {}, the file has {file_size} bytes", header.file_size);
    demand(header.file_size == file_size, &rule::SEAL_HDR_FILE_SIZE, 16, message);
    let alignment = u64::from(header.alignment);
    let aligned = alignment == 0 || (alignment.is_power_of_two() && alignment <= PAGE);
    demand(aligned, &rule::SEAL_HDR_ALIGNMENT, 184, format!("{alignment}"));
    demand(GROUP_LOG2.contains(&header.group_log2), &rule::SEAL_HDR_GROUP, 188, format!("{}", header.group_log2));
    demand(header.reserved == [0; 3], &rule::SEAL_HDR_RESERVED, 189, hex(&header.reserved));
    if let Some(at) = first_nonzero(fill) {
        let offset = (header::SIZE as u64).saturating_add(at as u64);
        demand(false, &rule::SEAL_HDR_FILL, offset, "a byte of the fill is not zero".into());
    }
}

/// Everything that the layout fixes about sections. Offsets of the fields: section n at 40 + 16 n.
fn check_sections(header: &Header, file_size: u64, violations: &mut Violations) {
    let field = |number: u64| number.saturating_mul(16).saturating_add(40);
    let all = header.sections.all();
    let mut out_of_range = false;
    for ((number, section), name) in (0..).zip(all).zip(Sections::NAMES) {
        if section.end().is_none_or(|end| end > MAX_INTEGER) || section.offset > MAX_INTEGER {
            let message = format!("{name}: offset {}, length {}", section.offset, section.length);
            out_of_range = true;
            violations.push(Violation::new(&rule::SEAL_SEC_RANGE, field(number), message));
        }
    }
    // Sums of these mean nothing, and so nothing below.
    if out_of_range {
        return;
    }
    let end = |section: Section| section.offset.saturating_add(section.length);
    let mut demand = |holds: bool, rule: &'static Rule, number: u64, message: String| {
        if !holds {
            violations.push(Violation::new(rule, field(number), message));
        }
    };
    let Sections { blocks, tensors, dims, digests, extra, payload, footer, .. } = header.sections;
    demand(blocks.offset == PAGE, &rule::SEAL_SEC_START, 0, format!("it begins at {}", blocks.offset));
    // The first six gaps: the payload, which comes after the tables, is rounded up.
    let chained = (1..).zip(all.windows(2)).take(6).zip(Sections::NAMES.iter().skip(1));
    for ((number, pair), name) in chained {
        let [before, section] = pair else { continue };
        let message = format!("{name} begins at {}, the section before it ends at {}", section.offset, end(*before));
        demand(section.offset == end(*before), &rule::SEAL_SEC_CHAIN, number, message);
    }
    let expected = round_up(end(extra), PAGE).unwrap_or(u64::MAX);
    let message = format!("it begins at {}, not at {expected}", payload.offset);
    demand(payload.offset == expected, &rule::SEAL_SEC_PAYLOAD, 7, message);
    let sized = [(0, blocks, BLOCK_SIZE), (1, tensors, TENSOR_SIZE), (2, dims, DIM_SIZE), (3, digests, DIGEST_SIZE)];
    for (number, section, size) in sized {
        let whole = section.length.checked_rem(size) == Some(0);
        demand(whole, &rule::SEAL_SEC_RECORDS, number, format!("{} bytes of records of {size}", section.length));
    }
    // The group size may be out of range, which is a violation of its own.
    if GROUP_LOG2.contains(&header.group_log2) {
        let groups = seal::group_count(payload.length, header.group_log2).unwrap_or(u64::MAX);
        let message = format!("{} bytes for {groups} groups", digests.length);
        demand(Some(digests.length) == groups.checked_mul(DIGEST_SIZE), &rule::SEAL_SEC_DIGESTS, 3, message);
    }
    let message = format!("it begins at {}, the payload ends at {}", footer.offset, end(payload));
    demand(footer.offset == end(payload), &rule::SEAL_SEC_FOOTER, 8, message);
    let message = format!("the footer ends at {} in a file of {file_size} bytes", end(footer));
    demand(end(footer).checked_add(trailer::SIZE as u64) == Some(file_size), &rule::SEAL_SEC_END, 8, message);
}

fn check_limits(sections: &Sections, limits: &Limits, violations: &mut Violations) {
    let tables = sections.payload.offset.saturating_sub(PAGE);
    let found = [
        (&rule::LIMIT_TABLES, 40, tables, limits.table_bytes),
        (&rule::LIMIT_BLOCKS, 40, sections.blocks.length / BLOCK_SIZE, limits.blocks),
        (&rule::LIMIT_TENSORS, 56, sections.tensors.length / TENSOR_SIZE, limits.tensors),
        (&rule::LIMIT_FOOTER, 168, sections.footer.length, limits.footer_bytes),
    ];
    for (rule, offset, found, limit) in found {
        if found > limit {
            violations.push(over_limit(rule, offset, found, limit));
        }
    }
}

/// Reads all tables at once and checks their digest before any record is looked at.
fn read_tables(source: &dyn ReadAt, header: &Header, violations: &mut Violations) -> io::Result<Option<Tables>> {
    let sections = &header.sections;
    let bytes = read_vec(source, PAGE, sections.payload.offset.saturating_sub(PAGE))?;
    let digest = seal::digest(&bytes);
    if digest != header.tables_digest {
        let message =
            format!("the header says {}, their bytes give {}", digest_text(&header.tables_digest), digest_text(&digest));
        violations.push(Violation::new(&rule::SEAL_TAB_DIGEST, PAGE, message));
        return Ok(None);
    }
    let mut lengths: SectionLengths = [0; 7];
    for (length, section) in lengths.iter_mut().zip(sections.all()) {
        *length = usize::try_from(section.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    }
    // Sections and their lengths were checked against the header already; `None` cannot be.
    Ok(Tables::from_bytes(bytes, lengths))
}

struct TableReader<'a> {
    sections: &'a Sections,
    tables: &'a Tables,
    limits: &'a Limits,
    alignment: u64,
}

impl TableReader<'_> {
    /// Stage `limits`, once more: what only the records tell.
    fn check_limits(&self, violations: &mut Violations) {
        for (number, record) in (0..).zip(self.tables.tensors()) {
            let (name, rank) = (u64::from(record.name_length.get()), u64::from(record.rank.get()));
            let at = |field: u64| self.tensor_at(number).saturating_add(field);
            if name > self.limits.name_bytes {
                violations.push(over_limit(&rule::LIMIT_NAME, at(4), name, self.limits.name_bytes));
            }
            if rank > self.limits.rank {
                violations.push(over_limit(&rule::LIMIT_RANK, at(12), rank, self.limits.rank));
            }
        }
    }

    /// Stage `tables`: each record for itself, and the sums that tie records to sections.
    fn check_records(&self, violations: &mut Violations) {
        if let Some(at) = first_nonzero(self.tables.fill()) {
            let end = self.sections.extra.offset.saturating_add(self.sections.extra.length);
            let message = "a byte of the fill is not zero";
            violations.push(Violation::new(&rule::SEAL_TAB_FILL, end.saturating_add(at as u64), message));
        }
        for (number, block) in (0..).zip(self.tables.blocks()) {
            let at = self.block_at(number);
            if Dtype::from_code(block.dtype.get()).is_none() {
                let message = format!("block {number} has dtype code {}", block.dtype);
                violations.push(Violation::new(&rule::SEAL_BLK_DTYPE, at, message));
            }
            if block.reserved.get() != 0 || block.codec.get() != 0 || block.decoded_length.get() != 0 {
                let message = format!("block {number} uses them");
                violations.push(Violation::new(&rule::SEAL_BLK_CODEC, at.saturating_add(2), message));
            }
        }
        self.check_names_and_dims(violations);
        self.check_metadata(violations);
        if !self.tables.extra().is_empty() {
            let message = format!("it has {} bytes", self.tables.extra().len());
            violations.push(Violation::new(&rule::SEAL_EXTRA, self.sections.extra.offset, message));
        }
    }

    fn check_names_and_dims(&self, violations: &mut Violations) {
        let names = self.tables.names();
        let plain = is_plain(names);
        let (mut name_cursor, mut dim_cursor) = (0_u64, 0_u64);
        let mut before: Option<&[u8]> = None;
        for (number, record) in (0..).zip(self.tables.tensors()) {
            let name = name_bytes(names, record);
            let name_length = u64::from(record.name_length.get());
            let push = |violations: &mut Violations, rule, field: u64, message: String| {
                let at = self.tensor_at(number).saturating_add(field);
                let mut violation = Violation::new(rule, at, message);
                violation.tensor = str::from_utf8(name).ok().map(str::to_owned);
                violations.push(violation);
            };
            if u64::from(record.name_offset.get()) != name_cursor || name_length != name.len() as u64 {
                let message =
                    format!("tensor {number} has its name at {} + {name_length}, not at {name_cursor}", record.name_offset);
                push(violations, &rule::SEAL_TEN_NAME_RANGE, 0, message);
                return;
            }
            let plain_name = plain && !name.is_empty();
            let text = if plain_name { Ok("") } else { str::from_utf8(name) };
            match text {
                Ok(text) if !plain_name && is_odd_name(text) => violations.push(odd_name(text, self.tensor_at(number))),
                Ok(_) => {}
                Err(error) => {
                    let at = self.sections.names.offset.saturating_add(name_cursor).saturating_add(error.valid_up_to() as u64);
                    violations.push(Violation::new(
                        &rule::SEAL_TEN_NAME_TEXT,
                        at,
                        format!("the name of tensor {number}: {error}"),
                    ));
                }
            }
            if before.is_some_and(|before| before >= name) {
                push(violations, &rule::SEAL_TEN_NAME_ORDER, 0, format!("tensor {number} does not come after the one before it"));
            }
            let rank = u64::from(record.rank.get());
            if u64::from(record.first_dim.get()) != dim_cursor {
                let message = format!("tensor {number} has its first dim at {}, not at {dim_cursor}", record.first_dim);
                push(violations, &rule::SEAL_TEN_DIMS, 8, message);
            }
            before = Some(name);
            // Sums of at most 2^32 values of 32 and 16 bits.
            name_cursor = name_cursor.saturating_add(name_length);
            dim_cursor = dim_cursor.saturating_add(rank);
        }
        if name_cursor != names.len() as u64 {
            let message = format!("the names end at {name_cursor}, the section at {}", names.len());
            violations.push(Violation::new(&rule::SEAL_TEN_NAME_RANGE, self.sections.names.offset, message));
        }
        let dims = self.tables.dims().len() as u64;
        if dim_cursor != dims {
            let message = format!("the tensors have {dim_cursor} dims, the section {dims}");
            violations.push(Violation::new(&rule::SEAL_TEN_DIMS, self.sections.dims.offset, message));
        }
    }

    fn check_metadata(&self, violations: &mut Violations) {
        let mut before: Option<&[u8]> = None;
        for pair in metadata_pairs(self.tables.metadata()) {
            let at = |offset: usize| self.sections.metadata.offset.saturating_add(offset as u64);
            let (offset, key, value) = match pair {
                Ok(pair) => pair,
                Err(offset) => {
                    let message = "a pair runs over the end of the section";
                    violations.push(Violation::new(&rule::SEAL_META_RECORDS, at(offset), message));
                    return;
                }
            };
            if str::from_utf8(key).is_err() || str::from_utf8(value).is_err() {
                violations.push(Violation::new(&rule::SEAL_META_TEXT, at(offset), "a key or value is not UTF-8"));
            }
            if before.is_some_and(|before| before >= key) {
                let message = "a key does not come after the one before it";
                violations.push(Violation::new(&rule::SEAL_META_ORDER, at(offset), message));
            }
            before = Some(key);
        }
    }

    /// Stage `layout`.
    fn check_blocks(&self, violations: &mut Violations) {
        let payload = self.sections.payload;
        let payload_end = payload.offset.saturating_add(payload.length);
        let mut expected = payload.offset;
        let mut end = payload.offset;
        for (number, block) in (0..).zip(self.tables.blocks()) {
            if block.offset.get() != expected {
                let message = format!("block {number} begins at {}, not at {expected}", block.offset);
                violations.push(Violation::new(&rule::SEAL_BLK_PLACE, self.block_at(number).saturating_add(8), message));
                return;
            }
            let block_end = block.offset.get().checked_add(block.length.get()).filter(|&end| end <= payload_end);
            let Some(block_end) = block_end else {
                let message = format!("block {number} of {} bytes ends past the payload", block.length);
                violations.push(Violation::new(&rule::SEAL_BLK_PLACE, self.block_at(number).saturating_add(16), message));
                return;
            };
            end = block_end;
            expected = round_up(end, PAGE).unwrap_or(u64::MAX);
        }
        if end != payload_end {
            let message = format!("the last block ends at {end}, the payload at {payload_end}");
            violations.push(Violation::new(&rule::SEAL_BLK_PLACE, 40 + 16 * 7 + 8, message));
        }
        let mut filled = vec![false; self.tables.blocks().len()];
        for record in self.tables.tensors() {
            if let Some(filled) = filled.get_mut(usize::from(record.block.get())) {
                *filled = true;
            }
        }
        for (number, _) in (0..).zip(filled).filter(|(_, filled)| !filled) {
            let message = format!("block {number} has none");
            violations.push(Violation::new(&rule::SEAL_BLK_EMPTY, self.block_at(number), message));
        }
    }

    /// Stage `tensor`.
    fn check_tensors(&self, violations: &mut Violations) {
        // What each block's dtype takes an element, where that is whole bytes: asked once, not for every tensor.
        let dtype = |block: &BlockRecord| {
            let dtype = Dtype::from_code(block.dtype.get())?;
            Some((dtype, dtype.bits().is_multiple_of(8).then_some(dtype.bits() / 8)))
        };
        let blocks: Vec<_> = self.tables.blocks().iter().map(dtype).collect();
        for (number, record) in (0..).zip(self.tables.tensors()) {
            let push = |violations: &mut Violations, rule, field: u64, message: String| {
                let at = self.tensor_at(number).saturating_add(field);
                violations.push(Violation::new(rule, at, message).of_tensor(self.name(number)));
            };
            let Some(&Some((dtype, size))) = blocks.get(usize::from(record.block.get())) else {
                push(violations, &rule::TENSOR_BLOCK, 14, format!("block {} of {}", record.block, blocks.len()));
                continue;
            };
            let Some(elements) = element_count(dims(self.tables.dims(), record).iter().map(|dim| dim.get())) else {
                push(violations, &rule::TENSOR_SHAPE, 8, "the shape has too many elements".into());
                continue;
            };
            let bytes = size.map_or_else(|| dtype.bytes_of(elements), |size| elements.checked_mul(size));
            if bytes != Some(record.length.get()) {
                let message = format!("{} bytes for {elements} elements of {dtype}", record.length);
                push(violations, &rule::TENSOR_LENGTH, 24, message);
            }
        }
        if !violations.has_errors() {
            self.check_tiling(violations);
        }
    }

    /// Every tensor has a block and a length by now. One violation a block: after the first, cursors mean nothing.
    fn check_tiling(&self, violations: &mut Violations) {
        let records = self.tables.tensors();
        let order = manifest::tiling_order(records);
        let mut rest = order.as_slice();
        for (number, block) in (0_u64..).zip(self.tables.blocks()) {
            let in_block = |&index: &u32| self.record(index).is_some_and(|record| u64::from(record.block.get()) == number);
            let (of_block, others) = rest.split_at(rest.partition_point(in_block));
            rest = others;
            let unit = Dtype::from_code(block.dtype.get()).and_then(|dtype| dtype.rounding_unit(self.alignment)).unwrap_or(1);
            let mut cursor = 0_u64;
            let broken = of_block.iter().find_map(|&index| {
                let record = self.record(index)?;
                let expected = round_up(cursor, unit);
                if Some(record.offset.get()) != expected {
                    return Some((index, record.offset.get(), expected));
                }
                cursor = record.offset.get().saturating_add(record.length.get());
                None
            });
            if let Some((index, offset, expected)) = broken {
                let at = self.tensor_at(index.into()).saturating_add(16);
                let message = format!("it begins at {offset} in its block, not at {}", expected.unwrap_or(u64::MAX));
                violations.push(Violation::new(&rule::TENSOR_TILE, at, message).of_tensor(self.name(index.into())));
            } else if cursor != block.length.get() {
                let message = format!("the tensors of block {number} end at {cursor}, the block at {}", block.length);
                violations.push(Violation::new(&rule::TENSOR_TILE, self.block_at(number).saturating_add(16), message));
            }
        }
    }

    fn record(&self, number: u32) -> Option<&crate::format::tables::TensorRecord> {
        self.tables.tensors().get(usize::try_from(number).ok()?)
    }

    fn name(&self, number: u64) -> String {
        let record = usize::try_from(number).ok().and_then(|number| self.tables.tensors().get(number));
        record.map(|record| String::from_utf8_lossy(name_bytes(self.tables.names(), record)).into_owned()).unwrap_or_default()
    }

    fn block_at(&self, number: u64) -> u64 {
        self.sections.blocks.offset.saturating_add(number.saturating_mul(BLOCK_SIZE))
    }

    fn tensor_at(&self, number: u64) -> u64 {
        self.sections.tensors.offset.saturating_add(number.saturating_mul(TENSOR_SIZE))
    }
}
