//! `mesh restore`: a backup becomes the content of an empty store.

use std::path::PathBuf;

use mesh_control::api::backup::{Backup, restore};
use mesh_control::store::{StoreConfig, open};

use crate::connect::Home;
use crate::exit::{Failure, OK, Outcome, REFUSED};
use crate::store::StoreArgs;

/// Fill an empty store with what `mesh backup` wrote, before the API server is started on it.
///
/// The mesh goes on with its own root: certificates that it issued stay good. A store that has
/// anything in it is left alone. The store is that of `--home`, or an etcd cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The backup; `-` is the standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    home: Home,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let name = args.file.display();
    let text = if args.file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(&args.file)
    };
    let text = text.map_err(|error| Failure::doing(format!("reading {name}"), &error))?;
    let backup =
        Backup::parse(&text).map_err(|problems| Failure::usage(format!("{name}: {problems}")))?;
    let restored = fill(&args.store.config(&args.home.home), &backup).await?;
    println!(
        "{restored} objects of revision {} are in the store",
        backup.revision()
    );
    Ok(OK.into())
}

/// Fills an empty store; says with how many objects.
pub(crate) async fn fill(config: &StoreConfig, backup: &Backup) -> Result<usize, Failure> {
    let store = open(config)
        .await
        .map_err(|error| Failure::doing("opening the store", &error).with_hint_of(error.hint()))?;
    restore(store.as_ref(), backup).await.map_err(|error| {
        use mesh_control::api::backup::RestoreError::NotEmpty;
        let failure = Failure::of(&error);
        match error {
            NotEmpty { .. } => failure
                .with_code(REFUSED)
                .with_hint("stop the API server, and name a store that was never used"),
            _ => failure,
        }
    })
}
