//! `flashpack explain`.

use std::io::Write;
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

    /// Print JSON
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
    let mut out = stdout();
    let mut part = "";
    for field in &fields {
        if field.part != part {
            part = field.part;
            writeln!(out, "{}{part}", if field.offset == 0 { "" } else { "\n" })?;
        }
        print(&mut out, field)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// Bytes a line of the dump.
const PER_LINE: usize = 16;

fn print(out: &mut impl Write, field: &Field) -> std::io::Result<()> {
    let mut lines = field.bytes.chunks(PER_LINE);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let first = lines.next().map(hex).unwrap_or_default();
    let cut =
        field.length > field.bytes.len() as u64 || (field.bytes.len() > PER_LINE && field.bytes.iter().all(|&byte| byte == 0));
    let clause = if field.clause.is_empty() { String::new() } else { format!("  [{}]", field.clause) };
    writeln!(out, "{:>8}  {first:<47}  {}{clause}", field.offset, escaped(&field.meaning))?;
    // More lines of zeros would say nothing.
    let lines = lines.take_while(|_| field.bytes.iter().any(|&byte| byte != 0));
    for (number, line) in (1_u64..).zip(lines) {
        writeln!(out, "{:>8}  {}", field.offset + number * PER_LINE as u64, hex(line))?;
    }
    if cut {
        writeln!(out, "{:>8}  ... {} bytes in all", "", field.length)?;
    }
    Ok(())
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
