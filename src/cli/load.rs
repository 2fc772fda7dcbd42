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
  flashpack load model.flashpack --no-verify --tensor conv1.weight conv1.bias")]
#[command(override_usage = "flashpack load [OPTIONS] <PATH> [--tensor <NAME>...]")]
pub(crate) struct Arguments {
    /// The pack
    #[arg(required_unless_present = "tensor")]
    path: Option<PathBuf>,

    /// Where to: cpu
    #[arg(long, default_value = "cpu")]
    device: String,

    /// Do not verify what is read
    #[arg(long)]
    no_verify: bool,

    /// Load only the tensors of these names (repeatable)
    #[arg(long, value_name = "NAME", num_args = 1..)]
    tensor: Vec<String>,

    /// Print JSON
    #[arg(short, long)]
    json: bool,

    #[command(flatten)]
    trust: Trust,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let (path, names) = arguments.path_and_names()?;
    refuse_stream(&path)?;
    match arguments.device.as_str() {
        "cpu" => {}
        device if device == "cuda" || device.starts_with("cuda:") => {
            return Err(Failure::Usage(format!("{device}: this build has no GPU support: load to cpu")));
        }
        device => return Err(Failure::Usage(format!("{device}: no such device: cpu can be had"))),
    }
    let started = Instant::now();
    let pack = arguments.trust.options().verify_reads(!arguments.no_verify).open(&path)?;
    let opened = started.elapsed();

    let loaded = if names.is_empty() {
        // Whole blocks: a few large reads, whatever the number of tensors.
        pack.load()?
    } else {
        pack.load_tensors(names)?
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

impl Arguments {
    /// As `--tensor` takes all names that follow it, it also takes a path that comes last.
    fn path_and_names(&self) -> Result<(PathBuf, &[String]), Failure> {
        match (&self.path, self.tensor.as_slice()) {
            (Some(path), names) => Ok((path.clone(), names)),
            (None, [names @ .., path]) if !names.is_empty() => Ok((path.into(), names)),
            (None, _) => Err(Failure::Usage("a name and no pack: `flashpack load PATH --tensor NAME...`".into())),
        }
    }
}

/// 10^9 bytes a second.
fn rate(bytes: u64, time: Duration) -> Option<f64> {
    (bytes > 0 && !time.is_zero()).then(|| bytes as f64 / time.as_secs_f64() / 1e9)
}
