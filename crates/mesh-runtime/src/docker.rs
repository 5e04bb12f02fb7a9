//! The Docker engine: groups are containers that do nothing but keep a network namespace, units are
//! containers that join it, and the daemon keeps them running.
//!
//! It speaks to Docker 20.10 and later, and to podman's socket, by API 1.41 and later. What it made
//! is marked by labels, which also say what was asked for; so it holds nothing in memory, and any
//! later process with the same owner goes on where an earlier one stopped. Below its directory it
//! keeps the files of units, and notes that can be lost without harm.
//!
//! The daemon must be on the same machine: files of units are mounted, readiness is asked and
//! redirect rules are set in the namespaces of its containers, for which the engine must be root.

mod adopt;
mod archive;
mod beside;
mod build;
mod daemon;
mod events;
mod files;
mod group;
mod image;
mod join;
mod label;
mod network;
mod notes;
mod output;
mod pause;
mod plan;
mod ready;
mod state;
mod unit;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::archive::{ArchivedImage, archive};
pub use self::beside::{Admission, Asked, Asker, Beside, BesideError, Standing};
pub use self::build::BuiltImage;
use self::daemon::Daemon;
pub use self::image::{ImageFacts, Progress};
use self::label::Names;
use self::notes::Notes;
use crate::image::ImageSpec;
use crate::process::record;
use crate::redirect::Policy;
pub use crate::redirect::{RESOLVER, policy_beside_resolver};
use crate::{
    Adoption, Creation, EventStream, ExecOutput, Group, GroupSpec, GroupStatus, LogOptions,
    LogStream, Name, NetworkSpec, Pending, Removal, Resolver, Runtime, RuntimeError, Start, Stop,
    UnitSpec, UnitStats, UnitStatus,
};

/// How a Docker engine is opened.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct DockerOptions {
    /// The daemon's socket; `/var/run/docker.sock` unless changed.
    pub socket: PathBuf,
    /// Whose networks and containers these are. It is the first part of their names, and a label;
    /// engines of different owners never touch each other's. `mesh` unless changed.
    pub owner: Name,
    /// Where files of units are kept, and notes. An absolute path.
    pub directory: PathBuf,
    /// The image of units that name none.
    pub image: Option<String>,
}

/// Runs groups and units as containers of a daemon.
///
/// ```no_run
/// use mesh_runtime::{Attachment, DockerEngine, DockerOptions, GroupSpec, NetworkSpec, Runtime};
/// use mesh_runtime::UnitSpec;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = DockerEngine::open(DockerOptions::new("/var/lib/mesh/docker")).await?;
/// engine.pull("nginx:1.28", &mut |progress| eprintln!("{progress}")).await?;
/// engine.create_network(&NetworkSpec::mesh()).await?;
/// let network = Attachment::Network("mesh".parse().unwrap());
/// let group = GroupSpec::new("shop.web".parse().unwrap(), network);
/// engine.create_group(&group).await?;
/// let mut unit = UnitSpec::new("app".parse().unwrap(), Vec::<String>::new());
/// unit.image = Some("nginx:1.28".to_owned());
/// engine.create_unit(&group.name, &unit).await?;
/// engine.start_unit(&group.name, &unit.name).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DockerEngine {
    engine: Arc<Engine>,
}

#[derive(Debug)]
struct Engine {
    daemon: Daemon,
    names: Names,
    notes: Notes,
    /// The image of units that name none.
    image: Option<String>,
}

// === impl DockerOptions ===

impl DockerOptions {
    /// The daemon at its usual socket, as owner `mesh`, with files below `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            socket: PathBuf::from("/var/run/docker.sock"),
            owner: Name::literal("mesh"),
            directory: directory.into(),
            image: None,
        }
    }
}

// === impl DockerEngine ===

impl DockerEngine {
    /// Connects with the daemon, and agrees with it on a version of the API.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoDaemon`], [`RuntimeError::OldDaemon`], and [`RuntimeError::System`] when
    /// the directory cannot be made.
    pub async fn open(options: DockerOptions) -> Result<Self, RuntimeError> {
        let daemon = Daemon::connect(&options.socket).await?;
        let failed = |error| {
            let action = format!("open the engine in `{}`", options.directory.display());
            RuntimeError::system(action, error)
        };
        record::make_directory(&options.directory)?;
        // The daemon does not share our working directory.
        let root = std::fs::canonicalize(&options.directory).map_err(failed)?;
        Ok(Self {
            engine: Arc::new(Engine {
                daemon,
                names: Names {
                    owner: options.owner,
                },
                notes: Notes { root },
                image: options.image,
            }),
        })
    }

    /// Gets an image from its registry, or what is newer of it. Without tag or digest it is the
    /// one that is tagged `latest`.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Daemon`] with the daemon's own words, and [`RuntimeError::DiskFull`].
    pub async fn pull(
        &self,
        image: &str,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), RuntimeError> {
        self.engine.pull(image, progress).await
    }

    /// Makes an image of one layer from a directory that is its root file system, with owners,
    /// modes and symbolic links as they are there. An image of that name is replaced.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::System`] when the directory cannot be read, [`RuntimeError::DiskFull`], and
    /// [`RuntimeError::Daemon`].
    pub async fn import(
        &self,
        image: &str,
        root_file_system: impl Into<PathBuf> + Send,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), RuntimeError> {
        let directory = root_file_system.into();
        self.engine.import(image, directory, progress).await
    }

    /// Makes an image from files of this machine, unless there is one of the same content; older
    /// ones of the same name go when no container needs them.
    ///
    /// It has two names: the one that was asked for, which is always the newest, and one that says
    /// its content. It stays when the engine removes all: [`remove_built`](Self::remove_built).
    ///
    /// # Errors
    ///
    /// [`RuntimeError::System`] when a file cannot be read or changes meanwhile,
    /// [`RuntimeError::NameTaken`], [`RuntimeError::DiskFull`], and [`RuntimeError::Daemon`].
    pub async fn build(
        &self,
        image: &ImageSpec,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<BuiltImage, RuntimeError> {
        self.engine.build(image, progress).await
    }

    /// Says whether images can be built with this daemon.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unsupported`] on podman, whose import takes one label where several are
    /// needed to find an image again.
    pub fn can_build(&self) -> Result<(), RuntimeError> {
        self.engine.can_build()
    }

    /// Removes all images that were built.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Daemon`], as when a container of somebody else runs in one.
    pub async fn remove_built(&self) -> Result<(), RuntimeError> {
        self.engine.remove_built().await
    }

    /// What an image says of the containers that run in it; none if it is not there.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Daemon`].
    pub async fn image(&self, image: &str) -> Result<Option<ImageFacts>, RuntimeError> {
        self.engine.image(image).await
    }

    /// The container that keeps the network namespace of a group, by its name: containers of
    /// others join it by `container:…` as their network.
    pub fn namespace_container(&self, group: &Name) -> String {
        self.engine.names.group(group)
    }

    /// Who answers names in groups on a network: Docker from inside each namespace, podman at the
    /// gateway of the network.
    pub fn resolver(&self, network: &NetworkSpec) -> Resolver {
        if !self.engine.daemon.is_podman {
            return Resolver::Docker;
        }
        let gateway = network.gateways().0;
        Resolver::Servers {
            seen: vec![gateway.into()],
            upstream: vec![(gateway, 53).into()],
        }
    }

    /// Where the files of a group's units belong: also before the group exists.
    pub fn directory_of(&self, group: &Name) -> PathBuf {
        self.engine.notes.files(group)
    }
}

impl Runtime for DockerEngine {
    fn create_network<'a>(&'a self, spec: &'a NetworkSpec) -> Pending<'a, Creation> {
        Box::pin(self.engine.create_network(spec))
    }

    fn network<'a>(&'a self, name: &'a Name) -> Pending<'a, NetworkSpec> {
        Box::pin(self.engine.network(name))
    }

    fn remove_network<'a>(&'a self, name: &'a Name) -> Pending<'a, Removal> {
        Box::pin(self.engine.remove_network(name))
    }

    fn create_group<'a>(&'a self, spec: &'a GroupSpec) -> Pending<'a, (Creation, Group)> {
        Box::pin(self.engine.create_group(spec))
    }

    fn group<'a>(&'a self, name: &'a Name) -> Pending<'a, Group> {
        Box::pin(async { Ok(self.engine.owner_of(name).await?.group) })
    }

    fn redirect_group<'a>(&'a self, name: &'a Name, policy: &'a Policy) -> Pending<'a, Creation> {
        Box::pin(self.engine.redirect_group(name, policy))
    }

    fn remove_group<'a>(&'a self, name: &'a Name) -> Pending<'a, Removal> {
        Box::pin(self.engine.remove_group(name))
    }

    fn create_unit<'a>(&'a self, group: &'a Name, spec: &'a UnitSpec) -> Pending<'a, Creation> {
        Box::pin(self.engine.create_unit(group, spec))
    }

    fn start_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Start> {
        Box::pin(self.engine.start_unit(group, unit))
    }

    fn stop_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Stop> {
        Box::pin(self.engine.stop_unit(group, unit))
    }

    fn remove_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Removal> {
        Box::pin(self.engine.remove_unit(group, unit))
    }

    fn wait_ready<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        limit: Duration,
    ) -> Pending<'a, UnitStatus> {
        Box::pin(self.engine.wait_ready(group, unit, limit))
    }

    fn wait_ended<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStatus> {
        Box::pin(self.engine.wait_ended(group, unit))
    }

    fn unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitSpec> {
        Box::pin(async { Ok(self.engine.container_of(group, unit).await?.spec) })
    }

    fn status<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStatus> {
        Box::pin(self.engine.status(group, unit))
    }

    fn stats<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStats> {
        Box::pin(self.engine.stats(group, unit))
    }

    fn list<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> Pending<'a, Vec<GroupStatus>> {
        Box::pin(self.engine.list(labels))
    }

    fn exec<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        command: &'a [String],
    ) -> Pending<'a, ExecOutput> {
        Box::pin(self.engine.exec(group, unit, command))
    }

    fn logs<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        options: LogOptions,
    ) -> Pending<'a, LogStream> {
        Box::pin(self.engine.logs(group, unit, options))
    }

    fn events(&self) -> Pending<'_, EventStream> {
        Box::pin(events::follow(&self.engine))
    }

    fn adopt(&self) -> Pending<'_, Adoption> {
        Box::pin(self.engine.adopt())
    }

    fn remove_all(&self) -> Pending<'_, ()> {
        Box::pin(self.engine.remove_all())
    }
}

/// Does blocking work away from the caller's event loop.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The caller's event loop is being shut down.
            Err(error) => Err(RuntimeError::system(
                "finish the work",
                std::io::Error::other(error),
            )),
        },
    }
}
