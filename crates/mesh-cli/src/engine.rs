//! The engine of this machine, as every verb that touches workloads opens it: the one that
//! `mesh up` chose, behind one trait.

mod choice;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use mesh_runtime::{
    DockerEngine, DockerOptions, GroupSpec, Name, NetworkSpec, ProcessEngine, Runtime, RuntimeError,
};

pub(crate) use self::choice::{Choice, Kind, Record, Store, daemon};
use crate::exit::{Failure, UNSUPPORTED};

/// The group of the control plane's own units.
pub(crate) const CONTROL_PLANE: &str = "control-plane";

/// The label that groups of the control plane carry, with [`CONTROL_PLANE`] as its value.
pub(crate) const ROLE: &str = "mesh.role";

/// An engine that is open. What both can do is in [`Runtime`], as which it can be used.
#[derive(Debug)]
pub(crate) enum Engine {
    /// Processes in network namespaces.
    Process(ProcessEngine),
    /// Containers of a daemon.
    Docker(DockerEngine),
}

// === impl Engine ===

impl Engine {
    /// The Docker engine, for what only that has.
    pub(crate) fn docker(&self) -> Option<&DockerEngine> {
        match self {
            Self::Process(_) => None,
            Self::Docker(engine) => Some(engine),
        }
    }
}

impl Deref for Engine {
    type Target = dyn Runtime;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Process(engine) => engine,
            Self::Docker(engine) => engine,
        }
    }
}

/// Opens the engine of this machine, whose state is in the mesh's directory.
///
/// # Errors
///
/// When a flag contradicts what `mesh up` chose, and when the engine does not work here.
pub(crate) async fn open(choice: &Choice, home: &Path) -> Result<Engine, Failure> {
    let record = choice.decide(home)?;
    open_recorded(&record, home).await
}

/// Opens the engine that a record names.
pub(crate) async fn open_recorded(record: &Record, home: &Path) -> Result<Engine, Failure> {
    match record.engine {
        Kind::Process => open_process(home).map(Engine::Process),
        Kind::Docker => {
            let mut options = DockerOptions::new(home.join("docker"));
            options.socket.clone_from(&record.socket);
            DockerEngine::open(options)
                .await
                .map(Engine::Docker)
                .map_err(|error| failed(&error))
        }
    }
}

fn open_process(home: &Path) -> Result<ProcessEngine, Failure> {
    let supervisor = [
        program()?.into_os_string(),
        "supervise".into(),
        "--unit".into(),
    ];
    ProcessEngine::open(home.join("engine"), supervisor).map_err(|error| failed(&error))
}

/// The network of workloads and, on Docker, of the control plane, with other subnets than its own where they are given.
pub(crate) fn network(kind: Kind, v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> NetworkSpec {
    let mut network = match kind {
        Kind::Process => NetworkSpec::mesh(),
        Kind::Docker => NetworkSpec::istiomesh(),
    };
    network.v4 = v4.unwrap_or(network.v4);
    network.v6 = v6.unwrap_or(network.v6);
    network
}

/// Whether a group is a part of the control plane.
pub(crate) fn is_control_plane(group: &GroupSpec) -> bool {
    group.labels.get(ROLE).is_some_and(|it| it == CONTROL_PLANE)
}

/// What an engine could not do, with what to do about it.
pub(crate) fn failed(error: &RuntimeError) -> Failure {
    let failure = match error {
        RuntimeError::NoDaemon { .. } | RuntimeError::OldDaemon { .. } => {
            Failure::of(error).with_code(UNSUPPORTED)
        }
        error => Failure::of(error),
    };
    failure.with_hint_of(error.hint())
}

/// This program: units of the mesh run it again.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::doing("looking for this program", &error))
}

/// A name of the runtime.
pub(crate) fn name(text: &str) -> Result<Name, Failure> {
    text.parse()
        .map_err(|error: mesh_model::Problem| Failure::usage(error.to_string()))
}

/// One unit of a group, or all of them in the order of their names.
pub(crate) async fn units(
    engine: &dyn Runtime,
    group: &Name,
    unit: Option<&Name>,
) -> Result<Vec<Name>, Failure> {
    if let Some(unit) = unit {
        return Ok(vec![unit.clone()]);
    }
    let groups = engine
        .list(&BTreeMap::new())
        .await
        .map_err(|error| Failure::of(&error))?;
    groups
        .into_iter()
        .find(|status| status.group.spec.name == *group)
        .map(|status| status.units.into_iter().map(|unit| unit.name).collect())
        .ok_or_else(|| {
            Failure::new(format!("there is no group `{group}`"))
                .with_hint("`mesh status` lists the groups")
        })
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Docker => "docker",
        })
    }
}
