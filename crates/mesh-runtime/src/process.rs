//! The process engine: groups are network namespaces, units are processes, and no daemon is needed.
//!
//! The host is the network namespace in which the engine runs, whatever it is. The engine holds
//! nothing in memory: everything is in files below its root directory, in names of links and
//! cgroups, and in the kernel, so that any later process goes on where an earlier one stopped.
//!
//! It needs root, IPv6, and Linux 5.11 or later.

pub(crate) mod address;
mod adopt;
pub(crate) mod cgroup;
mod events;
mod family;
pub(crate) mod files;
mod group;
pub(crate) mod identity;
pub(crate) mod launch;
mod link;
mod logs;
mod mountns;
pub(crate) mod netns;
pub(crate) mod network;
pub(crate) mod record;
pub mod supervisor;
pub(crate) mod unit;
mod usage;
mod wait;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::address::EngineId;
use self::record::Layout;
use crate::redirect::Policy;
use crate::{
    Adoption, Creation, EventStream, ExecOutput, Group, GroupSpec, GroupStatus, LogOptions,
    LogStream, Name, NetworkSpec, Pending, Removal, Runtime, RuntimeError, Start, Stop, UnitSpec,
    UnitStats, UnitStatus,
};

/// Runs groups in network namespaces and units as supervised processes.
///
/// ```no_run
/// use mesh_runtime::{Attachment, GroupSpec, NetworkSpec, ProcessEngine, Runtime, UnitSpec};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = ProcessEngine::open("/var/lib/mesh/engine", ["mesh", "supervise", "--unit"])?;
/// engine.create_network(&NetworkSpec::mesh()).await?;
/// let network = Attachment::Network("mesh".parse().unwrap());
/// let group = GroupSpec::new("shop.web".parse().unwrap(), network);
/// engine.create_group(&group).await?;
/// let unit = UnitSpec::new("app".parse().unwrap(), ["sleep", "60"]);
/// engine.create_unit(&group.name, &unit).await?;
/// engine.start_unit(&group.name, &unit.name).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ProcessEngine {
    engine: Arc<Engine>,
}

/// What every call needs to know. Its methods block.
#[derive(Debug)]
struct Engine {
    layout: Layout,
    id: EngineId,
    supervisor: Vec<OsString>,
}

// === impl ProcessEngine ===

impl ProcessEngine {
    /// The engine whose state is in `root`, which is made if it is not there.
    ///
    /// `supervisor` is the command that supervises one unit; the unit's directory is added as its
    /// last argument, and the program calls [`supervisor::run`] with it. It must be a path or be
    /// found in PATH, and stay there as long as units run.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::System`] when `root` cannot be made or read.
    pub fn open(
        root: impl Into<PathBuf>,
        supervisor: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self, RuntimeError> {
        let root = root.into();
        let failed =
            |error| RuntimeError::system(format!("open the engine in `{}`", root.display()), error);
        if !root.exists() {
            record::make_directory(&root)?;
        }
        // Supervisors start in `/` and must find what the engine wrote.
        let root = fs::canonicalize(&root).map_err(failed)?;
        let metadata = fs::metadata(&root).map_err(failed)?;
        Ok(Self {
            engine: Arc::new(Engine {
                layout: Layout { root },
                id: EngineId::of(metadata.dev(), metadata.ino()),
                supervisor: supervisor.into_iter().map(Into::into).collect(),
            }),
        })
    }

    /// Where the files of a group's units belong: also before the group exists.
    pub fn directory_of(&self, group: &Name) -> PathBuf {
        self.engine.layout.files(group)
    }

    /// Below which path of each cgroup hierarchy the units of this engine are.
    pub fn cgroup(&self) -> PathBuf {
        self.engine.cgroup()
    }

    /// What the names of all links begin with that this engine makes for groups.
    pub fn link_prefix(&self) -> String {
        self.engine.id.link_prefix()
    }

    /// Does blocking work away from the caller's event loop.
    fn blocking<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Pending<'a, T> {
        let engine = Arc::clone(&self.engine);
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || work(&engine)).await {
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
        })
    }
}

impl Runtime for ProcessEngine {
    fn create_network<'a>(&'a self, spec: &'a NetworkSpec) -> Pending<'a, Creation> {
        let spec = spec.clone();
        self.blocking(move |engine| engine.create_network(&spec))
    }

    fn network<'a>(&'a self, name: &'a Name) -> Pending<'a, NetworkSpec> {
        let name = name.clone();
        self.blocking(move |engine| engine.network(&name))
    }

    fn remove_network<'a>(&'a self, name: &'a Name) -> Pending<'a, Removal> {
        let name = name.clone();
        self.blocking(move |engine| engine.remove_network(&name))
    }

    fn create_group<'a>(&'a self, spec: &'a GroupSpec) -> Pending<'a, (Creation, Group)> {
        let spec = spec.clone();
        self.blocking(move |engine| engine.create_group(&spec))
    }

    fn group<'a>(&'a self, name: &'a Name) -> Pending<'a, Group> {
        let name = name.clone();
        self.blocking(move |engine| engine.group(&name))
    }

    fn redirect_group<'a>(&'a self, name: &'a Name, policy: &'a Policy) -> Pending<'a, Creation> {
        let (name, policy) = (name.clone(), policy.clone());
        self.blocking(move |engine| engine.redirect_group(&name, &policy))
    }

    fn remove_group<'a>(&'a self, name: &'a Name) -> Pending<'a, Removal> {
        Box::pin(async move {
            self.stop_group(name).await?;
            let name = name.clone();
            self.blocking(move |engine| engine.remove_group(&name))
                .await
        })
    }

    fn create_unit<'a>(&'a self, group: &'a Name, spec: &'a UnitSpec) -> Pending<'a, Creation> {
        let (group, spec) = (group.clone(), spec.clone());
        self.blocking(move |engine| engine.create_unit(&group, &spec))
    }

    fn start_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Start> {
        Box::pin(self.start(group, unit))
    }

    fn stop_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Stop> {
        Box::pin(self.stop(group, unit))
    }

    fn remove_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Removal> {
        Box::pin(async move {
            match self.stop(group, unit).await {
                Ok(_) | Err(RuntimeError::NotFound { kind: "unit", .. }) => {}
                Err(error) => return Err(error),
            }
            let (group, unit) = (group.clone(), unit.clone());
            self.blocking(move |engine| engine.remove_unit(&group, &unit))
                .await
        })
    }

    fn wait_ready<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        limit: Duration,
    ) -> Pending<'a, UnitStatus> {
        Box::pin(self.ready(group, unit, limit))
    }

    fn wait_ended<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStatus> {
        Box::pin(self.ended(group, unit))
    }

    fn unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitSpec> {
        let (group, unit) = (group.clone(), unit.clone());
        self.blocking(move |engine| Ok(engine.unit_record(&group, &unit)?.spec))
    }

    fn status<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStatus> {
        let (group, unit) = (group.clone(), unit.clone());
        self.blocking(move |engine| engine.status(&group, &unit))
    }

    fn stats<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStats> {
        let (group, unit) = (group.clone(), unit.clone());
        self.blocking(move |engine| engine.stats(&group, &unit))
    }

    fn list<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> Pending<'a, Vec<GroupStatus>> {
        let labels = labels.clone();
        self.blocking(move |engine| engine.list(&labels))
    }

    fn exec<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        command: &'a [String],
    ) -> Pending<'a, ExecOutput> {
        let (group, unit, command) = (group.clone(), unit.clone(), command.to_vec());
        self.blocking(move |engine| engine.exec(&group, &unit, &command))
    }

    fn logs<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        options: LogOptions,
    ) -> Pending<'a, LogStream> {
        let (group, unit) = (group.clone(), unit.clone());
        Box::pin(async move {
            let engine = Arc::clone(&self.engine);
            self.blocking(move |engine| engine.unit_record(&group, &unit).map(|_| (group, unit)))
                .await
                .and_then(|(group, unit)| logs::stream(&engine, &group, &unit, options))
        })
    }

    fn events(&self) -> Pending<'_, EventStream> {
        Box::pin(async { self.follow() })
    }

    fn adopt(&self) -> Pending<'_, Adoption> {
        self.blocking(Engine::adopt)
    }

    fn remove_all(&self) -> Pending<'_, ()> {
        Box::pin(self.remove_everything())
    }
}

/// The time, in milliseconds since 1970 (UTC).
pub(crate) fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

// === impl Engine ===

impl Engine {
    fn cgroup(&self) -> PathBuf {
        Path::new(cgroup::TOP).join(self.id.short())
    }
}
