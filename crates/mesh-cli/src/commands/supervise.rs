//! `mesh supervise`: keeps one unit of the process engine running; the engine starts it.

use std::path::PathBuf;

use crate::exit::{Failure, OK, Outcome};

/// Keep one unit running.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The unit's directory.
    #[arg(long, value_name = "DIR")]
    unit: PathBuf,
}

pub(crate) fn run(args: &Args) -> Outcome {
    mesh_runtime::supervisor::run(&args.unit).map_err(|error| Failure::of(&error))?;
    Ok(OK.into())
}
