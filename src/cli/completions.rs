//! `flashpack completions`.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Command, CommandResult, Outcome};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack completions bash > /etc/bash_completion.d/flashpack
  flashpack completions zsh > \"${fpath[1]}/_flashpack\"")]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    // Through memory, as `generate` panics on a closed pipe.
    let mut text = Vec::new();
    generate(arguments.shell, &mut Command::command(), "flashpack", &mut text);
    std::io::Write::write_all(&mut std::io::stdout(), &text)?;
    Ok(Outcome::Done)
}
