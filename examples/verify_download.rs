//! Decides whether a file from a stranger may be used: the pinned one, whole, and within limits.
//!
//! `cargo run --example verify_download -- FILE [PACK_ID]`

use std::process::ExitCode;

use flashpack::{Limits, OpenOptions};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: verify_download FILE [PACK_ID]");
        return ExitCode::from(2);
    };
    // Less than the defaults: this service knows how large its models are.
    let limits = Limits { tensors: 100_000, table_bytes: 64 << 20, ..Limits::default() };
    let mut options = OpenOptions::new().require_seal(true).strict(true).limits(limits);
    match arguments.next().map(|id| id.parse()) {
        Some(Ok(id)) => options = options.expect_id(id),
        Some(Err(error)) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
        None => {}
    }
    match options.open(&path) {
        Ok(pack) => {
            println!(
                "{path}: whole; {} tensors; pack id {}",
                pack.manifest().len(),
                pack.id().map(|id| id.to_string()).unwrap_or_default()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            // The rule, the offset and the tensor, for the log.
            eprintln!("{path}: refused: {error}");
            ExitCode::FAILURE
        }
    }
}
