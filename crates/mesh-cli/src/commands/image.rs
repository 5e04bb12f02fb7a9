//! `mesh image`: the images of the mesh, made on this machine without a registry.

use std::path::PathBuf;

use mesh_runtime::Creation;
use serde::Serialize;

use crate::connect::Home;
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, print_json};
use crate::{engine, image};

/// Make the images that `mesh up --engine docker` and its workloads run in.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Put the images together from programs of this machine.
    ///
    /// `mesh:VERSION` holds this program and Envoy, `mesh-etcd:VERSION` an installed etcd, each
    /// with the libraries that it needs. An image that is up to date is left as it is.
    Build(BuildArgs),
}

/// What is put together, and for which daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// The images; all of them without.
    #[arg(value_enum)]
    image: Vec<image::Kind>,
    #[command(flatten)]
    programs: image::Programs,
    /// Socket of the container daemon, as a path or a `unix://` address; as `mesh up` chose unless
    /// given.
    #[arg(long, env = "DOCKER_HOST", value_name = "SOCKET")]
    docker_socket: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    home: Home,
}

/// An image, as `--json` prints it.
#[derive(Debug, Serialize)]
struct View {
    /// The name that people use.
    image: String,
    /// The name that says its content.
    name: String,
    id: String,
    /// Whether it had to be made.
    created: bool,
    /// The size of its files.
    bytes: u64,
    /// The programs that are in it.
    programs: Vec<PathBuf>,
}

pub(crate) async fn run(command: &Command) -> Outcome {
    let Command::Build(args) = command;
    let record = engine::daemon(args.docker_socket.as_deref(), &args.home.home)?;
    let opened = engine::open_recorded(&record, &args.home.home).await?;
    let docker = opened
        .docker()
        .ok_or_else(|| Failure::new("images need the Docker engine"))?;
    let kinds = match args.image.as_slice() {
        [] => &image::Kind::ALL,
        some => some,
    };
    // All that is missing is said before anything long begins.
    let plans: Vec<_> = kinds
        .iter()
        .map(|kind| args.programs.plan(*kind))
        .collect::<Result<_, _>>()?;
    let mut views = Vec::new();
    for plan in plans {
        let built = image::build(docker, &plan).await?;
        let view = View {
            image: plan.spec.name,
            name: built.name,
            id: built.id,
            created: built.creation == Creation::Created,
            bytes: built.bytes,
            programs: plan.programs,
        };
        if !args.format.json {
            let words = if view.created {
                "made"
            } else {
                "is up to date"
            };
            println!(
                "{}: {words} ({}, {} MB)",
                view.image,
                view.id,
                view.bytes / 1_000_000
            );
        }
        views.push(view);
    }
    if args.format.json {
        print_json(&views)?;
    }
    Ok(OK.into())
}
