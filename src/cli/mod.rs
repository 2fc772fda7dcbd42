//! The command line: parse, call the library, print. One file a command.

mod artifact;
mod bench;
mod completions;
mod conform;
mod convert;
mod diff;
mod explain;
mod limits;
mod list;
mod load;
#[cfg(feature = "cuda")]
mod load_gpu;
mod man;
mod map;
mod metadata;
mod output;
mod progress;
mod revert;
mod validate;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flashpack::Error;

/// Model weights packed into one aligned, verified file.
///
/// Exit status: 0 done, or valid; 1 the file is invalid, or a comparison found differences; 2 wrong usage, or a file could not be read or
/// written; 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "flashpack", version, arg_required_else_help = true, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  flashpack convert model.safetensors          seal a model: writes model.flashpack
  flashpack validate model.flashpack           check every byte of it
  flashpack revert model.flashpack out.safetensors")]
struct Command {
    /// Show no progress
    #[arg(short, long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Convert(convert::Arguments),
    Revert(revert::Arguments),
    Metadata(metadata::Arguments),
    List(list::Arguments),
    Validate(validate::Arguments),
    Diff(diff::Arguments),
    Load(load::Arguments),
    Bench(bench::Arguments),
    Explain(explain::Arguments),
    Map(map::Arguments),
    Conform(conform::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// Why a command did not do what it was asked.
enum Failure {
    /// From the library, perhaps with advice.
    Library(Error),
    /// The arguments make no sense together, or nothing can be done with them.
    Usage(String),
    /// What was compared is not the same.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only what went to a GPU is compared so"))]
    Differs(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Library(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// What a command that ran has to say through its exit status.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Invalid, or different.
    No,
    /// Something could not be read.
    Unreadable,
}

type CommandResult = Result<Outcome, Failure>;

const NO: u8 = 1;
const TROUBLE: u8 = 2;
const INTERRUPTED: u8 = 130;

/// Runs the command that the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let command = Command::parse();
    let quiet = command.quiet;
    let result = match command.action {
        Action::Convert(arguments) => convert::run(&arguments, quiet),
        Action::Revert(arguments) => revert::run(&arguments, quiet),
        Action::Metadata(arguments) => metadata::run(&arguments),
        Action::List(arguments) => list::run(&arguments, quiet),
        Action::Validate(arguments) => validate::run(&arguments, quiet),
        Action::Diff(arguments) => diff::run(&arguments, quiet),
        Action::Load(arguments) => load::run(&arguments),
        Action::Bench(arguments) => bench::run(&arguments, quiet),
        Action::Explain(arguments) => explain::run(&arguments),
        Action::Map(arguments) => map::run(&arguments),
        Action::Conform(arguments) => conform::run(&arguments),
        Action::Completions(arguments) => completions::run(&arguments),
        Action::Man(arguments) => man::run(&arguments),
    };
    ExitCode::from(match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::No) => NO,
        Ok(Outcome::Unreadable) => TROUBLE,
        Err(failure) => report(&failure),
    })
}

/// One line on standard error: what, where, and what to do.
fn report(failure: &Failure) -> u8 {
    let (message, code) = match failure {
        // Whoever reads the output has gone away (`| head`): nothing to tell.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
        Failure::Output(error) => (format!("standard output: {error}"), TROUBLE),
        Failure::Usage(message) => (message.clone(), TROUBLE),
        Failure::Differs(message) => (message.clone(), NO),
        Failure::Library(error) => {
            let code = match error {
                Error::Invalid { .. } | Error::Unsupported { .. } | Error::Malformed { .. } => NO,
                Error::Cancelled => INTERRUPTED,
                _ => TROUBLE,
            };
            (with_advice(error), code)
        }
    };
    output::error(&message);
    code
}

fn with_advice(error: &Error) -> String {
    let advice = match error {
        Error::Exists(_) => "pass --force to replace it",
        Error::Invalid { .. } => match error.violation().map(|violation| violation.rule.id) {
            Some("PIN-ID-01") => "get the file again from where the pack id comes from",
            Some("PIN-SEAL-01") => "if you trust the file, `flashpack convert` seals it",
            _ => "`flashpack validate` lists everything that is wrong",
        },
        Error::Unsupported { .. } => "a newer version of flashpack may read it",
        Error::NoSuchTensor(_) => "`flashpack list` shows the names",
        Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => "free some space; nothing was changed",
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}

/// What is neither a file nor a folder.
fn refuse_stream(path: &Path) -> Result<(), Failure> {
    let text = path.to_string_lossy();
    if text == "-" {
        return Err(Failure::Usage("-: a model cannot come from a pipe or go to one yet: name a file".into()));
    }
    if text.contains("://") {
        return Err(Failure::Usage(format!("{text}: addresses are not fetched yet: download the file first")));
    }
    Ok(())
}

/// What commands that write files have in common.
#[derive(Debug, clap::Args)]
struct Writing {
    /// Replace what exists at the destination
    #[arg(short, long)]
    force: bool,

    /// Do not wait until the bytes are on disk: faster, but a power failure may leave an incomplete file
    #[arg(long)]
    no_sync: bool,

    /// Tell what was written
    #[arg(short, long)]
    verbose: bool,
}

impl Writing {
    fn options<'a>(&self, progress: &'a dyn flashpack::Progress) -> flashpack::WriteOptions<'a> {
        flashpack::WriteOptions { replace: self.force, sync: !self.no_sync, progress }
    }
}

/// The ways to be strict with a pack that is read.
#[derive(Debug, clap::Args)]
struct Trust {
    /// Refuse every pack but the one with this pack id (64 hexadecimal digits)
    #[arg(long, value_name = "HEX")]
    id: Option<flashpack::PackId>,

    /// Refuse packs that are not sealed
    #[arg(long)]
    require_seal: bool,
}

impl Trust {
    /// The option that asks for a pack, if one does.
    fn demands(&self) -> Option<&'static str> {
        match self {
            Trust { id: Some(_), .. } => Some("--id"),
            Trust { require_seal: true, .. } => Some("--require-seal"),
            Trust { .. } => None,
        }
    }

    fn options(&self) -> flashpack::OpenOptions {
        let options = flashpack::OpenOptions::new().require_seal(self.require_seal);
        match self.id {
            Some(id) => options.expect_id(id),
            None => options,
        }
    }
}

/// Opens a pack to look at.
fn open(path: &PathBuf) -> Result<flashpack::Pack, Failure> {
    refuse_stream(path)?;
    Ok(flashpack::Pack::open(path)?)
}
