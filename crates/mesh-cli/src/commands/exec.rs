//! `mesh exec`: a command beside a workload's application.

use std::io::Write as _;
use std::process::ExitCode;

use mesh_runtime::{Exit, Name};

use crate::connect::Home;
use crate::engine;
use crate::exit::{FAILURE, Failure, Outcome};

/// Run a command in a workload, as the user of one of its units.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The workload's group.
    group: Name,
    /// The unit whose user and view of the machine the command gets.
    #[arg(long, default_value = "app")]
    unit: Name,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<String>,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let engine = engine::open(&args.engine, &args.home.home).await?;
    let output = engine
        .exec(&args.group, &args.unit, &args.command)
        .await
        .map_err(|error| Failure::of(&error))?;
    let written = std::io::stdout()
        .write_all(&output.stdout)
        .and_then(|()| std::io::stderr().write_all(&output.stderr));
    written.map_err(|error| Failure::doing("handing on what the command wrote", &error))?;
    Ok(match output.exit {
        Exit::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(FAILURE)),
        // As a shell has it: 128 and the signal.
        Exit::Signal(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILURE)),
    })
}
