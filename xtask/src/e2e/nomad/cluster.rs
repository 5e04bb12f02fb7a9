//! Three servers and three clients of Nomad, each on a machine of its own: processes, mounts and a
//! network that a bridge joins with the others'.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::lab::{inner, remove_cgroups, shell};
use super::{Files, NODE, get};
use crate::e2e::world::{Step, World, ensure, eventually};

/// The servers and their addresses.
pub(crate) const SERVERS: [(&str, &str); 3] = [
    ("s1", "10.20.0.11"),
    ("s2", "10.20.0.12"),
    ("s3", "10.20.0.13"),
];

/// The clients. The first takes no part in what is done to nodes: the third member of the store
/// is there, and the API that the scenario asks.
pub(crate) const CLIENTS: [(&str, &str); 3] =
    [("c0", NODE), ("c1", "10.20.0.21"), ("c2", "10.20.0.22")];

/// Where nodes download programs: the router.
const FILES: ([u8; 4], u16) = ([10, 20, 0, 254], 8099);

/// The cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    home: PathBuf,
    machines: BTreeMap<&'static str, Machine>,
    files: Option<Files>,
}

#[derive(Debug)]
struct Machine {
    first: Child,
    agent: Child,
}

/// How long anything may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(90);

/// What joins the machines, and leads nowhere else.
const NETWORK: &str = "
ip link add lab0 type bridge
ip addr add 10.20.0.254/24 dev lab0
ip link set lab0 up
";

/// The first process of a machine: it takes care of orphans until it is killed.
const BOOT: &str = "
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
for place in etc:/etc lib:/var/lib; do
    changed=\"$1/${place%%:*}\"
    mkdir -p \"$changed/changed\" \"$changed/work\"
    mount -t overlay -o \"lowerdir=${place#*:},upperdir=$changed/changed,workdir=$changed/work\" \
        overlay \"${place#*:}\"
done
hostname \"$2\"
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
echo up > \"$1/booted\"
while :; do sleep 1000000 & wait || :; done
";

impl Cluster {
    /// Starts all machines and agents; what was started is in `cluster` whatever becomes of it.
    pub(crate) async fn start(world: &World, cluster: &mut Option<Self>) -> Step<()> {
        let cluster = cluster.insert(Self {
            home: world.home().to_owned(),
            machines: BTreeMap::new(),
            files: None,
        });
        shell(NETWORK, &cluster.home).await?;
        cluster.files = Some(Files::serve(world, FILES.into()).await?);
        for (name, address) in SERVERS.into_iter().chain(CLIENTS) {
            let first = cluster.boot(name, address).await?;
            let config = cluster.configure(name, address).map_err(io)?;
            let agent = cluster.agent(&first, name, &config)?;
            cluster.machines.insert(name, Machine { first, agent });
        }
        eventually(PATIENCE, || ready(CLIENTS.len()))
            .await
            .map(drop)
    }

    /// `URL#sha256:HEX` of a file that nodes can download.
    pub(crate) fn artifact(&self, name: &str) -> Step<String> {
        let files = self.files.as_ref().ok_or("no files are served")?;
        files.artifact(name)
    }

    /// Ends a machine as a loss of power does, and boots it on what it has stored.
    pub(crate) async fn reboot(&mut self, name: &'static str) -> Step<()> {
        let address = CLIENTS.iter().find(|(client, _)| *client == name);
        let (_, address) = address.ok_or("no such machine")?;
        self.cut_power(name).await?;
        drop(fs::remove_file(self.directory(name).join("booted")));
        let first = self.boot(name, address).await?;
        let config = self.directory(name).join("agent.json");
        let agent = self.agent(&first, name, &config)?;
        self.machines.insert(name, Machine { first, agent });
        Ok(())
    }

    /// Ends an agent as a crash does.
    pub(crate) async fn kill_agent(&mut self, name: &str) -> Step<()> {
        let machine = self.machines.get_mut(name).ok_or("no such machine")?;
        let pid = inner(&machine.agent).ok_or("the agent does not run")?;
        kill(pid)?;
        machine.agent.wait().await.map(drop).map_err(io)
    }

    /// Starts an agent again, on what it had stored.
    pub(crate) fn start_agent(&mut self, name: &'static str) -> Step<()> {
        let config = self.directory(name).join("agent.json");
        let machine = self.machines.get(name).ok_or("no such machine")?;
        let agent = self.agent(&machine.first, name, &config)?;
        if let Some(machine) = self.machines.get_mut(name) {
            machine.agent = agent;
        }
        Ok(())
    }

    /// Ends a machine as a loss of power does.
    pub(crate) async fn cut_power(&mut self, name: &str) -> Step<()> {
        let Some(mut machine) = self.machines.remove(name) else {
            return Ok(());
        };
        if let Some(pid) = inner(&machine.first) {
            kill(pid)?;
        }
        for child in [&mut machine.first, &mut machine.agent] {
            let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
            ended
                .map_err(|_elapsed| format!("machine {name} does not end"))?
                .map_err(io)?;
        }
        Ok(())
    }

    /// Ends everything and removes what outlives processes.
    pub(crate) async fn stop(mut self) -> Step<()> {
        let names: Vec<_> = self.machines.keys().copied().collect();
        for name in names {
            self.cut_power(name).await?;
        }
        shell("ip link delete lab0 2>/dev/null || true", &self.home).await?;
        let logs = CLIENTS.map(|(name, _)| self.home.join(format!("{name}.log")));
        let parents = CLIENTS.map(|(name, _)| cgroup(name));
        remove_cgroups(&logs, &parents).await
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.home.join("cluster").join(name)
    }

    async fn boot(&self, name: &str, address: &str) -> Step<Child> {
        let directory = self.directory(name);
        fs::create_dir_all(&directory).map_err(io)?;
        let log = self.log(&format!("{name}.boot.log"))?;
        let first = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["--", "sh", "-e", "-c", BOOT, "sh"])
            .arg(&directory)
            .arg(name)
            .env("PATH", self.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io)?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        let booted = directory.join("booted");
        let up = || async { ensure(booted.exists(), || format!("{name} does not boot")) };
        eventually(Duration::from_secs(10), up).await?;
        let pid = inner(&first).ok_or("the machine has no first process")?;
        let join = format!(
            "ip link delete v-{name} 2>/dev/null || true
             ip link add v-{name} type veth peer name eth0 netns {pid}
             ip link set v-{name} master lab0 up
             nsenter --target {pid} --net sh -e -c '
                 ip addr add {address}/24 dev eth0
                 ip link set eth0 up
                 ip route add default via 10.20.0.254'"
        );
        shell(&join, &self.home).await?;
        Ok(first)
    }

    /// Writes what an agent is told.
    fn configure(&self, name: &str, address: &str) -> std::io::Result<PathBuf> {
        let directory = self.directory(name);
        let servers = SERVERS.map(|(_, address)| address);
        // Short: sockets of sidecars are below it.
        let data = self.home.join(name);
        fs::create_dir_all(&data)?;
        let mut config = json!({
            "name": name, "data_dir": data, "bind_addr": address,
            "disable_update_check": true, "log_level": "INFO",
        });
        let more = if SERVERS.iter().any(|(server, _)| *server == name) {
            json!({ "server": {
                "enabled": true,
                "bootstrap_expect": SERVERS.len(),
                "heartbeat_grace": "10s",
                "server_join": { "retry_join": servers, "retry_interval": "1s" },
            } })
        } else {
            let (plugins, networks) = (directory.join("cni/bin"), directory.join("cni/config"));
            for place in [&plugins, &networks] {
                fs::create_dir_all(place)?;
            }
            let client = json!({
                "enabled": true,
                "servers": servers.map(|address| format!("{address}:4647")),
                "network_interface": "eth0",
                "cni_path": format!("{}:/usr/lib/cni", plugins.display()),
                "cni_config_dir": networks,
                "cgroup_parent": cgroup(name),
                "options": {
                    "fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean",
                    "driver.denylist": "docker,java,qemu",
                },
            });
            let plugin = json!({ "raw_exec": { "config": { "enabled": true } } });
            json!({ "client": client, "plugin": [plugin] })
        };
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        let file = directory.join("agent.json");
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    fn agent(&self, first: &Child, name: &str, config: &Path) -> Step<Child> {
        let pid = inner(first).ok_or("the machine is down")?;
        let log = self.log(&format!("{name}.log"))?;
        Command::new("nsenter")
            .args(["--target", &pid.to_string(), "--net", "--mount", "--uts"])
            .args(["--ipc", "--pid", "--"])
            .arg(self.home.join("bin/nomad"))
            .args(["agent", "-config"])
            .arg(config)
            .env("PATH", self.path())
            .env_remove("NOMAD_ADDR")
            .env_remove("NOMAD_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io)?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(io)
    }

    fn path(&self) -> String {
        let own = self.home.join("bin");
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", own.display())
    }

    fn log(&self, name: &str) -> Step<fs::File> {
        let file = self.home.join(name);
        let mut options = fs::File::options();
        options.create(true).append(true).open(file).map_err(io)
    }
}

/// Which server leads.
pub(crate) async fn leader() -> Step<&'static str> {
    let said = get("/v1/status/leader").await?;
    let said = said.as_str().unwrap_or_default();
    let address = said.split(':').next().unwrap_or_default();
    let found = SERVERS.iter().find(|(_, server)| *server == address);
    found
        .map(|(name, _)| *name)
        .ok_or_else(|| format!("no server leads: `{said}`"))
}

/// There is a leader, identities are signed, and so many nodes take allocations.
pub(crate) async fn ready(count: usize) -> Step<()> {
    leader().await?;
    let keys = get("/.well-known/jwks.json").await?;
    let keys = keys.get("keys").and_then(Value::as_array);
    ensure(keys.is_some_and(|keys| !keys.is_empty()), || {
        "the servers have no keys".to_owned()
    })?;
    let nodes = get("/v1/nodes").await?;
    let is_ready = |node: &&Value| node.get("Status").and_then(Value::as_str) == Some("ready");
    let ready = nodes.as_array().into_iter().flatten().filter(is_ready);
    let ready = ready.count();
    ensure(ready == count, || {
        format!("{ready} nodes are ready, not {count}")
    })
}

/// The cgroup of a client's tasks.
fn cgroup(name: &str) -> String {
    format!("mesh-e2e-{name}")
}

fn kill(pid: i32) -> Step<()> {
    let pid = Pid::from_raw(pid).ok_or("a pid of 0")?;
    kill_process(pid, Signal::KILL).map_err(|errno| format!("process {pid:?}: {errno}"))
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err has it")]
fn io(error: std::io::Error) -> String {
    format!("the cluster: {error}")
}
