//! `mesh logs`: what the units of a workload or of the control plane wrote.

use std::io::Write as _;

use futures_util::TryStreamExt as _;
use mesh_runtime::{LogOptions, Name, Runtime as _};

use crate::connect::Home;
use crate::engine;
use crate::exit::{Failure, OK, Outcome};

/// Show what units wrote.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group: a workload's name, or `control-plane`.
    group: Name,
    /// One of its units; all without, one after the other.
    unit: Option<Name>,
    /// Go on with what is written later; needs the name of one unit.
    #[arg(short, long, requires = "unit")]
    follow: bool,
    /// Only so many of the last lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let engine = engine::open(&args.home.home)?;
    let units = engine::units(&engine, &args.group, args.unit.as_ref()).await?;
    let options = LogOptions {
        tail: args.tail,
        follow: args.follow,
    };
    for unit in &units {
        if units.len() > 1 {
            println!("==> {}/{unit}", args.group);
        }
        let log = engine.logs(&args.group, unit, options).await;
        let mut log = log.map_err(|error| Failure::of(&error))?;
        while let Some(bytes) = log.try_next().await.map_err(|error| Failure::of(&error))? {
            std::io::stdout()
                .write_all(&bytes)
                .map_err(|error| Failure::doing("writing the log", &error))?;
        }
    }
    Ok(OK.into())
}
