//! `mesh down`: removes what the engine made, and nothing else.

use crate::connect::Home;
use crate::exit::{Failure, OK, Outcome};
use crate::{engine, ground};

/// Stop and remove every workload and the control plane of this machine.
///
/// The store and the keys stay, unless `--purge` is given.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove the state directory too: objects, keys, certificates; and images that were made.
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let home = &args.home.home;
    if !home.exists() {
        println!("nothing is there: {} does not exist", home.display());
        return Ok(OK.into());
    }
    ground::check()?;
    let record = args.engine.decide(home)?;
    let engine = engine::open_recorded(&record, home).await?;
    let groups = engine.list(&std::collections::BTreeMap::new()).await;
    let groups = groups.map_err(|error| Failure::of(&error))?;
    engine
        .remove_all()
        .await
        .map_err(|error| Failure::of(&error))?;
    for status in &groups {
        println!(
            "removed {} with {} units",
            status.group.spec.name,
            status.units.len()
        );
    }
    let record = engine::Record {
        up: false,
        ..record
    };
    record.write(home)?;
    if args.purge {
        if let Some(docker) = engine.docker() {
            let removed = docker.remove_built().await;
            removed.map_err(|error| engine::failed(&error))?;
        }
        std::fs::remove_dir_all(home)
            .map_err(|error| Failure::doing(format!("removing {}", home.display()), &error))?;
        println!("removed {}", home.display());
    }
    Ok(OK.into())
}
