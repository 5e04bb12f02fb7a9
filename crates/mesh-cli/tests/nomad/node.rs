//! A node that is prepared for the mesh: `mesh-cni` behind the standard plugins, the proxies' user,
//! Docker where it is asked for, and a witness of what goes over the network in plaintext.

use std::fs;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mesh_nomad::client::Stop;
use mesh_nomad::model::allocation::Allocation;
use mesh_nomad::model::{Job, JobDocument};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::machine::{Machine, Shape, until, with_machine};

/// The node.
pub(crate) struct Node {
    pub(crate) machine: Machine,
    /// How many connections in plaintext came to [`WITNESS`] and sent something.
    heard: Arc<AtomicU32>,
}

/// Where somebody outside the machine listens.
pub(crate) const WITNESS: (&str, u16) = ("10.20.0.254", 7777);

/// The image of every container: the programs that applications use, and `mesh`.
pub(crate) const IMAGE: &str = "mesh-lab:1";

/// The chain of the network `cni/mesh`, as the node's preparation writes it. Addresses that are
/// given are on a tmpfs: they must not outlive a reboot.
const CONFLIST: &str = r#"{
  "cniVersion": "1.0.0", "name": "mesh", "plugins": [
    { "type": "loopback" },
    { "type": "bridge", "bridge": "mesh0", "ipMasq": true, "isGateway": true,
      "forceAddress": true, "hairpinMode": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "172.27.64.0/20" }]],
                "routes": [{ "dst": "0.0.0.0/0" }], "dataDir": "/run/cni/mesh" } },
    { "type": "firewall", "backend": "iptables", "iptablesAdminChainName": "MESH-ADMIN" },
    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
    { "type": "mesh-cni", "capabilities": { "portMappings": true } }
  ]
}"#;

/// The proxies' user, the CNI library's memory, somebody outside, and a counter of packets to them.
const SETUP: &str = r#"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount -t tmpfs tmpfs /var/lib
mkdir -p "$1/cni/cache" /var/lib/cni
mount --bind "$1/cni/cache" /var/lib/cni
ip netns add outside
ip link set lab1 netns outside
ip -n outside addr add 10.20.0.254/24 dev lab1
ip -n outside link set lab1 up
nft -f - <<RULES
table inet witness {
  counter plaintext {}
  chain out {
    type filter hook postrouting priority 300
    ip daddr 10.20.0.254 tcp dport 7777 counter name plaintext
  }
}
RULES
"#;

/// A daemon of the machine's own, and the image, which it keeps.
const DOCKER: &str = r#"
[ ! -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker
dockerd --data-root "$1/docker" --exec-root /run/docker --pidfile /run/docker.pid \
    --host unix:///run/docker.sock --group root --cgroup-parent "/$2-docker" \
    --exec-opt native.cgroupdriver=cgroupfs --log-level warn &
until docker version > /dev/null 2>&1; do sleep 0.1; done
docker inspect --type image mesh-lab:1 > /dev/null 2>&1 ||
    tar -C "$1/rootfs" -c . | docker import - mesh-lab:1
docker inspect --type image mesh-pause:1 > /dev/null 2>&1 ||
    tar -C "$1/rootfs" -c . |
        docker import --change 'ENTRYPOINT ["/bin/sleep", "infinity"]' - mesh-pause:1
"#;

/// What a node has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kind {
    pub(crate) docker: bool,
    /// Whether it is prepared for `cni/mesh` before the agent starts.
    pub(crate) unprepared: bool,
    /// Whether its link has two addresses.
    pub(crate) second_address: bool,
    /// Whether Docker's plugin is as it comes, which gives no task a right over the network.
    pub(crate) plain_docker: bool,
}

/// Runs a test on a node.
pub(crate) fn on_a_node<F: Future<Output = ()>>(
    kind: Kind,
    test: impl FnOnce(Node) -> F + Send + 'static,
) {
    let test = async move |machine: Machine| {
        let node = Node {
            machine,
            heard: Arc::default(),
        };
        node.listen();
        test(node).await;
    };
    with_machine(move |directory| shape(directory, kind), test);
}

fn shape(directory: &Path, kind: Kind) -> Shape {
    let cni = directory.join("cni");
    for part in ["cni/bin", "cni/config", "bin"] {
        fs::create_dir_all(directory.join(part)).unwrap();
    }
    run(Command::new("strip")
        .args(["-o"])
        .arg(directory.join("bin/mesh"))
        .arg(crate::mesh()));
    for plugin in ["bridge", "firewall", "host-local", "loopback", "portmap"] {
        let found = plugins().join(plugin);
        fs::copy(&found, cni.join("bin").join(plugin)).unwrap();
    }
    if !kind.unprepared {
        prepare(directory);
    }
    for (name, line) in [
        ("passwd", "mesh-proxy:x:1337:1337::/nonexistent:/bin/false"),
        ("group", "mesh-proxy:x:1337:"),
    ] {
        let text = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
        let others = text.lines().filter(|line| !line.contains(":1337:"));
        let lines: Vec<_> = others.chain([line]).collect();
        fs::write(directory.join(name), lines.join("\n") + "\n").unwrap();
    }
    let mut setup = SETUP.to_owned();
    if kind.second_address {
        setup += "ip addr add 10.20.0.3/24 dev lab0\n";
    }
    let mut plugins = Vec::new();
    let mut denied = "java,qemu,docker";
    if kind.docker {
        root_fs(directory);
        let name = directory.file_name().unwrap().to_string_lossy();
        let group = format!("mesh-lab{}", name.replace('.', "-"));
        setup += &DOCKER.replace("$2", &group);
        denied = "java,qemu";
        plugins.push(docker(kind));
    }
    let client = json!({
        "cni_path": cni.join("bin"),
        "cni_config_dir": cni.join("config"),
        "options": {
            "fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean",
            "driver.denylist": denied,
        },
    });
    Shape {
        client: client.as_object().unwrap().clone(),
        plugins,
        setup,
        ..Shape::default()
    }
}

/// Puts the plugin and its network where the agent looks for them.
pub(crate) fn prepare(directory: &Path) {
    let plugin = directory.join("cni/bin/mesh-cni");
    fs::copy(directory.join("bin/mesh"), plugin).unwrap();
    fs::write(directory.join("cni/config/mesh.conflist"), CONFLIST).unwrap();
}

fn docker(kind: Kind) -> Value {
    let mut config = json!({
        "endpoint": "unix:///run/docker.sock",
        "infra_image": "mesh-pause:1",
        "gc": { "image": false, "dangling_containers": { "enabled": false } },
    });
    if !kind.plain_docker {
        config["allow_caps"] = json!(["net_admin", "net_raw"]);
        config["volumes"] = json!({ "enabled": true });
    }
    json!({ "docker": { "config": config } })
}

/// What containers see: a shell, `sleep`, `mesh`, and the libraries of these.
fn root_fs(directory: &Path) {
    let root = directory.join("rootfs");
    let mut files: Vec<PathBuf> = ["/bin/bash", "/bin/sleep"].map(PathBuf::from).into();
    for program in [files.clone(), vec![directory.join("bin/mesh")]].concat() {
        let said = run(Command::new("ldd").arg(&program));
        let words = said.split_whitespace();
        files.extend(
            words
                .filter(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    for file in &files {
        let to = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    fs::copy(directory.join("bin/mesh"), root.join("bin/mesh")).unwrap();
    for part in ["tmp", "etc", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
}

/// The standard plugins.
fn plugins() -> PathBuf {
    let named = std::env::var_os("MESH_CNI_PLUGINS").map(PathBuf::from);
    let usual = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .find(|directory| directory.join("bridge").exists())
        .unwrap_or_else(|| {
            panic!("the nomad ring needs the plugins of containernetworking-plugins")
        })
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

// === impl Node ===

impl Node {
    /// `mesh` on the machine.
    pub(crate) fn mesh(&self, words: &[&str]) -> Output {
        let program = self.machine.path("bin/mesh").into_os_string();
        let words = words.iter().map(|word| (*word).into());
        let words: Vec<_> = std::iter::once(program).chain(words).collect();
        self.machine.command(&words).output().unwrap()
    }

    /// A program of the machine that must succeed; what it said.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        run(&mut self.machine.command(words))
    }

    /// A job as `mesh inject` makes it.
    pub(crate) fn inject(&self, job: &Value, mode: &str) -> Job {
        let program = self.machine.path("bin/mesh");
        let mut child = Command::new(&program)
            .args(["inject", "--mode", mode, "--image", IMAGE, "--program"])
            .arg(&program)
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(job.to_string().as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let document: JobDocument = serde_json::from_slice(&output.stdout).unwrap();
        document.into_job()
    }

    /// The lines that the application wrote: how each attempt to reach the witness ended.
    pub(crate) async fn attempts(&self, allocation: &Allocation, count: usize) -> Vec<String> {
        let id = allocation.id.text();
        let file = self.machine.task_directory(id, "alloc/data/attempts");
        until(&format!("{count} attempts of {id}"), || async {
            let text = fs::read_to_string(&file).ok()?;
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }

    /// Does something in the network outside.
    pub(crate) fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = self.machine.inside().unwrap();
        let network = format!("/proc/{inside}/root/run/netns/outside");
        let network = fs::File::open(network).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = LinkNameSpaceType::Network;
                move_into_link_name_space(network.as_fd(), Some(kind)).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// Somebody outside who takes plaintext, for as long as the machine runs.
    fn listen(&self) {
        let heard = Arc::clone(&self.heard);
        let listener = self.outside(|| TcpListener::bind(WITNESS).unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if stream.read(&mut [0; 6]).is_ok_and(|read| read > 0) {
                    heard.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }

    /// How many connections the witness heard, and how many packets to it left the machine.
    pub(crate) fn plaintext(&self) -> (u32, u64) {
        let said = self.run(&["nft", "-j", "list", "counters", "table", "inet", "witness"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        let counters = said["nftables"].as_array().unwrap();
        let packets = counters
            .iter()
            .find_map(|it| it["counter"]["packets"].as_u64());
        (self.heard.load(Ordering::SeqCst), packets.unwrap())
    }

    /// The file of an allocation's network namespace, on the machine.
    pub(crate) fn netns(&self, allocation: &Allocation) -> String {
        let id = allocation.id.text();
        let named = format!("/run/netns/{id}");
        let inside = self.machine.inside().unwrap();
        if Path::new(&format!("/proc/{inside}/root{named}")).exists() {
            return named;
        }
        let pause = format!("nomad_init_{id}");
        let format = "{{.NetworkSettings.SandboxKey}}";
        let said = self.run(&["docker", "inspect", "--format", format, &pause]);
        said.trim().to_owned()
    }

    /// Whether the rules of the allocation's namespace are those of this policy.
    pub(crate) fn has_rules(&self, allocation: &Allocation, policy: &Value) -> bool {
        let file = self.machine.path("policy.json");
        fs::write(&file, policy.to_string()).unwrap();
        let netns = self.netns(allocation);
        let file = file.to_str().unwrap();
        let output = self.mesh(&["redirect", "verify", "--netns", &netns, "--policy", file]);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
        output.status.success()
    }

    /// Takes the rules of an allocation away, as a program does that thinks all rules are its own.
    pub(crate) fn flush(&self, allocation: &Allocation) {
        let netns = format!("--net={}", self.netns(allocation));
        self.run(&["nsenter", &netns, "nft", "flush", "ruleset"]);
    }

    /// Ends the agent as a service manager does, and starts it.
    pub(crate) fn restart_agent(&mut self) {
        self.machine.stop_agent(Signal::TERM);
        self.machine.start_agent();
    }

    /// Ends everything at once, and starts the machine and its agent on what is on its disk.
    pub(crate) fn reboot(&mut self) {
        self.machine.cut_power();
        self.machine.boot();
        self.listen();
        self.machine.start_agent();
    }

    /// Stops a job and waits until its allocations have ended.
    pub(crate) async fn stop(&self, job: &str) {
        let client = &self.machine.client;
        let stop = Stop::default();
        client.stop_job("default", job, stop).await.unwrap();
        until(&format!("{job} has ended"), || async {
            let all = client.job_allocations("default", job).await.ok()?.value;
            all.iter().all(Allocation::is_terminal).then_some(())
        })
        .await;
    }
}
