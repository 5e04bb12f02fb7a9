//! A Docker daemon of the run's own: in the namespaces of the scenario, with everything of it below
//! the run's directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::world::{Step, World, eventually};

/// A daemon that runs.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
}

/// The cgroup of the daemon's containers, in every hierarchy.
const CGROUP: &str = "mesh-e2e";

/// Files of the machine's own daemon must not be found, and none made beside them.
const START: &str = r#"
mount -t tmpfs tmpfs /run
if [ -d /etc/docker ]; then mount -t tmpfs tmpfs /etc/docker; fi
exec dockerd --host "unix://$1/docker.sock" --group root --pidfile "$1/docker.pid" \
    --data-root "$1/docker" --exec-root "$1/docker-exec" --cgroup-parent "/$2" \
    --exec-opt native.cgroupdriver=cgroupfs --log-level warn
"#;

/// How long the daemon may take to listen, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

// === impl Daemon ===

impl Daemon {
    /// Starts a daemon.
    pub(crate) fn start(world: &World) -> Step<Self> {
        let log = fs::File::create(world.home().join("dockerd.log")).map_err(io)?;
        let child = Command::new("sh")
            .args(["-e", "-c", START, "sh"])
            .arg(world.home())
            .arg(CGROUP)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io)?)
            .stderr(log)
            .spawn()
            .map_err(io)?;
        Ok(Self { child })
    }

    /// Waits until it listens.
    pub(crate) async fn wait(&self, world: &World) -> Step<()> {
        let socket = socket(world.home());
        let listens = || async { UnixStream::connect(&socket).await.map_err(io) };
        eventually(PATIENCE, listens).await.map(drop)
    }

    /// Stops it as a service manager does.
    pub(crate) async fn stop(mut self) -> Step<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(|errno| format!("dockerd: {errno}"))?;
        }
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .map_err(|_elapsed| format!("dockerd did not stop within {} s", PATIENCE.as_secs()))?
            .map_err(|error| format!("dockerd: {error}"))?;
        remove_cgroups();
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err has it")]
fn io(error: std::io::Error) -> String {
    format!("dockerd: {error}")
}

/// Where the daemon of a run listens.
pub(crate) fn socket(home: &Path) -> PathBuf {
    home.join("docker.sock")
}

/// Docker leaves the parent that it was told; what is not empty stays and is found afterwards.
fn remove_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let mut parents: Vec<PathBuf> = hierarchies.map(|it| it.path().join(CGROUP)).collect();
    parents.push(root.join(CGROUP));
    for parent in parents {
        drop(fs::remove_dir(parent));
    }
}
