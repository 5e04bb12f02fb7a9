//! `mesh validate`: checks files without an API server.

use std::process::ExitCode;

use serde::Serialize;

use super::documents::{self, Files};
use crate::exit::{Failure, Outcome, USAGE};
use crate::output::{Format, print_json};

/// Check YAML or JSON files of Istio's kinds, as the API server would.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Fail on warnings and unknown fields too.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    format: Format,
}

/// What was found in one document.
#[derive(Debug, Serialize)]
struct Verdict {
    document: String,
    problems: Vec<String>,
    warnings: Vec<String>,
}
