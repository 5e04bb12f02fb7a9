//! The machine on which Nomad runs: processes, mounts and a host name of its own in the network of
//! the scenario. It can be rebooted, and when its first process ends nothing of it is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::config;
use super::look::get;
use crate::e2e::daemon;
use crate::e2e::world::{Step, World, ensure, eventually};

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Lab {
    home: PathBuf,
    machine: Child,
    docker: Option<Child>,
    server: Option<Child>,
    client: Option<Child>,
}

/// An agent of Nomad's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Agent {
    Server,
    Client,
}

/// The network, as of a machine with one interface and a router that nobody is behind.
const NETWORK: &str = "
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link add lab0 type bridge
ip link add lab0p type veth peer name lab0q
ip link set lab0p master lab0 up
ip link set lab0q up
ip addr add 10.20.0.1/24 dev lab0
ip addr add 10.20.9.2/32 dev lo
ip link set lab0 up
ip route add default via 10.20.0.254 dev lab0
";

/// What a reboot takes from a network, whoever made it.
const NETWORK_LOST: &str = "
for link in $(ls /sys/class/net); do
    case $link in lo|lab0|lab0p|lab0q) ;; *) ip link delete \"$link\" 2>/dev/null || true ;; esac
done
nft flush ruleset
iptables-legacy -t nat -F 2>/dev/null || true
iptables-legacy -F 2>/dev/null || true
";

/// The first process: mounts, then takes care of orphans until it is killed.
const BOOT: &str = "
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
for place in etc:/etc lib:/var/lib; do
    changed=\"$1/machine/${place%%:*}\"
    mount -t overlay -o \"lowerdir=${place#*:},upperdir=$changed/changed,workdir=$changed/work\" \
        overlay \"${place#*:}\"
done
hostname lab
echo up > \"$1/booted\"
sleep infinity & wait
";

/// The daemon of the machine's containers. It makes no network: groups have theirs from Nomad.
const DOCKER: &str = "
rm -f \"$1/docker.pid\"
exec dockerd --host \"unix://$1/docker.sock\" --group root --pidfile \"$1/docker.pid\" \
    --data-root \"$1/docker\" --exec-root /run/docker --cgroup-parent /mesh-e2e-docker \
    --exec-opt native.cgroupdriver=cgroupfs --bridge none --iptables=false --ip6tables=false \
    --log-level warn
";

/// How long anything may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

// === impl Lab ===

impl Lab {
    /// Makes the network and boots the machine; its daemons are started by [`Self::daemons`].
    pub(crate) async fn start(world: &World) -> Step<Self> {
        config::write(world.home()).map_err(io)?;
        shell(NETWORK, world.home()).await?;
        Ok(Self {
            home: world.home().to_owned(),
            machine: boot(world.home()).await?,
            docker: None,
            server: None,
            client: None,
        })
    }

    /// Starts the container daemon.
    pub(crate) async fn start_docker(&mut self) -> Step<()> {
        self.docker = Some(self.spawn("dockerd", &["sh", "-e", "-c", DOCKER, "sh"], true)?);
        let socket = daemon::socket(&self.home);
        let listens = || async { UnixStream::connect(&socket).await.map_err(io) };
        eventually(PATIENCE, listens).await.map(drop)
    }

    /// Starts an agent and waits until it serves.
    pub(crate) async fn start_agent(&mut self, agent: Agent) -> Step<()> {
        let name = agent.name();
        let config = self.home.join(format!("{name}.json"));
        let nomad = self.home.join("bin/nomad");
        let words = [
            &nomad.display().to_string(),
            "agent",
            "-config",
            &config.display().to_string(),
        ];
        let child = self.spawn(name, &words, false)?;
        *self.slot(agent) = Some(child);
        match agent {
            Agent::Server => eventually(PATIENCE, keyring).await.map(drop),
            Agent::Client => {
                // The server says what the client before it said, for a while.
                let serves = || async {
                    let address = (config::CLIENT, 4646);
                    tokio::net::TcpStream::connect(address).await.map_err(io)
                };
                eventually(PATIENCE, serves).await?;
                eventually(PATIENCE, ready).await.map(drop)
            }
        }
    }

    /// Ends an agent: as a service manager does, or as a crash.
    pub(crate) async fn stop_agent(&mut self, agent: Agent, signal: Signal) -> Step<()> {
        let child = self.slot(agent).take();
        let mut child = child.ok_or_else(|| format!("the {} does not run", agent.name()))?;
        end(&mut child, signal).await
    }

    /// The process of an agent, as the scenario sees it.
    pub(crate) fn pid(&mut self, agent: Agent) -> Option<i32> {
        self.slot(agent).as_ref().and_then(inner)
    }

    /// The machine loses its processes, mounts and network, boots, and starts its daemons on the
    /// data that they have.
    pub(crate) async fn reboot(&mut self) -> Step<()> {
        self.power_off().await?;
        shell(NETWORK_LOST, &self.home).await?;
        self.machine = boot(&self.home).await?;
        self.start_docker().await?;
        self.start_agent(Agent::Server).await?;
        self.start_agent(Agent::Client).await
    }

    /// Ends the machine and removes what outlives processes.
    pub(crate) async fn stop(mut self) -> Step<()> {
        self.power_off().await?;
        shell(NETWORK_LOST, &self.home).await?;
        let parents = [config::CGROUP, "mesh-e2e-docker"].map(str::to_owned);
        remove_cgroups(&[self.home.join("client.log")], &parents).await
    }

    async fn power_off(&mut self) -> Step<()> {
        // All processes end with the first of their namespace, and all mounts with the last of theirs.
        if let Some(init) = inner(&self.machine) {
            signal(init, Signal::KILL)?;
        }
        let ended = tokio::time::timeout(PATIENCE, self.machine.wait()).await;
        ended
            .map_err(|_elapsed| "the machine does not end".to_owned())?
            .map_err(io)?;
        for child in [&mut self.docker, &mut self.server, &mut self.client] {
            if let Some(mut child) = child.take() {
                child.wait().await.map_err(io)?;
            }
        }
        Ok(())
    }

    fn slot(&mut self, agent: Agent) -> &mut Option<Child> {
        match agent {
            Agent::Server => &mut self.server,
            Agent::Client => &mut self.client,
        }
    }

    /// Starts a program on the machine; what it says goes to a log, after what is there.
    fn spawn(&self, name: &str, words: &[&str], tell_home: bool) -> Step<Child> {
        let init = inner(&self.machine).ok_or("the machine is down")?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.join(format!("{name}.log")))
            .map_err(io)?;
        Command::new("nsenter")
            .args(["--target", &init.to_string()])
            .args(["--mount", "--uts", "--ipc", "--pid", "--"])
            .args(words)
            .args(tell_home.then_some(&self.home))
            .env("PATH", path(&self.home))
            // Tasks that are processes have it from the agent: certificates live so short that a
            // renewal falls into the scenario.
            .env("MESH_SERVER_CERTIFICATE_TTL", "40s")
            .env_remove("NOMAD_ADDR")
            .env_remove("NOMAD_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io)?)
            .stderr(log)
            // The interrupt of a terminal is for the scenario alone.
            .process_group(0)
            .spawn()
            .map_err(io)
    }
}

// === impl Agent ===

impl Agent {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Where programs are looked for on the machine: those of the run come first.
fn path(home: &Path) -> String {
    format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        home.join("bin").display()
    )
}

async fn boot(home: &Path) -> Step<Child> {
    let booted = home.join("booted");
    drop(fs::remove_file(&booted));
    let log = fs::File::create(home.join("machine.log")).map_err(io)?;
    let mut machine = Command::new("unshare")
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
        ])
        .args(["--mount-proc", "--propagation", "private", "--"])
        .args(["sh", "-e", "-c", BOOT, "sh"])
        .arg(home)
        .env("PATH", path(home))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(io)?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(io)?;
    let up = || async { ensure(booted.exists(), || "it does not boot".to_owned()) };
    if let Err(why) = eventually(Duration::from_secs(10), up).await {
        machine.kill().await.map_err(io)?;
        let said = fs::read_to_string(home.join("machine.log")).unwrap_or_default();
        return Err(format!("the machine: {why}: {said}"));
    }
    let init = inner(&machine).ok_or("the machine has no first process")?;
    fs::write(home.join("init"), init.to_string()).map_err(io)?;
    Ok(machine)
}

/// The process that `unshare` or `nsenter` started.
pub(super) fn inner(child: &Child) -> Option<i32> {
    let id = child.id()?;
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

async fn end(child: &mut Child, how: Signal) -> Step<()> {
    if let Some(pid) = inner(child) {
        signal(pid, how)?;
    }
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    ended
        .map_err(|_elapsed| format!("it did not end within {} s", PATIENCE.as_secs()))?
        .map_err(io)
        .map(drop)
}

fn signal(pid: i32, signal: Signal) -> Step<()> {
    let pid = Pid::from_raw(pid).ok_or("a pid of 0")?;
    kill_process(pid, signal).map_err(|errno| format!("process {pid:?}: {errno}"))
}

/// The server signs identities.
async fn keyring() -> Step<()> {
    let keys = get("/.well-known/jwks.json").await?;
    let keys = keys.get("keys").and_then(serde_json::Value::as_array);
    ensure(keys.is_some_and(|keys| !keys.is_empty()), || {
        "the server has no keys".to_owned()
    })
}

/// The node takes allocations, in containers too, and has the mesh's network.
async fn ready() -> Step<()> {
    let nodes = get("/v1/nodes?resources=true").await?;
    let node = nodes.get(0).ok_or("there is no node")?;
    let text = |path: &str| node.pointer(path).and_then(serde_json::Value::as_str);
    ensure(text("/Status") == Some("ready"), || {
        format!("the node is {:?}", text("/Status"))
    })?;
    let docker = node.pointer("/Drivers/docker/Healthy");
    ensure(docker == Some(&serde_json::Value::Bool(true)), || {
        format!("driver docker: {docker:?}")
    })
}

pub(super) async fn shell(script: &str, home: &Path) -> Step<()> {
    let output = Command::new("sh")
        .args(["-e", "-c", script])
        .env("PATH", path(home))
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(io)?;
    ensure(output.status.success(), || {
        format!("the network: {}", String::from_utf8_lossy(&output.stderr))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err has it")]
fn io(error: std::io::Error) -> String {
    format!("the machine: {error}")
}

/// Control groups outlive their processes, which may take a moment to be gone. With hierarchies of
/// version 1 Nomad makes those of processes in a place that no configuration changes, one for each
/// task, so that another Nomad's are beside them.
pub(super) async fn remove_cgroups(logs: &[PathBuf], parents: &[String]) -> Step<()> {
    let logs = logs.iter();
    let log: String = logs
        .filter_map(|log| fs::read_to_string(log).ok())
        .collect();
    let ids = log.split("alloc_id=").skip(1);
    let ids: BTreeSet<&str> = ids.filter_map(|text| text.get(..36)).collect();
    let is_ours = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ids.iter().any(|id| name.starts_with(id))
    };
    let groups = || {
        let hierarchies = directories(Path::new("/sys/fs/cgroup"));
        let mut groups = Vec::new();
        for hierarchy in hierarchies {
            let of_run = parents.iter().map(|name| hierarchy.join(name));
            groups.extend(of_run.filter(|group| group.is_dir()));
            for place in ["nomad", "nomad/share", "nomad/reserve"] {
                let tasks = directories(&hierarchy.join(place));
                groups.extend(tasks.into_iter().filter(|task| is_ours(task)));
            }
        }
        groups
    };
    let none = || async {
        let left = groups();
        for group in &left {
            remove_tree(group);
        }
        ensure(groups().is_empty(), || {
            format!("cgroups are left: {left:?}")
        })
    };
    eventually(Duration::from_secs(5), none).await.map(drop)
}

fn directories(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Removes a control group and those in it, as far as nobody is there.
fn remove_tree(group: &Path) {
    for inner in directories(group) {
        remove_tree(&inner);
    }
    drop(fs::remove_dir(group));
}
