//! A container daemon for one test: in a network and a mount namespace of its own, with everything
//! of it below one directory. Needs root and `dockerd`, or `podman` with `netavark` and
//! `aardvark-dns`. Tests of other crates use this file too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Which daemon it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Docker,
    /// Its containers need no daemon: they go on while the service that speaks Docker's API is away.
    Podman,
}

/// A daemon with everything of it below one directory. Dropped, it leaves nothing.
///
/// It ends with the thread that started it, whatever becomes of the test.
pub(crate) struct Dockerd {
    kind: Kind,
    directory: tempfile::TempDir,
    /// Keeps podman's namespaces, which its containers need while the service is away.
    keeper: Option<Child>,
    daemon: Option<Child>,
    /// Options of the file system for images and containers; the machine's own when absent.
    small: Option<&'static str>,
}

/// What the daemon is started by: its own namespaces, a `/run` of its own, and a file system of
/// limited size for its data where one is asked for.
const START: &str = r#"
mount --make-rprivate /
mount -t tmpfs tmpfs /run
ip link set lo up
if [ -n "$2" ]; then mount -t tmpfs -o "$2" tmpfs "$1/data"; fi
exec dockerd --host "unix://$1/docker.sock" --group root --pidfile "$1/pid" \
    --data-root "$1/data" --exec-root "$1/exec" --cgroup-parent "/mesh-test-$3" \
    --exec-opt native.cgroupdriver=cgroupfs --log-level warn
"#;

/// What keeps podman's namespaces. Locks of containers are in `/dev/shm` and would be shared.
const KEEP: &str = r#"
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
if [ -n "$2" ]; then mount -t tmpfs -o "$2" tmpfs "$1/data"; fi
touch "$1/kept"
exec sleep infinity
"#;

/// Podman's service, in the namespaces that are kept. Its containers would get limits that only
/// some roots may set.
const SERVE: &str = r#"
export TMPDIR="$1/tmp" CONTAINERS_CONF="$1/containers.conf"
printf '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n' \
    > "$CONTAINERS_CONF"
exec podman --root "$1/data" --runroot /run/containers --tmpdir /run/libpod \
    --network-config-dir "$1/networks" --network-backend netavark --storage-driver overlay \
    --cgroup-manager cgroupfs --events-backend file --log-level warn \
    system service --time 0 "unix://$1/docker.sock"
"#;

impl Dockerd {
    pub(crate) fn start(kind: Kind, small: Option<&'static str>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this ring needs root");
        let directory = tempfile::Builder::new()
            .prefix("mesh-docker")
            .tempdir()
            .unwrap();
        for part in ["data", "exec", "networks", "tmp"] {
            fs::create_dir(directory.path().join(part)).unwrap();
        }
        let mut bed = Self {
            kind,
            directory,
            keeper: None,
            daemon: None,
            small,
        };
        if kind == Kind::Podman {
            bed.keep_namespaces();
        }
        bed.start_daemon();
        bed
    }

    fn keep_namespaces(&mut self) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount"]);
        command.args(["sh", "-c", KEEP, "sh"]).arg(self.path(""));
        command.arg(self.small.unwrap_or_default());
        let keeper = self.keeper.insert(command.spawn().unwrap());
        let kept = self.directory.path().join("kept");
        while !kept.exists() {
            assert_eq!(keeper.try_wait().unwrap(), None, "no namespaces to be had");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The command of the daemon.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        match &self.keeper {
            None => command.args(["unshare", "--net", "--mount", "sh", "-c", START, "sh"]),
            Some(keeper) => command
                .args(["nsenter", "--target", &keeper.id().to_string()])
                .args(["--net", "--mount", "sh", "-c", SERVE, "sh"]),
        };
        command.arg(self.directory.path());
        command.arg(self.small.unwrap_or_default()).arg(self.mark());
        command
    }

    pub(crate) fn start_daemon(&mut self) {
        let log = fs::File::create(self.path("dockerd.log")).unwrap();
        let daemon = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = self.daemon.insert(daemon);
        let socket = self.directory.path().join("docker.sock");
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let ended = daemon.try_wait().unwrap();
            let log = || fs::read_to_string(self.directory.path().join("dockerd.log")).unwrap();
            assert!(
                ended.is_none(),
                "this ring needs dockerd and podman, and one ended: {}",
                log()
            );
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "no dockerd: {}",
                log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the daemon as a restart of its service does.
    pub(crate) fn stop_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
            daemon.wait().unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The process id of the daemon, in whose network namespace it is.
    pub(crate) fn pid(&self) -> String {
        self.daemon.as_ref().unwrap().id().to_string()
    }

    /// What is in the name of the directory and nowhere else.
    pub(crate) fn mark(&self) -> String {
        let name = self.directory.path().file_name().unwrap().to_str().unwrap();
        name.trim_start_matches("mesh-docker").to_owned()
    }

    /// What `docker` says, as another user of the daemon would call it.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.run_docker(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "docker {arguments:?}: {text}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn run_docker(&self, arguments: &[&str]) -> Output {
        let socket = self.path("docker.sock");
        Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs a program of this machine where the daemon runs.
    pub(crate) fn beside_the_daemon(&self, arguments: &[&str]) -> String {
        inside(&self.pid(), arguments)
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let own = format!("mesh-test-{}", self.mark());
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap();
        let mut found: Vec<_> = hierarchies
            .map(|it| it.unwrap().path().join(&own))
            .collect();
        found.push(Path::new("/sys/fs/cgroup").join(&own));
        if self.kind == Kind::Podman {
            // It has one place for all, which somebody else may still need.
            return Vec::new();
        }
        found.retain(|it| it.is_dir());
        found
    }
}

/// Runs a program of this machine in the network namespace of a process.
pub(crate) fn inside(pid: &str, arguments: &[&str]) -> String {
    let output = Command::new("nsenter")
        .args(["--target", pid, "--net", "--"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// The processes whose command line has this in it.
pub(crate) fn processes(part: &str) -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").unwrap().map(Result::unwrap);
    let mut found = BTreeSet::new();
    for path in entries.map(|entry| entry.path()) {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(part) {
            found.insert(format!("process {} {line}", path.display()));
        }
    }
    found
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            // What a test that failed left running would outlive the daemon. Podman removes a
            // container only after those that joined it, so once is not enough.
            for _ in 0..2 {
                let left = self.docker(&["ps", "--all", "--quiet"]);
                for id in left.split_whitespace() {
                    self.run_docker(&["rm", "--force", id]);
                }
            }
        }
        self.stop_daemon();
        if let Some(mut keeper) = self.keeper.take() {
            keeper.kill().unwrap();
            keeper.wait().unwrap();
        }
        let own = self.directory.path().to_str().unwrap().to_owned();
        if self.kind == Kind::Podman {
            // Who watched over a command in a container stays for five minutes after its end.
            for line in processes(&own) {
                let pid = line.trim_start_matches("process /proc/").split(' ').next();
                let pid = pid.and_then(|pid| Pid::from_raw(pid.parse().ok()?));
                // It may end by itself.
                let _gone = kill_process(pid.unwrap(), Signal::KILL);
            }
            let began = Instant::now();
            while !processes(&own).is_empty() && began.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        for cgroup in self.cgroups() {
            fs::remove_dir(cgroup).unwrap();
        }
        if thread::panicking() {
            return;
        }
        assert_eq!(processes(&own), BTreeSet::new());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&own), "{mounts}");
    }
}
