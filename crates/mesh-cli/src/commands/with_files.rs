//! `mesh with-files`: a program of somebody else's as a task of Nomad's, started in place of this
//! one once the files that it needs are there.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use tokio_util::sync::CancellationToken;

use crate::exit::{Failure, OK, Outcome};
use crate::nomad;

/// Write the items of a variable of Nomad's as files, then become a command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The variable, in the task's own namespace.
    #[arg(long, value_name = "PATH")]
    nomad_files: String,
    /// The directory of the files.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Failure::usage("there is no command"));
    };
    // Its threads end before this process becomes another.
    super::wait(async {
        let client = nomad::client()?;
        // Until the command runs, a signal ends this program as it ends any.
        nomad::bring_files(
            &client,
            &args.nomad_files,
            &args.home,
            &CancellationToken::new(),
        )
        .await?;
        Ok(OK.into())
    })?;
    let error = Command::new(program).args(rest).exec();
    let program = program.to_string_lossy();
    Err(Failure::doing(format!("starting `{program}`"), &error))
}
