//! `flashpack diff`.

use std::io::Write;
use std::path::PathBuf;

use flashpack::diff::{Change, Model, compare};
use serde_json::{Value, json};

use super::output::{self, escaped, stdout};
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

    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    for path in [&arguments.a, &arguments.b] {
        refuse_stream(path)?;
    }
    let changes = compare(&Model::open(&arguments.a)?, &Model::open(&arguments.b)?)?;
    if arguments.json {
        output::json(&Value::Array(changes.iter().map(as_json).collect()))?;
    } else {
        let mut out = stdout();
        for change in &changes {
            match change {
                Change::Removed(tensor) => writeln!(out, "- {}: {} {:?}", escaped(&tensor.name), tensor.dtype, tensor.shape)?,
                Change::Added(tensor) => writeln!(out, "+ {}: {} {:?}", escaped(&tensor.name), tensor.dtype, tensor.shape)?,
                Change::Described { before, after } => {
                    let name = escaped(&before.name);
                    writeln!(out, "~ {name}: {} {:?} -> {} {:?}", before.dtype, before.shape, after.dtype, after.shape)?;
                }
                Change::Bytes(name) => writeln!(out, "~ {}: other bytes", escaped(name))?,
                Change::Metadata { key, before, after } => {
                    let shown = |value: &Option<String>| value.as_ref().map_or("none".into(), |value| format!("{value:?}"));
                    writeln!(out, "~ metadata {}: {} -> {}", escaped(key), shown(before), shown(after))?;
                }
            }
        }
        out.flush()?;
    }
    Ok(if changes.is_empty() { Outcome::Done } else { Outcome::No })
}

fn as_json(change: &Change) -> Value {
    let tensor = |tensor: &flashpack::TensorInfo| json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape });
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
