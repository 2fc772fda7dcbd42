//! `flashpack list`.

use std::io::Write;
use std::path::PathBuf;

use flashpack::{Pack, Tensor};
use serde_json::{Value, json};

use super::output::{self, escaped, stdout};
use super::{CommandResult, Failure, Outcome, open};

/// List the tensors of a pack: name, dtype, shape, bytes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack list model.flashpack
  flashpack list --digests model.flashpack      with the BLAKE3 of each tensor's bytes")]
pub(crate) struct Arguments {
    /// The pack
    path: PathBuf,

    /// Add the BLAKE3 of each tensor's bytes, which are verified on the way
    #[arg(long)]
    digests: bool,

    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let pack = open(&arguments.path)?;
    if arguments.json {
        let mut rows = Vec::with_capacity(pack.manifest().len());
        for tensor in pack.tensors() {
            rows.push(as_json(&pack, &tensor, arguments.digests)?);
        }
        output::json(&Value::Array(rows))?;
        return Ok(Outcome::Done);
    }
    let rows: Vec<[String; 4]> = pack
        .tensors()
        .map(|tensor| [escaped(tensor.name), tensor.dtype.to_string(), tensor.shape.to_string(), tensor.length.to_string()])
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let [names, dtypes, shapes, lengths] = [0, 1, 2, 3].map(width);
    let mut out = stdout();
    for (tensor, [name, dtype, shape, length]) in pack.tensors().zip(&rows) {
        write!(out, "{name:<names$}  {dtype:<dtypes$}  {shape:<shapes$}  {length:>lengths$}")?;
        if arguments.digests {
            write!(out, "  {}", digest(&pack, &tensor)?)?;
        }
        writeln!(out)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn as_json(pack: &Pack, tensor: &Tensor<'_>, digests: bool) -> Result<Value, Failure> {
    let mut row = json!({
        "name": tensor.name,
        "dtype": tensor.dtype.name(),
        "shape": tensor.shape.to_vec(),
        "offset": tensor.offset,
        "bytes": tensor.length,
    });
    if digests {
        row["blake3"] = digest(pack, tensor)?.into();
    }
    Ok(row)
}

fn digest(pack: &Pack, tensor: &Tensor<'_>) -> Result<String, Failure> {
    Ok(flashpack::diff::digest(pack, tensor.name)?.to_string())
}
