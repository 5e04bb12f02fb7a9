//! Containers of a daemon: a group of pause, application and sidecar, against `docker run` of the
//! same, one after the other. The daemon is one of its own, with everything of it in one directory.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_runtime::{
    Attachment, DockerEngine, DockerOptions, GroupSpec, NetworkSpec, Runtime as _, UnitSpec,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::{succeed, wait};
use crate::{measure_times, progress};

/// What the daemon is started by: namespaces and a `/run` of its own.
const START: &str = r#"
mount --make-rprivate /
mount -t tmpfs tmpfs /run
ip link set lo up
exec dockerd --host "unix://$1/docker.sock" --group root --pidfile "$1/pid" \
    --data-root "$1/data" --exec-root "$1/exec" --cgroup-parent "/mesh-bench-$2" \
    --exec-opt native.cgroupdriver=cgroupfs --log-level warn
"#;

/// The image of every unit; `sleep` is all that it has.
const IMAGE: &str = "mesh-bench/sleep:1";

/// How long a daemon may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon; it ends when dropped, and everything of it goes.
struct Daemon {
    process: Child,
    directory: TempDir,
}

pub(crate) fn measure_containers(rounds: u32) {
    progress("containers: a daemon starts");
    let daemon = Daemon::start();
    let engine = wait(daemon.engine());
    progress("groups of containers, and docker run");
    let (mut ours, mut commands) = (Vec::new(), Vec::new());
    // The first of each is not told: the daemon reads what it keeps afterwards.
    for round in 0..=rounds {
        let trial = (wait(group(&engine, round)), daemon.by_hand(round));
        if round > 0 {
            ours.push(trial.0);
            commands.push(trial.1);
        }
    }
    let name = "docker run of three containers";
    measure_times(name, &mut commands, None);
    let measured = "group of pause, application and sidecar on Docker";
    measure_times(measured, &mut ours, Some(name));
    wait(engine.remove_all()).unwrap();
}

/// Starts the three by the engine.
async fn group(engine: &DockerEngine, round: u32) -> Duration {
    let network = Attachment::Network(NetworkSpec::mesh().name);
    let group = GroupSpec::new(format!("shop.web-{round}").parse().unwrap(), network);
    let units = ["sidecar", "app"].map(|name| {
        let mut unit = UnitSpec::new(name.parse().unwrap(), ["/guest", "sleep"]);
        unit.image = Some(IMAGE.to_owned());
        unit
    });
    let began = Instant::now();
    engine.create_group(&group).await.unwrap();
    for unit in &units {
        engine.create_unit(&group.name, unit).await.unwrap();
        engine.start_unit(&group.name, &unit.name).await.unwrap();
    }
    let took = began.elapsed();
    for unit in &units {
        let status = engine.status(&group.name, &unit.name).await.unwrap();
        assert!(status.state.is_active(), "{status:?}");
    }
    engine.remove_group(&group.name).await.unwrap();
    took
}

// === impl Daemon ===

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mesh-bench")
            .tempdir()
            .unwrap();
        for part in ["data", "exec", "rootfs"] {
            fs::create_dir(directory.path().join(part)).unwrap();
        }
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mark = directory.path().file_name().unwrap().to_owned();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "unshare", "--net", "--mount"])
            .args(["sh", "-c", START, "sh"])
            .args([directory.path().as_os_str(), &mark])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { process, directory };
        let began = Instant::now();
        while UnixStream::connect(daemon.socket()).is_err() {
            let ended = daemon.process.try_wait().unwrap().is_some();
            if ended || began.elapsed() > PATIENCE {
                let log = fs::read_to_string(daemon.directory.path().join("log"));
                panic!("dockerd does not listen: {}", log.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// The engine, with network and image.
    async fn engine(&self) -> DockerEngine {
        let mut options = DockerOptions::new(self.directory.path().join("engine"));
        options.socket = self.socket();
        let engine = DockerEngine::open(options).await.unwrap();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let root = self.directory.path().join("rootfs");
        build_guest(&root.join("guest"));
        engine.import(IMAGE, &root, &mut |_| {}).await.unwrap();
        engine
    }

    /// Starts the three by the daemon's own client, one after the other.
    fn by_hand(&self, round: u32) -> Duration {
        let names = ["pause", "sidecar", "app"].map(|part| format!("hand-{part}-{round}"));
        let [pause, others @ ..] = &names;
        let shared = format!("container:{pause}");
        let began = Instant::now();
        self.docker(&["run", "--detach", "--network", "mesh_mesh", "--name", pause]);
        for name in others {
            self.docker(&["run", "--detach", "--network", &shared, "--name", name]);
        }
        let took = began.elapsed();
        let mut remove = Command::new("docker");
        remove.args(["rm", "--force"]).args(&names);
        self.run(&mut remove);
        took
    }

    fn docker(&self, arguments: &[&str]) {
        let mut command = Command::new("docker");
        command.args(arguments).args([IMAGE, "/guest", "sleep"]);
        self.run(&mut command);
    }

    fn run(&self, command: &mut Command) {
        let socket = format!("unix://{}", self.socket().display());
        succeed(command.env("DOCKER_HOST", socket));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A daemon that has ended already needs no signal.
        if kill_process(Pid::from_child(&self.process), Signal::TERM).is_ok() {
            drop(self.process.wait());
        }
        let mark = self.directory.path().file_name().unwrap();
        let own = format!("mesh-bench-{}", mark.to_string_lossy());
        let entries = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        for hierarchy in entries.flatten() {
            // It is in some of them only.
            drop(fs::remove_dir(hierarchy.path().join(&own)));
        }
    }
}

/// Builds the program that the conformance suite runs in units, which needs nothing but the kernel.
fn build_guest(path: &std::path::Path) {
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/bin/guest.rs"
    );
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "-Ctarget-feature=+crt-static"]);
    command.args(["-Copt-level=s", "-Cstrip=symbols", "--crate-name=guest"]);
    succeed(command.arg("-o").args([path, source.as_ref()]));
}
