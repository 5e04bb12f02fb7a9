//! A Docker daemon for one test, and what can be seen of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mesh_runtime::{DockerEngine, DockerOptions, Name, Runtime, RuntimeError, UnitSpec};
use rustix::process::{Pid, Signal, kill_process};

use crate::conformance::bed::{Bed, group, guest, name};

/// A daemon with everything of it below one directory.
pub(crate) struct DockerBed {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
    /// Options of the file system for images and containers; the machine's own when absent.
    small: Option<&'static str>,
}

/// The image that units run in: the guest program is all of it.
pub(crate) const IMAGE: &str = "mesh-test/guest:1";

/// Runs a test with a daemon of its own and the image of the guest program, and takes both away.
pub(crate) fn on_a_bed(test: impl AsyncFnOnce(&mut DockerBed) + Send) {
    on_a_daemon(None, async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        bed.import(&engine).await.unwrap();
        test(bed).await;
    });
}

/// Runs a test with a daemon that has nothing.
pub(crate) fn on_a_daemon(
    small: Option<&'static str>,
    test: impl AsyncFnOnce(&mut DockerBed) + Send,
) {
    thread::scope(|scope| {
        // The daemon ends with the thread that started it, whatever becomes of the test.
        let test = scope.spawn(|| {
            let mut bed = DockerBed::start(small);
            in_a_loop(async || test(&mut bed).await);
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn in_a_loop(work: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work());
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

impl DockerBed {
    fn start(small: Option<&'static str>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this ring needs root");
        let directory = tempfile::Builder::new()
            .prefix("mesh-docker")
            .tempdir()
            .unwrap();
        for part in ["data", "exec", "rootfs"] {
            fs::create_dir(directory.path().join(part)).unwrap();
        }
        fs::copy(guest(), directory.path().join("rootfs/guest")).unwrap();
        let mut bed = Self {
            directory,
            daemon: None,
            small,
        };
        bed.start_daemon();
        bed
    }

    pub(crate) fn start_daemon(&mut self) {
        let log = fs::File::create(self.path("dockerd.log")).unwrap();
        let daemon = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "TERM",
                "unshare",
                "--net",
                "--mount",
                "sh",
                "-c",
                START,
                "sh",
            ])
            .arg(self.directory.path())
            .arg(self.small.unwrap_or_default())
            .arg(self.mark())
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
                "this ring needs dockerd, and it ended: {}",
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

    /// What is in the name of the directory and nowhere else.
    fn mark(&self) -> String {
        let name = self.directory.path().file_name().unwrap().to_str().unwrap();
        name.trim_start_matches("mesh-docker").to_owned()
    }

    pub(crate) fn options(&self, owner: &str) -> DockerOptions {
        let mut options = DockerOptions::new(self.path(&format!("engine-{owner}")));
        options.socket = self.path("docker.sock");
        options.owner = name(owner);
        options
    }

    pub(crate) async fn open(&self, owner: &str) -> Result<DockerEngine, RuntimeError> {
        DockerEngine::open(self.options(owner)).await
    }

    /// Makes the image of the guest program.
    pub(crate) async fn import(&self, engine: &DockerEngine) -> Result<(), RuntimeError> {
        engine.import(IMAGE, self.path("rootfs"), &mut |_| {}).await
    }

    /// What `docker` says, as another user of the daemon would call it.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker")
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.path("docker.sock").display()),
            )
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "docker {arguments:?}: {text}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a program of this machine where the daemon runs.
    pub(crate) fn beside_the_daemon(&self, arguments: &[&str]) -> String {
        let pid = self.daemon.as_ref().unwrap().id().to_string();
        inside(&pid, arguments)
    }

    /// Starts a program of this machine where the daemon runs.
    pub(crate) fn start_beside_the_daemon(&self, arguments: &[&str]) -> Child {
        let pid = self.daemon.as_ref().unwrap().id().to_string();
        Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "nsenter",
                "--target",
                &pid,
                "--net",
                "--",
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let own = format!("mesh-test-{}", self.mark());
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap();
        let mut found: Vec<_> = hierarchies
            .map(|it| it.unwrap().path().join(&own))
            .collect();
        found.push(Path::new("/sys/fs/cgroup").join(&own));
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
fn processes(part: &str) -> BTreeSet<String> {
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

impl Drop for DockerBed {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            // What a test that failed left running would outlive the daemon.
            let running = self.docker(&["ps", "--all", "--quiet"]);
            let ids: Vec<_> = running.split_whitespace().collect();
            if !ids.is_empty() {
                self.docker(&[&["rm", "--force"], ids.as_slice()].concat());
            }
        }
        self.stop_daemon();
        let own = self.directory.path().to_str().unwrap().to_owned();
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

impl Bed for DockerBed {
    async fn engine(&self) -> Box<dyn Runtime> {
        Box::new(self.open("mesh").await.unwrap())
    }

    async fn other_engine(&self) -> Box<dyn Runtime> {
        Box::new(self.open("other").await.unwrap())
    }

    fn unit(&self, named: &str, arguments: &[&str]) -> UnitSpec {
        let mut unit = UnitSpec::new(name(named), self.command(arguments));
        unit.image = Some(IMAGE.to_owned());
        unit
    }

    fn command(&self, arguments: &[&str]) -> Vec<String> {
        let all = [&["/guest"], arguments].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    async fn half_make(&self, named: &Name) {
        let engine = self.engine().await;
        engine.create_group(&group(named.as_str())).await.unwrap();
        // Made and never started, as a crash between the two leaves it.
        let container = format!("mesh_{named}");
        let labels = self.docker(&["inspect", "--format", "{{json .Config.Labels}}", &container]);
        let labels: std::collections::BTreeMap<String, String> =
            serde_json::from_str(&labels).unwrap();
        self.docker(&["rm", "--force", &container]);
        let mut arguments = vec!["create".to_owned(), "--name".to_owned(), container];
        for (key, value) in labels {
            arguments.extend(["--label".to_owned(), format!("{key}={value}")]);
        }
        arguments.extend(["mesh-pause:mesh".to_owned(), "/pause".to_owned()]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.docker(&arguments);
    }

    fn look(&self) -> BTreeSet<String> {
        let mut things = BTreeSet::new();
        for (kind, arguments) in [
            (
                "container",
                ["ps", "--all", "--format", "{{.Names}}"].as_slice(),
            ),
            ("network", &["network", "ls", "--format", "{{.Name}}"]),
            // Those of the tests themselves come and go with the engine that imported them.
            ("volume", &["volume", "ls", "--format", "{{.Name}}"]),
        ] {
            let told = self.docker(arguments);
            things.extend(told.lines().map(|line| format!("{kind} {line}")));
        }
        for engine in ["engine-mesh", "engine-other"] {
            if let Ok(entries) = fs::read_dir(self.path(engine)) {
                things.extend(entries.map(|it| format!("file {}", it.unwrap().path().display())));
            }
        }
        let links = self.beside_the_daemon(&["ip", "-oneline", "link", "show", "type", "bridge"]);
        let bridges = links.lines().filter_map(|line| line.split(": ").nth(1));
        things.extend(bridges.map(|it| format!("link {it}")));
        // The guest program has the name of no other; those of other tests have other cgroups.
        let ours = processes("/guest").into_iter().filter(|line| {
            let pid = line.split_whitespace().nth(1).unwrap_or_default();
            let cgroup = fs::read_to_string(Path::new(pid).join("cgroup")).unwrap_or_default();
            cgroup.contains(&self.mark())
        });
        things.extend(ours);
        things
    }
}
