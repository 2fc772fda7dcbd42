//! `flashpack list`.

use std::io::{self, Write};
use std::path::PathBuf;

use flashpack::diff::digests;
use flashpack::{Pack, Tensor};
use serde_json::{Value, json};

use super::output::{self, escaped, stdout};
use super::progress::Bar;
use super::{CommandResult, Outcome, open};

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

    /// Print JSON: an array with one object a tensor
    #[arg(short, long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, quiet: bool) -> CommandResult {
    let pack = open(&arguments.path)?;
    let digests: Vec<Option<String>> = if arguments.digests {
        let payload = pack.manifest().payload();
        let bar = Bar::new(Some(payload.end - payload.start), quiet);
        digests(&pack, &bar)?.iter().map(|digest| Some(digest.to_string())).collect()
    } else {
        vec![None; pack.manifest().len()]
    };
    if arguments.json {
        let rows = pack.tensors().zip(&digests).map(|(tensor, digest)| as_json(&tensor, digest.as_deref()));
        output::json(&Value::Array(rows.collect()))?;
    } else {
        print(&pack, &digests)?;
    }
    Ok(Outcome::Done)
}

fn print(pack: &Pack, digests: &[Option<String>]) -> io::Result<()> {
    let rows: Vec<[String; 4]> = pack
        .tensors()
        .map(|tensor| [escaped(tensor.name), tensor.dtype.to_string(), tensor.shape.to_string(), tensor.length.to_string()])
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    // One name of a megabyte should not move all other columns out of sight.
    const WIDEST: usize = 80;
    let [names, dtypes, shapes, lengths] = [0, 1, 2, 3].map(width).map(|width| width.min(WIDEST));
    let mut out = stdout();
    for ([name, dtype, shape, length], digest) in rows.iter().zip(digests) {
        write!(out, "{name:<names$}  {dtype:<dtypes$}  {shape:<shapes$}  {length:>lengths$}")?;
        match digest {
            Some(digest) => writeln!(out, "  {digest}")?,
            None => writeln!(out)?,
        }
    }
    out.flush()
}

fn as_json(tensor: &Tensor<'_>, digest: Option<&str>) -> Value {
    let mut row = json!({
        "name": tensor.name,
        "dtype": tensor.dtype.name(),
        "shape": tensor.shape.to_vec(),
        "offset": tensor.offset,
        "bytes": tensor.length,
    });
    if let Some(digest) = digest {
        row["blake3"] = digest.into();
    }
    row
}
