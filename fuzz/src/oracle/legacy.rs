//! Files without the head magic: v3 and v4 (CHECK-ORDER-02).

use std::collections::BTreeSet;

use super::json::{self, Json};
use super::{Content, DTYPES, MAX, Refused, Step, Tensor, elements, must, number, rounding_unit};

const TOP_V3: &[&str] = &["format", "target_dtype", "align_bytes", "total_elems", "index"];
const TOP_V4: &[&str] = &["format", "align_bytes", "total_payload_bytes", "total_elems", "macroblocks", "index"];
const BLOCK: &[&str] = &["dtype", "offset_bytes", "length_bytes", "length_elems"];
const RECORD_V3: &[&str] = &["name", "shape", "offset", "length"];
const RECORD_V4: &[&str] = &["name", "shape", "offset", "length", "macroblock"];

struct Block {
    dtype: &'static str,
    bits: u128,
    offset: u128,
    length: u128,
    elements: u128,
}

pub(super) fn judge(file: &[u8]) -> Result<Content, Refused> {
    must("size", file.len() >= 16, "FILE-SIZE-01")?;
    let (rest, trailer) = file.split_at(file.len() - 16);
    must("trailer", trailer[8..] == *b"FLASHPK\0", "TRAIL-MAGIC-01")?;
    let length = number(&trailer[..8]);
    must("trailer", length <= rest.len() as u128, "TRAIL-LENGTH-01")?;
    must("limits", length <= 1 << 28, "LIMIT-FOOTER-01")?;
    let (payload, footer) = rest.split_at(rest.len() - length as usize);
    let text = std::str::from_utf8(footer);
    must("footer-text", text.is_ok(), "FOOT-TXT-01")?;
    must("limits", json::depth(footer) <= 32, "LIMIT-DEPTH-01")?;
    let footer = json::parse(text.unwrap_or_default());
    must("footer-text", footer.is_some(), "FOOT-TXT-02")?;
    let footer = footer.unwrap_or(Json::Other);
    count(&footer)?;
    let mut step = Step::new("footer-text");
    step.must(!footer.has_undecodable(), "FOOT-TXT-02");
    step.must(!footer.has_repeated(), "FOOT-TXT-03");
    step.end()?;
    let v3 = schema(&footer)?;
    let blocks = blocks(&footer, v3, payload.len() as u128)?;
    let tensors = tensors(&footer, v3, &blocks)?;
    let mut by_place: Vec<&Tensor> = tensors.iter().filter(|tensor| tensor.length > 0).collect();
    by_place.sort_by_key(|tensor| tensor.offset);
    let apart = by_place.windows(2).all(|pair| pair[0].offset + pair[0].length <= pair[1].offset);
    must("tensor", apart, "TENSOR-OVERLAP-01")?;
    Ok(Content { layout: if v3 { "v3" } else { "v4" }, tensors, ..Content::default() })
}

/// CHECK-ORDER-04.
fn count(footer: &Json) -> Result<(), Refused> {
    let format = match footer.get("format") {
        Some(Json::Text(Some(format))) if !footer.has_undecodable_key() => format.as_str(),
        _ => return Ok(()),
    };
    if !["flashpack_v3", "flashpack_v4"].contains(&format) {
        return Ok(());
    }
    let mut step = Step::new("limits");
    if let (Some(Json::List(blocks)), "flashpack_v4") = (footer.get("macroblocks"), format) {
        step.must(blocks.len() <= 1 << 16, "LIMIT-BLOCKS-01");
    }
    if let Some(Json::List(index)) = footer.get("index")
        && step.must(index.len() <= 1 << 22, "LIMIT-TENSORS-01")
    {
        for record in index.iter().filter(|record| !record.has_undecodable_key()) {
            if let Some(Json::Text(Some(name))) = record.get("name") {
                step.must(name.len() <= 1 << 20, "LIMIT-NAME-01");
            }
            if let Some(Json::List(shape)) = record.get("shape") {
                step.must(shape.len() <= 64, "LIMIT-RANK-01");
            }
        }
    }
    step.end()
}

/// Whether it is a v3 footer.
fn schema(footer: &Json) -> Result<bool, Refused> {
    let mut step = Step::new("footer-schema");
    if !step.must(matches!(footer, Json::Object(_)), "FOOT-SCH-01") {
        return step.end().map(|()| false);
    }
    step.must(footer.get("flashpack_seal").is_none(), "FOOT-SCH-09");
    let format = match footer.get("format") {
        None => {
            step.must(false, "FOOT-SCH-03");
            ""
        }
        Some(Json::Text(Some(format))) => {
            step.must(["flashpack_v3", "flashpack_v4"].contains(&format.as_str()), "FOOT-SCH-02");
            format
        }
        Some(_) => {
            step.must(false, "FOOT-SCH-04");
            ""
        }
    };
    if !["flashpack_v3", "flashpack_v4"].contains(&format) {
        return step.end().map(|()| false);
    }
    let v3 = format == "flashpack_v3";
    let (top, records) = if v3 { (TOP_V3, RECORD_V3) } else { (TOP_V4, RECORD_V4) };
    let (foreign_top, foreign_record): (&[&str], &[&str]) =
        if v3 { (&["macroblocks", "total_payload_bytes"], &["macroblock"]) } else { (&["target_dtype"], &[]) };
    step.must(foreign_top.iter().all(|key| footer.get(key).is_none()), "FOOT-SCH-08");
    members(footer, top, &mut step);
    if let (Some(Json::List(blocks)), false) = (footer.get("macroblocks"), v3) {
        step.must(!blocks.is_empty(), "FOOT-SCH-10");
        for block in blocks {
            if step.must(matches!(block, Json::Object(_)), "FOOT-SCH-01") {
                step.must(block.keys().iter().all(|key| BLOCK.contains(key)), "FOOT-SCH-07");
                members(block, BLOCK, &mut step);
            }
        }
    }
    if let Some(Json::List(index)) = footer.get("index") {
        for record in index {
            if step.must(matches!(record, Json::Object(_)), "FOOT-SCH-01") {
                step.must(foreign_record.iter().all(|key| record.get(key).is_none()), "FOOT-SCH-08");
                members(record, records, &mut step);
            }
        }
    }
    step.end()?;
    Ok(v3)
}

fn members(object: &Json, keys: &[&str], step: &mut Step) {
    for &key in keys {
        let Some(value) = object.get(key) else {
            step.must(false, "FOOT-SCH-03");
            continue;
        };
        match key {
            "format" | "name" => {
                step.must(matches!(value, Json::Text(_)), "FOOT-SCH-04");
            }
            "index" | "macroblocks" => {
                step.must(matches!(value, Json::List(_)), "FOOT-SCH-04");
            }
            "target_dtype" | "dtype" => match value {
                Json::Text(Some(name)) => {
                    let known = DTYPES.iter().any(|(_, known, bits)| known == name && *bits >= 8);
                    step.must(known, "FOOT-SCH-06");
                }
                _ => {
                    step.must(false, "FOOT-SCH-04");
                }
            },
            "shape" => match value {
                Json::List(dims) => dims.iter().for_each(|dim| whole(dim, step)),
                _ => {
                    step.must(false, "FOOT-SCH-04");
                }
            },
            _ => whole(value, step),
        }
    }
}

fn whole(value: &Json, step: &mut Step) {
    let Json::Number(text) = value else {
        step.must(false, "FOOT-SCH-04");
        return;
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits && text.len() <= 16 && text.parse::<u128>().is_ok_and(|number| number <= MAX);
    step.must(fits, "FOOT-SCH-05");
}

/// A whole number of a footer whose schema holds.
fn value(object: &Json, key: &str) -> u128 {
    match object.get(key) {
        Some(Json::Number(text)) => text.parse().unwrap_or_default(),
        _ => 0,
    }
}

fn dtype(object: &Json, key: &str) -> (&'static str, u128) {
    let Some(Json::Text(Some(name))) = object.get(key) else { return ("", 8) };
    DTYPES.iter().find(|(_, known, _)| known == name).map_or(("", 8), |&(_, name, bits)| (name, bits))
}

fn list<'a>(object: &'a Json, key: &str) -> &'a [Json] {
    match object.get(key) {
        Some(Json::List(list)) => list,
        _ => &[],
    }
}

/// Whether the rounding unit is no more than the largest integer: found without counting up to it.
fn unit(alignment: u128, bits: u128) -> Option<u128> {
    // Elements of whole bytes: the least common multiple of two numbers of bytes.
    if alignment > 1 << 20 {
        let (mut a, mut b) = (alignment, bits / 8);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        return Some(alignment / a * (bits / 8)).filter(|&unit| unit <= MAX);
    }
    Some(rounding_unit(alignment, bits)).filter(|&unit| unit <= MAX)
}

fn blocks(footer: &Json, v3: bool, at: u128) -> Result<Vec<Block>, Refused> {
    let mut step = Step::new("layout");
    let (alignment, total) = (value(footer, "align_bytes"), value(footer, "total_elems"));
    let mut blocks = Vec::new();
    if v3 {
        let (dtype, bits) = dtype(footer, "target_dtype");
        step.must(unit(alignment, bits).is_some(), "BLOCK-ALIGN-01");
        step.must(total * bits / 8 == at, "BLOCK-TOTAL-01");
        blocks.push(Block { dtype, bits, offset: 0, length: at, elements: total });
    } else {
        let mut end = 0;
        for row in list(footer, "macroblocks") {
            let (dtype, bits) = dtype(row, "dtype");
            let (offset, length) = (value(row, "offset_bytes"), value(row, "length_bytes"));
            let elements = value(row, "length_elems");
            step.must(length == elements * bits / 8, "BLOCK-LENGTH-01");
            step.must(unit(alignment, bits).is_some_and(|unit| offset % unit == 0), "BLOCK-ALIGN-01");
            step.must(offset >= end, "BLOCK-ORDER-01");
            end = offset + length;
            step.must(end <= at, "BLOCK-END-01");
            blocks.push(Block { dtype, bits, offset, length, elements });
        }
        step.must(total == blocks.iter().map(|block| block.elements).sum(), "BLOCK-TOTAL-01");
        step.must(value(footer, "total_payload_bytes") == at, "BLOCK-PAYLOAD-01");
    }
    step.end()?;
    Ok(blocks)
}

fn tensors(footer: &Json, v3: bool, blocks: &[Block]) -> Result<Vec<Tensor>, Refused> {
    let mut step = Step::new("tensor");
    let mut tensors = Vec::new();
    let mut names = BTreeSet::new();
    for row in list(footer, "index") {
        let Some(Json::Text(Some(name))) = row.get("name") else { continue };
        step.must(names.insert(name.clone()), "TENSOR-NAME-01");
        let shape: Vec<u64> = list(row, "shape")
            .iter()
            .map(|dim| if let Json::Number(text) = dim { text.parse().unwrap_or_default() } else { 0 })
            .collect();
        let (offset, length) = (value(row, "offset"), value(row, "length"));
        let count = elements(&shape);
        if step.must(count.is_some(), "TENSOR-SHAPE-01") {
            step.must(count == Some(length), "TENSOR-LENGTH-01");
        }
        let block = if v3 { 0 } else { value(row, "macroblock") };
        let block = usize::try_from(block).ok().and_then(|number| blocks.get(number));
        if !step.must(block.is_some(), "TENSOR-BLOCK-01") {
            continue;
        }
        let Some(block) = block else { continue };
        let size = block.bits / 8;
        step.must((offset + length) * size <= block.length, "TENSOR-RANGE-01");
        let unit = unit(value(footer, "align_bytes"), block.bits).unwrap_or(1);
        step.must((offset * size) % unit == 0, "TENSOR-ALIGN-01");
        tensors.push(Tensor {
            name: name.clone(),
            dtype: block.dtype,
            shape,
            offset: block.offset + offset * size,
            length: length * size,
        });
    }
    step.end()?;
    Ok(tensors)
}
