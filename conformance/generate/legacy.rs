//! v3 and v4 files.

use flashpack::{Dtype, Layout, PlanOptions, WriteOptions, Writer};

use crate::Vector;

const V4: &str = concat!(
    r#"{"format":"flashpack_v4","align_bytes":128,"total_payload_bytes":264,"total_elems":36,"macroblocks":["#,
    r#"{"dtype":"float32","offset_bytes":0,"length_bytes":140,"length_elems":35},"#,
    r#"{"dtype":"int64","offset_bytes":256,"length_bytes":8,"length_elems":1}],"index":["#,
    r#"{"name":"a","shape":[2,2],"offset":0,"length":4,"macroblock":0},"#,
    r#"{"name":"b","shape":[3],"offset":32,"length":3,"macroblock":0},"#,
    r#"{"name":"n","shape":[],"offset":0,"length":1,"macroblock":1}]}"#
);

const V3: &str = concat!(
    r#"{"format":"flashpack_v3","target_dtype":"float32","align_bytes":128,"total_elems":35,"index":["#,
    r#"{"name":"a","shape":[2,2],"offset":0,"length":4},"#,
    r#"{"name":"b","shape":[3],"offset":32,"length":3}]}"#
);

/// The payload of both: a block of two float32 tensors, and in v4 one of an int64 scalar.
fn payload(layout: &str) -> Vec<u8> {
    let mut bytes = vec![0; if layout == "v4" { 264 } else { 140 }];
    for (at, value) in [(0, 1.0_f32), (4, 2.0), (8, 3.0), (12, 4.0), (128, 5.0), (132, 6.0), (136, 7.0)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    if layout == "v4" {
        bytes[256..].copy_from_slice(&42_i64.to_le_bytes());
    }
    bytes
}

/// A file of these parts.
pub(crate) fn file(payload: &[u8], footer: &[u8]) -> Vec<u8> {
    let length = (footer.len() as u64).to_le_bytes();
    [payload, footer, &length, b"FLASHPK\0"].concat()
}

fn base(layout: &'static str) -> &'static str {
    if layout == "v4" { V4 } else { V3 }
}

/// The base file with one piece of its footer replaced.
fn edited(layout: &'static str, from: &str, to: &str) -> Vec<u8> {
    let text = base(layout);
    assert!(text.contains(from), "{from} is not in the base");
    file(&payload(layout), text.replacen(from, to, 1).as_bytes())
}

fn parent(layout: &str) -> String {
    format!("{layout}-small")
}

/// A file that our writer makes: for what is valid.
pub(crate) fn written(options: &PlanOptions, tensors: &[(&str, Dtype, &[u64], Vec<u8>)]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vector");
    let mut writer = Writer::new(options.clone());
    for (name, dtype, shape, bytes) in tensors {
        writer.add(*name, *dtype, *shape, bytes.as_slice());
    }
    writer.write(&path, &WriteOptions { sync: false, ..Default::default() }).expect("a valid pack");
    std::fs::read(path).expect("a pack")
}

/// Bytes that differ from their neighbours, so that a swap shows.
pub(crate) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ seed).collect()
}

pub(crate) fn vectors() -> Vec<Vector> {
    let mut vectors = accepted();
    vectors.extend(trailers());
    vectors.extend(texts());
    vectors.extend(schemas());
    vectors.extend(layouts());
    vectors.extend(tensors());
    vectors.extend(limits());
    vectors
}

fn accepted() -> Vec<Vector> {
    let mut vectors = vec![
        Vector::accept("v4-small", "v4", edited("v4", "a", "a"), "two blocks, three tensors"),
        Vector::accept("v3-small", "v3", edited("v3", "a", "a"), "one block, two tensors"),
    ];
    let mut edit = |id: &str, layout: &'static str, from: &str, to: &str, comment: &str| {
        let vector = Vector::accept(format!("{layout}-{id}"), layout, edited(layout, from, to), comment);
        vectors.push(vector.from(&parent(layout), format!("{from} -> {to}")));
    };
    for layout in ["v3", "v4"] {
        edit("json-spaces", layout, r#"{"format":"#, "  {\n\t\"format\" : \r\n", "white space between tokens means nothing");
        edit("json-escaped-name", layout, r#""name":"a""#, r#""name":"\u0061""#, "an escaped name is the same name");
        edit("json-escaped-key", layout, r#""name""#, r#""n\u0061me""#, "an escaped key is the same key");
        edit(
            "json-surrogate-pair",
            layout,
            r#""name":"b""#,
            r#""name":"\ud83d\ude00""#,
            "a pair of escaped surrogates is one character",
        );
        edit(
            "record-key-order",
            layout,
            r#""offset":0,"length":4"#,
            r#""length":4,"offset":0"#,
            "the order of keys means nothing",
        );
    }
    edit(
        "index-order",
        "v4",
        r#"{"name":"a","shape":[2,2],"offset":0,"length":4,"macroblock":0},{"name":"b","shape":[3],"offset":32,"length":3,"macroblock":0}"#,
        r#"{"name":"b","shape":[3],"offset":32,"length":3,"macroblock":0},{"name":"a","shape":[2,2],"offset":0,"length":4,"macroblock":0}"#,
        "the index may come in any order",
    );
    edit(
        "shape-with-zero",
        "v4",
        r#""shape":[2,2],"offset":0,"length":4"#,
        r#""shape":[2,0],"offset":0,"length":0"#,
        "a tensor without elements, its old bytes now fill",
    );
    edit(
        "shape-huge-and-zero",
        "v4",
        r#""shape":[2,2],"offset":0,"length":4"#,
        r#""shape":[9007199254740991,0],"offset":0,"length":0"#,
        "a dim of 2^53 - 1 beside one of 0",
    );
    edit(
        "rank-64",
        "v4",
        r#""shape":[3]"#,
        &format!(r#""shape":[3{}]"#, ",1".repeat(63)),
        "as many dims as the default limit allows",
    );
    edit("tensor-shared-start-empty", "v4", r#""shape":[]"#, r#""shape":[1,1,1]"#, "a tensor of one element and three dims");
    edit(
        "empty-inside-another",
        "v4",
        r#""shape":[3],"offset":32,"length":3"#,
        r#""shape":[0],"offset":0,"length":0"#,
        "a tensor without elements shares no bytes, wherever it lies",
    );
    // Those leave bytes behind that belong to no tensor.
    for vector in &mut vectors {
        if ["v4-shape-with-zero", "v4-shape-huge-and-zero", "v4-empty-inside-another"].contains(&vector.id.as_str()) {
            *vector = vector.clone().warns("BLOCK-GAP-01");
        }
    }

    let mut warn = |id: &str, layout: &'static str, from: &str, to: &str, rule: &'static str, comment: &str| {
        let vector = Vector::accept(format!("{layout}-{id}"), layout, edited(layout, from, to), comment).warns(rule);
        vectors.push(vector.from(&parent(layout), format!("{from} -> {to}")));
    };
    for layout in ["v3", "v4"] {
        warn(
            "unknown-top-key",
            layout,
            r#""align_bytes""#,
            r#""made_by":{"tool":[1.5e3,null,true,"x"]},"align_bytes""#,
            "FOOT-SCH-11",
            "an unknown key of the footer is passed over",
        );
        warn(
            "unknown-record-key",
            layout,
            r#""name":"a""#,
            r#""name":"a","crc":"12""#,
            "FOOT-SCH-11",
            "an unknown key of an index record is passed over",
        );
        warn("name-empty", layout, r#""name":"a""#, r#""name":"""#, "TENSOR-NAME-02", "an empty name");
        warn("name-newline", layout, r#""name":"a""#, r#""name":"a\nb""#, "TENSOR-NAME-02", "a line break in a name");
        warn("name-nul", layout, r#""name":"a""#, r#""name":"a\u0000""#, "TENSOR-NAME-02", "a zero in a name");
        warn(
            "name-delete",
            layout,
            r#""name":"a""#,
            "\"name\":\"a\u{7f}\"",
            "TENSOR-NAME-02",
            "a delete character, which JSON leaves as it is",
        );
        warn(
            "name-c1-control",
            layout,
            r#""name":"a""#,
            "\"name\":\"a\u{85}\"",
            "TENSOR-NAME-02",
            "a control character above ASCII",
        );
        warn(
            "unknown-huge-number",
            layout,
            r#""align_bytes""#,
            r#""x":1e999,"align_bytes""#,
            "FOOT-SCH-11",
            "a number beyond any float, where it is passed over",
        );
    }
    for layout in ["v3", "v4"] {
        let mut bytes = edited(layout, "a", "a");
        bytes[20] = 1;
        let comment = "a byte between tensors is not zero: hidden, and not refused";
        vectors.push(
            Vector::accept(format!("{layout}-hidden-byte"), layout, bytes, comment)
                .warns("BLOCK-GAP-01")
                .from(&parent(layout), "byte 20 is 1"),
        );
    }
    for (id, head, warning) in [("foreign-head-zero", 0_u8, false), ("foreign-head", 7, true)] {
        let footer = V4
            .replace("264", "4360")
            .replace(r#""offset_bytes":0"#, r#""offset_bytes":4096"#)
            .replace(r#""offset_bytes":256"#, r#""offset_bytes":4352"#);
        let bytes = file(&[vec![head; 4096], payload("v4")].concat(), footer.as_bytes());
        let vector =
            Vector::accept(format!("v4-{id}"), "v4", bytes, "4096 bytes before the first block").clause("BLOCK-ORDER-01");
        vectors.push(if warning { vector.warns("BLOCK-GAP-01") } else { vector });
    }
    let one_block = V4
        .replace(r#",{"dtype":"int64","offset_bytes":256,"length_bytes":8,"length_elems":1}"#, "")
        .replace(r#",{"name":"n","shape":[],"offset":0,"length":1,"macroblock":1}"#, "")
        .replace("264", "140")
        .replace(r#""total_elems":36"#, r#""total_elems":35"#);
    vectors.push(Vector::accept(
        "v4-one-block",
        "v4",
        file(&payload("v3"), one_block.as_bytes()),
        "v4 with a single block, where the Python package writes v3",
    ));
    let empty_index = V3.split(r#""index":["#).next().expect("an index").replace("35", "0") + r#""index":[]}"#;
    let mut vector = Vector::accept(
        "v3-no-tensors",
        "v3",
        file(&[], empty_index.as_bytes()),
        "no tensors and no payload: no writer makes it, no rule refuses it",
    );
    vector.clauses.push("BLOCK-TOTAL-01");
    vectors.push(vector);
    vectors.push(
        Vector::accept(
            "v4-sealed-magic-later",
            "v4",
            {
                let mut bytes = edited("v4", "a", "a");
                bytes[4..12].copy_from_slice(b"\x89FPK\r\n\x1a\n");
                bytes
            },
            "the sealed magic is only a magic at the very start",
        )
        .clause("SEAL-MAGIC-01"),
    );

    for &dtype in Dtype::ALL.iter().filter(|dtype| dtype.in_legacy()) {
        for layout in [Layout::V3, Layout::V4] {
            let bytes = dtype.bytes_of(6).expect("whole bytes") as usize;
            let options = PlanOptions { layout, ..Default::default() };
            let file = written(&options, &[("t", dtype, &[2, 3], pattern(bytes, 1)), ("s", dtype, &[], pattern(bytes / 6, 2))]);
            let id = format!("{layout}-dtype-{dtype}");
            vectors.push(
                Vector::accept(id, layout.name(), file, format!("a matrix and a scalar of {dtype}")).clause("DTYPE-REG-01"),
            );
        }
    }
    for alignment in [0, 1, 3, 16, 100, 128, 4096] {
        let options = PlanOptions { layout: Layout::V4, alignment, ..Default::default() };
        let file = written(
            &options,
            &[
                ("f", Dtype::Float32, &[5], pattern(20, 1)),
                ("g", Dtype::Float32, &[3], pattern(12, 2)),
                ("h", Dtype::Float16, &[7], pattern(14, 3)),
                ("i", Dtype::Complex128, &[1], pattern(16, 4)),
            ],
        );
        let comment = format!("three blocks, tensors aligned to {alignment} bytes");
        vectors.push(Vector::accept(format!("v4-align-{alignment}"), "v4", file, comment).clause("TENSOR-TILE-02"));
    }
    let long = "n".repeat(65_536);
    let unicode: [(&str, Dtype, &[u64], Vec<u8>); 6] = [
        ("層.重み/été \"quoted\" \\ back", Dtype::UInt8, &[1], vec![1]),
        ("é", Dtype::UInt8, &[1], vec![2]),
        ("e\u{301}", Dtype::UInt8, &[1], vec![3]),
        ("\u{ff21}", Dtype::UInt8, &[1], vec![4]),
        ("\u{1f600}", Dtype::UInt8, &[1], vec![5]),
        (long.as_str(), Dtype::UInt8, &[1], vec![6]),
    ];
    for layout in [Layout::V3, Layout::Sealed] {
        let options = PlanOptions { layout, alignment: 0, ..Default::default() };
        let file = written(&options, &unicode);
        let comment = "quotes, a pair that differs only in normalization, a pair that UTF-16 sorts the other way, 64 KiB";
        vectors.push(Vector::accept(format!("{layout}-names-unicode"), layout.name(), file, comment).clause("CONV-TEXT-01"));
    }
    let names: Vec<String> = (0..5000).map(|number| format!("t{number:04}")).collect();
    let many: Vec<(&str, Dtype, &[u64], Vec<u8>)> =
        names.iter().enumerate().map(|(number, name)| (name.as_str(), Dtype::UInt8, &[1_u64][..], vec![number as u8])).collect();
    for layout in [Layout::V3, Layout::Sealed] {
        let options = PlanOptions { layout, alignment: 0, ..Default::default() };
        vectors.push(Vector::accept(
            format!("{layout}-5000-tensors"),
            layout.name(),
            written(&options, &many),
            "5,000 tensors of one byte",
        ));
    }
    let blocks: Vec<String> = (0..40)
        .map(|number| format!(r#"{{"dtype":"uint8","offset_bytes":{number},"length_bytes":1,"length_elems":1}}"#))
        .collect();
    let index: Vec<String> = (0..40)
        .map(|number| format!(r#"{{"name":"t{number:02}","shape":[1],"offset":0,"length":1,"macroblock":{number}}}"#))
        .collect();
    let footer = format!(
        r#"{{"format":"flashpack_v4","align_bytes":0,"total_payload_bytes":40,"total_elems":40,"macroblocks":[{}],"index":[{}]}}"#,
        blocks.join(","),
        index.join(",")
    );
    vectors.push(Vector::accept("v4-40-blocks", "v4", file(&pattern(40, 9), footer.as_bytes()), "40 blocks, many of one dtype"));
    vectors
}

/// What ends a file.
fn trailers() -> Vec<Vector> {
    let whole = edited("v4", "a", "a");
    let with_tail = |tail: &[u8]| [&whole[..whole.len() - 16], tail].concat();
    let tail = |length: u64, magic: &[u8]| [&length.to_le_bytes()[..], magic].concat();
    let length = V4.len() as u64;
    let mut vectors = Vec::new();
    let mut push = |id: &str, bytes: Vec<u8>, stage, rule, comment: &str| {
        vectors.push(Vector::reject(format!("trailer-{id}"), "v4", bytes, stage, rule, comment));
    };
    push("empty-file", vec![], "size", "FILE-SIZE-01", "no bytes at all");
    push("one-byte", vec![0x89], "size", "FILE-SIZE-01", "one byte");
    push("15-bytes", whole[whole.len() - 15..].to_vec(), "size", "FILE-SIZE-01", "one byte less than a trailer");
    push("magic-case", with_tail(&tail(length, b"flashpk\0")), "trailer", "TRAIL-MAGIC-01", "the magic in lower case");
    push("magic-no-zero", with_tail(&tail(length, b"FLASHPK ")), "trailer", "TRAIL-MAGIC-01", "a space where the zero should be");
    push("magic-reversed", with_tail(&tail(length, b"\0KPHSALF")), "trailer", "TRAIL-MAGIC-01", "the magic backwards");
    push("magic-cut", whole[..whole.len() - 1].to_vec(), "trailer", "TRAIL-MAGIC-01", "the last byte is missing");
    push("magic-then-byte", [&whole[..], &[0]].concat(), "trailer", "TRAIL-MAGIC-01", "one more byte at the end");
    push("magic-newline", [&whole[..], b"\n"].concat(), "trailer", "TRAIL-MAGIC-01", "an editor added a line break");
    push(
        "length-over-file",
        with_tail(&tail(whole.len() as u64 - 15, b"FLASHPK\0")),
        "trailer",
        "TRAIL-LENGTH-01",
        "a footer one byte longer than there is room",
    );
    push(
        "length-big-endian",
        with_tail(&[&length.to_be_bytes()[..], b"FLASHPK\0"].concat()),
        "trailer",
        "TRAIL-LENGTH-01",
        "the length with its bytes reversed",
    );
    push(
        "length-2-63",
        with_tail(&tail(1 << 63, b"FLASHPK\0")),
        "trailer",
        "TRAIL-LENGTH-01",
        "a length that is negative in a signed integer",
    );
    push("length-max", with_tail(&tail(u64::MAX, b"FLASHPK\0")), "trailer", "TRAIL-LENGTH-01", "a length that wraps any sum");
    push("length-0", with_tail(&tail(0, b"FLASHPK\0")), "footer-text", "FOOT-TXT-02", "an empty footer is no JSON");
    push("length-1", with_tail(&tail(1, b"FLASHPK\0")), "footer-text", "FOOT-TXT-02", "only the last brace");
    push("length-short", with_tail(&tail(length - 1, b"FLASHPK\0")), "footer-text", "FOOT-TXT-02", "the first brace is left out");
    push("only-trailer", tail(0, b"FLASHPK\0"), "footer-text", "FOOT-TXT-02", "a trailer and nothing else");
    push(
        "whole-file-is-footer",
        with_tail(&tail(whole.len() as u64 - 16, b"FLASHPK\0")),
        "footer-text",
        "FOOT-TXT-01",
        "the payload is taken for footer",
    );
    for vector in &mut vectors {
        vector.mutates = Some(("v4-small".into(), vector.comment.clone()));
    }
    vectors.push(
        Vector::reject("policy-require-seal", "v4", whole.clone(), "size", "PIN-SEAL-01", "a policy that demands a seal")
            .argument("require_seal", true)
            .from("v4-small", "none: only the call differs"),
    );
    vectors.push(
        Vector::reject(
            "policy-id-unsealed",
            "v3",
            edited("v3", "a", "a"),
            "header",
            "PIN-ID-01",
            "a pinned id, and a file that has none",
        )
        .argument("id", "00".repeat(32))
        .from("v3-small", "none: only the call differs"),
    );
    vectors
}

/// Footers that are no JSON, or JSON that means two things.
fn texts() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let json = |id: &str, layout: &'static str, from: &str, to: &str, rule: &'static str, comment: &str| {
        Vector::reject(format!("text-{id}"), layout, edited(layout, from, to), "footer-text", rule, comment)
            .from(&parent(layout), format!("{from} -> {}", to.escape_default()))
    };
    const SYNTAX: &str = "FOOT-TXT-02";
    const KEYS: &str = "FOOT-TXT-03";
    for (id, from, to, comment) in [
        ("bom", r#"{"format":"#, "\u{feff}{\"format\":", "a byte order mark before the text"),
        ("trailing-garbage", r#""macroblock":1}]}"#, r#""macroblock":1}]}x"#, "a letter after the value"),
        ("trailing-value", r#""macroblock":1}]}"#, r#""macroblock":1}]}{}"#, "a second value"),
        ("trailing-zero-byte", r#""macroblock":1}]}"#, "\"macroblock\":1}]}\0", "a zero byte after the value"),
        ("trailing-comma", r#""macroblock":1}]}"#, r#""macroblock":1},]}"#, "a comma before the end of a list"),
        ("single-quotes", r#""flashpack_v4""#, "'flashpack_v4'", "single quotes"),
        ("comment", r#""align_bytes""#, r#"/* */"align_bytes""#, "a comment"),
        ("nan", r#""align_bytes":128"#, r#""align_bytes":NaN"#, "NaN, which some parsers take"),
        ("infinity", r#""align_bytes":128"#, r#""align_bytes":Infinity"#, "Infinity, which some parsers take"),
        ("leading-zero", r#""align_bytes":128"#, r#""align_bytes":0128"#, "a leading zero"),
        ("plus", r#""align_bytes":128"#, r#""align_bytes":+128"#, "a plus sign"),
        ("hex", r#""align_bytes":128"#, r#""align_bytes":0x80"#, "a hexadecimal number"),
        ("raw-newline", r#""name":"a""#, "\"name\":\"a\n\"", "a raw line break in a string"),
        ("raw-tab", r#""name":"a""#, "\"name\":\"a\t\"", "a raw tab in a string"),
        ("bad-escape", r#""name":"a""#, r#""name":"\x61""#, "an escape that JSON does not have"),
        ("lone-surrogate", r#""name":"a""#, r#""name":"\ud800""#, "half of a pair of surrogates"),
        ("lone-low-surrogate", r#""name":"a""#, r#""name":"\udc00""#, "the second half of a pair alone"),
        (
            "lone-surrogate-passed-over",
            r#""align_bytes""#,
            r#""x":["\ud800"],"align_bytes""#,
            "half of a pair in a value that is passed over",
        ),
        ("lone-surrogate-key", r#""name":"a""#, r#""name":"a","\udfff":1"#, "half of a pair in a key"),
        ("unclosed", r#""macroblock":1}]}"#, r#""macroblock":1}]"#, "a brace is missing"),
        ("unclosed-string", r#""macroblock":1}]}"#, r#""macroblock":1}],"x"#, "a string without an end"),
        ("form-feed", r#"{"format":"#, "{\u{c}\"format\":", "a form feed is no white space of JSON"),
        ("no-break-space", r#"{"format":"#, "{\u{a0}\"format\":", "nor is a space of Unicode"),
    ] {
        vectors.push(json(id, "v4", from, to, SYNTAX, comment));
    }
    for (id, layout, from, to, comment) in [
        (
            "duplicate-top",
            "v4",
            r#""align_bytes":128"#,
            r#""align_bytes":128,"align_bytes":128"#,
            "a key of the footer twice, with one value",
        ),
        (
            "duplicate-top-v3",
            "v3",
            r#""total_elems":35"#,
            r#""total_elems":35,"total_elems":36"#,
            "a key of the footer twice, with two values",
        ),
        (
            "duplicate-format",
            "v4",
            r#""format":"flashpack_v4""#,
            r#""format":"flashpack_v4","format":"flashpack_v3""#,
            "two formats: which one counts?",
        ),
        (
            "duplicate-escaped",
            "v4",
            r#""align_bytes":128"#,
            r#""align_bytes":128,"align_byte\u0073":1"#,
            "the second key is escaped",
        ),
        (
            "duplicate-block",
            "v4",
            r#""length_elems":35"#,
            r#""length_elems":35,"length_elems":1"#,
            "a key of a block record twice",
        ),
        ("duplicate-record", "v4", r#""offset":32"#, r#""offset":32,"offset":0"#, "a key of an index record twice"),
        ("duplicate-unknown", "v4", r#""name":"a""#, r#""name":"a","x":1,"x":1"#, "an unknown key twice"),
        (
            "duplicate-passed-over",
            "v4",
            r#""align_bytes""#,
            r#""x":[{"y":{"z":1,"z":2}}],"align_bytes""#,
            "a key twice in a value that is passed over",
        ),
        ("duplicate-empty-key", "v4", r#""align_bytes""#, r#""x":{"":1,"":2},"align_bytes""#, "the empty key twice"),
    ] {
        vectors.push(json(id, layout, from, to, KEYS, comment));
    }
    for (id, bytes, comment) in [
        ("utf8-invalid", &[0xff][..], "a byte that is never part of UTF-8"),
        ("utf8-overlong", &[0xc0, 0xaf], "an overlong form"),
        ("utf8-surrogate", &[0xed, 0xa0, 0x80], "a surrogate in UTF-8"),
        ("utf8-cut", &[0xe6, 0xbc], "a character cut in half"),
        ("utf8-too-large", &[0xf4, 0x90, 0x80, 0x80], "a code point over U+10FFFF"),
        ("latin-1", &[0xe9], "Latin-1"),
    ] {
        let (before, after) = V4.split_once(r#""a""#).expect("a name");
        let footer = [before.as_bytes(), b"\"", bytes, b"\"", after.as_bytes()].concat();
        vectors.push(
            Vector::reject(format!("text-{id}"), "v4", file(&payload("v4"), &footer), "footer-text", "FOOT-TXT-01", comment)
                .from("v4-small", format!("the name of the first tensor is the bytes {bytes:02x?}")),
        );
    }
    let utf16: Vec<u8> = V4.encode_utf16().flat_map(u16::to_le_bytes).collect();
    vectors.push(
        Vector::reject(
            "text-utf16",
            "v4",
            file(&payload("v4"), &utf16),
            "footer-text",
            "FOOT-TXT-02",
            "UTF-16: valid UTF-8 full of zeros",
        )
        .from("v4-small", "the footer in UTF-16"),
    );
    // A fault of text hides behind one of the schema: text comes first.
    for (id, from, to, comment) in [
        (
            "before-schema-format",
            r#""format":"flashpack_v4""#,
            r#""format":"flashpack_v9","x":{"y":1,"y":2}"#,
            "an unknown format, and a key twice elsewhere: text is judged first",
        ),
        (
            "before-schema-block-key",
            r#""dtype":"float32""#,
            r#""dtype":"float32","fpz":{"y":1,"y":2}"#,
            "a key twice in the value of an unknown block key",
        ),
        ("before-schema-seal", r#""align_bytes""#, r#""flashpack_seal":{"y":1,"y":2},"align_bytes""#, "a key twice in a seal"),
    ] {
        let mut vector = json(id, "v4", from, to, KEYS, comment);
        vector.clauses.push("CHECK-ORDER-02");
        // Two faults on purpose: it is the order that is probed.
        vector.id = format!("order-text-{id}");
        vectors.push(vector);
    }
    vectors
}

/// Keys and values.
fn schemas() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut push = |id: &str, layout: &'static str, from: &str, to: &str, rule: &'static str, comment: &str| {
        let vector = Vector::reject(format!("schema-{id}"), layout, edited(layout, from, to), "footer-schema", rule, comment);
        vectors.push(vector.from(&parent(layout), format!("{from} -> {to}")));
    };
    push("format-v5", "v4", "flashpack_v4", "flashpack_v5", "FOOT-SCH-02", "a later format");
    push("format-case", "v4", "flashpack_v4", "Flashpack_v4", "FOOT-SCH-02", "the format in another case");
    push("format-number", "v4", r#""flashpack_v4""#, "4", "FOOT-SCH-04", "a number for a format");
    push("format-null", "v4", r#""flashpack_v4""#, "null", "FOOT-SCH-04", "null for a format");
    push("format-missing", "v4", r#""format":"flashpack_v4","#, "", "FOOT-SCH-03", "no format");
    for key in [r#""align_bytes":128,"#, r#""total_payload_bytes":264,"#, r#""total_elems":36,"#] {
        let name = key.split('"').nth(1).expect("a key");
        push(&format!("missing-{name}"), "v4", key, "", "FOOT-SCH-03", "a key of the footer is missing");
    }
    for key in [r#""align_bytes":128,"#, r#""total_elems":35,"#, r#""target_dtype":"float32","#] {
        let name = key.split('"').nth(1).expect("a key");
        push(&format!("missing-v3-{name}"), "v3", key, "", "FOOT-SCH-03", "a key of the footer is missing");
    }
    push("missing-macroblocks", "v4", r#""macroblocks""#, r#""macro_blocks""#, "FOOT-SCH-03", "the blocks are under another key");
    push("missing-index", "v4", r#""index""#, r#""Index""#, "FOOT-SCH-03", "the index is under another key");
    push("missing-index-v3", "v3", r#""index""#, r#""Index""#, "FOOT-SCH-03", "the index is under another key");
    for key in [r#""dtype":"float32","#, r#""offset_bytes":0,"#, r#""length_bytes":140,"#] {
        let name = key.split('"').nth(1).expect("a key");
        push(&format!("missing-block-{name}"), "v4", key, "", "FOOT-SCH-03", "a key of a block record is missing");
    }
    for key in [r#""name":"a","#, r#""shape":[2,2],"#, r#""offset":0,"#, r#""length":4,"#] {
        let name = key.split('"').nth(1).expect("a key");
        push(&format!("missing-record-{name}"), "v4", key, "", "FOOT-SCH-03", "a key of an index record is missing");
    }
    push(
        "missing-record-macroblock",
        "v4",
        r#","macroblock":0},{"name":"b""#,
        r#"},{"name":"b""#,
        "FOOT-SCH-03",
        "no block named: the Python package would take 0",
    );
    push(
        "blocks-empty",
        "v4",
        r#"{"dtype":"float32","offset_bytes":0,"length_bytes":140,"length_elems":35},{"dtype":"int64","offset_bytes":256,"length_bytes":8,"length_elems":1}"#,
        "",
        "FOOT-SCH-10",
        "no blocks",
    );
    push(
        "blocks-object",
        "v4",
        r#""macroblocks":[{"dtype":"float32","offset_bytes":0,"length_bytes":140,"length_elems":35},{"dtype":"int64","offset_bytes":256,"length_bytes":8,"length_elems":1}]"#,
        r#""macroblocks":{}"#,
        "FOOT-SCH-04",
        "an object for the list of blocks",
    );
    push(
        "block-not-object",
        "v4",
        r#"{"dtype":"int64","offset_bytes":256,"length_bytes":8,"length_elems":1}"#,
        "[]",
        "FOOT-SCH-01",
        "a list for a block record",
    );
    push(
        "record-not-object",
        "v4",
        r#"{"name":"n","shape":[],"offset":0,"length":1,"macroblock":1}"#,
        r#""n""#,
        "FOOT-SCH-01",
        "a string for an index record",
    );
    push(
        "record-null",
        "v3",
        r#"{"name":"b","shape":[3],"offset":32,"length":3}"#,
        "null",
        "FOOT-SCH-01",
        "null for an index record",
    );
    push("name-number", "v4", r#""name":"a""#, r#""name":1"#, "FOOT-SCH-04", "a number for a name");
    push("shape-number", "v4", r#""shape":[3]"#, r#""shape":3"#, "FOOT-SCH-04", "a number for a shape");
    push("shape-string", "v4", r#""shape":[3]"#, r#""shape":["3"]"#, "FOOT-SCH-04", "a string for a dim");
    push("shape-nested", "v4", r#""shape":[3]"#, r#""shape":[[3]]"#, "FOOT-SCH-04", "a list for a dim");
    push(
        "number-string",
        "v4",
        r#""offset":32"#,
        r#""offset":"32""#,
        "FOOT-SCH-04",
        "a number in quotes: the Python package takes it",
    );
    push("number-null", "v4", r#""offset":32"#, r#""offset":null"#, "FOOT-SCH-04", "null for a number");
    push("number-true", "v4", r#""length":1,"#, r#""length":true,"#, "FOOT-SCH-04", "true for 1: some languages take it");
    push(
        "number-fraction",
        "v4",
        r#""offset":32"#,
        r#""offset":32.9"#,
        "FOOT-SCH-05",
        "a fraction: the Python package cuts it off",
    );
    push("number-point-zero", "v4", r#""offset":32"#, r#""offset":32.0"#, "FOOT-SCH-05", "a whole number written as a float");
    push(
        "number-exponent",
        "v4",
        r#""total_elems":36"#,
        r#""total_elems":36e0"#,
        "FOOT-SCH-05",
        "a whole number with an exponent",
    );
    push("number-minus", "v4", r#""offset":32"#, r#""offset":-32"#, "FOOT-SCH-05", "a negative number");
    push("number-minus-zero", "v4", r#""offset_bytes":0"#, r#""offset_bytes":-0"#, "FOOT-SCH-05", "minus zero");
    push(
        "number-2-53",
        "v4",
        r#""align_bytes":128"#,
        r#""align_bytes":9007199254740992"#,
        "FOOT-SCH-05",
        "2^53: one more than is allowed",
    );
    push("number-2-64", "v4", r#""length":3"#, r#""length":18446744073709551616"#, "FOOT-SCH-05", "2^64");
    push("number-2-64-plus-3", "v4", r#""length":3"#, r#""length":18446744073709551619"#, "FOOT-SCH-05", "3 once it wraps");
    push("number-huge", "v4", r#""length":3"#, &format!(r#""length":{}"#, "9".repeat(5000)), "FOOT-SCH-05", "5,000 digits");
    push("number-1e999", "v4", r#""length":3"#, r#""length":1e999"#, "FOOT-SCH-05", "beyond any float");
    push("shape-minus-one", "v4", r#""shape":[3]"#, r#""shape":[-1]"#, "FOOT-SCH-05", "a dim of -1: PyTorch would work it out");
    push("shape-fraction", "v3", r#""shape":[3]"#, r#""shape":[3.0]"#, "FOOT-SCH-05", "a dim written as a float");
    push("dtype-unknown", "v4", "int64", "int128", "FOOT-SCH-06", "no such dtype");
    push("dtype-alias", "v4", r#""dtype":"float32""#, r#""dtype":"float""#, "FOOT-SCH-06", "PyTorch's other name of float32");
    push(
        "dtype-torch-prefix",
        "v4",
        r#""dtype":"float32""#,
        r#""dtype":"torch.float32""#,
        "FOOT-SCH-06",
        "the name with its module",
    );
    push(
        "dtype-safetensors",
        "v3",
        r#""target_dtype":"float32""#,
        r#""target_dtype":"F32""#,
        "FOOT-SCH-06",
        "the name of safetensors",
    );
    push(
        "dtype-sub-byte",
        "v3",
        r#""target_dtype":"float32""#,
        r#""target_dtype":"float4_e2m1""#,
        "FOOT-SCH-06",
        "a dtype that only sealed files hold",
    );
    push(
        "dtype-attribute",
        "v3",
        r#""target_dtype":"float32""#,
        r#""target_dtype":"__name__""#,
        "FOOT-SCH-06",
        "an attribute of the torch module",
    );
    push("dtype-number", "v4", r#""dtype":"float32""#, r#""dtype":2"#, "FOOT-SCH-04", "the code of sealed files");
    push(
        "block-key-fpz",
        "v4",
        r#""length_elems":35"#,
        r#""length_elems":35,"fpz":{"version":1}"#,
        "FOOT-SCH-07",
        "a compressed block: not to be read as a plain one",
    );
    push(
        "block-key-unknown",
        "v4",
        r#""length_elems":35"#,
        r#""length_elems":35,"note":null"#,
        "FOOT-SCH-07",
        "any unknown key of a block record",
    );
    push("v3-with-macroblocks", "v3", r#""align_bytes""#, r#""macroblocks":[],"align_bytes""#, "FOOT-SCH-08", "blocks in v3");
    push(
        "v3-with-total-payload",
        "v3",
        r#""align_bytes""#,
        r#""total_payload_bytes":140,"align_bytes""#,
        "FOOT-SCH-08",
        "a key of v4 in v3",
    );
    push(
        "v3-record-macroblock",
        "v3",
        r#""length":4"#,
        r#""length":4,"macroblock":0"#,
        "FOOT-SCH-08",
        "a block in a record of v3: the Python package heeds it",
    );
    push(
        "v4-with-target-dtype",
        "v4",
        r#""align_bytes""#,
        r#""target_dtype":"float32","align_bytes""#,
        "FOOT-SCH-08",
        "a key of v3 in v4",
    );
    push(
        "seal-without-head",
        "v4",
        r#""align_bytes""#,
        r#""flashpack_seal":{"version":1},"align_bytes""#,
        "FOOT-SCH-09",
        "a seal, and no sealed header: a downgrade",
    );
    push(
        "seal-without-head-v3",
        "v3",
        r#""align_bytes""#,
        r#""flashpack_seal":null,"align_bytes""#,
        "FOOT-SCH-09",
        "any value of the key counts",
    );
    for (id, footer, comment) in [
        ("top-list", "[]", "a list for a footer"),
        ("top-string", r#""flashpack_v4""#, "a string for a footer"),
        ("top-null", "null", "null for a footer"),
        ("top-number", "0", "a number for a footer"),
    ] {
        vectors.push(
            Vector::reject(
                format!("schema-{id}"),
                "v4",
                file(&payload("v4"), footer.as_bytes()),
                "footer-schema",
                "FOOT-SCH-01",
                comment,
            )
            .from("v4-small", format!("the footer is {footer}")),
        );
    }
    vectors.push(
        Vector::reject("schema-top-empty", "v4", file(&payload("v4"), b"{}"), "footer-schema", "FOOT-SCH-03", "an empty object")
            .from("v4-small", "the footer is {}"),
    );
    vectors
}

/// Where blocks lie.
fn layouts() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut push = |id: &str, layout: &'static str, from: &str, to: &str, rule: &'static str, comment: &str| {
        let vector = Vector::reject(format!("layout-{id}"), layout, edited(layout, from, to), "layout", rule, comment);
        vectors.push(vector.from(&parent(layout), format!("{from} -> {to}")));
    };
    push(
        "length-short",
        "v4",
        r#""length_bytes":140"#,
        r#""length_bytes":136"#,
        "BLOCK-LENGTH-01",
        "fewer bytes than elements: a loader would leave memory unset",
    );
    push("length-zero", "v4", r#""length_bytes":140"#, r#""length_bytes":0"#, "BLOCK-LENGTH-01", "no bytes for 35 elements");
    push("length-long", "v4", r#""length_bytes":8,"#, r#""length_bytes":4,"#, "BLOCK-LENGTH-01", "half an element");
    push(
        "block-unaligned",
        "v4",
        r#""offset_bytes":256,"length_bytes":8"#,
        r#""offset_bytes":192,"length_bytes":8"#,
        "BLOCK-ALIGN-01",
        "a block between the multiples of its rounding unit",
    );
    push(
        "align-wrap",
        "v3",
        r#""align_bytes":128"#,
        r#""align_bytes":9007199254740991"#,
        "BLOCK-ALIGN-01",
        "an alignment whose rounding unit is over 2^53 - 1",
    );
    push(
        "block-overlap",
        "v4",
        r#""offset_bytes":256"#,
        r#""offset_bytes":128"#,
        "BLOCK-ORDER-01",
        "the second block begins inside the first",
    );
    push("block-same-place", "v4", r#""offset_bytes":256"#, r#""offset_bytes":0"#, "BLOCK-ORDER-01", "two blocks at one place");
    push(
        "block-past-payload",
        "v4",
        r#""offset_bytes":256"#,
        r#""offset_bytes":384"#,
        "BLOCK-END-01",
        "the second block lies in the footer: JSON would be weights",
    );
    push(
        "block-huge-offset",
        "v4",
        r#""offset_bytes":256"#,
        r#""offset_bytes":9007199254740864"#,
        "BLOCK-END-01",
        "an offset near 2^53",
    );
    push(
        "total-elems",
        "v4",
        r#""total_elems":36"#,
        r#""total_elems":35"#,
        "BLOCK-TOTAL-01",
        "one element less than the blocks have",
    );
    push(
        "total-elems-v3-less",
        "v3",
        r#""total_elems":35"#,
        r#""total_elems":36"#,
        "BLOCK-TOTAL-01",
        "one element more than the payload holds",
    );
    push(
        "total-elems-v3-more",
        "v3",
        r#""total_elems":35"#,
        r#""total_elems":34"#,
        "BLOCK-TOTAL-01",
        "one element less: four bytes are nobody's",
    );
    push(
        "total-elems-v3-wrap",
        "v3",
        r#""total_elems":35"#,
        r#""total_elems":4611686018427387"#,
        "BLOCK-TOTAL-01",
        "very many elements",
    );
    push(
        "total-payload-more",
        "v4",
        r#""total_payload_bytes":264"#,
        r#""total_payload_bytes":272"#,
        "BLOCK-PAYLOAD-01",
        "the payload is said to reach into the footer",
    );
    push(
        "total-payload-less",
        "v4",
        r#""total_payload_bytes":264"#,
        r#""total_payload_bytes":256"#,
        "BLOCK-PAYLOAD-01",
        "the payload is said to end early",
    );
    let mut bytes = payload("v4");
    bytes.extend_from_slice(&[0; 8]);
    vectors.push(
        Vector::reject(
            "layout-hidden-tail",
            "v4",
            file(&bytes, V4.as_bytes()),
            "layout",
            "BLOCK-PAYLOAD-01",
            "eight bytes between payload and footer",
        )
        .from("v4-small", "eight zero bytes before the footer"),
    );
    vectors.push(
        Vector::reject(
            "layout-payload-cut",
            "v3",
            file(&payload("v3")[4..], V3.as_bytes()),
            "layout",
            "BLOCK-TOTAL-01",
            "the payload lost its first element",
        )
        .from("v3-small", "the first four bytes are missing"),
    );
    vectors.push(
        Vector::reject(
            "layout-sealed-magic-v3",
            "sealed",
            {
                let mut bytes = edited("v3", "a", "a");
                bytes[..8].copy_from_slice(b"\x89FPK\r\n\x1a\n");
                bytes
            },
            "size",
            "SEAL-SIZE-01",
            "a v3 file whose first tensor begins with the magic of sealed files is refused as one",
        )
        .clause("SEAL-MAGIC-01")
        .from("v3-small", "the first eight bytes are the sealed magic"),
    );
    vectors.push(
        Vector::reject(
            "layout-sealed-magic-v3-large",
            "sealed",
            {
                let footer = V3
                    .replace("35", "2080")
                    .replace(r#""shape":[3],"offset":32,"length":3"#, r#""shape":[2048],"offset":32,"length":2048"#);
                let mut bytes = vec![0; 8320];
                bytes[..8].copy_from_slice(b"\x89FPK\r\n\x1a\n");
                bytes = file(&bytes, footer.as_bytes());
                bytes
            },
            "header",
            "SEAL-HDR-01",
            "the same in a file large enough for a header",
        )
        .clause("SEAL-MAGIC-01"),
    );
    vectors
}

/// Where tensors lie.
fn tensors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut push = |id: &str, layout: &'static str, from: &str, to: &str, rule: &'static str, comment: &str| {
        let vector = Vector::reject(format!("tensor-{id}"), layout, edited(layout, from, to), "tensor", rule, comment);
        vectors.push(vector.from(&parent(layout), format!("{from} -> {to}")));
    };
    push("block-2", "v4", r#""macroblock":1"#, r#""macroblock":2"#, "TENSOR-BLOCK-01", "one past the last block");
    push("block-huge", "v4", r#""macroblock":1"#, r#""macroblock":4294967297"#, "TENSOR-BLOCK-01", "1 once it is cut to 32 bits");
    push("block-65537", "v4", r#""macroblock":1"#, r#""macroblock":65537"#, "TENSOR-BLOCK-01", "1 once it is cut to 16 bits");
    push(
        "shape-overflow",
        "v4",
        r#""shape":[3],"offset":32,"length":3"#,
        r#""shape":[4294967296,4294967296,3],"offset":32,"length":3"#,
        "TENSOR-SHAPE-01",
        "a product of 3 * 2^64",
    );
    push(
        "shape-overflow-zero",
        "v4",
        r#""shape":[3],"offset":32,"length":3"#,
        r#""shape":[4294967296,4294967296,0],"offset":32,"length":0"#,
        "TENSOR-SHAPE-01",
        "dims of 2^64 beside a zero",
    );
    push("shape-2-53", "v4", r#""shape":[3]"#, r#""shape":[134217728,67108864]"#, "TENSOR-SHAPE-01", "a product of 2^53");
    push("length-long", "v4", r#""length":3"#, r#""length":2"#, "TENSOR-LENGTH-01", "fewer elements than the shape has");
    push(
        "length-scalar-zero",
        "v4",
        r#""shape":[],"offset":0,"length":1"#,
        r#""shape":[],"offset":0,"length":0"#,
        "TENSOR-LENGTH-01",
        "a scalar has one element, not none",
    );
    push("length-zero-dim", "v4", r#""shape":[3]"#, r#""shape":[3,0]"#, "TENSOR-LENGTH-01", "three elements for a shape of none");
    push(
        "range-past-block",
        "v4",
        r#""shape":[3],"offset":32,"length":3"#,
        r#""shape":[4],"offset":32,"length":4"#,
        "TENSOR-RANGE-01",
        "one element past the end of the block",
    );
    push(
        "range-past-block-v3",
        "v3",
        r#""shape":[3],"offset":32,"length":3"#,
        r#""shape":[3],"offset":64,"length":3"#,
        "TENSOR-RANGE-01",
        "past the end of the payload",
    );
    push(
        "range-wrap",
        "v4",
        r#""offset":32,"length":3"#,
        r#""offset":9007199254740960,"length":3"#,
        "TENSOR-RANGE-01",
        "an offset near 2^53",
    );
    push(
        "range-empty-past",
        "v4",
        r#""shape":[3],"offset":32,"length":3"#,
        r#""shape":[0],"offset":64,"length":0"#,
        "TENSOR-RANGE-01",
        "an empty tensor past the end of the block",
    );
    push("misaligned", "v4", r#""offset":32"#, r#""offset":31"#, "TENSOR-ALIGN-01", "between the multiples of the alignment");
    push("misaligned-v3", "v3", r#""offset":32"#, r#""offset":16"#, "TENSOR-ALIGN-01", "half of the alignment");
    push(
        "overlap",
        "v4",
        r#""shape":[2,2],"offset":0,"length":4"#,
        r#""shape":[33],"offset":0,"length":33"#,
        "TENSOR-OVERLAP-01",
        "the first reaches into the second",
    );
    push(
        "overlap-same",
        "v4",
        r#""shape":[2,2],"offset":0,"length":4"#,
        r#""shape":[3],"offset":32,"length":3"#,
        "TENSOR-OVERLAP-01",
        "two tensors at one place",
    );
    push("overlap-v3", "v3", r#""offset":32"#, r#""offset":0"#, "TENSOR-OVERLAP-01", "two tensors at one place");
    push("name-twice", "v4", r#""name":"b""#, r#""name":"a""#, "TENSOR-NAME-01", "one name for two tensors of a block");
    push("name-twice-across", "v4", r#""name":"n""#, r#""name":"b""#, "TENSOR-NAME-01", "one name for tensors of two blocks");
    push("name-twice-escaped", "v4", r#""name":"b""#, r#""name":"\u0061""#, "TENSOR-NAME-01", "the second is escaped");
    push("name-twice-v3", "v3", r#""name":"b""#, r#""name":"a""#, "TENSOR-NAME-01", "one name for two tensors");
    vectors
}

/// At each limit, and just over it.
fn limits() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let v4 = || edited("v4", "a", "a");
    let footer = V4.len() as u64;
    for (id, key, at, rule) in [
        ("footer", "footer_bytes", footer, "LIMIT-FOOTER-01"),
        ("tensors", "tensors", 3, "LIMIT-TENSORS-01"),
        ("blocks", "blocks", 2, "LIMIT-BLOCKS-01"),
        ("name", "name_bytes", 1, "LIMIT-NAME-01"),
        ("rank", "rank", 2, "LIMIT-RANK-01"),
        ("depth", "json_depth", 4, "LIMIT-DEPTH-01"),
    ] {
        let mut accepted = Vector::accept(format!("limit-v4-{id}-at"), "v4", v4(), "exactly at the limit")
            .limit(key, at)
            .from("v4-small", "none: only the call differs");
        accepted.clauses.push(rule);
        vectors.push(accepted);
        vectors.push(
            Vector::reject(format!("limit-v4-{id}-over"), "v4", v4(), "limits", rule, "one over the limit")
                .limit(key, at - 1)
                .from("v4-small", "none: only the call differs"),
        );
    }
    let reject = |id: &str, layout: &'static str, bytes: Vec<u8>, rule, comment: &str| {
        Vector::reject(format!("limit-{id}"), layout, bytes, "limits", rule, comment)
    };
    vectors.push(reject(
        "rank-65",
        "v4",
        edited("v4", r#""shape":[3]"#, &format!(r#""shape":[3{}]"#, ",1".repeat(64))),
        "LIMIT-RANK-01",
        "one dim more than the default limit",
    ));
    vectors.push(reject(
        "depth-33",
        "v4",
        edited("v4", r#""align_bytes""#, &format!(r#""x":{}{},"align_bytes""#, "[".repeat(32), "]".repeat(32))),
        "LIMIT-DEPTH-01",
        "one level deeper than the default limit",
    ));
    vectors.push(
        Vector::accept(
            "limit-depth-32",
            "v4",
            edited("v4", r#""align_bytes""#, &format!(r#""x":{}{},"align_bytes""#, "[".repeat(31), "]".repeat(31))),
            "as deep as the default limit allows",
        )
        .warns("FOOT-SCH-11"),
    );
    vectors.push(reject(
        "depth-bomb",
        "v4",
        file(&[], "[".repeat(100_000).as_bytes()),
        "LIMIT-DEPTH-01",
        "100,000 brackets: a recursive parser overflows its stack",
    ));
    vectors.push(reject(
        "depth-bomb-objects",
        "v4",
        file(&[], r#"{"a":"#.repeat(20_000).as_bytes()),
        "LIMIT-DEPTH-01",
        "20,000 nested objects",
    ));
    vectors.push(Vector::accept(
        "limit-depth-in-string",
        "v4",
        edited("v4", r#""name":"a""#, &format!(r#""name":"{}\"[""#, "[".repeat(100))),
        "brackets in a string have no depth",
    ));
    vectors
}
