//! A machine in namespaces of its own, with a Nomad server and, as another process, a client: each
//! can be ended alone, and the machine can lose its power. Tests of other crates and the benchmark
//! use this file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_nomad::client::{Client, Config, Register};
use mesh_nomad::model::Job;
use mesh_nomad::model::allocation::Allocation;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A running machine, and a client of its server.
pub(crate) struct Machine {
    pub(crate) client: Client,
    /// The first process of the machine, by the program that made its namespaces.
    first: Option<Child>,
    server: Option<Child>,
    /// The agent that runs jobs.
    agent: Option<Child>,
    directory: TempDir,
    group: String,
}

/// What a machine has beyond the least.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// Whether the agent asks for tokens.
    pub(crate) acl: bool,
    /// More of the agent's `client` block; counts before what is there anyway.
    pub(crate) client: Map<String, Value>,
    /// More of its `plugin` blocks.
    pub(crate) plugins: Vec<Value>,
    /// What a shell does at each start of the machine, before the agent; `$1` is the machine's
    /// directory, which outlives it.
    pub(crate) setup: String,
}

/// The address of the machine.
pub(crate) const ADDRESS: &str = "10.20.0.1";

/// Where the server is, which a machine of its own would be better for: it goes down with this one.
/// Not an address of the link, for Nomad gives static ports once for each of those.
const SERVER: &str = "10.20.9.2";

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// How a machine starts: its own mounts, network, and processes, all of which end with the first.
/// A default route must be there, for Nomad looks for its network by it. The first process waits
/// for others that lost their parents.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
hostname mesh-lab
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
ip link set lo up
ip link add lab0 type veth peer name lab1
ip link set lab1 up
ip addr add 10.20.0.1/24 dev lab0
ip addr add 10.20.9.2/32 dev lo
ip link set lab0 up
ip route add default via 10.20.0.254 dev lab0
echo 1 > /proc/sys/net/ipv4/ip_forward
. "$1/setup.sh"
touch "$1/booted"
while :; do sleep 1000000 & wait || :; done
"#;

/// Runs a test against an agent, in a thread whose network namespace is the machine's, so that
/// sockets and children of the thread are in it. The shape is told the machine's directory.
pub(crate) fn with_machine<F: Future<Output = ()>>(
    shape: impl FnOnce(&Path) -> Shape + Send + 'static,
    test: impl FnOnce(Machine) -> F + Send + 'static,
) {
    let thread = std::thread::spawn(move || {
        assert!(
            rustix::process::geteuid().is_root(),
            "the nomad ring needs root"
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            // Tasks are other users.
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(directory.path(), open).unwrap();
            let shape = shape(directory.path());
            let machine = Machine::start(directory, &shape);
            if !shape.acl {
                machine.ready().await;
            }
            test(machine).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Machine {
    fn start(directory: TempDir, shape: &Shape) -> Self {
        // Of its own: an agent beside it must not lose a group that nobody is in yet.
        let group = directory.path().file_name().unwrap().to_string_lossy();
        let group = format!("mesh-lab{}", group.replace('.', "-"));
        let mut client = json!({
            "enabled": true,
            "servers": [format!("{SERVER}:4647")],
            "cgroup_parent": group,
            "options": {
                "fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean",
                "driver.denylist": "docker,java,qemu",
            },
        });
        if let Value::Object(client) = &mut client {
            client.extend(shape.client.clone());
        }
        let mut plugins = vec![json!({ "raw_exec": { "config": { "enabled": true } } })];
        plugins.extend(shape.plugins.clone());
        let common = |name: &str, address: &str| {
            json!({
                "name": name, "data_dir": directory.path().join(name), "bind_addr": address,
                "disable_update_check": true, "log_level": "WARN",
                "acl": { "enabled": shape.acl },
            })
        };
        let mut server = common("server", SERVER);
        server["server"] = json!({ "enabled": true, "bootstrap_expect": 1 });
        let mut agent = common("lab", ADDRESS);
        agent["client"] = client;
        agent["plugin"] = plugins.into();
        // Nomad would make it so that other users, which tasks run as, do not get to their files.
        fs::create_dir(directory.path().join("lab")).unwrap();
        for (name, config) in [("server.json", server), ("agent.json", agent)] {
            fs::write(directory.path().join(name), config.to_string()).unwrap();
        }
        fs::write(directory.path().join("setup.sh"), &shape.setup).unwrap();
        let version = Command::new(nomad()).arg("version").output();
        assert!(
            version.is_ok_and(|output| output.status.success()),
            "the nomad ring needs `nomad` in NOMAD_BIN or PATH"
        );
        let mut new = Self {
            client: client_of(),
            first: None,
            server: None,
            agent: None,
            directory,
            group,
        };
        new.boot();
        new.start_agent();
        new
    }

    /// Starts the machine, and takes this thread into its network.
    pub(crate) fn boot(&mut self) {
        let booted = self.path("booted");
        drop(fs::remove_file(&booted));
        let machine = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount"])
            .args(["--pid", "--ipc", "--uts", "--fork", "--kill-child"])
            .args(["--mount-proc", "--", "sh", "-c", BOOT, "sh"])
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .stdout(self.log("boot.log"))
            .stderr(self.log("boot.log"))
            .spawn()
            .unwrap_or_else(|error| panic!("the nomad ring needs `setpriv`: {error}"));
        let machine = self.first.insert(machine);
        let start = Instant::now();
        while !booted.exists() {
            let ended = machine.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "the machine does not start: {}",
                fs::read_to_string(self.directory.path().join("boot.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let network = format!("/proc/{}/ns/net", self.inside().unwrap());
        let network = fs::File::open(network).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        // Connections of the client before it were of another network.
        self.client = client_of();
        self.server = Some(self.nomad("server.json"));
        let start = Instant::now();
        while !has_keys() {
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap();
            assert!(start.elapsed() < PATIENCE, "no server: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the machine as a loss of power does.
    pub(crate) fn cut_power(&mut self) {
        if let (Some(inside), Some(mut machine)) = (self.inside(), self.first.take()) {
            // Ended when every process of it is.
            kill_process(pid(&inside), Signal::KILL).unwrap();
            machine.wait().unwrap();
        }
        for agent in [&mut self.server, &mut self.agent] {
            if let Some(mut agent) = agent.take() {
                agent.wait().unwrap();
            }
        }
    }

    /// Starts the agent on what it knew before.
    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(self.nomad("agent.json"));
    }

    fn nomad(&self, config: &str) -> Child {
        let config = self.path(config).into_os_string();
        self.command(&[nomad(), "agent".into(), "-config".into(), config])
            .stdin(Stdio::null())
            .stdout(self.log("log"))
            .stderr(self.log("log"))
            .spawn()
            .unwrap()
    }

    /// Ends the agent, and nothing that it started.
    pub(crate) fn stop_agent(&mut self, signal: Signal) {
        self.signal_agent(signal);
        if let Some(mut agent) = self.agent.take() {
            agent.wait().unwrap();
        }
    }

    /// Sends a signal to the agent, if it runs.
    pub(crate) fn signal_agent(&self, signal: Signal) {
        if let Some(agent) = &self.agent {
            kill_process(pid(&child(agent.id()).unwrap()), signal).unwrap();
        }
    }

    /// A program in the machine's namespaces.
    pub(crate) fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new("nsenter");
        let inside = self.inside().unwrap();
        command
            .args(["--target", &inside, "--net", "--mount", "--pid", "--ipc"])
            .args(["--uts", "--"])
            .args(words);
        command
    }

    /// A file of the machine's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self, name: &str) -> fs::File {
        let mut options = fs::OpenOptions::new();
        let options = options.create(true).append(true);
        options.open(self.path(name)).unwrap()
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

    /// A directory of the agent's allocation, as this machine has it.
    pub(crate) fn task_directory(&self, allocation: &str, task: &str) -> PathBuf {
        self.path("lab/alloc").join(allocation).join(task)
    }

    /// The process whose mounts and processes are the machine's.
    pub(crate) fn inside(&self) -> Option<String> {
        child(self.first.as_ref()?.id())
    }
}

impl Machine {
    /// What tasks wrote on their standard error.
    fn tell_tasks(&self) {
        let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        for allocation in list(&self.path("lab/alloc")) {
            for log in list(&allocation.path().join("alloc/logs")) {
                // Beside the files are pipes, which nobody is to read.
                let is_file = log.file_type().is_ok_and(|kind| kind.is_file());
                if is_file && log.file_name().to_string_lossy().contains(".stderr.") {
                    let text = fs::read_to_string(log.path()).unwrap_or_default();
                    tell(&log.path().display().to_string(), &text);
                }
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        if std::thread::panicking() {
            tell("agents", &log);
            self.tell_tasks();
        }
        self.stop_agent(Signal::KILL);
        self.cut_power();
        // Control groups outlive their processes, which may take a moment to be gone.
        for _ in 0..40 {
            let hierarchies = fs::read_dir("/sys/fs/cgroup");
            let hierarchies = hierarchies.into_iter().flatten().flatten();
            let ours = |name: &OsStr| name.to_string_lossy().starts_with(&self.group);
            let groups = hierarchies.flat_map(|hierarchy| {
                let found = fs::read_dir(hierarchy.path()).into_iter().flatten();
                let found = found.flatten().filter(|group| ours(&group.file_name()));
                found.map(|group| group.path()).collect::<Vec<_>>()
            });
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

fn nomad() -> OsString {
    std::env::var_os("NOMAD_BIN").unwrap_or_else(|| OsString::from("nomad"))
}

/// Where the server's API is.
pub(crate) fn api() -> String {
    format!("http://{SERVER}:4646")
}

fn client_of() -> Client {
    Client::new(Config::new(api().parse().unwrap())).unwrap()
}

/// Whether the server leads and has keys: before, it refuses clients that it knew.
fn has_keys() -> bool {
    let Ok(mut stream) = TcpStream::connect((SERVER, 4646)) else {
        return false;
    };
    let mut answer = String::new();
    let asked = stream
        .write_all(b"GET /.well-known/jwks.json HTTP/1.0\r\n\r\n")
        .and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.contains("\"kid\"")
}

/// The end of a log.
fn tell(what: &str, log: &str) {
    let tail: Vec<_> = log.lines().rev().take(40).collect();
    let tail: Vec<_> = tail.into_iter().rev().collect();
    if !tail.is_empty() {
        eprintln!("{what}:\n{}", tail.join("\n"));
    }
}

/// The first child of a process.
fn child(id: u32) -> Option<String> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().next().map(str::to_owned)
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

/// Removes a control group and what is in it, as far as nobody is in there.
fn remove_groups(group: &Path) {
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
