//! The `mesh` binary beside a daemon of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::dockerd::{Dockerd, Kind};

/// A machine with a daemon, on which `mesh` has its state in a directory of its own.
pub(crate) struct Host {
    pub(crate) daemon: Dockerd,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// What it wrote, if all was well.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// Runs a test beside a daemon. The daemon ends with the thread that started it.
pub(crate) fn on_a_host(test: impl FnOnce(&mut Host) + Send) {
    on_a_host_of(Kind::Docker, test);
}

/// The same beside a daemon of this kind.
pub(crate) fn on_a_host_of(kind: Kind, test: impl FnOnce(&mut Host) + Send) {
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            let mut host = Host {
                daemon: Dockerd::start(kind, None),
            };
            test(&mut host);
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Host {
    pub(crate) fn home(&self) -> PathBuf {
        self.daemon.path("home")
    }

    /// Runs `mesh` where the daemon runs.
    pub(crate) fn mesh(&self, arguments: &[&str]) -> Said {
        self.run(crate::mesh::mesh().to_str().unwrap(), arguments, "")
    }

    /// Runs the real kubectl with the admin's kubeconfig.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let kubeconfig = self.home().join("kubeconfig");
        let kubeconfig = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        let cache = self.daemon.path("kubectl");
        let cache = ["--cache-dir", cache.to_str().unwrap()];
        let all = [&kubeconfig, &cache, arguments].concat();
        self.run("kubectl", &all, input).ok()
    }

    /// Runs a program in the network of the daemon, which is the machine's to it.
    pub(crate) fn run(&self, program: &str, arguments: &[&str], input: &str) -> Said {
        let file = self.daemon.path("input");
        fs::write(&file, input).unwrap();
        let socket = format!("unix://{}", self.daemon.path("docker.sock").display());
        let output = Command::new("nsenter")
            .args(["--target", &self.daemon.pid(), "--net", "--", program])
            .args(arguments)
            .env("MESH_HOME", self.home())
            .env("DOCKER_HOST", socket)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::from(fs::File::open(file).unwrap()))
            .output()
            .unwrap();
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What the daemon has of anybody, but its own three networks.
    pub(crate) fn everything(&self) -> Vec<String> {
        let mut found = Vec::new();
        for arguments in [
            ["ps", "--all", "--format", "container {{.Names}}"].as_slice(),
            &["images", "--all", "--format", "image {{.Repository}}"],
            &["volume", "ls", "--format", "volume {{.Name}}"],
            &["network", "ls", "--format", "network {{.Name}}"],
        ] {
            let told = self.daemon.docker(arguments);
            found.extend(told.lines().map(str::to_owned));
        }
        found.retain(|it| {
            let own = ["bridge", "host", "none", "podman"];
            !own.iter().any(|name| *it == format!("network {name}"))
        });
        found
    }
}
