//! `flashpack explain`.
//!
//! ```text
//!  offset  bytes                    meaning                                                    clause
//!       0  89 46 50 4b 0d 0a 1a 0a  magic: a sealed pack                                       SEAL-MAGIC-01
//! ```

use std::io::{self, Write};
use std::path::PathBuf;

use flashpack::explain::{Field, explain};
use serde_json::{Value, json};

use super::output::{self, escaped, stdout};
use super::{CommandResult, Outcome, open};

/// Show every field of a pack's header, tables, footer and trailer: offset, bytes, meaning, clause of the spec
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack explain small.flashpack
  flashpack explain model.flashpack | head -40")]
pub(crate) struct Arguments {
    /// The pack
    path: PathBuf,

    /// Print JSON: an array with one object a field
    #[arg(short, long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let pack = open(&arguments.path)?;
    let fields = explain(&pack)?;
    if arguments.json {
        output::json(&Value::Array(fields.iter().map(as_json).collect()))?;
        return Ok(Outcome::Done);
    }
    // Offsets are as wide as the largest, so that the columns stay where they are.
    let last = fields.last().map_or(0, |field| field.offset);
    let offset_width = last.to_string().len().max(8);
    let mut out = stdout();
    let mut part = "";
    for field in &fields {
        if field.part != part {
            writeln!(out, "{}{}", if part.is_empty() { "" } else { "\n" }, field.part)?;
            part = field.part;
        }
        print(&mut out, field, offset_width)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// Bytes a line: as many as most fields have.
const PER_LINE: usize = 8;
const HEX_WIDTH: usize = PER_LINE * 3 - 1;
/// With the other columns and the longest clause, lines of 110.
const MEANING_WIDTH: usize = 57;
/// Fields longer than this, which are runs of data, show only their first two lines.
const LONGEST: u64 = 64;
/// The most lines of meaning: a hostile name can have a megabyte.
const MOST_LINES: usize = 12;

fn print(out: &mut impl Write, field: &Field, offset_width: usize) -> io::Result<()> {
    let bytes = bytes_lines(field);
    let meaning = wrapped(&escaped(&field.meaning));
    for number in 0..bytes.len().max(meaning.len()) {
        let (offset, hex) = bytes.get(number).map_or(("", ""), |(offset, hex)| (offset.as_str(), hex.as_str()));
        let meaning = meaning.get(number).map_or("", String::as_str);
        let clause = if number == 0 { field.clause } else { "" };
        let line = format!("{offset:>offset_width$}  {hex:<HEX_WIDTH$}  {meaning:<MEANING_WIDTH$}  {clause}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The bytes of a field in lines: the offset of each, and its hexadecimal digits.
fn bytes_lines(field: &Field) -> Vec<(String, String)> {
    let all_zero = field.bytes.iter().all(|&byte| byte == 0);
    let shown = if all_zero {
        PER_LINE
    } else if field.length > LONGEST {
        2 * PER_LINE
    } else {
        field.bytes.len()
    };
    let shown = field.bytes.get(..shown).unwrap_or(&field.bytes);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let offsets = (field.offset..).step_by(PER_LINE);
    let mut lines: Vec<_> = offsets.zip(shown.chunks(PER_LINE)).map(|(offset, line)| (offset.to_string(), hex(line))).collect();
    if field.length > shown.len() as u64 {
        lines.push((String::new(), format!("... {} bytes", field.length)));
    }
    lines
}

/// A text in lines of at most [`MEANING_WIDTH`] characters, broken after spaces and commas where there are some.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((limit, _)) = rest.char_indices().nth(MEANING_WIDTH) {
        if lines.len() + 1 == MOST_LINES {
            lines.push("...".to_owned());
            return lines;
        }
        let end = rest[..limit].rfind([' ', ',']).map_or(limit, |at| at + 1);
        lines.push(rest[..end].trim_end().to_owned());
        rest = &rest[end..];
    }
    lines.push(rest.to_owned());
    lines
}

fn as_json(field: &Field) -> Value {
    json!({
        "part": field.part,
        "offset": field.offset,
        "length": field.length,
        "hex": field.bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "meaning": field.meaning,
        "clause": field.clause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_meanings_are_wrapped_and_hostile_ones_cut() {
        assert_eq!(wrapped(""), [""]);
        assert_eq!(wrapped(&"é".repeat(MEANING_WIDTH)), ["é".repeat(MEANING_WIDTH)]);
        assert_eq!(wrapped(&format!("{} {}", "a".repeat(50), "b".repeat(50))), ["a".repeat(50), "b".repeat(50)]);
        let lines = wrapped(&"é".repeat(1 << 20));
        assert_eq!(lines.len(), MOST_LINES);
        assert!(lines.iter().all(|line| line.chars().count() <= MEANING_WIDTH));
    }
}
