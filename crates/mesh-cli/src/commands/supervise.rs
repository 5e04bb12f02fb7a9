//! `mesh supervise`: the process beside each unit; started by the engine, not by people.

use std::path::PathBuf;

use mesh_runtime::supervisor;

use crate::exit::{Failure, OK, Outcome};

/// Keep one unit of the process engine running.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// Directory of the unit.
    #[arg(long, value_name = "DIR")]
    unit: PathBuf,
}

/// Runs on a thread of its own, since it enters namespaces: call it without an event loop.
pub(crate) fn run(args: &Args) -> Outcome {
    supervisor::run(&args.unit).map_err(|error| Failure::of(&error))?;
    Ok(OK.into())
}
