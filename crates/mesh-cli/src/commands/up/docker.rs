//! The control plane in containers: etcd, API server, CA, Pilot and Mixer, each a group of its own
//! on the network `istiomesh`, as in Istio's own install without Kubernetes.

mod file;
mod plan;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join_all;
use mesh_runtime::compose::{self, Progress};
use mesh_runtime::{Creation, DockerEngine, NetworkSpec, Runtime as _, RuntimeError, Start};

use self::file::{ComposeFile, Surroundings};
use self::plan::{Member, Topology};
use super::Args;
use crate::engine::Store;
use crate::exit::Failure;
use crate::{engine, image};

/// How long a member may take to become ready: the API server waits for etcd.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes what is missing, and returns when every member is ready.
pub(super) async fn bring_up(
    engine: &DockerEngine,
    args: &Args,
    store: Store,
    home: &Path,
) -> Result<(), Failure> {
    let network = engine::network(engine::Kind::Docker, args.subnet, args.subnet6);
    let file = compose_file(args, home, &network)?;
    let store = match file.as_ref().and_then(ComposeFile::runs_etcd) {
        None => store,
        Some(_) if args.store == Some(Store::File) => {
            return Err(
                Failure::usage("the API server of the file keeps its objects in etcd")
                    .with_hint("leave --store away"),
            );
        }
        Some(true) => Store::Etcd,
        // Its etcd is elsewhere: the file says where.
        Some(false) => Store::File,
    };
    let mesh = args.programs.plan(image::Kind::Mesh)?;
    let etcd = match store {
        Store::Etcd => Some(args.programs.plan(image::Kind::Etcd)?),
        Store::File => None,
    };
    let mesh = image(engine, &mesh).await?;
    let etcd = match &etcd {
        Some(plan) => Some(image(engine, plan).await?),
        None => None,
    };
    let topology = Topology {
        network: match &file {
            Some(file) => file.network(network),
            None => network,
        },
        home: home.to_path_buf(),
        mesh,
        etcd,
        api_port: args.api_port,
        certificate_ttl: args.certificate_ttl,
    };
    let mut stages = topology.stages()?;
    if let Some(file) = &file {
        file.change(&mut stages)?;
    }
    engine
        .create_network(&topology.network)
        .await
        .map_err(|error| engine::failed(&error))?;
    for stage in &stages {
        for directory in stage.iter().flat_map(|member| &member.directories) {
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(directory)
                .map_err(|error| {
                    Failure::doing(format!("making {}", directory.display()), &error)
                })?;
        }
        // Members of a stage need nothing of each other.
        try_join_all(stage.iter().map(|member| ensure(engine, member))).await?;
    }
    match &file {
        Some(file) => start_services(engine, &file.rest).await,
        None => Ok(()),
    }
}

/// The file that was named, with a line on stderr for everything that is done differently.
fn compose_file(
    args: &Args,
    home: &Path,
    network: &NetworkSpec,
) -> Result<Option<ComposeFile>, Failure> {
    let Some(path) = &args.file else {
        return Ok(None);
    };
    let variables = std::env::vars_os();
    let variables = variables.filter_map(|(name, value)| {
        // What is not text cannot be in the file.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    let surroundings = Surroundings {
        variables: &variables.collect(),
        home,
        network,
        images: (&image::Kind::Mesh.name(), &image::Kind::Etcd.name()),
    };
    let file = ComposeFile::read(path, surroundings)?;
    for note in file.notes() {
        eprintln!("{note}");
    }
    Ok(Some(file))
}

/// Starts the services of a file that are not the control plane's; images that are missing are
/// pulled.
async fn start_services(engine: &DockerEngine, plan: &compose::Plan) -> Result<(), Failure> {
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Started(service, Start::Started) => eprintln!("{service}: started"),
        Progress::Started(service, Start::AlreadyRunning) => eprintln!("{service}: is running"),
        Progress::Ready(service) => eprintln!("{service}: is ready"),
        _ => {}
    };
    let mut pulled = BTreeSet::new();
    loop {
        match compose::apply(engine, plan, PATIENCE, &mut tell).await {
            Err(RuntimeError::NotFound {
                kind: "image",
                name,
            }) if pulled.insert(name.clone()) => {
                eprintln!("image {name}: pulling");
                let progress = &mut |step: mesh_runtime::docker::Progress| {
                    tracing::info!(image = name, step = %step, "pulling an image");
                };
                let done = engine.pull(&name, progress).await;
                done.map_err(|error| engine::failed(&error))?;
            }
            done => return done.map_err(|error| engine::failed(&error)),
        }
    }
}

/// An image that is up to date, by the name that says its content: with another content its units
/// are others, and are made again.
async fn image(engine: &DockerEngine, plan: &image::Plan) -> Result<String, Failure> {
    let built = image::build(engine, plan).await?;
    if built.creation == Creation::Created {
        eprintln!("image {}: made", plan.spec.name);
    }
    Ok(built.name)
}

/// Makes a member, or makes it again where it is another one; what it keeps is on the machine.
async fn ensure(engine: &DockerEngine, member: &Member) -> Result<(), Failure> {
    let (group, unit) = (&member.group, &member.unit);
    let of = |error: RuntimeError| engine::failed(&error);
    match engine.create_group(group).await {
        Err(RuntimeError::Differs { .. }) => {
            engine.remove_group(&group.name).await.map_err(of)?;
            engine.create_group(group).await.map_err(of)?;
        }
        made => drop(made.map_err(of)?),
    }
    let state = match engine.create_unit(&group.name, unit).await {
        Err(RuntimeError::Differs { .. }) => {
            engine
                .remove_unit(&group.name, &unit.name)
                .await
                .map_err(of)?;
            engine.create_unit(&group.name, unit).await.map_err(of)?;
            "made again"
        }
        made => match made.map_err(of)? {
            Creation::Created => "created",
            Creation::Exists => "is there",
        },
    };
    eprintln!("{}: {state}", group.name);
    let late = |error: RuntimeError| {
        Failure::of(&error).with_hint(format!("see `mesh logs {}`", group.name))
    };
    engine
        .start_unit(&group.name, &unit.name)
        .await
        .map_err(late)?;
    engine
        .wait_ready(&group.name, &unit.name, PATIENCE)
        .await
        .map_err(late)?;
    Ok(())
}
