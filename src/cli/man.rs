//! `flashpack man`.

use std::io::Write;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Command, CommandResult, Failure, Outcome};

/// Print the man page, or write one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack man | man -l -
  flashpack man --folder /usr/local/share/man/man1")]
pub(crate) struct Arguments {
    /// Write flashpack.1 and flashpack-COMMAND.1 into this folder
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let mut command = Command::command();
    command.build();
    if let Some(folder) = &arguments.folder {
        return clap_mangen::generate_to(command, folder)
            .map(|()| Outcome::Done)
            .map_err(|error| Failure::Library(flashpack::Error::io(folder, error)));
    }
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    std::io::stdout().write_all(&text)?;
    Ok(Outcome::Done)
}
