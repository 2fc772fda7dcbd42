//! v3 and v4 files: trailer, then the footer as text, as keys and values, as a layout (spec chapters 7 and 8).

use std::borrow::Cow;
use std::io;

use zerocopy::little_endian::U64;

use crate::dtype::Dtype;
use crate::format::footer::{self, Fault, Integer, Members, Raw};
use crate::format::header::Section;
use crate::format::tables::{BlockRecord, Tables, TensorRecord};
use crate::format::{MAX_INTEGER, element_count, trailer};
use crate::limits::Limits;
use crate::manifest::Manifest;
use crate::rule::{self, Layout, Rule, Stage, Violation, Violations};
use crate::source::{ReadAt, read_vec};

use super::{Parsed, Policy, is_odd_name, odd_name, over_limit, read_trailer};

/// What a record of each kind has to have, and what belongs to the other layout only.
const TOP_V3: &[&str] = &["format", "target_dtype", "align_bytes", "total_elems", "index"];
const TOP_V4: &[&str] = &["format", "align_bytes", "total_payload_bytes", "total_elems", "macroblocks", "index"];
const BLOCK: &[&str] = &["dtype", "offset_bytes", "length_bytes", "length_elems"];
const RECORD_V3: &[&str] = &["name", "shape", "offset", "length"];
const RECORD_V4: &[&str] = &["name", "shape", "offset", "length", "macroblock"];

pub(super) fn parse(source: &dyn ReadAt, policy: &Policy) -> io::Result<Parsed> {
    let mut parsed = Parsed::new(None);
    let size = source.length();
    let Some(footer_end) = size.checked_sub(trailer::SIZE as u64) else {
        return Ok(parsed.with(Violation::new(&rule::FILE_SIZE, 0, format!("the file has {size} bytes"))));
    };
    if policy.require_seal {
        return Ok(parsed.with(Violation::new(&rule::PIN_SEAL, 0, "the file has no seal")));
    }
    if let Some(expected) = policy.expected_id {
        let message = format!("the file has no seal and so no pack id; {expected} was expected");
        return Ok(parsed.with(Violation::new(&rule::PIN_ID, 0, message)));
    }
    let trailer = read_trailer(source, &mut parsed.violations)?;
    if parsed.violations.has_errors() {
        return Ok(parsed);
    }
    let Some(footer_offset) = footer_end.checked_sub(trailer.footer_length) else {
        let message = format!("{} in a file of {size} bytes", trailer.footer_length);
        return Ok(parsed.with(Violation::new(&rule::TRAIL_LENGTH, footer_end, message)));
    };
    if trailer.footer_length > policy.limits.footer_bytes {
        let violation = over_limit(&rule::LIMIT_FOOTER, footer_end, trailer.footer_length, policy.limits.footer_bytes);
        return Ok(parsed.with(violation));
    }
    parsed.footer = Section { offset: footer_offset, length: trailer.footer_length };

    let bytes = read_vec(source, footer_offset, trailer.footer_length)?;
    let text = match str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = footer_offset.saturating_add(error.valid_up_to() as u64);
            return Ok(parsed.with(Violation::new(&rule::FOOT_TXT_UTF8, at, error.to_string())));
        }
    };
    let (depth, at) = footer::depth(text);
    let most = policy.limits.json_depth.min(Limits::MOST_JSON_DEPTH);
    if depth > most {
        let at = footer_offset.saturating_add(at as u64);
        return Ok(parsed.with(over_limit(&rule::LIMIT_DEPTH, at, depth, most)));
    }
    let document = match footer::document(text) {
        Ok(document) => document,
        Err(error) => {
            // A footer is one line as a rule, so the column is the offset; in others it is near it.
            let at = if error.line() <= 1 {
                footer_offset.saturating_add((error.column() as u64).saturating_sub(1))
            } else {
                footer_offset
            };
            return Ok(parsed.with(Violation::new(&rule::FOOT_TXT_JSON, at, error.to_string())));
        }
    };

    let mut reader = FooterReader { text, footer_offset, limits: &policy.limits, violations: Violations::default() };
    let contents = reader.read(document);
    // Faults of text come before those of keys and values, wherever they are.
    if reader.violations.first_failing().is_some_and(|(stage, _)| stage > Stage::FooterText) {
        reader.check_passed_over(document);
    }
    parsed.layout = contents.as_ref().map(|contents| contents.layout);
    parsed.violations.extend(reader.violations.in_order_of_stages());
    if let Some(contents) = contents.filter(|_| !parsed.violations.has_errors()) {
        parsed.manifest = contents.into_manifest(footer_offset, &mut parsed.violations);
    }
    Ok(parsed)
}

/// A footer as read, in the file's order. Numbers fit their keys, but nothing is said yet about how they fit each other.
struct Contents<'a> {
    layout: Layout,
    align_bytes: u64,
    /// v4 only.
    total_payload_bytes: Option<u64>,
    total_elems: u64,
    blocks: Vec<FooterBlock>,
    records: Vec<Record<'a>>,
    dims: Vec<U64>,
    /// Where the footer's own fields begin, for messages.
    at: u64,
}

struct FooterBlock {
    dtype: Dtype,
    offset_bytes: u64,
    length_bytes: u64,
    length_elems: u64,
    at: u64,
}

struct Record<'a> {
    name: Cow<'a, str>,
    first_dim: usize,
    rank: usize,
    offset: u64,
    length: u64,
    block: u64,
    at: u64,
}

struct FooterReader<'a> {
    text: &'a str,
    footer_offset: u64,
    limits: &'a Limits,
    violations: Violations,
}

impl<'a> FooterReader<'a> {
    /// The footer, if its format is known; complete only if no error was found.
    fn read(&mut self, document: Raw<'a>) -> Option<Contents<'a>> {
        let at = self.at(document);
        let top = self.object(document, "the footer")?;
        let format = self.text(&top, "format", at)?;
        let layout = match format.as_ref() {
            footer::FORMAT_V3 => Layout::V3,
            footer::FORMAT_V4 => Layout::V4,
            other => {
                self.push(&rule::FOOT_SCH_FORMAT, at, format!("it is {:?}", other.chars().take(80).collect::<String>()));
                return None;
            }
        };
        let (known, foreign) = if layout == Layout::V3 { (TOP_V3, TOP_V4) } else { (TOP_V4, TOP_V3) };
        self.check_keys(&top, known, foreign, at, None);
        if top.get(footer::SEAL_KEY).is_some() {
            self.push(&rule::FOOT_SCH_SEAL, at, "the footer has a seal, the file no sealed header".into());
        }
        let align_bytes = self.integer(&top, "align_bytes", at);
        let total_elems = self.integer(&top, "total_elems", at);
        let mut contents = Contents {
            layout,
            align_bytes: align_bytes.unwrap_or_default(),
            total_payload_bytes: None,
            total_elems: total_elems.unwrap_or_default(),
            blocks: Vec::new(),
            records: Vec::new(),
            dims: Vec::new(),
            at,
        };
        if layout == Layout::V3 {
            if let Some(dtype) = self.dtype(&top, "target_dtype", at) {
                let length_elems = contents.total_elems;
                let length_bytes = dtype.bytes_of(length_elems).unwrap_or(u64::MAX);
                contents.blocks.push(FooterBlock { dtype, offset_bytes: 0, length_bytes, length_elems, at });
            }
        } else {
            contents.total_payload_bytes = self.integer(&top, "total_payload_bytes", at);
            self.read_blocks(&top, &mut contents);
        }
        self.read_index(&top, &mut contents);
        Some(contents)
    }

    fn read_blocks(&mut self, top: &Members<'a>, contents: &mut Contents<'a>) {
        let most = self.limits.blocks;
        let blocks = &mut contents.blocks;
        let count = self.list(top, "macroblocks", contents.at, most, &rule::LIMIT_BLOCKS, |reader, raw| {
            blocks.extend(reader.read_block(raw));
        });
        if count == Some(0) {
            self.push(&rule::FOOT_SCH_BLOCKS, contents.at, "`macroblocks` is empty".into());
        }
    }

    fn read_block(&mut self, raw: Raw<'a>) -> Option<FooterBlock> {
        let at = self.at(raw);
        let block = self.object(raw, "a block record")?;
        if let Some((key, _)) = block.members.iter().find(|(key, _)| !BLOCK.contains(&key.as_ref())) {
            self.push(&rule::FOOT_SCH_BLOCK_KEY, at, format!("it has a key {key:?}"));
        }
        let dtype = self.dtype(&block, "dtype", at);
        let [offset_bytes, length_bytes, length_elems] =
            ["offset_bytes", "length_bytes", "length_elems"].map(|key| self.integer(&block, key, at));
        Some(FooterBlock {
            dtype: dtype?,
            offset_bytes: offset_bytes?,
            length_bytes: length_bytes?,
            length_elems: length_elems?,
            at,
        })
    }

    fn read_index(&mut self, top: &Members<'a>, contents: &mut Contents<'a>) {
        let most = self.limits.tensors;
        let at = contents.at;
        self.list(top, "index", at, most, &rule::LIMIT_TENSORS, |reader, raw| {
            let record = reader.read_record(raw, contents.layout, &mut contents.dims);
            contents.records.extend(record);
        });
    }

    fn read_record(&mut self, raw: Raw<'a>, layout: Layout, dims: &mut Vec<U64>) -> Option<Record<'a>> {
        let v4 = layout == Layout::V4;
        let (known, foreign) = if v4 { (RECORD_V4, RECORD_V3) } else { (RECORD_V3, RECORD_V4) };
        let at = self.at(raw);
        let record = self.object(raw, "an index record")?;
        let name = self.text(&record, "name", at);
        let tensor = name.as_deref();
        self.check_keys(&record, known, foreign, at, tensor);
        if let Some(name) = tensor.filter(|name| name.len() as u64 > self.limits.name_bytes) {
            let violation = over_limit(&rule::LIMIT_NAME, at, name.len() as u64, self.limits.name_bytes);
            self.violations.push(violation);
        }
        let first_dim = dims.len();
        self.read_shape(&record, at, tensor, dims);
        let [offset, length] = ["offset", "length"].map(|key| self.integer_of(&record, key, at, tensor));
        let block = if v4 { self.integer_of(&record, "macroblock", at, tensor) } else { Some(0) };
        let rank = dims.len().saturating_sub(first_dim);
        Some(Record { name: name?, first_dim, rank, offset: offset?, length: length?, block: block?, at })
    }

    fn read_shape(&mut self, record: &Members<'a>, at: u64, tensor: Option<&str>, dims: &mut Vec<U64>) {
        let most = self.limits.rank;
        self.list(record, "shape", at, most, &rule::LIMIT_RANK, |reader, raw| {
            dims.extend(reader.checked_integer(raw, "shape", tensor).map(U64::new));
        });
    }

    /// Keys that the layout does not have: an error if the other layout has them, a warning otherwise.
    fn check_keys(&mut self, object: &Members<'a>, known: &[&str], foreign: &[&str], at: u64, tensor: Option<&str>) {
        for (key, value) in &object.members {
            let key = key.as_ref();
            if known.contains(&key) || key == footer::SEAL_KEY && tensor.is_none() {
                continue;
            }
            let (rule, message) = if foreign.contains(&key) {
                (&rule::FOOT_SCH_FOREIGN_KEY, format!("it has a key {key:?}"))
            } else {
                let shown: String = key.chars().take(80).collect();
                (&rule::FOOT_SCH_UNKNOWN_KEY, format!("{shown:?} is passed over"))
            };
            let mut violation = Violation::new(rule, at, message);
            violation.tensor = tensor.map(rule::shown_name);
            self.violations.push(violation);
            self.check_passed_over(value);
        }
    }

    /// A value that is not looked at is JSON text all the same.
    fn check_passed_over(&mut self, raw: Raw<'a>) {
        let at = self.at(raw);
        match footer::check_passed_over(raw) {
            Ok(()) => {}
            Err(Fault::Text(message)) => self.push(&rule::FOOT_TXT_JSON, at, message),
            Err(Fault::RepeatedKey(key)) => self.push(&rule::FOOT_TXT_KEYS, at, format!("{key:?} occurs twice")),
        }
    }

    fn object(&mut self, raw: Raw<'a>, what: &str) -> Option<Members<'a>> {
        let at = self.at(raw);
        match footer::members(raw) {
            Ok(Some(members)) => {
                if let Some(key) = &members.repeated {
                    let shown: String = key.chars().take(80).collect();
                    self.push(&rule::FOOT_TXT_KEYS, at, format!("{shown:?} occurs twice in {what}"));
                }
                Some(members)
            }
            Ok(None) => {
                self.check_passed_over(raw);
                self.violations.push_with(&rule::FOOT_SCH_OBJECT, at, || format!("{what} is none"));
                None
            }
            Err(error) => {
                self.push(&rule::FOOT_TXT_JSON, at, error.to_string());
                None
            }
        }
    }

    fn value(&mut self, object: &Members<'a>, key: &str, at: u64) -> Option<Raw<'a>> {
        let value = object.get(key);
        if value.is_none() {
            self.violations.push_with(&rule::FOOT_SCH_MISSING, at, || format!("there is no `{key}`"));
        }
        value
    }

    fn text(&mut self, object: &Members<'a>, key: &str, at: u64) -> Option<Cow<'a, str>> {
        let raw = self.value(object, key, at)?;
        match footer::text(raw) {
            Ok(Some(text)) => Some(text),
            Ok(None) => self.wrong_type(raw, key, "a string"),
            Err(error) => {
                self.push(&rule::FOOT_TXT_JSON, self.at(raw), error.to_string());
                None
            }
        }
    }

    /// Hands on the elements of a list one after the other: a list may be long, and what is kept of its elements is little. Returns their
    /// number if it is a list and no longer than the limit.
    fn list(
        &mut self,
        object: &Members<'a>,
        key: &str,
        at: u64,
        most: u64,
        limit: &'static Rule,
        mut each: impl FnMut(&mut Self, Raw<'a>),
    ) -> Option<u64> {
        let raw = self.value(object, key, at)?;
        match footer::for_each_element(raw, most, |element| each(self, element)) {
            Ok(Some(count)) if count <= most => Some(count),
            Ok(Some(count)) => {
                self.violations.push_with(limit, self.at(raw), || format!("`{key}` has {count}, the limit is {most}"));
                None
            }
            Ok(None) => self.wrong_type(raw, key, "a list"),
            Err(error) => {
                self.push(&rule::FOOT_TXT_JSON, self.at(raw), error.to_string());
                None
            }
        }
    }

    fn wrong_type<T>(&mut self, raw: Raw<'a>, key: &str, wanted: &str) -> Option<T> {
        self.check_passed_over(raw);
        self.push(&rule::FOOT_SCH_TYPE, self.at(raw), format!("`{key}` is not {wanted}"));
        None
    }

    fn dtype(&mut self, object: &Members<'a>, key: &str, at: u64) -> Option<Dtype> {
        let name = self.text(object, key, at)?;
        let dtype = Dtype::from_name(&name).filter(|dtype| dtype.in_legacy());
        if dtype.is_none() {
            let shown: String = name.chars().take(80).collect();
            self.push(&rule::FOOT_SCH_DTYPE, at, format!("`{key}` is {shown:?}"));
        }
        dtype
    }

    fn integer(&mut self, object: &Members<'a>, key: &str, at: u64) -> Option<u64> {
        self.integer_of(object, key, at, None)
    }

    fn integer_of(&mut self, object: &Members<'a>, key: &str, at: u64, tensor: Option<&str>) -> Option<u64> {
        let raw = self.value(object, key, at)?;
        self.checked_integer(raw, key, tensor)
    }

    fn checked_integer(&mut self, raw: Raw<'a>, key: &str, tensor: Option<&str>) -> Option<u64> {
        let (rule, message) = match footer::integer(raw) {
            Integer::Whole(value) => return Some(value),
            Integer::OtherNumber => {
                (&rule::FOOT_SCH_INTEGER, format!("`{key}` is {}", raw.get().chars().take(40).collect::<String>()))
            }
            Integer::NotNumber => {
                self.check_passed_over(raw);
                (&rule::FOOT_SCH_TYPE, format!("`{key}` is not a number"))
            }
        };
        let mut violation = Violation::new(rule, self.at(raw), message);
        violation.tensor = tensor.map(rule::shown_name);
        self.violations.push(violation);
        None
    }

    fn push(&mut self, rule: &'static Rule, at: u64, message: String) {
        self.violations.push(Violation::new(rule, at, message));
    }

    /// Where a value stands in the file: its text is a part of the footer's.
    fn at(&self, raw: Raw<'_>) -> u64 {
        let within = raw.get().as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        self.footer_offset.saturating_add(within as u64)
    }
}

impl Contents<'_> {
    /// Stages `layout` and `tensor`.
    fn into_manifest(mut self, footer_offset: u64, violations: &mut Violations) -> Option<Manifest> {
        self.check_blocks(footer_offset, violations);
        if violations.has_errors() {
            return None;
        }
        self.records.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        self.check_tensors(violations);
        if violations.has_errors() {
            return None;
        }
        let tables = self.tables();
        if tables.is_none() {
            // Only names of 4 GiB and more get here, for callers who raised the limits that far.
            violations.push(Violation::new(&rule::LIMIT_NAME, self.at, "the names have 4 GiB or more"));
        }
        Some(Manifest {
            layout: self.layout,
            alignment: self.align_bytes,
            group_log2: 0,
            payload: Section { offset: 0, length: footer_offset },
            tables: tables?,
        })
    }

    fn check_blocks(&self, footer_offset: u64, violations: &mut Violations) {
        let mut push = |rule, at, message| violations.push(Violation::new(rule, at, message));
        if let Some(total) = self.total_payload_bytes.filter(|&total| total != footer_offset) {
            push(
                &rule::BLOCK_PAYLOAD,
                self.at,
                format!("`total_payload_bytes` is {total}, the footer begins at {footer_offset}"),
            );
        }
        if self.layout == Layout::V3 {
            let length = self.blocks.first().map(|block| block.length_bytes);
            if length != Some(footer_offset) {
                let message = format!("{} elements do not fill the {footer_offset} bytes before the footer", self.total_elems);
                push(&rule::BLOCK_TOTAL, self.at, message);
            }
        }
        let mut end = 0_u64;
        let mut elements = 0_u64;
        for block in &self.blocks {
            let FooterBlock { dtype, offset_bytes, length_bytes, length_elems, at } = *block;
            let unit = dtype.rounding_unit(self.align_bytes).filter(|&unit| unit <= MAX_INTEGER);
            if unit.and_then(|unit| offset_bytes.checked_rem(unit)) != Some(0) {
                let message = format!("it begins at {offset_bytes}, with {dtype} and an alignment of {}", self.align_bytes);
                push(&rule::BLOCK_ALIGN, at, message);
            }
            if self.layout == Layout::V3 {
                continue;
            }
            if dtype.bytes_of(length_elems) != Some(length_bytes) {
                push(&rule::BLOCK_LENGTH, at, format!("{length_bytes} bytes for {length_elems} elements of {dtype}"));
            }
            if offset_bytes < end {
                push(&rule::BLOCK_ORDER, at, format!("it begins at {offset_bytes}, the one before it ends at {end}"));
            }
            end = offset_bytes.saturating_add(length_bytes);
            if end > footer_offset {
                push(&rule::BLOCK_END, at, format!("it ends at {end}, the payload at {footer_offset}"));
            }
            elements = elements.saturating_add(length_elems);
        }
        if self.layout == Layout::V4 && elements != self.total_elems {
            push(&rule::BLOCK_TOTAL, self.at, format!("`total_elems` is {}, the blocks have {elements}", self.total_elems));
        }
    }

    /// Records are sorted by name. One violation a tensor, for lengths mean nothing without shapes, nor ranges without lengths.
    fn check_tensors(&self, violations: &mut Violations) {
        let mut before: Option<&str> = None;
        for record in &self.records {
            let name = record.name.as_ref();
            if is_odd_name(name) {
                violations.push(odd_name(name, record.at));
            }
            if before == Some(name) {
                violations.push(Violation::new(&rule::TENSOR_NAME, record.at, "another tensor has this name").of_tensor(name));
            }
            before = Some(name);
            if let Err((rule, message)) = self.check_tensor(record) {
                violations.push(Violation::new(rule, record.at, message).of_tensor(name));
            }
        }
        if !violations.has_errors() {
            self.check_overlaps(violations);
        }
    }

    fn check_tensor(&self, record: &Record<'_>) -> Result<(), (&'static Rule, String)> {
        let block = usize::try_from(record.block).ok().and_then(|number| self.blocks.get(number));
        let Some(block) = block else {
            return Err((&rule::TENSOR_BLOCK, format!("block {} of {}", record.block, self.blocks.len())));
        };
        let elements = element_count(self.shape(record).iter().map(|dim| dim.get()))
            .ok_or((&rule::TENSOR_SHAPE, "the shape has too many elements".to_owned()))?;
        if elements != record.length {
            return Err((&rule::TENSOR_LENGTH, format!("{} elements for a shape of {elements}", record.length)));
        }
        let end = record.offset.checked_add(record.length);
        if end.is_none_or(|end| end > block.length_elems) {
            let message = format!("elements {} + {} of a block of {}", record.offset, record.length, block.length_elems);
            return Err((&rule::TENSOR_RANGE, message));
        }
        let offset = block.dtype.bytes_of(record.offset);
        let unit = block.dtype.rounding_unit(self.align_bytes);
        if offset.zip(unit).and_then(|(offset, unit)| offset.checked_rem(unit)) != Some(0) {
            let message = format!("it begins at element {} with an alignment of {} bytes", record.offset, self.align_bytes);
            return Err((&rule::TENSOR_ALIGN, message));
        }
        Ok(())
    }

    fn check_overlaps(&self, violations: &mut Violations) {
        let mut by_place: Vec<&Record<'_>> = self.records.iter().filter(|record| record.length > 0).collect();
        by_place.sort_by_key(|record| (record.block, record.offset));
        for (before, record) in by_place.iter().zip(by_place.iter().skip(1)) {
            if before.block == record.block && before.offset.saturating_add(before.length) > record.offset {
                let shown: String = before.name.chars().take(80).collect();
                let message = format!("it begins inside tensor {shown:?}");
                violations.push(Violation::new(&rule::TENSOR_OVERLAP, record.at, message).of_tensor(record.name.as_ref()));
            }
        }
    }

    fn shape(&self, record: &Record<'_>) -> &[U64] {
        let end = record.first_dim.saturating_add(record.rank);
        self.dims.get(record.first_dim..end).unwrap_or_default()
    }

    /// The tables that a sealed file of the same contents would have, but for digests and metadata.
    fn tables(&self) -> Option<Tables> {
        let blocks: Vec<BlockRecord> = self
            .blocks
            .iter()
            .map(|block| BlockRecord {
                dtype: block.dtype.code().into(),
                reserved: 0.into(),
                codec: 0.into(),
                offset: block.offset_bytes.into(),
                length: block.length_bytes.into(),
                decoded_length: 0.into(),
            })
            .collect();
        let mut names = Vec::new();
        let mut dims: Vec<U64> = Vec::with_capacity(self.dims.len());
        let mut tensors = Vec::with_capacity(self.records.len());
        for record in &self.records {
            let dtype = self.blocks.get(usize::try_from(record.block).ok()?)?.dtype;
            tensors.push(TensorRecord {
                name_offset: u32::try_from(names.len()).ok()?.into(),
                name_length: u32::try_from(record.name.len()).ok()?.into(),
                first_dim: u32::try_from(dims.len()).ok()?.into(),
                rank: u16::try_from(record.rank).ok()?.into(),
                block: u16::try_from(record.block).ok()?.into(),
                offset: dtype.bytes_of(record.offset)?.into(),
                length: dtype.bytes_of(record.length)?.into(),
            });
            names.extend_from_slice(record.name.as_bytes());
            dims.extend_from_slice(self.shape(record));
        }
        Tables::new(&blocks, &tensors, &dims, 0, &names, &[])
    }
}
