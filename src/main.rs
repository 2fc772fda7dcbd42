//! The `flashpack` command: the door to `cli`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
