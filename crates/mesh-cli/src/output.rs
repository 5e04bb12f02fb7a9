//! Tables for people, JSON for programs, logs for both.

use std::io::IsTerminal as _;

use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

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
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().init();
    }
}

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
