//! Files with the head magic (CHECK-ORDER-03).

use std::collections::BTreeMap;

use super::{Content, DTYPES, MAX, Refused, Step, Tensor, elements, must, number, place, round_up, rounding_unit};

#[derive(Clone, Copy)]
struct Section {
    offset: u128,
    length: u128,
}

impl Section {
    fn end(self) -> u128 {
        self.offset + self.length
    }
}

struct Block {
    dtype: &'static str,
    bits: u128,
    offset: u128,
    length: u128,
}

pub(super) fn judge(file: &[u8]) -> Result<Content, Refused> {
    let size = file.len() as u128;
    must("size", size >= 4112, "SEAL-SIZE-01")?;
    let header = &file[..288];
    must("header", *blake3::hash(&header[..256]).as_bytes() == header[256..], "SEAL-HDR-01")?;
    must("header", number(&header[8..10]) == 1, "SEAL-HDR-02")?;
    must("header", number(&header[24..32]) == 0, "SEAL-HDR-03")?;
    let sections: Vec<Section> = (0..9)
        .map(|i| Section { offset: number(&header[40 + 16 * i..][..8]), length: number(&header[48 + 16 * i..][..8]) })
        .collect();
    let [blocks, tensors, dims, digests, names, metadata, extra, payload, footer] = sections[..] else { unreachable!() };
    let alignment = number(&header[184..188]);
    let log2 = header[188];
    let mut step = Step::new("header");
    step.must(number(&header[12..16]) == 288, "SEAL-HDR-04");
    step.must(number(&header[16..24]) == size, "SEAL-HDR-05");
    step.must(alignment <= 4096 && (alignment == 0 || alignment.is_power_of_two()), "SEAL-HDR-06");
    let grouped = step.must((16..=26).contains(&log2), "SEAL-HDR-07");
    step.must(header[189..192] == [0; 3], "SEAL-HDR-08");
    step.must(file[288..4096].iter().all(|&byte| byte == 0), "SEAL-HDR-09");
    let small = |section: &Section| section.offset <= MAX && section.length <= MAX && section.end() <= MAX;
    if step.must(sections.iter().all(small), "SEAL-SEC-08") {
        step.must(blocks.offset == 4096, "SEAL-SEC-01");
        step.must(sections[..7].windows(2).all(|pair| pair[1].offset == pair[0].end()), "SEAL-SEC-02");
        step.must(payload.offset == round_up(extra.end(), 4096), "SEAL-SEC-03");
        let whole = [(blocks, 32), (tensors, 32), (dims, 8), (digests, 32)];
        step.must(whole.iter().all(|(section, size)| section.length.is_multiple_of(*size)), "SEAL-SEC-04");
        if grouped {
            step.must(digests.length == payload.length.div_ceil(1 << log2) * 32, "SEAL-SEC-05");
        }
        step.must(footer.offset == payload.end(), "SEAL-SEC-06");
        step.must(footer.end() + 16 == size, "SEAL-SEC-07");
    }
    step.end()?;
    let mut step = Step::new("limits");
    step.must(payload.offset - 4096 <= 1 << 30, "LIMIT-TABLES-01");
    step.must(blocks.length / 32 <= 1 << 16, "LIMIT-BLOCKS-01");
    step.must(tensors.length / 32 <= 1 << 22, "LIMIT-TENSORS-01");
    step.must(footer.length <= 1 << 28, "LIMIT-FOOTER-01");
    step.end()?;
    let trailer = &file[file.len() - 16..];
    let mut step = Step::new("trailer");
    step.must(trailer[8..] == *b"FLASHPK\0", "TRAIL-MAGIC-01");
    step.must(number(&trailer[..8]) == footer.length, "TRAIL-LENGTH-02");
    step.end()?;
    let tables = &file[4096..payload.offset as usize];
    must("tables", *blake3::hash(tables).as_bytes() == header[192..224], "SEAL-TAB-01")?;
    let part = |section: Section| &file[place(section.offset, section.length)];
    let records: Vec<Record> = part(tensors).chunks_exact(32).map(Record::of).collect();
    let mut step = Step::new("limits");
    step.must(records.iter().all(|record| record.name_length <= 1 << 20), "LIMIT-NAME-01");
    step.must(records.iter().all(|record| record.rank <= 64), "LIMIT-RANK-01");
    step.end()?;

    let mut step = Step::new("tables");
    step.must(file[extra.end() as usize..payload.offset as usize].iter().all(|&byte| byte == 0), "SEAL-TAB-02");
    let mut all_blocks = Vec::new();
    for record in part(blocks).chunks_exact(32) {
        step.must(record[2..8].iter().chain(&record[24..]).all(|&byte| byte == 0), "SEAL-BLK-02");
        let known = DTYPES.iter().find(|(code, _, _)| u128::from(*code) == number(&record[..2]));
        step.must(known.is_some(), "SEAL-BLK-01");
        if let Some(&(_, dtype, bits)) = known {
            all_blocks.push(Block { dtype, bits, offset: number(&record[8..16]), length: number(&record[16..24]) });
        }
    }
    let (mut name_at, mut dim_at, mut in_place, mut dims_in_place) = (0, 0, true, true);
    for record in &records {
        in_place &= record.name_offset == name_at;
        dims_in_place &= record.first_dim == dim_at;
        name_at += record.name_length;
        dim_at += record.rank;
    }
    let mut texts = Vec::new();
    if step.must(in_place && name_at == names.length, "SEAL-TEN-01") {
        let bytes: Vec<&[u8]> =
            records.iter().map(|record| &part(names)[place(record.name_offset, record.name_length)]).collect();
        step.must(bytes.windows(2).all(|pair| pair[0] < pair[1]), "SEAL-TEN-03");
        step.must(bytes.iter().all(|name| std::str::from_utf8(name).is_ok()), "SEAL-TEN-02");
        texts = bytes.into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    }
    let mut shapes: Vec<Vec<u64>> = Vec::new();
    if step.must(dims_in_place && dim_at * 8 == dims.length, "SEAL-TEN-04") {
        let dim = |bytes: &[u8]| number(bytes) as u64;
        let of = |record: &Record| part(dims)[place(record.first_dim * 8, record.rank * 8)].chunks_exact(8).map(dim).collect();
        shapes = records.iter().map(of).collect();
    }
    let metadata = pairs(part(metadata), &mut step);
    step.end()?;

    let mut step = Step::new("layout");
    let mut cursor = payload.offset;
    for (i, block) in all_blocks.iter().enumerate() {
        let expected = if i == 0 { cursor } else { round_up(cursor, 4096) };
        step.must(block.offset == expected, "SEAL-BLK-03");
        cursor = block.offset + block.length;
    }
    step.must(cursor == payload.end(), "SEAL-BLK-03");
    let used = |number: usize| records.iter().any(|record| record.block == number as u128);
    step.must((0..all_blocks.len()).all(used), "SEAL-BLK-04");
    step.end()?;

    let mut step = Step::new("tensor");
    let mut tensors: Vec<(usize, Tensor)> = Vec::new();
    for ((record, name), shape) in records.iter().zip(&texts).zip(&shapes) {
        let block = all_blocks.get(record.block as usize);
        step.must(block.is_some(), "TENSOR-BLOCK-01");
        let count = elements(shape);
        step.must(count.is_some(), "TENSOR-SHAPE-01");
        let (Some(block), Some(count)) = (block, count) else { continue };
        step.must(count * block.bits == record.length * 8, "TENSOR-LENGTH-01");
        let offset = block.offset + record.offset;
        let tensor = Tensor { name: name.clone(), dtype: block.dtype, shape: shape.clone(), offset, length: record.length };
        tensors.push((record.block as usize, tensor));
    }
    step.end()?;
    let mut step = Step::new("tensor");
    // TENSOR-TILE-01: by block, place, empty ones first, name.
    tensors.sort_by(|(a_block, a), (b_block, b)| {
        (a_block, a.offset, a.length > 0, a.name.as_bytes()).cmp(&(b_block, b.offset, b.length > 0, b.name.as_bytes()))
    });
    for (number, block) in all_blocks.iter().enumerate() {
        let unit = rounding_unit(alignment, block.bits);
        let mut cursor = 0;
        for (_, tensor) in tensors.iter().filter(|(of, _)| *of == number) {
            step.must(tensor.offset - block.offset == round_up(cursor, unit), "TENSOR-TILE-01");
            cursor = tensor.offset - block.offset + tensor.length;
        }
        step.must(cursor == block.length, "TENSOR-TILE-01");
    }
    step.end()?;

    must("footer", *blake3::hash(part(footer)).as_bytes() == header[224..256], "SEAL-FOOT-01")?;
    let rendered = render(alignment, footer.offset, &all_blocks, &tensors);
    must("footer", rendered.as_bytes() == part(footer), "SEAL-FOOT-02")?;

    let mut step = Step::new("integrity");
    let group = 1_usize << log2;
    let holds = |(bytes, digest): (&[u8], &[u8])| *blake3::hash(bytes).as_bytes() == digest;
    step.must(part(payload).chunks(group).zip(part(digests).chunks_exact(32)).all(holds), "SEAL-INT-01");
    let mut belongs = vec![false; payload.length as usize];
    for (_, tensor) in &tensors {
        belongs[place(tensor.offset - payload.offset, tensor.length)].fill(true);
    }
    if step.rules.is_empty() {
        step.must(part(payload).iter().zip(&belongs).all(|(&byte, &belongs)| belongs || byte == 0), "SEAL-INT-02");
    }
    step.end()?;
    let id = header[256..].try_into().ok();
    Ok(Content { layout: "sealed", id, metadata, tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect() })
}

struct Record {
    name_offset: u128,
    name_length: u128,
    first_dim: u128,
    rank: u128,
    block: u128,
    offset: u128,
    length: u128,
}

impl Record {
    fn of(bytes: &[u8]) -> Record {
        Record {
            name_offset: number(&bytes[..4]),
            name_length: number(&bytes[4..8]),
            first_dim: number(&bytes[8..12]),
            rank: number(&bytes[12..14]),
            block: number(&bytes[14..16]),
            offset: number(&bytes[16..24]),
            length: number(&bytes[24..]),
        }
    }
}

fn pairs(mut bytes: &[u8], step: &mut Step) -> BTreeMap<String, String> {
    let mut texts: Vec<&[u8]> = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.get(..4).map(number).unwrap_or(u128::MAX);
        let text = usize::try_from(length).ok().and_then(|length| bytes[4..].get(..length));
        if !step.must(text.is_some(), "SEAL-META-01") {
            break;
        }
        let text = text.unwrap_or_default();
        texts.push(text);
        bytes = &bytes[4 + text.len()..];
    }
    step.must(texts.len().is_multiple_of(2), "SEAL-META-01");
    let keys: Vec<&[u8]> = texts.iter().copied().step_by(2).collect();
    step.must(keys.windows(2).all(|pair| pair[0] < pair[1]), "SEAL-META-03");
    step.must(texts.iter().all(|text| std::str::from_utf8(text).is_ok()), "SEAL-META-02");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    texts.chunks_exact(2).map(|pair| (text(pair[0]), text(pair[1]))).collect()
}

/// Section 7.5 of the spec.
fn render(alignment: u128, footer_at: u128, blocks: &[Block], tensors: &[(usize, Tensor)]) -> String {
    let counts: Vec<u128> = blocks.iter().map(|block| block.length * 8 / block.bits).collect();
    let joined = |parts: Vec<String>| parts.join(",");
    let rows = blocks.iter().zip(&counts).map(|(block, count)| {
        let Block { dtype, offset, length, .. } = block;
        format!(r#"{{"dtype":"{dtype}","offset_bytes":{offset},"length_bytes":{length},"length_elems":{count}}}"#)
    });
    let index = tensors.iter().map(|(number, tensor)| {
        let block = &blocks[*number];
        let name = escaped(&tensor.name);
        let shape = joined(tensor.shape.iter().map(u64::to_string).collect());
        let offset = (tensor.offset - block.offset) * 8 / block.bits;
        let length = tensor.length * 8 / block.bits;
        format!(r#"{{"name":"{name}","shape":[{shape}],"offset":{offset},"length":{length},"macroblock":{number}}}"#)
    });
    format!(
        r#"{{"format":"flashpack_v4","align_bytes":{alignment},"total_payload_bytes":{footer_at},"total_elems":{},"macroblocks":[{}],"index":[{}],"flashpack_seal":{{"version":1}}}}"#,
        counts.iter().sum::<u128>(),
        joined(rows.collect()),
        joined(index.collect())
    )
}

/// FOOT-RENDER-02.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", control as u32)),
            other => out.push(other),
        }
    }
    out
}
