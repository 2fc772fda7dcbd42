//! `flashpack load`.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::output::{self, count, size, stdout};
use super::{CommandResult, Failure, Outcome, Trust, refuse_stream};

/// Load a pack as a program would, and tell how long it took
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack load model.flashpack
  flashpack load --no-verify --tensor conv1.weight model.flashpack")]
pub(crate) struct Arguments {
    /// The pack
    path: PathBuf,

    /// Where to: cpu
    #[arg(long, default_value = "cpu")]
    device: String,

    /// Do not verify what is read
    #[arg(long)]
    no_verify: bool,

    /// Load only the tensor of this name (repeatable)
    #[arg(long, value_name = "NAME")]
    tensor: Vec<String>,

    /// Print JSON
    #[arg(short, long)]
    json: bool,

    #[command(flatten)]
    trust: Trust,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    refuse_stream(&arguments.path)?;
    match arguments.device.as_str() {
        "cpu" => {}
        device if device == "cuda" || device.starts_with("cuda:") => {
            return Err(Failure::Usage(format!("{device}: this build has no GPU support: load to cpu")));
        }
        device => return Err(Failure::Usage(format!("{device}: no such device: cpu can be had"))),
    }
    let started = Instant::now();
    let pack = arguments.trust.options().verify_reads(!arguments.no_verify).open(&arguments.path)?;
    let opened = started.elapsed();

    let loaded = if arguments.tensor.is_empty() {
        // Whole blocks: a few large reads, whatever the number of tensors.
        pack.load()?
    } else {
        pack.load_tensors(&arguments.tensor)?
    };
    let read = started.elapsed() - opened;
    let verified = pack.id().is_some() && !arguments.no_verify;
    let stages = [("open", 0, opened), (if verified { "read and verify" } else { "read" }, loaded.bytes(), read)];

    if arguments.json {
        let stages: Vec<Value> = stages
            .iter()
            .map(|(stage, bytes, time)| json!({ "stage": stage, "bytes": bytes, "seconds": time.as_secs_f64() }))
            .collect();
        output::json(&json!({ "device": "cpu", "tensors": loaded.len(), "verified": verified, "stages": stages }))?;
        return Ok(Outcome::Done);
    }
    let mut out = stdout();
    writeln!(
        out,
        "{}, {}, {}",
        count(loaded.len(), "tensor"),
        size(loaded.bytes()),
        if verified { "verified" } else { "not verified" }
    )?;
    for (stage, bytes, time) in stages {
        write!(out, "  {stage:<16} {:>10.3} ms", time.as_secs_f64() * 1e3)?;
        match rate(bytes, time) {
            Some(rate) => writeln!(out, "  {rate:>7.2} GB/s")?,
            None => writeln!(out)?,
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// 10^9 bytes a second.
fn rate(bytes: u64, time: Duration) -> Option<f64> {
    (bytes > 0 && !time.is_zero()).then(|| bytes as f64 / time.as_secs_f64() / 1e9)
}
