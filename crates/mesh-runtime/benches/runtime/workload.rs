//! `mesh run`, from the command to an application whose sidecar is ready, against the start of
//! Envoy alone; and what each piece holds in memory.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::host::{on_a_machine, succeed};
use crate::{measure, measure_times, progress};

/// What is measured against.
const ENVOY_ALONE: &str = "Envoy alone, from its start to live";

/// How long Envoy may take to become live.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mesh on this machine.
struct Mesh {
    binary: PathBuf,
    envoy: PathBuf,
    home: TempDir,
}

pub(crate) fn measure_workloads(rounds: u32) {
    let binary = |name: &str| {
        let path = std::env::var_os(name).unwrap_or_else(|| panic!("{name} names no program"));
        fs::canonicalize(path).unwrap()
    };
    let (binary, envoy) = (binary("MESH_BIN"), binary("ENVOY_BIN"));
    on_a_machine(|| {
        let home = TempDir::new().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mesh = Mesh {
            binary,
            envoy,
            home,
        };
        progress("workloads: mesh up");
        mesh.run(&["up"]);
        mesh.compare(rounds);
        mesh.measure_memory();
        mesh.run(&["down", "--purge"]);
    });
}

// === impl Mesh ===

impl Mesh {
    fn compare(&self, rounds: u32) {
        let (mut whole, mut explicit) = (Vec::new(), Vec::new());
        let (mut alone, mut rest) = (Vec::new(), Vec::new());
        // The first round is not told: programs come from the disk.
        for round in 0..=rounds {
            let (ready, name) = self.start(&format!("web-{round}"), "transparent");
            let envoy = self.start_envoy(&name);
            self.run(&["rm", &name]);
            let (told, name) = self.start(&format!("api-{round}"), "explicit");
            self.run(&["rm", &name]);
            if round > 0 {
                whole.push(ready);
                explicit.push(told);
                alone.push(envoy);
                rest.push(ready.saturating_sub(envoy));
            }
        }
        measure_times(ENVOY_ALONE, &mut alone, None);
        let name = "mesh run, until the workload is ready";
        measure_times(name, &mut whole, Some(ENVOY_ALONE));
        measure_times(
            "of which all but Envoy's start",
            &mut rest,
            Some(ENVOY_ALONE),
        );
        let name = "mesh run --mode explicit, until the workload is ready";
        measure_times(name, &mut explicit, Some(ENVOY_ALONE));
    }

    /// Runs an application; it is ready when the command returns.
    fn start(&self, name: &str, mode: &str) -> (Duration, String) {
        let began = Instant::now();
        self.run(&[
            "run", "--detach", "--name", name, "--mode", mode, "--", "sleep", "3600",
        ]);
        (began.elapsed(), name.to_owned())
    }

    /// Starts Envoy by a workload's bootstrap without its configuration from Pilot, which comes
    /// from nobody here; what that takes is counted as ours.
    fn start_envoy(&self, name: &str) -> Duration {
        let state = self
            .state()
            .join("groups")
            .join(name)
            .join("files/sidecar/state");
        let text = fs::read(state.join("envoy.json")).unwrap();
        let mut bootstrap: Value = serde_json::from_slice(&text).unwrap();
        let parts = bootstrap.as_object_mut().unwrap();
        parts.remove("dynamic_resources").unwrap();
        let admin = self.home.path().join("alone.sock");
        if let Some(path) = bootstrap.pointer_mut("/admin/address/pipe/path") {
            *path = admin.to_str().unwrap().into();
        }
        let file = self.home.path().join("alone.json");
        fs::write(&file, bootstrap.to_string()).unwrap();
        let began = Instant::now();
        let mut envoy = Command::new(&self.envoy)
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "2",
                "--config-path",
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !is_live(&admin) {
            assert!(began.elapsed() < PATIENCE, "Envoy does not become live");
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = began.elapsed();
        envoy.kill().unwrap();
        envoy.wait().unwrap();
        // Envoy does not remove it when it is killed.
        fs::remove_file(admin).unwrap();
        took
    }

    /// The memory of the pieces of one workload, and of the control plane.
    fn measure_memory(&self) {
        self.start("memory", "transparent");
        let status = succeed(&mut self.command(&["status", "--json"]));
        let status: Value = serde_json::from_str(&status).unwrap();
        let unit = |group: &str, unit: &str| {
            let named = |list: &Value, name: &str| {
                let mut items = list.as_array().unwrap().iter();
                items
                    .find(|it| it.get("name").unwrap() == name)
                    .unwrap()
                    .clone()
            };
            let group = named(status.get("groups").unwrap(), group);
            let pid = named(group.get("units").unwrap(), unit);
            pid.get("pid").unwrap().as_u64().unwrap()
        };
        let agent = unit("memory", "sidecar");
        let envoy = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap();
        let children = envoy.split_whitespace().map(|pid| pid.parse().unwrap());
        let parent = fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
        let supervisor = number_after(&parent, "PPid:");
        let envoy = children.chain(of_threads(agent)).next().unwrap();
        for (name, pid) in [
            ("agent", agent),
            ("Envoy", envoy),
            ("watcher of the rules", unit("memory", "rules")),
            ("supervisor of a unit", supervisor),
            ("control plane", unit("control-plane", "server")),
        ] {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            for (kind, field) in [("resident", "Rss:"), ("its share", "Pss:")] {
                let kib = u32::try_from(number_after(&rollup, field)).unwrap();
                let mib = f64::from(kib) / 1024.0;
                measure(&format!("memory of {name}, {kind}"), mib, "MiB", None);
            }
        }
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state/engine")
    }

    fn run(&self, arguments: &[&str]) {
        succeed(&mut self.command(arguments));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("MESH_HOME", self.home.path().join("state"))
            .env("ENVOY_BIN", &self.envoy)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // After a failure; otherwise everything is down already.
        if std::thread::panicking() {
            drop(self.command(&["down", "--purge"]).status());
        }
    }
}

/// The children that other threads of a process than its first have.
fn of_threads(pid: u64) -> impl Iterator<Item = u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = threads.map(|it| fs::read_to_string(it.unwrap().path().join("children")));
    children.flat_map(|list| {
        let list = list.unwrap_or_default();
        let pids: Vec<u64> = list
            .split_whitespace()
            .map(|it| it.parse().unwrap())
            .collect();
        pids
    })
}

fn number_after(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let word = line.unwrap().split_whitespace().next().unwrap();
    word.parse().unwrap()
}

fn is_live(admin: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(admin)?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}
