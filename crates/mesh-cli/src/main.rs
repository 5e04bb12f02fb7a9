//! The `mesh` binary: one verb per file of [`commands`], output and exit codes in one place each.

/// In the place of the standard library's, which panics when nobody reads any more.
macro_rules! print {
    ($($text:tt)*) => { $crate::output::write_out(format_args!($($text)*)) };
}

/// As above, with the end of the line.
macro_rules! println {
    () => { $crate::output::write_out(format_args!("\n")) };
    ($($text:tt)*) => {
        $crate::output::write_out(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// As above, on standard error.
macro_rules! eprintln {
    ($($text:tt)*) => {
        $crate::output::write_error(format_args!("{}\n", format_args!($($text)*)))
    };
}

mod cni;
mod commands;
mod connect;
mod engine;
mod exit;
mod ground;
mod image;
mod join;
mod nomad;
mod output;
mod sidecar;
mod store;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::commands::{Arguments, Verb};
use crate::exit::Failure;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    if cni::is_called(&line) {
        return cni::run();
    }
    if let Some(words) = commands::redirect::words(&line) {
        return commands::redirect::run(&words).unwrap_or_else(|failure| report(&failure));
    }
    let arguments = Arguments::parse_from(line);
    // This verb starts logs itself, if it needs any.
    if let Verb::Redirect(args) = &arguments.verb {
        return commands::redirect::run(&args.words).unwrap_or_else(|failure| report(&failure));
    }
    // The first provider that is installed is what kube and tonic take; there is one in the tree.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: another crypto provider is installed in this process");
        return ExitCode::FAILURE;
    }
    output::start_logs(arguments.verbose);
    match commands::run(arguments.verb).and_then(output::finished) {
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
