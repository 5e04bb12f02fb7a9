//! `mesh nomad render`: the jobs as files.

use std::fs;
use std::path::PathBuf;

use mesh_nomad::install::render::files;
use mesh_nomad::install::{Facts, plan};

use super::choice::{Extent, Place, Programs};
use super::cluster::Cluster;
use crate::exit::{Failure, OK, Outcome, REFUSED};

/// Write what `mesh nomad install` would register as files, without secrets, and a README with
/// their order.
///
/// The cluster is asked for its nodes, for the members of etcd are named in their job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory; made if it is not there.
    #[arg(value_name = "DIR")]
    into: PathBuf,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    extent: Extent,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let cluster = Cluster::open(&args.place)?;
    let found = cluster.look().await?;
    let settings = args
        .extent
        .settings(&args.place, &args.programs, found.settings.as_ref())?;
    // As for an empty cluster, but where the store is, it stays.
    let facts = Facts {
        namespace: None,
        policies: Vec::new(),
        ..found.facts
    };
    let made = plan(&settings, &facts)
        .map_err(|refusals| Failure::new(refusals.to_string()).with_code(REFUSED))?;
    for file in files(&settings, &made) {
        let path = args.into.join(&file.path);
        let doing =
            |error: std::io::Error| Failure::doing(format!("writing {}", path.display()), &error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(doing)?;
        }
        fs::write(&path, &file.text).map_err(doing)?;
        println!("{}", path.display());
    }
    Ok(OK.into())
}
