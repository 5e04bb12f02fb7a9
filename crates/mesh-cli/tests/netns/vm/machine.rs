//! Machines out of namespaces: the host of the control plane, and a VM with a root file system of its
//! own beside it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::init::{Init, SYSTEMCTL};
use super::resolver::{self, Resolver};

/// The VM's addresses, in the process engine's network, where the engine gives none.
pub(super) const V4: &str = "10.213.200.10";
pub(super) const V6: &str = "fd6d:6573:68d5::c80a";
/// The host's own address in that network.
const GATEWAY_V6: &str = "fd6d:6573:68d5::1";

/// The machine on which the control plane and workloads of the process engine are.
pub(super) struct Host {
    child: Child,
    pid: u32,
    /// The same path inside and outside; inside, memory is mounted there.
    directory: PathBuf,
    programs: Programs,
}

/// A machine with files of its own above those of this one.
pub(super) struct Vm<'a> {
    host: &'a Host,
    name: &'static str,
    families: Families,
    child: Child,
    pid: u32,
    pub(super) init: Option<Init>,
    resolver: Option<Resolver>,
    programs: Programs,
}

/// Programs that were started on a machine and run on. They are ended with it, since a network
/// namespace takes none of its processes along.
#[derive(Default)]
struct Programs(RefCell<Vec<Child>>);

/// The addresses that a machine has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Families {
    Both,
    V6,
}

/// So much of a log is printed when a test fails.
const LINES: usize = 20;

/// What is in a place of the file system: type, mode, owner, contents.
pub(super) type Tree = BTreeMap<PathBuf, String>;

impl Host {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: run `sudo cargo xtask test`"
        );
        // Short, because of the sockets in it.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = PathBuf::from(format!("/tmp/mesh-vm-{}-{number}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let script = r#"set -e
            mount -t tmpfs -o mode=755 tmpfs "$0"
            mkdir "$0/bin" "$0/control" "$0/logs"
            chmod 777 "$0/control"
            ip link set lo up
            touch "$0/ready"
            exec sleep infinity"#;
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
            ])
            .args(["bash", "-c", script])
            .arg(&directory)
            .spawn()
            .unwrap();
        let pid = until("the host", || child_of(child.id()));
        let ready = format!("/proc/{pid}/root{}/ready", directory.display());
        until("the host", || {
            assert!(child.try_wait().unwrap().is_none(), "no namespaces here");
            Path::new(&ready).exists().then_some(())
        });
        let host = Self {
            child,
            pid,
            directory,
            programs: Programs::default(),
        };
        host.install();
        host
    }

    /// The programs, open to every user.
    fn install(&self) {
        let bin = self.directory.join("bin");
        let envoy = envoy();
        for (from, name) in [
            (Path::new(env!("CARGO_BIN_EXE_mesh")), "mesh"),
            (echo(), "mesh-echo"),
            (envoy.as_path(), "envoy"),
        ] {
            let to = bin.join(name);
            self.ok(&["touch", to.to_str().unwrap()]);
            self.ok(&[
                "mount",
                "--bind",
                from.to_str().unwrap(),
                to.to_str().unwrap(),
            ]);
        }
        let systemctl = self.outside("bin/systemctl");
        fs::write(&systemctl, SYSTEMCTL).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A path of the host's directory, as this process sees it.
    fn outside(&self, path: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        root.join(self.directory.strip_prefix("/").unwrap())
            .join(path)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.inside("bin"));
        command
            .args(["--target", &self.pid.to_string(), "--net", "--mount", "--"])
            .args(line)
            .env("PATH", path)
            .env("MESH_HOME", self.inside("state"))
            .env_remove("KUBECONFIG")
            .env_remove("ENVOY_BIN")
            .stdin(Stdio::null());
        command
    }

    /// A path of the host's directory, as its processes see it.
    pub(super) fn inside(&self, path: &str) -> String {
        self.directory.join(path).display().to_string()
    }

    /// Runs a command on the host and wants it to succeed.
    pub(super) fn ok(&self, line: &[&str]) -> String {
        succeeded(line, self.command(line).output().unwrap())
    }

    /// Starts a control plane that has an address of IPv6 and no other; the kubeconfig of its admin.
    pub(super) fn serve_v6(&self) -> String {
        let home = self.inside("state6");
        let kubeconfig = self.outside("state6/mixer.kubeconfig");
        let log = fs::File::create(self.outside("logs/server6.log")).unwrap();
        let api = format!("[{GATEWAY_V6}]:7443");
        let mut server = self.command(&["mesh", "--verbose", "server", "--home", &home]);
        server
            .args(["--listen", GATEWAY_V6, "--api-listen", &api])
            .args(["--metrics-listen", "[::1]:16014"])
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.programs.start(&mut server);
        until("the control plane", || kubeconfig.exists().then_some(()));
        let line = format!("KUBECONFIG={home}/kubeconfig");
        until("its roles", || {
            let found = self.command(&["env", &line, "mesh", "get", "configmap", "mesh", "-n"]);
            let found = { found }.args(["mesh-system", "-o", "json"]).output();
            let text = String::from_utf8(found.unwrap().stdout).unwrap();
            let keys = ["roots.pem", "pilot.addresses", "mixer.addresses"];
            keys.iter().all(|key| text.contains(key)).then_some(())
        });
        line
    }

    /// Starts the echo server as a workload with a sidecar of the process engine.
    pub(super) fn workload(&self, name: &str) {
        self.workload_of(name, "MESH=mesh");
    }

    /// The same, in the mesh that a variable names.
    pub(super) fn workload_of(&self, name: &str, variable: &str) {
        let (echo, socket) = (self.inside("bin/mesh-echo"), self.control(name));
        self.ok(&[
            "env",
            variable,
            "mesh",
            "run",
            "--detach",
            "--name",
            name,
            "--namespace",
            "shop",
            "--service-account",
            name,
            "--service",
            name,
            "--port",
            "http:8080",
            "--user",
            "1000",
            "--",
            &echo,
            "--name",
            name,
            "--listen",
            "[::]:8080",
            "--control",
            &socket,
        ]);
    }

    fn control(&self, name: &str) -> String {
        self.inside(&format!("control/{name}.sock"))
    }

    /// Has a workload of the process engine call somebody.
    pub(super) fn call(&self, from: &str, url: &str) -> Value {
        call(&self.outside(&format!("control/{from}.sock")), url)
    }

    /// Connects from the host itself, past every sidecar.
    pub(super) fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let namespace = fs::File::open(format!("/proc/{}/ns/net", self.pid)).unwrap();
        let to: SocketAddr = to.parse().unwrap();
        std::thread::scope(|scope| {
            let connect = scope.spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                TcpStream::connect_timeout(&to, Duration::from_secs(3))
            });
            connect.join().unwrap()
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = fs::read_dir(self.outside("logs"))
                .into_iter()
                .flatten()
                .flatten();
            for log in logs {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                eprintln!("--- {}, its last lines", log.file_name().display());
                let lines: Vec<&str> = text.lines().collect();
                lines
                    .iter()
                    .skip(lines.len().saturating_sub(LINES))
                    .for_each(|line| eprintln!("{line}"));
            }
        }
        drop(self.command(&["mesh", "down", "--purge"]).output());
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir(&self.directory));
    }
}

impl<'a> Vm<'a> {
    /// Switches the machine on for the first time.
    pub(super) fn new(host: &'a Host, name: &'static str) -> Self {
        Self::with(host, name, Families::Both)
    }

    pub(super) fn with(host: &'a Host, name: &'static str, families: Families) -> Self {
        let directory = host.outside(name);
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        let (child, pid) = Self::power_on(host, name);
        let mut vm = Self {
            host,
            name,
            families,
            child,
            pid,
            init: None,
            resolver: None,
            programs: Programs::default(),
        };
        let resolv_conf = vm.outside("/etc/resolv.conf");
        fs::remove_file(&resolv_conf).unwrap();
        fs::write(resolv_conf, format!("nameserver {}\n", resolver::ADDRESS)).unwrap();
        vm.begin();
        vm
    }

    fn power_on(host: &Host, name: &str) -> (Child, u32) {
        // The boot's id is that of the machine on which this runs: each boot gets one of its own.
        let script = r#"set -e
            cd "$0"
            mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
            cd root
            mount -t proc proc proc
            mount --rbind /sys sys
            mount --rbind /dev dev
            mount -t tmpfs -o mode=755 tmpfs run
            mount -t tmpfs -o mode=1777 tmpfs tmp
            mount -t tmpfs -o mode=755 tmpfs mnt
            for program in mesh mesh-echo envoy; do
                touch mnt/$program
                mount --bind ../../bin/$program mnt/$program
            done
            mount --bind ../../bin/systemctl usr/bin/systemctl
            cat /proc/sys/kernel/random/uuid > run/boot_id
            mount --bind run/boot_id proc/sys/kernel/random/boot_id
            mkdir -p run/systemd/system run/init
            mkfifo run/init/request run/init/answer
            hostname db-1.example.com
            ip link set lo up
            touch run/ready
            # Process 1 takes in those whose parents are gone.
            exec chroot . bash -c 'sleep infinity & wait'"#;
        let child = Command::new("nsenter")
            .args(["--target", &host.pid.to_string(), "--net", "--mount", "--"])
            .args([
                "unshare",
                "--net",
                "--mount",
                "--pid",
                "--uts",
                "--fork",
                "--kill-child",
            ])
            .args([
                "--propagation",
                "private",
                "bash",
                "-c",
                script,
                &host.inside(name),
            ])
            .spawn()
            .unwrap();
        let pid = until("the VM", || child_of(child.id()));
        let ready = format!("/proc/{pid}/root/run/ready");
        until("the VM", || Path::new(&ready).exists().then_some(()));
        (child, pid)
    }

    /// The link to the network of the host, and who starts units.
    fn begin(&mut self) {
        let (pid, link) = (self.pid.to_string(), format!("v-{}", self.name));
        let on_host = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let net = ["--target", &self.host.pid.to_string(), "--net", "--"].map(str::to_owned);
            let output = Command::new("nsenter").args(net).args(&words).output();
            succeeded(&words, output.unwrap());
        };
        on_host(&format!(
            "ip link add {link} type veth peer name eth0 netns {pid}"
        ));
        on_host(&format!("ip link set {link} master mesh0 up"));
        for line in [
            // A machine's own address stays when it starts anew; neighbours remember it.
            "ip link set eth0 address 02:00:5e:00:53:0a up".to_owned(),
            format!("ip -6 addr add {V6}/64 dev eth0 nodad"),
            format!("ip -6 route add default via {GATEWAY_V6}"),
            format!("ip addr add {V4}/16 dev eth0"),
            "ip route add default via 10.213.0.1".to_owned(),
        ]
        .iter()
        .take(match self.families {
            Families::Both => 5,
            Families::V6 => 3,
        }) {
            self.ok(&line.split_whitespace().collect::<Vec<_>>());
        }
        self.resolver = Some(Resolver::start(self.pid));
        self.init = Some(Init::serve(self.pid, &self.host.outside("logs")));
    }

    /// Kills everything, and switches it on again with the same files.
    pub(super) fn reboot(&mut self) {
        (self.init, self.resolver) = (None, None);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let gone = format!("/proc/{}", self.pid);
        until("the end of the VM", || {
            (!Path::new(&gone).exists()).then_some(())
        });
        self.programs = Programs::default();
        (self.child, self.pid) = Self::power_on(self.host, self.name);
        self.begin();
        self.init.as_ref().unwrap().boot();
    }

    /// A path of the machine, as this process sees it.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        root.join(path.trim_start_matches('/'))
    }

    pub(super) fn command(&self, line: &[&str]) -> Command {
        let mut command = enter(self.pid);
        command.args(line).stdin(Stdio::null());
        command.env("PATH", "/mnt:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env_remove("SSH_CONNECTION").env_remove("ENVOY_BIN");
        command
    }

    pub(super) fn says(&self, line: &[&str]) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a command on the machine and wants it to succeed.
    pub(super) fn ok(&self, line: &[&str]) -> String {
        succeeded(line, self.says(line))
    }

    /// Starts the echo server, as an ordinary program of the machine.
    pub(super) fn serve(&self, name: &str, user: u32, port: u16) {
        let (user, listen) = (user.to_string(), format!("[::]:{port}"));
        let socket = format!("/tmp/{name}.sock");
        let mut echo = self.command(&[
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "/mnt/mesh-echo",
            "--name",
            name,
            "--listen",
            &listen,
            "--control",
            &socket,
        ]);
        self.programs.start(echo.stdout(Stdio::null()));
        let socket = self.outside(&socket);
        until(name, || UnixStream::connect(&socket).is_ok().then_some(()));
    }

    /// Has a program of the machine call somebody.
    pub(super) fn call(&self, from: &str, url: &str) -> Value {
        call(&self.outside(&format!("/tmp/{from}.sock")), url)
    }

    /// Has a program of the machine send bytes to an address; what came back.
    pub(super) fn exchange(&self, from: &str, address: &str, send: &str) -> String {
        let socket = self.outside(&format!("/tmp/{from}.sock"));
        let command = json!({ "tcp": { "address": address, "send": send } });
        tell(&socket, &command).to_string()
    }

    /// Has a program of the machine look a name up.
    pub(super) fn resolve(&self, from: &str, name: &str) -> Value {
        let socket = self.outside(&format!("/tmp/{from}.sock"));
        tell(&socket, &json!({ "resolve": { "name": name } }))
    }

    /// What a unit has written.
    pub(super) fn log(&self, unit: &str) -> String {
        let path = self.host.outside(&format!("logs/{unit}.log"));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Every file that is not as in the file system below, whatever it is.
    pub(super) fn tree(&self) -> Tree {
        let upper = self.host.outside(self.name).join("upper");
        let mut tree = Tree::new();
        walk(&upper, &upper, &mut tree);
        // A directory that was only looked into by a writer is the same as before.
        tree.retain(|path, found| {
            let below = Path::new("/").join(path);
            !(below.is_dir() && describe(&below) == *found)
        });
        tree
    }

    pub(super) fn ruleset(&self) -> String {
        self.ok(&["nft", "list", "ruleset"])
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        (self.init, self.resolver) = (None, None);
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Programs {
    fn start(&self, command: &mut Command) {
        self.0.borrow_mut().push(command.spawn().unwrap());
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for program in self.0.get_mut() {
            // It may have ended by itself.
            drop(program.kill());
            drop(program.wait());
        }
    }
}

/// The beginning of a command inside a machine.
pub(super) fn enter(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    let target = pid.to_string();
    command.args([
        "--target",
        &target,
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--root",
        "--wdns=/tmp",
        "--",
    ]);
    command
}

/// The first child of a process.
pub(super) fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Asks again until there is an answer.
pub(super) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn succeeded(line: &[&str], output: Output) -> String {
    assert!(output.status.success(), "{line:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn call(socket: &Path, url: &str) -> Value {
    tell(socket, &json!({ "call": { "url": url } }))
}

fn tell(socket: &Path, command: &Value) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(command.to_string().as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

fn walk(top: &Path, folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        tree.insert(path.strip_prefix(top).unwrap().to_owned(), describe(&path));
        if path.symlink_metadata().unwrap().is_dir() {
            walk(top, &path, tree);
        }
    }
}

fn describe(path: &Path) -> String {
    let found = path.symlink_metadata().unwrap();
    let mut hasher = DefaultHasher::new();
    if found.is_file() {
        fs::read(path).unwrap().hash(&mut hasher);
    } else if found.is_symlink() {
        fs::read_link(path).unwrap().hash(&mut hasher);
    } else {
        found.rdev().hash(&mut hasher);
    }
    let hash = hasher.finish();
    format!(
        "{:o} {}:{} {hash:x}",
        found.mode(),
        found.uid(),
        found.gid()
    )
}

/// The echo server, which is a program of another package.
fn echo() -> &'static Path {
    static ECHO: OnceLock<PathBuf> = OnceLock::new();
    ECHO.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "mesh-tests",
                "--bin",
                "mesh-echo",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.unwrap().success(), "mesh-echo is not to be built");
        Path::new(env!("CARGO_BIN_EXE_mesh")).with_file_name("mesh-echo")
    })
}

fn envoy() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("envoy"));
    std::env::var_os("ENVOY_BIN")
        .map(PathBuf::from)
        .into_iter()
        .chain(found)
        .find(|path| path.is_file())
        .expect("these tests need Envoy: run `sudo cargo xtask test`")
}
