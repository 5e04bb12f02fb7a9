//! The control plane in containers: etcd, API server, CA, Pilot and Mixer, each a group of its own
//! on the network `istiomesh`, as in Istio's own install without Kubernetes.

mod file;
mod plan;
mod service;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join_all;
use mesh_control::api::bootstrap::prepare_etcd;
use mesh_model::sidecar::API_PORT;
use mesh_runtime::{Creation, DockerEngine, NetworkSpec, Runtime as _, RuntimeError, compose};

use self::file::{ComposeFile, Surroundings};
use self::plan::{EtcdPlan, Member, Topology};
use super::install::Install;
use crate::engine::Store;
use crate::exit::Failure;
use crate::{engine, image};

/// How long a member may take to become ready: the API server waits for etcd.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be made, as far as it is known before the daemon is asked anything.
#[derive(Debug)]
pub(super) struct Planned {
    file: Option<ComposeFile>,
    mesh: image::Plan,
    etcd: Option<image::Plan>,
    /// With the names of images that people use, which the daemon makes more exact.
    topology: Topology,
}

/// Reads the file and plans everything, and makes nothing.
///
/// # Errors
///
/// Everything that is wrong with the file, and what is missing on this machine.
pub(super) fn plan(
    asked: Option<Store>,
    install: &Install,
    store: Store,
    home: &Path,
) -> Result<Planned, Failure> {
    let network = engine::network(engine::Kind::Docker, install.subnet, install.subnet6);
    let file = compose_file(install, home, &network)?;
    let runs_etcd = file.as_ref().and_then(ComposeFile::runs_etcd);
    if runs_etcd.is_some() && asked == Some(Store::File) {
        return Err(
            Failure::usage("the API server of the file keeps its objects in etcd")
                .with_hint("leave --store away"),
        );
    }
    // Where the etcd of a file's API server is elsewhere, the file says where.
    let has_etcd = runs_etcd.unwrap_or(store == Store::Etcd);
    let programs = install.programs();
    let mesh = programs.plan(image::Kind::Mesh)?;
    let etcd = has_etcd.then(|| programs.plan(image::Kind::Etcd));
    let etcd = etcd.transpose()?;
    let topology = Topology {
        network: match &file {
            Some(file) => file.network(network),
            None => network,
        },
        home: home.to_path_buf(),
        mesh: mesh.spec.name.clone(),
        etcd: etcd.as_ref().map(|plan| EtcdPlan {
            image: plan.spec.name.clone(),
            // A file says itself what its etcd speaks, and the known flags are those of clear text.
            tls: runs_etcd.is_none(),
        }),
        api_port: install.api_port.unwrap_or(API_PORT),
        certificate_ttl: install.certificate_ttl,
    };
    let planned = Planned {
        file,
        mesh,
        etcd,
        topology,
    };
    planned.stages()?;
    Ok(planned)
}

impl Planned {
    /// The members of the control plane, in the order of starting.
    fn stages(&self) -> Result<Vec<Vec<Member>>, Failure> {
        let mut stages = self.topology.stages()?;
        if let Some(file) = &self.file {
            file.change(&mut stages)?;
        }
        Ok(stages)
    }

    /// What is not the control plane's.
    fn rest(&self) -> compose::Plan {
        let file = self.file.as_ref();
        file.map_or_else(compose::Plan::default, |file| file.rest.clone())
    }
}

/// Makes what is missing, and returns when every member is ready.
pub(super) async fn bring_up(
    engine: &DockerEngine,
    mut planned: Planned,
    mut install: Install,
    home: &Path,
) -> Result<(), Failure> {
    planned.topology.mesh = image(engine, &planned.mesh).await?;
    if let (Some(etcd), Some(plan)) = (&mut planned.topology.etcd, &planned.etcd) {
        etcd.image = image(engine, plan).await?;
        if etcd.tls {
            let (addresses, names) = planned.topology.etcd_addresses();
            prepare_etcd(home, &addresses, &names).map_err(|error| Failure::of(&error))?;
        }
    }
    let (stages, rest) = (planned.stages()?, planned.rest());
    // Before anything is started: a service of before may have an address or port of one of now.
    service::clear(engine, &rest, &install.networks).await?;
    clear_members(engine, &stages).await?;
    let control = &planned.topology.network;
    let networks = rest.networks.iter().map(|it| it.name.clone());
    install.networks = networks.filter(|name| *name != control.name).collect();
    install.write(home)?;
    engine
        .create_network(control)
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
    service::start(engine, &rest).await
}

/// Removes parts of the control plane that it does not have any more, as an etcd where the file's is
/// elsewhere. Their data stay.
async fn clear_members(engine: &DockerEngine, stages: &[Vec<Member>]) -> Result<(), Failure> {
    let of = |error: RuntimeError| engine::failed(&error);
    let there = engine.list(&BTreeMap::new()).await.map_err(of)?;
    for status in there {
        let spec = status.group.spec;
        let mut members = stages.iter().flatten();
        if engine::is_control_plane(&spec) && !members.any(|it| it.group.name == spec.name) {
            engine.remove_group(&spec.name).await.map_err(of)?;
            eprintln!(
                "{}: removed, the control plane has none any more",
                spec.name
            );
        }
    }
    Ok(())
}

/// The file that was named, with a line on stderr for everything that is done differently.
fn compose_file(
    install: &Install,
    home: &Path,
    network: &NetworkSpec,
) -> Result<Option<ComposeFile>, Failure> {
    let Some(path) = &install.file else {
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
