//! Tables for people, JSON for programs, logs for both.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::exit::{Failure, Outcome};

/// How a verb prints its result.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Format {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Logs go to standard error: text on a terminal, JSON lines else.
pub(crate) fn start_logs(verbose: bool) {
    let default = if verbose { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("MESH_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().init();
    }
}

/// Writes to standard output, and remembers the first error for [`finished`]. Nothing is written
/// after one.
pub(crate) fn write_out(text: fmt::Arguments<'_>) {
    if BROKEN.get().is_none()
        && let Err(error) = io::stdout().lock().write_fmt(text)
    {
        // Another thread may have been faster, and its error is as good.
        drop(BROKEN.set(error));
    }
}

/// Writes to standard error, as far as somebody reads it: there is nowhere else to say it.
pub(crate) fn write_error(text: fmt::Arguments<'_>) {
    drop(io::stderr().lock().write_fmt(text));
}

/// The exit code of a verb that did what it was asked, unless its result could not be written.
///
/// # Errors
///
/// With the first error; that a reader left is none, as in `mesh get … | head`.
pub(crate) fn finished(code: ExitCode) -> Outcome {
    if let Err(error) = io::stdout().lock().flush() {
        drop(BROKEN.set(error));
    }
    match BROKEN.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::doing("writing the result", error))
        }
        _ => Ok(code),
    }
}

/// Why standard output cannot be written, which no verb can do anything about.
static BROKEN: OnceLock<io::Error> = OnceLock::new();

/// One JSON document on standard output.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::doing("writing JSON", &error))?;
    println!("{text}");
    Ok(())
}

/// A table in the form of kubectl's: a header, columns by white space.
pub(crate) fn print_table<I, R>(header: &[&str], rows: I)
where
    I: IntoIterator<Item = R>,
    R: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
}
