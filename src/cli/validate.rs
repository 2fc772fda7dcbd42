//! `flashpack validate`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flashpack::{Error, Limits, Report};
use serde_json::{Value, json};

use super::output::{self, escaped, stdout, unless_closed};
use super::progress::{Bar, bytes_at};
use super::{CommandResult, Outcome, Trust, limits, refuse_stream, report};

/// Check packs against every rule of the format, and sealed ones against their digests
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack validate model.flashpack
  flashpack validate --require-seal --id 9c1f... download.flashpack     only this very file
  flashpack validate -j *.flashpack | jq '.[] | select(.verdict == \"invalid\")'")]
pub(crate) struct Arguments {
    /// The packs
    #[arg(required = true)]
    paths: Vec<PathBuf>,

    /// Do not read the tensors' bytes
    #[arg(long)]
    structure_only: bool,

    /// Print JSON: an array with one object a file
    #[arg(short, long)]
    json: bool,

    /// Take no more than a JSON file allows: {"tensors": 10000, "footer_bytes": 1000000}
    #[arg(long, value_name = "FILE", value_parser = limits::from_file)]
    limits: Option<Limits>,

    #[command(flatten)]
    trust: Trust,
}

pub(crate) fn run(arguments: &Arguments, quiet: bool) -> CommandResult {
    for path in &arguments.paths {
        refuse_stream(path)?;
    }
    let options = arguments.trust.options().limits(arguments.limits.clone().unwrap_or_default());
    let mut outcome = Outcome::Done;
    let mut rows = Vec::new();
    let mut out = stdout();
    for path in &arguments.paths {
        let result = {
            let bar = Bar::new(bytes_at(path), quiet);
            options.validate(path, arguments.structure_only, &bar)
        };
        match result {
            Ok(found) => {
                if !found.is_valid() && outcome == Outcome::Done {
                    outcome = Outcome::No;
                }
                if arguments.json {
                    rows.push(as_json(path, &found));
                } else {
                    unless_closed(print(&mut out, path, &found))?;
                }
            }
            Err(Error::Cancelled) => return Err(Error::Cancelled.into()),
            // The others are worth looking at all the same.
            Err(error) => {
                report(&error.into());
                outcome = Outcome::Unreadable;
            }
        }
    }
    if arguments.json {
        unless_closed(output::json(&Value::Array(rows)))?;
    }
    Ok(outcome)
}

fn print(out: &mut impl Write, path: &Path, found: &Report) -> io::Result<()> {
    let layout = found.layout.map_or("unknown layout", |layout| layout.name());
    let verdict = if found.is_valid() { "valid" } else { "invalid" };
    write!(out, "{}: {verdict}, {layout}", escaped(&path.to_string_lossy()))?;
    match found.id {
        Some(id) => writeln!(out, ", {id}")?,
        None => writeln!(out)?,
    }
    for violation in found.violations.iter() {
        writeln!(out, "  {}: {}", violation.rule.severity.name(), escaped(&violation.to_string()))?;
    }
    if found.violations.omitted() > 0 {
        writeln!(out, "  and {} more", found.violations.omitted())?;
    }
    // A file may take minutes: its verdict should not wait for the next one's.
    out.flush()
}

fn as_json(path: &Path, found: &Report) -> Value {
    let violations: Vec<Value> = found
        .violations
        .iter()
        .map(|violation| {
            json!({
                "rule": violation.rule.id,
                "severity": violation.rule.severity.name(),
                "offset": violation.offset,
                "tensor": violation.tensor,
                "message": violation.message,
            })
        })
        .collect();
    json!({
        "path": path.to_string_lossy(),
        "layout": found.layout.map(|layout| layout.name()),
        "verdict": if found.is_valid() { "valid" } else { "invalid" },
        "id": found.id.map(|id| id.to_string()),
        "violations": violations,
        "omitted": found.violations.omitted(),
    })
}
