//! `flashpack revert`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use flashpack::convert::{RevertOptions, revert};

use super::output::{count, escaped, size, stdout};
use super::progress::{Bar, bytes_at};
use super::{CommandResult, Outcome, Trust, Writing, refuse_stream};

/// Turn a pack of any layout back into safetensors, bit for bit
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack revert model.flashpack                          writes model.safetensors
  flashpack revert model.flashpack out.safetensors --max-shard-size 5GB")]
pub(crate) struct Arguments {
    /// The pack
    source: PathBuf,

    /// The file to write. By default SOURCE's name with .safetensors
    destination: Option<PathBuf>,

    /// Write shards of at most this many bytes, and an index: 5GB, 500MB, 1GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_shard_size: Option<u64>,

    #[command(flatten)]
    writing: Writing,

    #[command(flatten)]
    trust: Trust,
}

pub(crate) fn run(arguments: &Arguments, quiet: bool) -> CommandResult {
    refuse_stream(&arguments.source)?;
    if let Some(destination) = &arguments.destination {
        refuse_stream(destination)?;
    }
    let started = Instant::now();
    let paths = {
        let bar = Bar::new(bytes_at(&arguments.source), quiet);
        let options = RevertOptions {
            max_shard_bytes: arguments.max_shard_size,
            write: arguments.writing.options(&bar),
            open: arguments.trust.options(),
        };
        revert(&arguments.source, arguments.destination.as_deref(), &options)?
    };
    let mut out = stdout();
    for path in &paths {
        writeln!(out, "{}", escaped(&path.to_string_lossy()))?;
    }
    if arguments.writing.verbose {
        let bytes = paths.iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
        writeln!(out, "  {}, {}", count(paths.len(), "file"), size(bytes))?;
        writeln!(out, "{:.3} s", started.elapsed().as_secs_f64())?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// Sizes as other tools of the field take them: `5GB` is 5 * 10^9 bytes, `5GiB` is 5 * 2^30.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        "TIB" => 1 << 40,
        _ => return Err(format!("unknown unit {unit:?}: try 5GB or 500MiB")),
    };
    let number: u64 = number.parse().map_err(|_| "a whole number and a unit, such as 5GB".to_owned())?;
    match number.checked_mul(factor) {
        Some(0) => Err("a shard must hold something".into()),
        Some(bytes) => Ok(bytes),
        None => Err("too large".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_decimal_unless_they_say_otherwise() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("700"), Ok(700));
        for wrong in ["", "GB", "0", "5XB", "-1", "99999999999TB", "1.5GB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
