//! A container daemon for one test of the engine, and what can be seen of it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use mesh_runtime::{DockerEngine, DockerOptions, Name, Runtime, RuntimeError, UnitSpec};

use crate::conformance::bed::{Bed, group, guest, name};
use crate::dockerd::{Dockerd, Kind, processes};

/// A daemon that can run the guest program.
pub(crate) struct DockerBed {
    daemon: Dockerd,
}

/// The image that units run in: the guest program is all of it.
pub(crate) const IMAGE: &str = "mesh-test/guest:1";

/// Runs a test with a daemon of its own and the image of the guest program, and takes both away.
pub(crate) fn on_a_bed(test: impl AsyncFnOnce(&mut DockerBed) + Send) {
    on_a_bed_of(Kind::Docker, None, test);
}

/// The same on podman.
pub(crate) fn on_a_podman_bed(test: impl AsyncFnOnce(&mut DockerBed) + Send) {
    on_a_bed_of(Kind::Podman, None, test);
}

fn on_a_bed_of(
    kind: Kind,
    small: Option<&'static str>,
    test: impl AsyncFnOnce(&mut DockerBed) + Send,
) {
    on_a_daemon_of(kind, small, async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        bed.import(&engine).await.unwrap();
        test(bed).await;
    });
}

/// Runs a test with a Docker daemon that has nothing.
pub(crate) fn on_a_daemon(
    small: Option<&'static str>,
    test: impl AsyncFnOnce(&mut DockerBed) + Send,
) {
    on_a_daemon_of(Kind::Docker, small, test);
}

/// Runs a test with a daemon that has nothing.
pub(crate) fn on_a_daemon_of(
    kind: Kind,
    small: Option<&'static str>,
    test: impl AsyncFnOnce(&mut DockerBed) + Send,
) {
    thread::scope(|scope| {
        // The daemon ends with the thread that started it, whatever becomes of the test.
        let test = scope.spawn(|| {
            let mut bed = DockerBed::start(kind, small);
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

impl Deref for DockerBed {
    type Target = Dockerd;

    fn deref(&self) -> &Dockerd {
        &self.daemon
    }
}

impl DerefMut for DockerBed {
    fn deref_mut(&mut self) -> &mut Dockerd {
        &mut self.daemon
    }
}

impl DockerBed {
    fn start(kind: Kind, small: Option<&'static str>) -> Self {
        let daemon = Dockerd::start(kind, small);
        fs::create_dir(daemon.path("rootfs")).unwrap();
        fs::copy(guest(), daemon.path("rootfs/guest")).unwrap();
        Self { daemon }
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

    /// Starts a program of this machine where the daemon runs.
    pub(crate) fn start_beside_the_daemon(&self, arguments: &[&str]) -> Child {
        let pid = self.pid();
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

    /// Makes the image of the guest program.
    pub(crate) async fn import(&self, engine: &DockerEngine) -> Result<(), RuntimeError> {
        engine.import(IMAGE, self.path("rootfs"), &mut |_| {}).await
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
            let mounts = fs::read_to_string(Path::new(pid).join("mountinfo")).unwrap_or_default();
            // Of Docker's containers the cgroup tells whose they are, of podman's their root.
            cgroup.contains(&self.mark()) || mounts.contains(&self.mark())
        });
        things.extend(ours);
        things
    }
}
