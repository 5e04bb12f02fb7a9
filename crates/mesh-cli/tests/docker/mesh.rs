//! A machine with a Docker daemon and a mesh on it, and what can be done there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use mesh_runtime::image::{ImageSpec, RootFs, ThisMachine};
use mesh_runtime::{DockerEngine, DockerOptions};

use crate::dockerd::{Dockerd, Kind};

/// A daemon with everything of it below one directory, and a mesh on it.
pub(crate) struct Bed {
    daemon: Dockerd,
    watch: Option<Child>,
    watches: u32,
}

/// The image of applications: the echo server, and curl.
pub(crate) const IMAGE: &str = "mesh-test/echo:1";

/// Far more than anything takes that is waited for.
const SOON: Duration = Duration::from_secs(60);

/// Runs a test with a mesh on a daemon of its own, and takes both away.
pub(crate) fn on_a_mesh(test: impl FnOnce(&mut Bed) + Send) {
    thread::scope(|scope| {
        // The daemon ends with the thread that started it, whatever becomes of the test.
        let test = scope.spawn(|| {
            let mut bed = Bed::start();
            bed.up();
            test(&mut bed);
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Bed {
    fn start() -> Self {
        Self {
            daemon: Dockerd::start(Kind::Docker, None),
            watch: None,
            watches: 0,
        }
    }

    /// Makes the control plane with its image, and the image of applications.
    fn up(&self) {
        self.mesh(&["up", "--engine", "docker", "--store", "file"]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut options = DockerOptions::new(self.path("images"));
            options.socket = self.path("docker.sock");
            options.owner = "tests".parse().unwrap();
            let engine = DockerEngine::open(options).await.unwrap();
            let mut root = RootFs::default();
            let programs = [
                ("/usr/bin/mesh-echo", echo()),
                ("/usr/bin/curl", Path::new("/usr/bin/curl")),
            ];
            root.programs(&programs, &ThisMachine).unwrap();
            let image = ImageSpec {
                name: IMAGE.to_owned(),
                entry_point: vec!["/usr/bin/mesh-echo".to_owned()],
                root,
            };
            engine.build(&image, &mut |_| {}).await.unwrap();
        });
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.daemon.pid();
        let socket = self.path("docker.sock");
        command
            .args(["--target", &pid, "--net", "--"])
            .arg(program)
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("MESH_HOME", self.path("home"))
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null());
        command
    }

    fn output(&self, program: &Path, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().unwrap()
    }

    /// What a call of `mesh` prints; it must succeed.
    pub(crate) fn mesh(&self, arguments: &[&str]) -> String {
        told("mesh", arguments, self.output(mesh(), arguments))
    }

    /// A call of `mesh` that may fail: its exit code and all that it prints.
    pub(crate) fn try_mesh(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.output(mesh(), arguments);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code(), text)
    }

    /// What `docker` prints; it must succeed.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.output(Path::new("docker"), arguments);
        told("docker", arguments, output)
    }

    /// The answer of an echo server to a call from a container, or curl's exit code.
    pub(crate) fn call(&self, from: &str, url: &str) -> Result<serde_json::Value, i32> {
        let curl = ["exec", from, "/usr/bin/curl", "-sS", "-m", "10", url];
        let output = self.output(Path::new("docker"), &curl);
        if !output.status.success() {
            return Err(output.status.code().unwrap());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // What is no JSON was not said by the echo server.
        Ok(serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)))
    }

    /// Starts `mesh docker watch`, as its service would.
    pub(crate) fn start_watch(&mut self) {
        self.watches += 1;
        let log = self.path(&format!("watch-{}.log", self.watches));
        let file = fs::File::create(&log).unwrap();
        let mut command = self.command(mesh());
        command.args(["--verbose", "docker", "watch"]).stderr(file);
        self.watch = Some(command.spawn().unwrap());
        self.eventually("the watch looks after containers", |bed| {
            let ended = bed.watch.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the watch ended: {}", bed.watch_log());
            let text = fs::read_to_string(&log).unwrap();
            text.contains("looking after").then_some(())
        });
    }

    /// Kills the watch in the middle of whatever it does.
    pub(crate) fn kill_watch(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.kill().unwrap();
            watch.wait().unwrap();
        }
    }

    /// Ends the watch with its daemon, and starts the daemon again.
    pub(crate) fn restart_daemon(&mut self) {
        self.kill_watch();
        self.daemon.stop_daemon();
        self.daemon.start_daemon();
    }

    /// What the watches wrote.
    pub(crate) fn watch_log(&self) -> String {
        let logs = (1..=self.watches).map(|number| {
            let path = self.path(&format!("watch-{number}.log"));
            fs::read_to_string(path).unwrap()
        });
        logs.collect()
    }

    /// What `mesh docker status` says of a container.
    pub(crate) fn standing(&self, container: &str) -> String {
        let (_, text) = self.try_mesh(&["docker", "status", "--json"]);
        let views: serde_json::Value = serde_json::from_str(&text).unwrap();
        let views = views.as_array().unwrap();
        let view = views.iter().find(|view| view["container"] == container);
        let state = view.and_then(|view| view["state"].as_str());
        state.unwrap_or("absent").to_owned()
    }

    /// Waits until a container has a sidecar that is ready.
    pub(crate) fn wait_enrolled(&mut self, container: &str) {
        self.eventually(&format!("{container} is enrolled"), |bed| {
            (bed.standing(container) == "enrolled").then_some(())
        });
    }

    /// The network namespace of a container, while it runs.
    pub(crate) fn namespace(&self, container: &str) -> Option<PathBuf> {
        let pid = ["inspect", "--format", "{{.State.Pid}}", container];
        let output = self.output(Path::new("docker"), &pid);
        let pid = String::from_utf8(output.stdout).unwrap();
        fs::read_link(format!("/proc/{}/ns/net", pid.trim())).ok()
    }

    /// The rules in the network namespace of a container.
    pub(crate) fn rules_of(&self, container: &str) -> String {
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        let inside = ["--target", pid.trim(), "--net", "nft", "list", "ruleset"];
        let output = Command::new("nsenter").args(inside).output().unwrap();
        told("nsenter", &inside, output)
    }

    /// What a question says in the end.
    pub(crate) fn eventually<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(
                began.elapsed() < SOON,
                "it never came to that: {what}\n{}",
                self.watch_log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill_watch();
    }
}

fn told(program: &str, arguments: &[&str], output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// The program without its debug information, which its image would carry otherwise.
pub(crate) fn mesh() -> &'static Path {
    static MESH: OnceLock<PathBuf> = OnceLock::new();
    MESH.get_or_init(|| stripped("mesh", Path::new(env!("CARGO_BIN_EXE_mesh"))))
}

/// The echo server, which is of another package.
fn echo() -> &'static Path {
    static ECHO: OnceLock<PathBuf> = OnceLock::new();
    ECHO.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--package", "mesh-tests", "--bin", "mesh-echo"];
        let output = Command::new(cargo)
            .args(build)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        told("cargo", &build, output);
        let debug = Path::new(env!("CARGO_BIN_EXE_mesh")).parent().unwrap();
        stripped("mesh-echo", &debug.join("mesh-echo"))
    })
}

fn stripped(name: &str, program: &Path) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker-ring");
    fs::create_dir_all(&directory).unwrap();
    let (path, unfinished) = (
        directory.join(name),
        directory.join(format!("{name}-{}", std::process::id())),
    );
    let output = Command::new("strip")
        .arg("-o")
        .args([&unfinished, program])
        .output()
        .unwrap();
    told("strip", &[name], output);
    fs::rename(unfinished, &path).unwrap();
    path
}
