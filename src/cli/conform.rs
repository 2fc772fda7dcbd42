//! `flashpack conform`: what an implementation offers the conformance suite (`conformance/README.md`). This one is the reference.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use flashpack::{OpenOptions, PackId, Severity};
use serde_json::{Value, json};

use super::{CommandResult, Failure, Outcome, limits};

/// Answer the conformance suite: for authors of ports
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack conform probe
  flashpack conform check conformance/vectors/sealed-small.flashpack
  conformance/run flashpack conform                         run the whole suite")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, Subcommand)]
enum Call {
    /// Say what this implementation is
    Probe,
    /// Judge one file: exit status 0 accept, 1 reject
    Check {
        /// The file
        file: PathBuf,
        /// Pin the pack id
        #[arg(long, value_name = "HEX")]
        id: Option<PackId>,
        /// Demand a seal
        #[arg(long)]
        require_seal: bool,
        /// Limits, as a JSON file
        #[arg(long, value_name = "FILE", value_parser = limits::from_file)]
        limits: Option<flashpack::Limits>,
    },
    /// Judge files as asked on standard input, one JSON request a line
    Serve,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    match &arguments.call {
        Call::Probe => {
            let probe = json!({
                "features": [],
                "layouts": ["v3", "v4", "sealed"],
                "name": "flashpack",
                "protocol": "1",
                "version": env!("CARGO_PKG_VERSION"),
            });
            writeln!(std::io::stdout(), "{probe}")?;
            Ok(Outcome::Done)
        }
        Call::Check { file, id, require_seal, limits } => {
            let options = options(*id, *require_seal, limits.clone());
            let (accepted, result) = check(file, &options)?;
            writeln!(std::io::stdout(), "{result}")?;
            Ok(if accepted { Outcome::Done } else { Outcome::No })
        }
        Call::Serve => serve(),
    }
}

fn options(id: Option<PackId>, require_seal: bool, limits: Option<flashpack::Limits>) -> OpenOptions {
    let options = OpenOptions::new().require_seal(require_seal).limits(limits.unwrap_or_default());
    match id {
        Some(id) => options.expect_id(id),
        None => options,
    }
}

fn serve() -> CommandResult {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let unusable = |message: String| Failure::Usage(format!("request {line}: {message}"));
        let request: Value = serde_json::from_str(&line).map_err(|error| unusable(error.to_string()))?;
        let file = request["file"].as_str().ok_or_else(|| unusable("it names no file".into()))?;
        let id = request["id"].as_str().map(str::parse).transpose().map_err(|_| unusable("the id is none".into()))?;
        let limits = request.get("limits").map(|limits| limits::from_json(&limits.to_string())).transpose().map_err(unusable)?;
        let require_seal = request["require_seal"].as_bool().unwrap_or_default();
        let (accepted, result) = check(Path::new(file), &options(id, require_seal, limits))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", json!({ "exit": if accepted { "0" } else { "1" }, "result": result }))?;
        out.flush()?;
    }
    Ok(Outcome::Done)
}

/// The verdict on a file, and what to say of it. Keys are in order; whole numbers are texts, as some languages would round them.
fn check(file: &Path, options: &OpenOptions) -> Result<(bool, Value), Failure> {
    let report = options.validate(file, false, &())?;
    if let Some((stage, violations)) = report.violations.first_failing() {
        let rules = sorted(violations.into_iter().map(|violation| violation.rule.id));
        return Ok((false, json!({ "rules": rules, "stage": stage.name() })));
    }
    let pack = options.open(file)?;
    let mut tensors = Vec::with_capacity(pack.manifest().len());
    for (tensor, digest) in pack.tensors().zip(flashpack::diff::digests(&pack, &())?) {
        tensors.push(json!({
            "blake3": digest.to_string(),
            "dtype": tensor.dtype.name(),
            "length": tensor.length.to_string(),
            "name": tensor.name,
            "offset": tensor.offset.to_string(),
            "shape": tensor.shape.iter().map(|dim| dim.to_string()).collect::<Vec<_>>(),
        }));
    }
    let metadata: serde_json::Map<String, Value> =
        pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let warnings = report.violations.iter().filter(|violation| violation.rule.severity == Severity::Warning);
    let result = json!({
        "id": pack.id().map(|id| id.to_string()),
        "layout": pack.layout().name(),
        "metadata": metadata,
        "tensors": tensors,
        "warnings": sorted(warnings.map(|violation| violation.rule.id)),
    });
    Ok((true, result))
}

fn sorted<'a>(rules: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut rules: Vec<_> = rules.collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}
