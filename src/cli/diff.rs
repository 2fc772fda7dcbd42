//! `flashpack diff`.

use std::io::{self, Write};
use std::path::PathBuf;

use flashpack::TensorInfo;
use flashpack::diff::{Change, Model, compare};
use serde_json::{Value, json};

use super::output::{self, escaped, stdout, unless_closed};
use super::progress::{Bar, bytes_at};
use super::{CommandResult, Outcome, refuse_stream};

/// Compare two models: packs of any layout, or safetensors files
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack diff model.safetensors model.flashpack          did anything get lost?
  flashpack diff -j old.flashpack new.flashpack")]
pub(crate) struct Arguments {
    /// The model to start from
    a: PathBuf,

    /// The model to compare with it
    b: PathBuf,

    /// Print JSON: an array with one object a difference
    #[arg(short, long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, quiet: bool) -> CommandResult {
    for path in [&arguments.a, &arguments.b] {
        refuse_stream(path)?;
    }
    let changes = {
        let bar = Bar::new(bytes_at(&arguments.a), quiet);
        compare(&Model::open(&arguments.a)?, &Model::open(&arguments.b)?, &bar)?
    };
    let printed =
        if arguments.json { output::json(&Value::Array(changes.iter().map(as_json).collect())) } else { print(&changes) };
    unless_closed(printed)?;
    Ok(if changes.is_empty() { Outcome::Done } else { Outcome::No })
}

fn print(changes: &[Change]) -> io::Result<()> {
    let mut out = stdout();
    let described = |tensor: &TensorInfo| format!("{} {:?}", tensor.dtype, tensor.shape);
    let value = |value: &Option<String>| value.as_ref().map_or("none".into(), |value| format!("\"{}\"", escaped(value)));
    for change in changes {
        match change {
            Change::Removed(tensor) => writeln!(out, "- {}: {}", escaped(&tensor.name), described(tensor))?,
            Change::Added(tensor) => writeln!(out, "+ {}: {}", escaped(&tensor.name), described(tensor))?,
            Change::Described { before, after } => {
                writeln!(out, "~ {}: {} -> {}", escaped(&before.name), described(before), described(after))?;
            }
            Change::Bytes(name) => writeln!(out, "~ {}: other bytes", escaped(name))?,
            Change::Metadata { key, before, after } => {
                writeln!(out, "~ metadata {}: {} -> {}", escaped(key), value(before), value(after))?;
            }
        }
    }
    out.flush()
}

fn as_json(change: &Change) -> Value {
    let tensor = |tensor: &TensorInfo| json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape });
    match change {
        Change::Removed(info) => json!({ "change": "removed", "tensor": info.name, "before": tensor(info) }),
        Change::Added(info) => json!({ "change": "added", "tensor": info.name, "after": tensor(info) }),
        Change::Described { before, after } => {
            json!({ "change": "described", "tensor": before.name, "before": tensor(before), "after": tensor(after) })
        }
        Change::Bytes(name) => json!({ "change": "bytes", "tensor": name }),
        Change::Metadata { key, before, after } => {
            json!({ "change": "metadata", "key": key, "before": before, "after": after })
        }
    }
}
