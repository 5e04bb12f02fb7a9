//! A Nomad agent in namespaces of its own: server and client in one process.

use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_nomad::client::{Client, Config, Register};
use mesh_nomad::model::Job;
use mesh_nomad::model::allocation::Allocation;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running agent, and a client of it.
pub(crate) struct Lab {
    pub(crate) client: Client,
    agent: Child,
    directory: TempDir,
    group: String,
}

/// What kind of agent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kind {
    /// Whether access control is on.
    pub(crate) acl: bool,
    /// Whether `/etc`, `/opt` and `/var/lib` are copies of its own, for work on the node.
    pub(crate) own_files: bool,
}

/// Where it listens, in its network namespace.
pub(crate) const ADDRESS: &str = "http://10.20.0.1:4646";

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Runs a test against an agent, in a thread whose network namespace is its own, so that sockets
/// and children of the thread are in it.
pub(crate) fn with_agent<F: Future<Output = ()>>(
    acl: bool,
    test: impl FnOnce(Lab) -> F + Send + 'static,
) {
    let kind = Kind {
        acl,
        ..Kind::default()
    };
    with_agent_of(kind, test);
}

/// The same with an agent of this kind.
pub(crate) fn with_agent_of<F: Future<Output = ()>>(
    kind: Kind,
    test: impl FnOnce(Lab) -> F + Send + 'static,
) {
    let thread = std::thread::spawn(move || {
        assert!(
            rustix::process::geteuid().is_root(),
            "the nomad ring needs root"
        );
        enter_network();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let lab = Lab::start(kind);
            if !kind.acl {
                lab.ready().await;
            }
            test(lab).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(unsafe_code, reason = "a system call without a safe wrapper")]
fn enter_network() {
    // SAFETY: a network namespace of the thread's own shares no memory or file that others rely on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
    // A default route must be there, for Nomad looks for its network by it.
    for command in [
        "link set lo up",
        "link add lab0 type veth peer name lab1",
        "link set lab1 up",
        "addr add 10.20.0.1/24 dev lab0",
        "link set lab0 up",
        "route add default via 10.20.0.254 dev lab0",
    ] {
        let status = Command::new("ip")
            .args(command.split(' '))
            .status()
            .unwrap();
        assert!(status.success(), "ip {command}");
    }
}

/// Directories of the node that work on it may change.
const OWN: [&str; 3] = ["etc", "opt", "var/lib"];

/// Puts the directories of the first argument in the place of the machine's, and becomes the rest.
const FILES: &str = r#"root=$1; shift
if [ "$root" != / ]; then
    mount --make-rprivate /
    for own in etc opt var/lib; do mount --bind "$root/$own" "/$own" || exit 1; done
fi
exec "$@""#;

/// Copies of accounts and their like, and nothing else.
fn own_files(directory: &TempDir) -> PathBuf {
    let root = directory.path().join("node");
    for own in OWN {
        fs::create_dir_all(root.join(own)).unwrap();
    }
    let copied = Command::new("cp")
        .args(["-a", "/etc/."])
        .arg(root.join("etc"))
        .status();
    assert!(copied.unwrap().success(), "cp -a /etc");
    root
}

impl Lab {
    fn start(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        // Of its own: an agent beside it must not lose a group that nobody is in yet.
        let group = directory.path().file_name().unwrap().to_string_lossy();
        let group = format!("mesh-lab{}", group.replace('.', "-"));
        let config = json!({
            "name": "lab", "data_dir": data, "bind_addr": "10.20.0.1",
            "disable_update_check": true, "log_level": "WARN",
            "server": { "enabled": true, "bootstrap_expect": 1 },
            "client": {
                "enabled": true,
                "cgroup_parent": group,
                "max_kill_timeout": "10m",
                "cni_path": "/opt/cni/bin:/usr/lib/cni",
                "cni_config_dir": "/opt/cni/config",
                "options": {
                    "fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean",
                    "driver.denylist": "docker,java,qemu",
                },
            },
            "acl": { "enabled": kind.acl },
            "plugin": [{ "raw_exec": { "config": { "enabled": true } } }],
        });
        let file = directory.path().join("agent.json");
        fs::write(&file, config.to_string()).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let nomad = std::env::var_os("NOMAD_BIN").unwrap_or_else(|| OsString::from("nomad"));
        let version = Command::new(&nomad).arg("version").output();
        assert!(
            version.is_ok_and(|output| output.status.success()),
            "the nomad ring needs `nomad` in NOMAD_BIN or PATH"
        );
        // Its own mounts and processes too: all end with the first process.
        let agent = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--ipc",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
            ])
            .args(["sh", "-c", FILES, "sh"])
            .arg(if kind.own_files {
                own_files(&directory)
            } else {
                "/".into()
            })
            .arg(&nomad)
            .args(["agent", "-config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("the nomad ring needs `unshare`: {error}"));
        let client = Client::new(Config::new(ADDRESS.parse().unwrap())).unwrap();
        Self {
            client,
            agent,
            directory,
            group,
        }
    }

    /// Waits until it has a leader, a keyring, and a node that is ready.
    pub(crate) async fn ready(&self) {
        until("the agent is ready", || async {
            let keys = self.client.jwks().await.ok()?;
            let keys: Value = serde_json::from_slice(&keys).ok()?;
            let nodes = self.client.nodes().await.ok()?.value;
            let is_ready = nodes.iter().any(|node| node.status.text() == "ready");
            (is_ready && keys["keys"].as_array().is_some_and(|keys| !keys.is_empty())).then_some(())
        })
        .await;
    }

    /// Registers a job and waits until as many allocations run as its groups count.
    pub(crate) async fn run(&self, job: &Job) -> Vec<Allocation> {
        let count: usize = job.task_groups.items().len();
        let registered = self
            .client
            .register_job(job, &Register::default())
            .await
            .unwrap();
        self.client
            .wait_for_evaluation(registered.eval_id.text())
            .await
            .unwrap();
        self.running(job.id.text(), count).await
    }

    /// Waits until so many allocations of a job run.
    pub(crate) async fn running(&self, job: &str, count: usize) -> Vec<Allocation> {
        until(&format!("{count} allocations of {job} run"), || async {
            let all = self
                .client
                .job_allocations("default", job)
                .await
                .ok()?
                .value;
            let all = all.into_iter();
            let live =
                all.filter(|found| found.is_live() && found.client_status.text() == "running");
            let live: Vec<_> = live.collect();
            (live.len() == count).then_some(live)
        })
        .await
    }

    /// Ends the agent as a power failure would.
    pub(crate) fn kill(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }

    /// A directory of the agent's allocation, as this machine has it.
    pub(crate) fn task_directory(&self, allocation: &str, task: &str) -> PathBuf {
        self.directory
            .path()
            .join("data/alloc")
            .join(allocation)
            .join(task)
    }

    /// What of the node's own files there is, by path, with the length of each; without the copies
    /// that tools of accounts keep of what was before, as `passwd-`.
    pub(crate) fn node_files(&self) -> Vec<(PathBuf, u64)> {
        let root = self.directory.path().join("node");
        let mut found = Vec::new();
        let mut open: Vec<_> = OWN.iter().map(|own| root.join(own)).collect();
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() && !entry.file_name().to_string_lossy().ends_with('-') {
                    let path = entry.path().strip_prefix(&root).unwrap().to_owned();
                    found.push((path, entry.metadata().unwrap().len()));
                }
            }
        }
        found.sort();
        found
    }

    /// A directory for whatever a test needs.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// The process whose mounts and processes are the agent's.
    pub(crate) fn inside(&self) -> Option<String> {
        let id = self.agent.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        if std::thread::panicking() {
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.kill();
        // Control groups outlive their processes, which may take a moment to be gone.
        for _ in 0..40 {
            let hierarchies = fs::read_dir("/sys/fs/cgroup")
                .into_iter()
                .flatten()
                .flatten();
            let groups = hierarchies.map(|hierarchy| hierarchy.path().join(&self.group));
            let left: Vec<_> = groups.filter(|group| group.is_dir()).collect();
            if left.is_empty() {
                break;
            }
            for group in &left {
                remove_groups(group);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Removes a control group and what is in it, as far as nobody is in there.
fn remove_groups(group: &std::path::Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
}

/// Asks until there is an answer.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A job of one group with a service and a task that says hello and waits.
pub(crate) fn job(id: &str, count: u32) -> Job {
    let script = "echo hello; exec sleep 100000";
    serde_json::from_value(json!({
        "ID": id, "Name": id, "Type": "service", "Datacenters": ["*"],
        "TaskGroups": [{
            "Name": "app", "Count": count,
            "Networks": [{ "DynamicPorts": [{ "Label": "http", "To": 0 }] }],
            "Services": [{
                "Name": id, "PortLabel": "http", "Provider": "nomad", "Tags": ["version=v1"],
            }],
            "EphemeralDisk": { "SizeMB": 20 },
            "Update": { "MaxParallel": 5, "MinHealthyTime": 100_000_000, "HealthCheck": "task_states" },
            "Tasks": [{
                "Name": "main", "Driver": "raw_exec", "KillTimeout": 100_000_000,
                "Config": { "command": "/bin/sh", "args": ["-c", script] },
                "Resources": { "CPU": 20, "MemoryMB": 16 },
                "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 1 },
            }],
        }],
    }))
    .unwrap()
}
