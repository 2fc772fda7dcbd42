//! Sealed files, taken apart and put together again.

use std::collections::BTreeMap;

use flashpack::format::footer::{BlockEntry, Footer, Form, IndexEntry};
use flashpack::format::header::{Header, SIZE, Section, Sections};
use flashpack::format::tables::{BlockRecord, TensorRecord, push_metadata};
use flashpack::{Dtype, PlanOptions};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::legacy::{pattern, written};
use crate::{Vector, Verdict};

const PAGE: usize = 4096;

/// A sealed file as its parts. [`Parts::seal`] lays them out and computes everything that depends on others, so that one edit is one fault.
#[derive(Clone)]
struct Parts {
    blocks: Vec<BlockRecord>,
    tensors: Vec<TensorRecord>,
    dims: Vec<U64>,
    names: Vec<u8>,
    metadata: Vec<u8>,
    extra: Vec<u8>,
    payload: Vec<u8>,
    alignment: u32,
    group_log2: u8,
}

impl Parts {
    fn of(file: &[u8]) -> Parts {
        let header = Header::from_bytes(file.first_chunk::<SIZE>().expect("a header"));
        let part = |section: Section| &file[section.offset as usize..(section.offset + section.length) as usize];
        let sections = header.sections;
        Parts {
            blocks: <[BlockRecord]>::ref_from_bytes(part(sections.blocks)).expect("blocks").to_vec(),
            tensors: <[TensorRecord]>::ref_from_bytes(part(sections.tensors)).expect("tensors").to_vec(),
            dims: <[U64]>::ref_from_bytes(part(sections.dims)).expect("dims").to_vec(),
            names: part(sections.names).to_vec(),
            metadata: part(sections.metadata).to_vec(),
            extra: part(sections.extra).to_vec(),
            payload: part(sections.payload).to_vec(),
            alignment: header.alignment,
            group_log2: header.group_log2,
        }
    }

    /// The length of the tables, fill included.
    fn tables_length(&self) -> usize {
        let group = 1_usize << self.group_log2;
        let digests = self.payload.len().div_ceil(group) * 32;
        let records = self.blocks.len() * 32 + self.tensors.len() * 32 + self.dims.len() * 8;
        (records + digests + self.names.len() + self.metadata.len() + self.extra.len()).next_multiple_of(PAGE)
    }

    /// Moves the blocks to where the payload is, after an edit that moved it.
    fn moved(mut self, before: usize) -> Parts {
        let after = self.tables_length();
        for block in &mut self.blocks {
            block.offset = (block.offset.get() + after as u64 - before as u64).into();
        }
        self
    }

    fn seal(&self) -> Vec<u8> {
        Sealed::new(self).finish()
    }
}

/// A sealed file whose parts lie at their places, digests not yet computed.
struct Sealed {
    header: Header,
    tables: Vec<u8>,
    payload: Vec<u8>,
    footer: Vec<u8>,
    fill: Vec<u8>,
    trailer_length: Option<u64>,
    trailer_magic: [u8; 8],
}

impl Sealed {
    fn new(parts: &Parts) -> Sealed {
        let group = 1_usize << parts.group_log2;
        let digests: Vec<u8> = parts.payload.chunks(group).flat_map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
        let mut cursor = PAGE as u64;
        let mut tables = Vec::new();
        let mut section = |bytes: &[u8]| {
            let section = Section { offset: cursor, length: bytes.len() as u64 };
            cursor += bytes.len() as u64;
            tables.extend_from_slice(bytes);
            section
        };
        let blocks = section(parts.blocks.as_bytes());
        let tensors = section(parts.tensors.as_bytes());
        let dims = section(parts.dims.as_bytes());
        let digests = section(&digests);
        let names = section(&parts.names);
        let metadata = section(&parts.metadata);
        let extra = section(&parts.extra);
        tables.resize(tables.len().next_multiple_of(PAGE), 0);
        let payload = Section { offset: (PAGE + tables.len()) as u64, length: parts.payload.len() as u64 };
        let footer_bytes = footer(parts, payload);
        let footer = Section { offset: payload.offset + payload.length, length: footer_bytes.len() as u64 };
        let header = Header {
            magic: *b"\x89FPK\r\n\x1a\n",
            major: 1,
            minor: 0,
            header_size: 288,
            file_size: footer.offset + footer.length + 16,
            required_features: 0,
            optional_features: 0,
            sections: Sections { blocks, tensors, dims, digests, names, metadata, extra, payload, footer },
            alignment: parts.alignment,
            group_log2: parts.group_log2,
            reserved: [0; 3],
            tables_digest: [0; 32],
            footer_digest: [0; 32],
            header_digest: [0; 32],
        };
        Sealed {
            header,
            tables,
            payload: parts.payload.clone(),
            footer: footer_bytes,
            fill: vec![0; PAGE - SIZE],
            trailer_length: None,
            trailer_magic: *b"FLASHPK\0",
        }
    }

    /// Computes the digests, from the inside out, and puts the file together.
    fn finish(mut self) -> Vec<u8> {
        self.header.tables_digest = *blake3::hash(&self.tables).as_bytes();
        self.header.footer_digest = *blake3::hash(&self.footer).as_bytes();
        self.finish_header()
    }

    fn finish_header(mut self) -> Vec<u8> {
        self.header.header_digest = self.header.digest();
        self.assemble()
    }

    fn assemble(self) -> Vec<u8> {
        let length = self.trailer_length.unwrap_or(self.footer.len() as u64).to_le_bytes();
        let header = self.header.to_bytes();
        [&header[..], &self.fill, &self.tables, &self.payload, &self.footer, &length, &self.trailer_magic].concat()
    }
}

/// The footer that the tables determine.
fn footer(parts: &Parts, payload: Section) -> Vec<u8> {
    let dtype = |block: &BlockRecord| Dtype::from_code(block.dtype.get()).unwrap_or(Dtype::UInt8);
    let elements = |dtype: Dtype, bytes: u64| dtype.elements_in(bytes).unwrap_or(0);
    let macroblocks: Vec<BlockEntry> = parts
        .blocks
        .iter()
        .map(|block| BlockEntry {
            dtype: dtype(block).name(),
            offset_bytes: block.offset.get(),
            length_bytes: block.length.get(),
            length_elems: elements(dtype(block), block.length.get()),
        })
        .collect();
    let mut order: Vec<&TensorRecord> = parts.tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.block.get(), tensor.offset.get(), tensor.length.get() > 0));
    let index = order
        .into_iter()
        .map(|tensor| {
            let dtype = parts.blocks.get(usize::from(tensor.block.get())).map_or(Dtype::UInt8, dtype);
            let names = tensor.name_offset.get() as usize..tensor.name_offset.get() as usize + tensor.name_length.get() as usize;
            let dims = tensor.first_dim.get() as usize..tensor.first_dim.get() as usize + usize::from(tensor.rank.get());
            IndexEntry {
                name: parts.names.get(names).and_then(|name| str::from_utf8(name).ok()).unwrap_or(""),
                shape: parts.dims.get(dims).unwrap_or(&[]),
                offset: elements(dtype, tensor.offset.get()),
                length: elements(dtype, tensor.length.get()),
                macroblock: tensor.block.get(),
            }
        })
        .collect();
    Footer {
        form: Form::Sealed,
        align_bytes: parts.alignment.into(),
        total_payload_bytes: payload.offset + payload.length,
        total_elems: macroblocks.iter().fold(0, |sum: u64, block| sum.saturating_add(block.length_elems)),
        macroblocks,
        index,
    }
    .render()
}

/// Two float32 tensors, an int64 scalar and a metadata pair: small, and with every kind of record.
fn small() -> Vec<u8> {
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    written(
        &PlanOptions { metadata: BTreeMap::from([("format".into(), "pt".into())]), ..Default::default() },
        &[
            ("a", Dtype::Float32, &[2, 2], floats(&[1.0, 2.0, 3.0, 4.0])),
            ("b", Dtype::Float32, &[3], floats(&[5.0, 6.0, 7.0])),
            ("n", Dtype::Int64, &[], 42_i64.to_le_bytes().to_vec()),
        ],
    )
}

pub(crate) fn vectors() -> Vec<Vector> {
    let mut vectors = accepted();
    vectors.extend(raw());
    vectors.extend(headers());
    vectors.extend(tables());
    vectors.extend(layouts());
    vectors.extend(ends());
    vectors.extend(limits());
    vectors
}

fn accept(id: &str, bytes: Vec<u8>, comment: &str) -> Vector {
    Vector::accept(format!("sealed-{id}"), "sealed", bytes, comment)
}

fn accepted() -> Vec<Vector> {
    let parts = Parts::of(&small());
    assert_eq!(parts.seal(), small(), "taking apart and sealing again gives the same file");
    let mut vectors = vec![
        accept("small", small(), "two blocks, three tensors, a metadata pair"),
        accept("empty-pack", written(&PlanOptions::default(), &[]), "no tensors, no blocks, no payload").clause("SEAL-BLK-03"),
    ];
    for &dtype in Dtype::ALL {
        let elements = if dtype.bits() < 8 { 12 } else { 6 };
        let bytes = dtype.bytes_of(elements).expect("whole bytes") as usize;
        let file = written(
            &PlanOptions::default(),
            &[
                ("t", dtype, &[2, elements / 2], pattern(bytes, 1)),
                ("u", dtype, &[4], pattern(dtype.bytes_of(4).expect("whole bytes") as usize, 2)),
            ],
        );
        vectors.push(accept(&format!("dtype-{dtype}"), file, &format!("two tensors of {dtype}")).clause("DTYPE-REG-01"));
    }
    for alignment in [0, 1, 2, 16, 128, 512, 4096] {
        let options = PlanOptions { alignment, ..Default::default() };
        let file = written(
            &options,
            &[
                ("f", Dtype::Float32, &[5], pattern(20, 1)),
                ("g", Dtype::Float32, &[3], pattern(12, 2)),
                ("h", Dtype::Float6E2M3, &[4], pattern(3, 3)),
                ("i", Dtype::Float6E2M3, &[8], pattern(6, 4)),
            ],
        );
        vectors.push(
            accept(
                &format!("align-{alignment}"),
                file,
                &format!("tensors aligned to {alignment} bytes; 6-bit ones to a multiple of 3 too"),
            )
            .clause("TENSOR-TILE-02"),
        );
    }
    let empty = |name: &'static str| (name, Dtype::Float32, &[0_u64, 3][..], Vec::new());
    vectors.push(
        accept(
            "empty-tensors",
            written(
                &PlanOptions { order: flashpack::Order::Source, ..Default::default() },
                &[
                    empty("z"),
                    ("a", Dtype::Float32, &[1], pattern(4, 1)),
                    empty("y"),
                    ("b", Dtype::Float32, &[1], pattern(4, 2)),
                    empty("x"),
                    empty("w"),
                ],
            ),
            "tensors without elements before, between and after others",
        )
        .clause("TENSOR-TILE-01"),
    );
    vectors.push(
        accept(
            "empty-block",
            written(&PlanOptions::default(), &[("a", Dtype::Int8, &[1], vec![7]), empty("e")]),
            "a block of length 0 after another",
        )
        .clause("SEAL-BLK-03"),
    );
    vectors.push(accept(
        "only-empty-block",
        written(&PlanOptions::default(), &[empty("e")]),
        "a payload of length 0, with a block",
    ));
    for (name, id, comment) in [
        ("", "empty", "an empty name"),
        ("a\nb", "newline", "a line break in a name"),
        ("a\0", "nul", "a zero in a name"),
        ("a\u{85}", "c1-control", "a control character above ASCII"),
        ("\u{7f}", "delete", "a delete character"),
    ] {
        let file = written(&PlanOptions::default(), &[(name, Dtype::UInt8, &[1], vec![1])]);
        vectors.push(accept(&format!("name-{id}"), file, comment).warns("TENSOR-NAME-02"));
    }
    vectors.push(
        accept(
            "name-escapes",
            written(&PlanOptions::default(), &[("\"\\/\u{2028}\u{feff}<é>", Dtype::UInt8, &[1], vec![1])]),
            "characters that JSON writers like to escape, and this format does not",
        )
        .clause("FOOT-RENDER-02"),
    );
    let metadata = |pairs: &[(&str, &str)]| PlanOptions {
        metadata: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    };
    vectors.push(
        accept(
            "metadata",
            written(
                &metadata(&[
                    ("", "empty key"),
                    ("__proto__", "x"),
                    ("10", "ten"),
                    ("9", "nine"),
                    ("é", "層"),
                    ("empty value", ""),
                    ("\u{ff21}", "1"),
                    ("\u{1f600}", "2"),
                ]),
                &[("t", Dtype::UInt8, &[1], vec![1])],
            ),
            "keys in order of their bytes, whatever they are",
        )
        .clause("SEAL-META-03"),
    );
    vectors.push(accept("metadata-only", written(&metadata(&[("k", "v")]), &[]), "metadata and nothing else"));
    for (log2, length) in [(16, 140_000), (17, 140_000), (26, 10)] {
        let options = PlanOptions { group_log2: log2, ..Default::default() };
        let file = written(
            &options,
            &[("t", Dtype::UInt8, &[length], pattern(length as usize, 5)), ("u", Dtype::Int16, &[10], pattern(20, 6))],
        );
        vectors.push(accept(&format!("groups-2-{log2}"), file, &format!("groups of 2^{log2} bytes")).clause("SEAL-SEC-05"));
    }
    let exact = PlanOptions { group_log2: 16, ..Default::default() };
    vectors.push(
        accept(
            "groups-exact",
            written(&exact, &[("t", Dtype::UInt8, &[131_072], pattern(131_072, 5))]),
            "a payload of exactly two groups",
        )
        .clause("SEAL-SEC-05"),
    );
    vectors.push(accept(
        "shape-huge-and-zero",
        written(&PlanOptions::default(), &[("t", Dtype::UInt8, &[(1 << 53) - 1, 0], vec![])]),
        "a dim of 2^53 - 1 beside one of 0",
    ));
    vectors.push(accept(
        "rank-64",
        written(&PlanOptions::default(), &[("t", Dtype::UInt8, &[1; 64], vec![1])]),
        "as many dims as the default limit allows",
    ));
    // 40 blocks, many of one dtype: no writer of 1.0 makes them, every reader takes them.
    let mut many =
        Parts::of(&written(&PlanOptions { alignment: 0, ..Default::default() }, &[("t", Dtype::UInt8, &[1], vec![1])]));
    (many.blocks, many.tensors, many.dims, many.names, many.payload) = Default::default();
    let (name_length, count) = (3, 40);
    for number in 0..count {
        many.names.extend_from_slice(format!("t{number:02}").as_bytes());
        many.dims.push(1.into());
        many.tensors.push(TensorRecord {
            name_offset: (number * name_length).into(),
            name_length: name_length.into(),
            first_dim: number.into(),
            rank: 1.into(),
            block: (number as u16).into(),
            offset: 0.into(),
            length: 1.into(),
        });
        many.blocks.push(BlockRecord {
            dtype: Dtype::UInt8.code().into(),
            reserved: 0.into(),
            codec: 0.into(),
            offset: (number as u64 * PAGE as u64).into(),
            length: 1.into(),
            decoded_length: 0.into(),
        });
    }
    many.payload = vec![0; (count as usize - 1) * PAGE + 1];
    (0..count as usize).for_each(|number| many.payload[number * PAGE] = number as u8);
    let start = (PAGE + many.tables_length()) as u64;
    many.blocks.iter_mut().for_each(|block| block.offset = (block.offset.get() + start).into());
    vectors.push(accept("40-blocks", many.seal(), "40 blocks of one dtype").clause("SEAL-BLK-03"));

    let mut extra = parts.clone();
    extra.extra = b"of a later version".to_vec();
    vectors.push(
        accept("extra", extra.seal(), "bytes for a later version")
            .warns("SEAL-EXTRA-01")
            .from("sealed-small", "an extra section of 18 bytes"),
    );
    let header = |edit: fn(&mut Header)| {
        let mut sealed = Sealed::new(&parts);
        edit(&mut sealed.header);
        sealed.finish()
    };
    vectors.push(
        accept("minor-7", header(|header| header.minor = 7), "a later minor version")
            .warns("SEAL-HDR-10")
            .from("sealed-small", "minor version 7"),
    );
    vectors.push(
        accept("optional-feature", header(|header| header.optional_features = 1 << 63), "an optional feature that nobody knows")
            .warns("SEAL-HDR-11")
            .from("sealed-small", "the highest optional feature bit"),
    );
    let id = Header::from_bytes(small().first_chunk().expect("a header")).header_digest;
    let hex = blake3::Hash::from_bytes(id).to_string();
    vectors.push(
        accept("pinned", small(), "the pinned id is the file's")
            .argument("id", hex)
            .argument("require_seal", true)
            .clause("PIN-ID-01")
            .from("sealed-small", "none: only the call differs"),
    );
    vectors.push(
        Vector::reject("sealed-pinned-other", "sealed", small(), "header", "PIN-ID-01", "a pinned id of another file")
            .argument("id", "11".repeat(32))
            .from("sealed-small", "none: only the call differs"),
    );
    vectors
}

/// Damage: bytes changed, and nothing sealed again.
fn raw() -> Vec<Vector> {
    let whole = small();
    let header = Header::from_bytes(whole.first_chunk().expect("a header"));
    let payload = header.sections.payload.offset as usize;
    let footer = header.sections.footer.offset as usize;
    let mut vectors = Vec::new();
    let mut flip = |id: &str, at: usize, stage, rule, comment: &str| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        vectors.push(
            Vector::reject(format!("damage-{id}"), "sealed", bytes, stage, rule, comment)
                .from("sealed-small", format!("byte {at} ^= 0x40")),
        );
    };
    flip("version", 8, "header", "SEAL-HDR-01", "the version");
    flip("header-digest", 256, "header", "SEAL-HDR-01", "the header digest itself");
    flip("last-digested-byte", 255, "header", "SEAL-HDR-01", "the last byte that the header digest covers");
    flip("file-size", 16, "header", "SEAL-HDR-01", "the file size");
    flip("fill-first", 288, "header", "SEAL-HDR-09", "the first byte after the header");
    flip("fill-last", 4095, "header", "SEAL-HDR-09", "the last byte of the header page");
    flip("table-first", 4096, "tables", "SEAL-TAB-01", "the first byte of the tables");
    flip("table-name", header.sections.names.offset as usize, "tables", "SEAL-TAB-01", "a name");
    flip("table-digest", header.sections.digests.offset as usize, "tables", "SEAL-TAB-01", "a group digest");
    flip("table-fill", payload - 1, "tables", "SEAL-TAB-01", "the fill of the tables");
    flip("payload-first", payload, "integrity", "SEAL-INT-01", "the first byte of a tensor");
    flip("payload-padding", payload + 64, "integrity", "SEAL-INT-01", "fill between tensors");
    flip("payload-between-blocks", payload + 1000, "integrity", "SEAL-INT-01", "fill between blocks");
    flip("payload-last", footer - 1, "integrity", "SEAL-INT-01", "the last byte of the payload");
    flip("footer-first", footer, "footer", "SEAL-FOOT-01", "the first byte of the footer");
    flip("footer-last", whole.len() - 17, "footer", "SEAL-FOOT-01", "the last byte of the footer");
    flip("trailer-length", whole.len() - 16, "trailer", "TRAIL-LENGTH-02", "the trailer's length");
    flip("trailer-magic", whole.len() - 1, "trailer", "TRAIL-MAGIC-01", "the trailer's magic");

    let mut push = |id: &str, layout: &'static str, bytes: Vec<u8>, stage, rule, comment: &str| {
        vectors.push(Vector::reject(format!("damage-{id}"), layout, bytes, stage, rule, comment).from("sealed-small", comment));
    };
    push("cut-to-8", "sealed", whole[..8].to_vec(), "size", "SEAL-SIZE-01", "only the magic is left");
    push("cut-to-header", "sealed", whole[..4096].to_vec(), "size", "SEAL-SIZE-01", "only the header page is left");
    push("cut-to-4111", "sealed", whole[..4111].to_vec(), "size", "SEAL-SIZE-01", "one byte less than the smallest sealed file");
    push("cut-to-4112", "sealed", whole[..4112].to_vec(), "header", "SEAL-HDR-05", "as long as the smallest sealed file");
    push("cut-last-byte", "sealed", whole[..whole.len() - 1].to_vec(), "header", "SEAL-HDR-05", "the last byte is missing");
    push(
        "cut-payload",
        "sealed",
        whole[..payload + 10].to_vec(),
        "header",
        "SEAL-HDR-05",
        "cut in the payload, as by a broken download",
    );
    push("one-more-byte", "sealed", [&whole[..], &[0]].concat(), "header", "SEAL-HDR-05", "one more byte at the end");
    push(
        "twice",
        "sealed",
        [&whole[..], &whole].concat(),
        "header",
        "SEAL-HDR-05",
        "the file twice: a valid tail, and a head that says otherwise",
    );
    let text_mode = |from: &[u8], to: &[u8]| {
        let at = whole.windows(from.len()).position(|window| window == from).expect("the magic");
        [&whole[..at], to, &whole[at + from.len()..]].concat()
    };
    push(
        "magic-crlf-to-lf",
        "v4",
        text_mode(b"\r\n", b"\n"),
        "footer-schema",
        "FOOT-SCH-09",
        "a transfer in text mode made a line end shorter: the head is gone, the seal in the footer tells",
    );
    push("magic-7-bit", "v4", text_mode(b"\x89", b"\x09"), "footer-schema", "FOOT-SCH-09", "a transfer that keeps 7 bits");
    push(
        "head-zeroed",
        "v4",
        [&vec![0; 4096][..], &whole[4096..]].concat(),
        "footer-schema",
        "FOOT-SCH-09",
        "the head is zeroed: still a v4 file to the Python package, but its seal is broken",
    );
    push("head-cut-off", "v4", whole[4096..].to_vec(), "footer-schema", "FOOT-SCH-09", "the header page is missing");
    let also = |vector: Vector| match &vector.verdict {
        // The sections end where the header says that the file does.
        Verdict::Reject(_, rules) if rules == &["SEAL-HDR-05"] => vector.or("SEAL-SEC-07"),
        // A reader may look at the fill of a damaged group or not.
        Verdict::Reject(_, rules)
            if rules == &["SEAL-INT-01"]
                && vector.id.contains("-pa")
                && !vector.id.ends_with("first")
                && !vector.id.ends_with("last") =>
        {
            vector.or("SEAL-INT-02")
        }
        _ => vector,
    };
    vectors.into_iter().map(also).collect()
}

fn reject(id: &str, bytes: Vec<u8>, stage: &'static str, rule: &'static str, comment: &str) -> Vector {
    Vector::reject(format!("forged-{id}"), "sealed", bytes, stage, rule, comment).from("sealed-small", comment)
}

/// Headers that are wrong and sealed all the same.
fn headers() -> Vec<Vector> {
    let parts = Parts::of(&small());
    let mut vectors = Vec::new();
    let mut edit = |id: &str, rule: &'static str, comment: &str, edit: fn(&mut Header)| {
        let mut sealed = Sealed::new(&parts);
        edit(&mut sealed.header);
        vectors.push(reject(id, sealed.finish(), "header", rule, comment));
    };
    edit("major-0", "SEAL-HDR-02", "major version 0", |header| header.major = 0);
    edit("major-2", "SEAL-HDR-02", "major version 2", |header| header.major = 2);
    edit("major-256", "SEAL-HDR-02", "major version 256: 1 in the other byte order", |header| header.major = 256);
    edit("required-feature-0", "SEAL-HDR-03", "the lowest required feature bit", |header| header.required_features = 1);
    edit("required-feature-63", "SEAL-HDR-03", "the highest required feature bit", |header| header.required_features = 1 << 63);
    edit("header-size-287", "SEAL-HDR-04", "a header of 287 bytes", |header| header.header_size = 287);
    edit("header-size-4096", "SEAL-HDR-04", "a header of 4096 bytes", |header| header.header_size = 4096);
    edit("file-size-less", "SEAL-HDR-05", "a file one byte shorter than it is", |header| header.file_size -= 1);
    edit("file-size-max", "SEAL-HDR-05", "a file of 2^64 - 1 bytes", |header| header.file_size = u64::MAX);
    edit("alignment-3", "SEAL-HDR-06", "an alignment of 3", |header| header.alignment = 3);
    edit("alignment-100", "SEAL-HDR-06", "an alignment of 100, which v4 allows", |header| header.alignment = 100);
    edit("alignment-8192", "SEAL-HDR-06", "an alignment of 8192", |header| header.alignment = 8192);
    edit("alignment-2-31", "SEAL-HDR-06", "an alignment of 2^31", |header| header.alignment = 1 << 31);
    edit("group-15", "SEAL-HDR-07", "groups of 2^15 bytes", |header| header.group_log2 = 15);
    edit("group-27", "SEAL-HDR-07", "groups of 2^27 bytes", |header| header.group_log2 = 27);
    edit("group-0", "SEAL-HDR-07", "groups of one byte", |header| header.group_log2 = 0);
    edit("group-64", "SEAL-HDR-07", "a shift by 64", |header| header.group_log2 = 64);
    edit("group-255", "SEAL-HDR-07", "a shift by 255", |header| header.group_log2 = 255);
    edit("reserved-first", "SEAL-HDR-08", "the first reserved byte", |header| header.reserved[0] = 1);
    edit("reserved-last", "SEAL-HDR-08", "the last reserved byte", |header| header.reserved[2] = 128);
    edit("section-range-offset", "SEAL-SEC-08", "an offset of 2^53", |header| header.sections.names.offset = 1 << 53);
    edit("section-range-length", "SEAL-SEC-08", "a length of 2^64 - 1", |header| header.sections.extra.length = u64::MAX);
    edit("section-range-end", "SEAL-SEC-08", "an end of 2^53", |header| {
        header.sections.payload.length = (1 << 53) - header.sections.payload.offset
    });
    edit("section-range-wrap", "SEAL-SEC-08", "an offset and a length whose sum wraps to the right end", |header| {
        header.sections.footer.offset = header.sections.footer.offset.wrapping_sub(1 << 63);
        header.sections.footer.length = header.sections.footer.length.wrapping_add(1 << 63);
    });

    // Sections that do not follow from each other: where one edit would break two rules, the parts are moved along.
    let moved = |edit: &dyn Fn(&mut Sealed)| {
        let mut sealed = Sealed::new(&parts);
        edit(&mut sealed);
        sealed.finish()
    };
    vectors.push(reject(
        "section-start",
        moved(&|sealed| {
            // An empty first section may stand anywhere but here: blocks of length 0 at 4128, the records taken by nobody.
            let sections = &mut sealed.header.sections;
            sections.blocks = Section { offset: 4096 + 32, length: 32 };
        }),
        "header",
        "SEAL-SEC-01",
        "the blocks begin one record late, and end where the tensors begin",
    ));
    vectors.push(reject(
        "section-gap",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.extra = Section { offset: sections.extra.offset + 8, length: sections.extra.length };
        }),
        "header",
        "SEAL-SEC-02",
        "a gap of eight bytes before the extra section",
    ));
    vectors.push(reject(
        "section-overlap",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.extra = Section { offset: sections.extra.offset - 8, length: 8 };
        }),
        "header",
        "SEAL-SEC-02",
        "the extra section overlaps the metadata",
    ));
    vectors.push(reject(
        "payload-unaligned",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.payload = Section { offset: sections.payload.offset - 64, length: sections.payload.length + 64 };
        }),
        "header",
        "SEAL-SEC-03",
        "the payload begins 64 bytes early, in the fill of the tables",
    ));
    vectors.push(reject(
        "payload-late",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.payload = Section { offset: sections.payload.offset + 4096, length: sections.payload.length - 4096 };
        }),
        "header",
        "SEAL-SEC-03",
        "the payload begins a page late: a page is hidden",
    ));
    vectors.push(reject(
        "section-part-record",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.dims.length -= 4;
            sections.digests = Section { offset: sections.digests.offset - 4, length: sections.digests.length };
            sections.names = Section { offset: sections.names.offset - 4, length: sections.names.length + 4 };
        }),
        "header",
        "SEAL-SEC-04",
        "dims of half a record",
    ));
    vectors.push(reject(
        "digest-missing",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.digests.length = 0;
            sections.names = Section { offset: sections.names.offset - 32, length: sections.names.length + 32 };
        }),
        "header",
        "SEAL-SEC-05",
        "no digest for the payload's group",
    ));
    vectors.push(reject(
        "digest-extra",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.digests.length += 32;
            for later in [&mut sections.names, &mut sections.metadata, &mut sections.extra] {
                later.offset += 32;
            }
        }),
        "header",
        "SEAL-SEC-05",
        "a digest more than there are groups",
    ));
    vectors.push(reject(
        "footer-gap",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.payload.length -= 1;
        }),
        "header",
        "SEAL-SEC-06",
        "a byte between payload and footer",
    ));
    vectors.push(reject(
        "footer-early",
        moved(&|sealed| {
            let sections = &mut sealed.header.sections;
            sections.footer.length -= 1;
        }),
        "header",
        "SEAL-SEC-07",
        "a footer that ends a byte before the trailer",
    ));
    vectors
}

/// Tables that are wrong and sealed all the same.
fn tables() -> Vec<Vector> {
    let parts = Parts::of(&small());
    let mut vectors = Vec::new();
    let mut edit = |id: &str, rule: &'static str, comment: &str, edit: &dyn Fn(&mut Parts)| {
        let mut edited = parts.clone();
        let before = edited.tables_length();
        edit(&mut edited);
        vectors.push(reject(id, edited.moved(before).seal(), "tables", rule, comment));
    };
    edit("dtype-0", "SEAL-BLK-01", "dtype code 0", &|parts| parts.blocks[0].dtype = 0.into());
    edit("dtype-25", "SEAL-BLK-01", "a dtype code one past the last", &|parts| parts.blocks[0].dtype = 25.into());
    edit("dtype-65535", "SEAL-BLK-01", "the largest dtype code", &|parts| parts.blocks[1].dtype = 0xFFFF.into());
    edit("dtype-swapped", "SEAL-BLK-01", "a dtype code in the other byte order", &|parts| parts.blocks[0].dtype = 0x0200.into());
    edit("block-reserved", "SEAL-BLK-02", "a reserved field of a block", &|parts| parts.blocks[0].reserved = 1.into());
    edit("block-codec", "SEAL-BLK-02", "a codec: not to be read as plain bytes", &|parts| parts.blocks[0].codec = 1.into());
    edit("block-decoded-length", "SEAL-BLK-02", "a decoded length", &|parts| parts.blocks[1].decoded_length = 8.into());
    edit("name-offset", "SEAL-TEN-01", "a name that begins a byte late", &|parts| parts.tensors[1].name_offset = 2.into());
    edit("name-alias", "SEAL-TEN-01", "two tensors that share a name's bytes", &|parts| parts.tensors[1].name_offset = 0.into());
    edit("name-past-section", "SEAL-TEN-01", "a name that runs over the end", &|parts| parts.tensors[2].name_length = 2.into());
    edit("name-offset-max", "SEAL-TEN-01", "a name offset of 2^32 - 1", &|parts| parts.tensors[2].name_offset = u32::MAX.into());
    edit("names-left-over", "SEAL-TEN-01", "bytes of names that no tensor has", &|parts| parts.names.push(b'z'));
    edit("name-not-utf8", "SEAL-TEN-02", "a name that is not UTF-8", &|parts| parts.names[2] = 0xff);
    edit("name-surrogate", "SEAL-TEN-02", "a surrogate in a name", &|parts| {
        parts.names.splice(2..3, [0xed, 0xa0, 0x80]);
        parts.tensors[2].name_length = 3.into();
    });
    edit("names-equal", "SEAL-TEN-03", "one name twice", &|parts| parts.names[1] = b'a');
    edit("names-unsorted", "SEAL-TEN-03", "names out of order", &|parts| parts.names[0] = b'c');
    edit("names-utf16-order", "SEAL-TEN-03", "names in the order of UTF-16, not of bytes", &|parts| {
        parts.names = "a\u{1f600}\u{ff21}".as_bytes().to_vec();
        for (tensor, (offset, length)) in parts.tensors.iter_mut().zip([(0, 1), (1, 4), (5, 3)]) {
            (tensor.name_offset, tensor.name_length) = (offset.into(), length.into());
        }
    });
    edit("dims-skip", "SEAL-TEN-04", "a first dim that skips one", &|parts| {
        parts.tensors[1].first_dim = 3.into();
        parts.dims.push(3.into());
    });
    edit("dims-alias", "SEAL-TEN-04", "two tensors that share dims", &|parts| parts.tensors[1].first_dim = 1.into());
    edit("dims-left-over", "SEAL-TEN-04", "a dim that no tensor has", &|parts| parts.dims.push(1.into()));
    edit("dims-past-section", "SEAL-TEN-04", "a rank that runs over the end", &|parts| parts.tensors[2].rank = 1.into());
    edit("metadata-cut", "SEAL-META-01", "a metadata pair that runs over the end", &|parts| {
        parts.metadata.pop();
    });
    edit("metadata-length-max", "SEAL-META-01", "a key of 2^32 - 1 bytes", &|parts| parts.metadata[..4].fill(0xff));
    edit("metadata-key-alone", "SEAL-META-01", "a key and no value", &|parts| parts.metadata.truncate(10));
    edit("metadata-not-utf8", "SEAL-META-02", "a metadata value that is not UTF-8", &|parts| {
        *parts.metadata.last_mut().expect("a value") = 0xff
    });
    edit("metadata-twice", "SEAL-META-03", "a metadata key twice", &|parts| {
        push_metadata(&mut parts.metadata, "format", "tf").expect("short")
    });
    edit("metadata-unsorted", "SEAL-META-03", "metadata keys out of order", &|parts| {
        push_metadata(&mut parts.metadata, "a", "b").expect("short")
    });

    let mut fill = Sealed::new(&parts);
    *fill.tables.last_mut().expect("fill") = 1;
    vectors.push(reject("tables-fill", fill.finish(), "tables", "SEAL-TAB-02", "a byte hidden after the tables"));
    let mut digest = Sealed::new(&parts);
    digest.header.footer_digest = *blake3::hash(&digest.footer).as_bytes();
    vectors.push(reject(
        "tables-digest",
        digest.finish_header(),
        "tables",
        "SEAL-TAB-01",
        "a tables digest of zeros, sealed into the header",
    ));
    vectors
}

/// Blocks and tensors that lie elsewhere.
fn layouts() -> Vec<Vector> {
    let parts = Parts::of(&small());
    let mut vectors = Vec::new();
    let mut edit = |id: &str, stage: &'static str, rule: &'static str, comment: &str, edit: &dyn Fn(&mut Parts)| {
        let mut edited = parts.clone();
        let before = edited.tables_length();
        edit(&mut edited);
        vectors.push(reject(id, edited.moved(before).seal(), stage, rule, comment));
    };
    edit("block-late", "layout", "SEAL-BLK-03", "the first block begins 64 bytes into the payload", &|parts| {
        parts.blocks[0].offset = (parts.blocks[0].offset.get() + 64).into()
    });
    edit("block-unaligned", "layout", "SEAL-BLK-03", "the second block begins off the page", &|parts| {
        parts.blocks[1].offset = (parts.blocks[1].offset.get() - 64).into()
    });
    edit("block-overlap", "layout", "SEAL-BLK-03", "the second block lies on the first", &|parts| {
        parts.blocks[1].offset = parts.blocks[0].offset
    });
    edit("block-in-header", "layout", "SEAL-BLK-03", "a block at offset 0: the header as weights", &|parts| {
        parts.blocks[0].offset = 0.into()
    });
    edit("block-past-end", "layout", "SEAL-BLK-03", "the last block is longer than the payload", &|parts| {
        parts.blocks[1].length = 16.into()
    });
    edit("block-length-max", "layout", "SEAL-BLK-03", "a block of 2^64 - 1 bytes", &|parts| {
        parts.blocks[1].length = u64::MAX.into()
    });
    edit("payload-left-over", "layout", "SEAL-BLK-03", "bytes after the last block", &|parts| {
        parts.payload.extend_from_slice(&[0; 8])
    });
    edit("block-empty", "layout", "SEAL-BLK-04", "a block that no tensor is in", &|parts| {
        let last = *parts.blocks.last().expect("a block");
        parts.blocks.push(BlockRecord { offset: (last.offset.get() + PAGE as u64).into(), length: 0.into(), ..last });
        parts.payload.resize(2 * PAGE, 0);
    });
    edit("tensor-block-2", "tensor", "TENSOR-BLOCK-01", "a tensor of a block that does not exist", &|parts| {
        parts.tensors[1].block = 2.into();
    });
    edit("tensor-block-65535", "tensor", "TENSOR-BLOCK-01", "the largest block number", &|parts| {
        parts.tensors[0].block = 65535.into()
    });
    edit("tensor-shape-2-53", "tensor", "TENSOR-SHAPE-01", "a product of 2^53", &|parts| {
        parts.dims[0] = (1 << 27).into();
        parts.dims[1] = (1 << 26).into();
    });
    edit("tensor-shape-wrap", "tensor", "TENSOR-SHAPE-01", "a product that wraps to 4", &|parts| {
        parts.dims[0] = ((1 << 63) + 2).into();
        parts.dims[1] = 2.into();
    });
    edit("tensor-shape-dim-max", "tensor", "TENSOR-SHAPE-01", "a dim of 2^64 - 1 beside a zero", &|parts| {
        parts.dims[0] = u64::MAX.into();
        parts.dims[1] = 0.into();
    });
    edit("tensor-length-short", "tensor", "TENSOR-LENGTH-01", "a length less than the shape's", &|parts| {
        parts.tensors[1].length = 8.into()
    });
    edit("tensor-length-elements", "tensor", "TENSOR-LENGTH-01", "a length in elements, not bytes", &|parts| {
        parts.tensors[0].length = 4.into()
    });
    edit("tensor-length-scalar", "tensor", "TENSOR-LENGTH-01", "a scalar of no bytes", &|parts| {
        parts.tensors[2].length = 0.into()
    });
    edit("tensor-overlap", "tensor", "TENSOR-TILE-01", "two tensors at one place", &|parts| parts.tensors[1].offset = 0.into());
    edit("tensor-late", "tensor", "TENSOR-TILE-01", "a gap before a tensor", &|parts| parts.tensors[1].offset = 256.into());
    edit("tensor-unaligned", "tensor", "TENSOR-TILE-01", "a tensor right behind the one before, not aligned", &|parts| {
        parts.tensors[1].offset = 16.into()
    });
    edit("tensor-wrap", "tensor", "TENSOR-TILE-01", "an offset of 2^64 - 8", &|parts| {
        parts.tensors[2].offset = (u64::MAX - 7).into()
    });
    edit("tensor-moved-block", "tensor", "TENSOR-TILE-01", "a tensor is said to be in the other block", &|parts| {
        // An empty one keeps the first block full, so that only the tiling is wrong.
        parts.tensors[2].block = 0.into();
        parts.tensors[1].block = 1.into();
        parts.dims[2] = 1.into();
        parts.tensors[1].length = 8.into();
        parts.blocks[1].dtype = Dtype::Int64.code().into();
        parts.dims.push(2.into());
        parts.tensors[2].rank = 1.into();
        parts.tensors[2].length = 8.into();
    });
    edit("block-long", "tensor", "TENSOR-TILE-01", "a block longer than its tensors: hidden bytes", &|parts| {
        parts.blocks[0].length = (parts.blocks[0].length.get() + 4).into()
    });

    let mut sub_byte = Parts::of(&written(&PlanOptions::default(), &[("t", Dtype::Float4E2M1, &[4], vec![1, 2])]));
    sub_byte.dims[0] = 3.into();
    vectors.push(
        Vector::reject(
            "forged-tensor-half-byte",
            "sealed",
            sub_byte.seal(),
            "tensor",
            "TENSOR-LENGTH-01",
            "three 4-bit elements fill no whole bytes",
        )
        .from("sealed-dtype-float4_e2m1", "a dim of 3"),
    );
    vectors
}

/// Footer, trailer and payload that do not fit the rest.
fn ends() -> Vec<Vector> {
    let parts = Parts::of(&small());
    let mut vectors = Vec::new();
    let mut trailer = Sealed::new(&parts);
    trailer.trailer_length = Some(trailer.footer.len() as u64 - 1);
    vectors.push(reject(
        "trailer-length",
        trailer.finish(),
        "trailer",
        "TRAIL-LENGTH-02",
        "a trailer that gives another length than the header",
    ));
    let mut trailer = Sealed::new(&parts);
    trailer.trailer_length = Some(u64::MAX);
    vectors.push(reject("trailer-length-max", trailer.finish(), "trailer", "TRAIL-LENGTH-02", "a trailer that gives 2^64 - 1"));
    let mut trailer = Sealed::new(&parts);
    trailer.trailer_magic = *b"FLASHPK\x01";
    vectors.push(reject("trailer-magic", trailer.finish(), "trailer", "TRAIL-MAGIC-01", "another trailer magic"));
    let mut digest = Sealed::new(&parts);
    digest.header.tables_digest = *blake3::hash(&digest.tables).as_bytes();
    vectors.push(reject(
        "footer-digest",
        digest.finish_header(),
        "footer",
        "SEAL-FOOT-01",
        "a footer digest of zeros, sealed into the header",
    ));

    let footers: &[(&str, &str, &str, &str)] = &[
        ("name", r#""name":"a""#, r#""name":"z""#, "another name than the tables: two readers see two models"),
        ("shape", "[2,2]", "[4,1]", "another shape"),
        ("offset", r#""offset":32"#, r#""offset":33"#, "another offset"),
        ("dtype", r#""dtype":"float32""#, r#""dtype":"complex""#, "another dtype"),
        ("seal-version", r#"{"version":1}"#, r#"{"version":2}"#, "another seal"),
        ("seal-key", "flashpack_seal", "flashpack_sea1", "no seal: to readers of v4 nothing but a v4 file"),
        ("format", "flashpack_v4", "flashpack_v3", "another format"),
        ("escape", r#""name":"a""#, r#""name":"\u0061""#, "the same name, escaped: not the one form"),
        ("key-order", r#""offset":0,"length":4"#, r#""length":4,"offset":0"#, "the same keys in another order"),
        ("space", r#"{"format""#, r#"{ "format""#, "a space"),
        ("newline-at-end", r#"{"version":1}}"#, "{\"version\":1}}\n", "a line break at the end"),
        ("not-json", r#"{"format""#, r#"{"format"?"#, "no JSON at all: the tables still say what it should be"),
        ("extra-key", r#"{"version":1}}"#, r#"{"version":1},"x":0}"#, "one more key"),
    ];
    for (id, from, to, comment) in footers {
        let mut sealed = Sealed::new(&parts);
        let text = String::from_utf8(sealed.footer.clone()).expect("a footer");
        assert!(text.contains(from), "{from} is not in the footer");
        sealed.footer = text.replacen(from, to, 1).into_bytes();
        let grown = sealed.footer.len() as u64;
        sealed.header.file_size = sealed.header.file_size - sealed.header.sections.footer.length + grown;
        sealed.header.sections.footer.length = grown;
        vectors.push(reject(&format!("footer-{id}"), sealed.finish(), "footer", "SEAL-FOOT-02", comment));
    }

    let mut hidden = parts.clone();
    hidden.payload[20] = 1;
    vectors.push(reject(
        "payload-hidden-byte",
        hidden.seal(),
        "integrity",
        "SEAL-INT-02",
        "a byte hidden between tensors, with right digests",
    ));
    let mut hidden = parts.clone();
    hidden.payload[1000] = 1;
    vectors.push(reject(
        "payload-hidden-between-blocks",
        hidden.seal(),
        "integrity",
        "SEAL-INT-02",
        "a byte hidden between blocks, with right digests",
    ));

    let groups = PlanOptions { group_log2: 16, ..Default::default() };
    let large = Parts::of(&written(
        &groups,
        &[("t", Dtype::UInt8, &[131_072], pattern(131_072, 5)), ("u", Dtype::UInt8, &[10], pattern(10, 6))],
    ));
    let mut swapped = Sealed::new(&large);
    let digests = swapped.header.sections.digests.offset as usize - PAGE;
    let (first, rest) = swapped.tables[digests..].split_at_mut(32);
    first.swap_with_slice(&mut rest[..32]);
    vectors.push(
        Vector::reject(
            "forged-digests-swapped",
            "sealed",
            swapped.finish(),
            "integrity",
            "SEAL-INT-01",
            "the digests of two groups change places",
        )
        .from("sealed-groups-2-16", "the first two digests change places"),
    );
    let mut swapped = Sealed::new(&large);
    let (first, rest) = swapped.payload.split_at_mut(65_536);
    first.swap_with_slice(&mut rest[..65_536]);
    vectors.push(
        Vector::reject(
            "forged-groups-swapped",
            "sealed",
            swapped.finish(),
            "integrity",
            "SEAL-INT-01",
            "two groups change places",
        )
        .from("sealed-groups-2-16", "the first two groups change places"),
    );
    let mut last = Sealed::new(&large);
    *last.payload.last_mut().expect("bytes") ^= 1;
    vectors.push(
        Vector::reject(
            "forged-last-group",
            "sealed",
            last.finish(),
            "integrity",
            "SEAL-INT-01",
            "a changed byte in the short last group",
        )
        .from("sealed-groups-2-16", "the last byte of the payload"),
    );
    vectors
}

fn limits() -> Vec<Vector> {
    let parts = Parts::of(&small());
    let sealed = Sealed::new(&parts);
    let footer = sealed.footer.len() as u64;
    let mut vectors = Vec::new();
    for (id, key, at, rule) in [
        ("tables", "table_bytes", 4096, "LIMIT-TABLES-01"),
        ("footer", "footer_bytes", footer, "LIMIT-FOOTER-01"),
        ("tensors", "tensors", 3, "LIMIT-TENSORS-01"),
        ("blocks", "blocks", 2, "LIMIT-BLOCKS-01"),
        ("name", "name_bytes", 1, "LIMIT-NAME-01"),
        ("rank", "rank", 2, "LIMIT-RANK-01"),
    ] {
        let mut accepted = Vector::accept(format!("limit-sealed-{id}-at"), "sealed", small(), "exactly at the limit")
            .limit(key, at)
            .from("sealed-small", "none: only the call differs");
        accepted.clauses.push(rule);
        vectors.push(accepted);
        vectors.push(
            Vector::reject(format!("limit-sealed-{id}-over"), "sealed", small(), "limits", rule, "one over the limit")
                .limit(key, at - 1)
                .from("sealed-small", "none: only the call differs"),
        );
    }
    let mut rank = Parts::of(&written(&PlanOptions::default(), &[("t", Dtype::UInt8, &[1; 64], vec![1])]));
    rank.tensors[0].rank = 65.into();
    rank.dims.push(1.into());
    vectors.push(Vector::reject(
        "limit-sealed-rank-65",
        "sealed",
        rank.seal(),
        "limits",
        "LIMIT-RANK-01",
        "one dim more than the default limit",
    ));
    vectors
}
