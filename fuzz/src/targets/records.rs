//! Bytes to records: no policy yet, so hardly any bytes are wrong.

use flashpack::format::footer::{self, Fault};
use flashpack::format::header::{Header, SIZE};
use flashpack::format::tables::{Tables, metadata_pairs};
use flashpack::format::trailer::Trailer;

/// Any 288 bytes are a header, any 16 a trailer, and each gives its bytes back.
pub fn header(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<SIZE>() {
        let header = Header::from_bytes(bytes);
        assert_eq!(header.to_bytes(), *bytes);
        assert_eq!(header.digest(), *blake3::hash(&bytes[..256]).as_bytes());
        assert_eq!(header.sections.all().len(), 9);
    }
    if let Some(bytes) = data.first_chunk::<16>() {
        assert_eq!(Trailer::from_bytes(bytes).to_bytes(), *bytes);
    }
}

/// Sections of any lengths over any bytes: whole records, or nothing.
pub fn tables(data: &[u8]) {
    let Some((head, bytes)) = data.split_at_checked(14) else { return };
    let length = |i: usize| usize::from(u16::from_le_bytes([head[2 * i], head[2 * i + 1]]));
    let lengths: [usize; 7] = std::array::from_fn(length);
    let fits = lengths.iter().sum::<usize>() <= bytes.len();
    let whole = lengths.iter().zip([32, 32, 8, 32, 1, 1, 1]).all(|(length, size)| length % size == 0);
    let tables = Tables::from_bytes(bytes.to_vec(), lengths);
    assert_eq!(tables.is_some(), fits && whole);
    let Some(tables) = tables else { return };
    assert_eq!(tables.blocks().len() * 32, lengths[0]);
    assert_eq!(tables.tensors().len() * 32, lengths[1]);
    assert_eq!(tables.dims().len() * 8, lengths[2]);
    assert_eq!(tables.digests().len() * 32, lengths[3]);
    assert_eq!((tables.names().len(), tables.metadata().len()), (lengths[4], lengths[5]));
    assert_eq!(tables.as_bytes(), bytes);
    let mut end = 0;
    for pair in metadata_pairs(tables.metadata()) {
        let Ok((at, key, value)) = pair else { break };
        assert!(at >= end);
        end = at + 8 + key.len() + value.len();
        assert!(end <= lengths[5]);
    }
}

/// The footer's texts against `serde_json`'s own values.
pub fn footer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (depth, at) = footer::depth(text);
    assert!(at <= text.len());
    // Deeper ones are refused before they are read.
    if depth > 128 {
        return;
    }
    let document = footer::document(text);
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
        assert!(document.is_ok(), "serde_json reads it");
        // Of two members of one key, a value keeps one.
        assert!(depth >= depth_of(&value));
    }
    let Ok(document) = document else { return };
    let fault = footer::check_passed_over(document);
    if let Ok(Some(members)) = footer::members(document) {
        assert!(members.repeated.is_none() || matches!(fault, Err(Fault::RepeatedKey(_) | Fault::Text(_))));
        for (key, value) in &members.members {
            assert!(members.get(key).is_some());
            let _ = (footer::integer(value), footer::text(value));
        }
    }
    let mut count = 0;
    if let Ok(Some(all)) = footer::for_each_element(document, 3, |_| count += 1) {
        assert_eq!(count, all.min(3));
    }
}

fn depth_of(value: &serde_json::Value) -> u64 {
    match value {
        serde_json::Value::Array(values) => 1 + values.iter().map(depth_of).max().unwrap_or(0),
        serde_json::Value::Object(members) => 1 + members.values().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}
