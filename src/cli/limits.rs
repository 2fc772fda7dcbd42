//! `--limits FILE`: what a reader is willing to take, as JSON.

use flashpack::Limits;
use serde_json::{Map, Value};

/// Reads limits from a file: an object with some of the fields of [`Limits`]; the others keep their defaults.
pub(crate) fn from_file(path: &str) -> Result<Limits, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    from_json(&text)
}

pub(crate) fn from_json(text: &str) -> Result<Limits, String> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    for (key, value) in fields {
        let field = match key.as_str() {
            "table_bytes" => &mut limits.table_bytes,
            "footer_bytes" => &mut limits.footer_bytes,
            "tensors" => &mut limits.tensors,
            "blocks" => &mut limits.blocks,
            "name_bytes" => &mut limits.name_bytes,
            "rank" => &mut limits.rank,
            "json_depth" => &mut limits.json_depth,
            _ => return Err(format!("there is no limit {key:?}")),
        };
        // Whole numbers may also be decimal strings, as in all that the conformance suite exchanges.
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        *field = number.ok_or_else(|| format!("{key} is not a whole number"))?;
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_not_named_keep_their_defaults() {
        let limits = from_json(r#"{"tensors": 10, "rank": "4"}"#).unwrap();
        assert_eq!(limits, Limits { tensors: 10, rank: 4, ..Limits::default() });
        for wrong in ["", "[]", "{\"tensor\": 1}", "{\"rank\": -1}", "{\"rank\": 1.5}"] {
            assert!(from_json(wrong).is_err(), "{wrong}");
        }
    }
}
