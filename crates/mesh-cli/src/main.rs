//! The `mesh` binary: one verb per file of [`commands`], output and exit codes in one place each.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: results on stdout, progress and errors on stderr"
)]

mod commands;
mod connect;
mod engine;
mod exit;
mod join;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

use crate::commands::Arguments;
use crate::exit::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The first provider that is installed is what kube and tonic take; there is one in the tree.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: another crypto provider is installed in this process");
        return ExitCode::FAILURE;
    }
    output::start_logs(arguments.verbose);
    match commands::run(arguments.verb) {
        Ok(code) => code,
        Err(failure) => report(&failure),
    }
}

/// Prints the chain of causes and what to do, and picks the exit code.
fn report(failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    if let Some(hint) = failure.hint() {
        eprintln!("hint: {hint}");
    }
    failure.code()
}
