//! `mesh uninject`: the way back of `mesh inject`.

use std::path::PathBuf;

use mesh_nomad::inject::{is_injected, uninject};

use super::inject::{document, is_json, print_json, read, refused};
use crate::exit::{Failure, OK, Outcome};

/// Print an injected Nomad job as it was before, from a file or as a server has it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job in JSON, as `nomad job inspect` prints it too; `-` for standard input.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let text = read(&args.file)?;
    if !is_json(&text) {
        let message = format!("{}: a job in HCL does not go back", args.file.display());
        return Err(Failure::usage(message).with_hint(
            "keep the file it was made from, or make JSON of it (`nomad job run -output FILE`)",
        ));
    }
    let document = document(&text, &args.file)?;
    let groups = document.job().task_groups.items();
    if !groups.iter().any(is_injected) {
        eprintln!("warning: no group of the job is injected");
    }
    let job = uninject(document.job()).map_err(|refusals| refused(&refusals))?;
    print_json(&document.with_job(job))?;
    Ok(OK.into())
}
