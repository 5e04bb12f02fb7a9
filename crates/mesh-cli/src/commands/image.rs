//! `mesh image`: the images of the mesh, made on this machine without a registry.

use std::path::{Path, PathBuf};

use mesh_runtime::{Creation, DockerEngine};
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
    /// with the libraries that it needs. An image that is up to date is left as it is. With
    /// `--output` they become files for `docker load` and OCI tools, and no daemon is needed.
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
    /// Write the images below this directory instead, each as an archive for `docker load`, whose
    /// bytes depend on the programs alone.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
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
    /// Where it was written to, with `--output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// The size of its files.
    bytes: u64,
    /// The programs that are in it.
    programs: Vec<PathBuf>,
}

pub(crate) async fn run(command: &Command) -> Outcome {
    let Command::Build(args) = command;
    let kinds = match args.image.as_slice() {
        [] => &image::Kind::ALL,
        some => some,
    };
    // All that is missing is said before anything long begins.
    let plan = || -> Result<Vec<_>, Failure> {
        kinds.iter().map(|kind| args.programs.plan(*kind)).collect()
    };
    let mut views = Vec::new();
    if let Some(directory) = &args.output {
        for plan in plan()? {
            views.push(written(directory, plan)?);
        }
    } else {
        let record = engine::daemon(args.docker_socket.as_deref(), &args.home.home)?;
        let opened = engine::open_recorded(&record, &args.home.home).await?;
        let docker = opened
            .docker()
            .ok_or_else(|| Failure::new("images need the Docker engine"))?;
        for plan in plan()? {
            views.push(built(docker, plan).await?);
        }
    }
    if args.format.json {
        print_json(&views)?;
        return Ok(OK.into());
    }
    for view in &views {
        let megabytes = view.bytes / 1_000_000;
        if let Some(file) = &view.file {
            println!("{} ({}, {megabytes} MB)", file.display(), view.image);
            continue;
        }
        let words = if view.created {
            "made"
        } else {
            "is up to date"
        };
        println!("{}: {words} ({}, {megabytes} MB)", view.image, view.id);
    }
    Ok(OK.into())
}

/// An image that a daemon has.
async fn built(docker: &DockerEngine, plan: image::Plan) -> Result<View, Failure> {
    let built = image::build(docker, &plan).await?;
    Ok(View {
        image: plan.spec.name,
        name: built.name,
        id: built.id,
        created: built.creation == Creation::Created,
        file: None,
        bytes: built.bytes,
        programs: plan.programs,
    })
}

/// An image as a file.
fn written(directory: &Path, plan: image::Plan) -> Result<View, Failure> {
    let (file, archived) = image::write(directory, &plan)?;
    Ok(View {
        image: plan.spec.name,
        name: archived.name,
        id: archived.id,
        created: true,
        file: Some(file),
        bytes: archived.bytes,
        programs: plan.programs,
    })
}
