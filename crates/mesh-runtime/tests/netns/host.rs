//! A network and a mount namespace that play the host for one test, and what can be seen there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use mesh_runtime::inject::Resolver;
use mesh_runtime::{
    Application, Attachment, Group, GroupSpec, LogOptions, MeshFacts, Name, ProcessEngine,
    RestartPolicy, Runtime as _, UnitSpec,
};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::UnshareFlags;

/// Where a test runs.
pub(crate) struct Host {
    directory: tempfile::TempDir,
}

/// Runs a test on a host of its own, and removes what its engine made, also when it fails.
pub(crate) fn on_a_host(test: impl AsyncFnOnce(&Host) + Send) {
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            become_a_host();
            let directory = tempfile::tempdir().unwrap();
            // Units of other users pass through.
            let mode = rustix::fs::Mode::from_raw_mode(0o711);
            rustix::fs::chmod(directory.path(), mode).unwrap();
            let host = Host { directory };
            let _cleanup = Cleanup(&host);
            in_this_namespace(async || test(&host).await);
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits for a test on the calling thread, so that everything happens in its namespaces.
pub(crate) fn in_this_namespace(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test());
}

struct Cleanup<'a>(&'a Host);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        for engine in ["engine", "other"] {
            let root = self.0.path(engine);
            if root.exists() {
                in_this_namespace(async || {
                    let removed = engine_in(root).remove_all().await;
                    if !thread::panicking() {
                        removed.unwrap();
                    }
                });
            }
        }
    }
}

#[expect(unsafe_code, reason = "rustix marks every use of unshare(2) as unsafe")]
fn become_a_host() {
    assert!(rustix::process::geteuid().is_root(), "this ring needs root");
    // SAFETY: only `FILES` can break what other threads rely on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    ip(&["link", "set", "lo", "up"]);
}

impl Host {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn engine(&self) -> ProcessEngine {
        engine_in(self.path("engine"))
    }

    /// A group on the network `mesh`.
    pub(crate) async fn group(&self, engine: &ProcessEngine, name: &str) -> Group {
        engine.create_group(&group_spec(name)).await.unwrap().1
    }

    /// A group on the host.
    pub(crate) async fn host_group(&self, engine: &ProcessEngine, name: &str) -> Name {
        let group = engine
            .create_group(&group_spec_on_host(name))
            .await
            .unwrap()
            .1;
        assert_eq!((group.addresses, &group.namespace), (None, &None));
        group.spec.name
    }

    pub(crate) async fn run(
        &self,
        engine: &ProcessEngine,
        group: &str,
        unit: &str,
        command: &[String],
    ) {
        let unit = UnitSpec::new(name(unit), command);
        engine.create_unit(&name(group), &unit).await.unwrap();
        engine.start_unit(&name(group), &unit.name).await.unwrap();
    }

    /// What a caller inside a group is told.
    pub(crate) async fn call_from(
        &self,
        engine: &ProcessEngine,
        group: &str,
        address: IpAddr,
        port: u16,
    ) -> String {
        let group = engine.group(&name(group)).await.unwrap();
        inside(&group, || call(address, port))
    }

    pub(crate) async fn log(
        &self,
        engine: &ProcessEngine,
        group: &Name,
        unit: &Name,
        options: LogOptions,
    ) -> String {
        let stream = engine.logs(group, unit, options).await.unwrap();
        let pieces: Vec<Vec<u8>> = stream.try_collect().await.unwrap();
        String::from_utf8(pieces.concat()).unwrap()
    }

    /// The processes whose command line has this in it.
    pub(crate) fn processes(part: &str) -> BTreeSet<String> {
        let entries = fs::read_dir("/proc").unwrap().map(Result::unwrap);
        let mut found = BTreeSet::new();
        for path in entries.map(|entry| entry.path()) {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(part) {
                found.insert(format!("process {} {line}", path.display()));
            }
        }
        found
    }

    /// Everything of this host that an engine may leave something in.
    pub(crate) fn look(&self, engine: &ProcessEngine) -> BTreeSet<String> {
        let mut things: BTreeSet<String> = links()
            .into_iter()
            .map(|link| format!("link {link}"))
            .collect();
        let own = self.directory.path().to_str().unwrap().to_owned();
        // Those of others may come and go: removing a mount point takes all copies of the mount.
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let points = points.filter(|point| point.starts_with(&own));
        things.extend(points.map(|point| format!("mount {point}")));
        things.extend(cgroups(engine));
        things.extend(Self::processes(&format!("{own}/engine")));
        let namespaces = self.path("engine/netns");
        if let Ok(entries) = fs::read_dir(namespaces) {
            things.extend(
                entries.map(|entry| format!("namespace {}", entry.unwrap().path().display())),
            );
        }
        things
    }
}

fn cgroups(engine: &ProcessEngine) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next().unwrap(), fields.next().unwrap());
        let cgroup = Path::new(point).join(engine.cgroup());
        if kind.starts_with("cgroup") && cgroup.exists() {
            found.push(format!("cgroup {}", cgroup.display()));
            for entry in fs::read_dir(&cgroup).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
            }
        }
    }
    found
}

pub(crate) fn engine_in(root: impl Into<PathBuf>) -> ProcessEngine {
    ProcessEngine::open(root, [env!("CARGO_BIN_EXE_mesh-supervise")]).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn unit(unit: &str, command: &[impl AsRef<str>]) -> UnitSpec {
    UnitSpec::new(name(unit), command.iter().map(AsRef::as_ref))
}

pub(crate) fn group_spec(group: &str) -> GroupSpec {
    GroupSpec::new(name(group), Attachment::Network(name("mesh")))
}

pub(crate) fn group_spec_on_host(group: &str) -> GroupSpec {
    GroupSpec::new(name(group), Attachment::Host)
}

/// A command that answers `here` to whoever connects.
pub(crate) fn echo(address: IpAddr, port: u16) -> Vec<String> {
    let script = format!(
        "import socket\n\
         s = socket.create_server(('{address}', {port}), family=socket.{})\n\
         while True:\n    c, _ = s.accept(); c.sendall(b'here\\n'); c.close()",
        if address.is_ipv4() {
            "AF_INET"
        } else {
            "AF_INET6"
        }
    );
    vec!["python3".to_owned(), "-c".to_owned(), script]
}

/// A command that answers 200 to every request.
pub(crate) fn http_answer(address: &str, port: u16) -> Vec<String> {
    let script = format!(
        "import http.server as h\n\
         class A(h.BaseHTTPRequestHandler):\n    def do_GET(s): s.send_response(200); s.end_headers()\n\
         h.HTTPServer(('{address}', {port}), A).serve_forever()"
    );
    vec!["python3".to_owned(), "-c".to_owned(), script]
}

/// An application `web` in namespace `shop`.
pub(crate) fn application(command: &[&str]) -> Application {
    let (namespace, name, account) = ("shop", "web", "till");
    let mut application = Application::new(
        namespace.parse().unwrap(),
        name.parse().unwrap(),
        account.parse().unwrap(),
        command.iter().copied(),
    );
    application.restart = RestartPolicy::Never;
    application
}

/// A mesh that nobody is at home in.
pub(crate) fn facts(mesh: PathBuf) -> MeshFacts {
    MeshFacts {
        trust_domain: mesh_model::TrustDomain::default(),
        pilots: vec!["10.213.0.1:15012".parse().unwrap()],
        cas: vec!["10.213.0.1:15012".parse().unwrap()],
        root_hashes: vec!["00".to_owned()],
        image: None,
        mesh,
        envoy: None,
        network: name("mesh"),
        resolver: Resolver::Servers {
            seen: vec!["10.213.0.1".parse().unwrap()],
            upstream: vec![],
        },
        certificate_ttl_seconds: None,
    }
}

/// A program that takes the verbs which an injected group calls, and answers at 15001 in place of
/// a proxy. `ready` is whether its sidecar ever is.
pub(crate) fn mesh_binary(host: &Host, ready: bool) -> PathBuf {
    let path = host.path("mesh");
    let status = if ready { 200 } else { 503 };
    let script = format!(
        r#"#!/usr/bin/python3
import http.server, json, os, socket, subprocess, sys, threading
assert sys.argv.pop(1) == "--verbose"
if sys.argv[1:3] == ["redirect", "watch"]:
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    open(sys.argv[6], "w").write(json.dumps({{"rules": rules}}))
    threading.Event().wait()
config = json.load(open(sys.argv[3]))
token = open(config["token_file"]).read()
print("sidecar of", config["workload"]["id"], "as", os.getuid(), "with", token, flush=True)
def proxy(family, address):
    s = socket.create_server((address, 15001), family=family)
    while True:
        c, _ = s.accept(); c.sendall(b"by the sidecar\n"); c.close()
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response({status}); self.end_headers()
    # As many questions as there are would push everything else out of the log's end.
    def log_message(self, *_): pass
for family, address in [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]:
    threading.Thread(target=proxy, args=(family, address)).start()
http.server.HTTPServer(("127.0.0.1", 15021), Ready).serve_forever()
"#
    );
    fs::write(&path, script).unwrap();
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    path
}

/// Answers `here` on the host, until the test ends.
pub(crate) fn answer_on(address: IpAddr, port: u16) -> TcpListener {
    let listener = TcpListener::bind((address, port)).unwrap();
    let accepting = listener.try_clone().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = accepting.accept() {
            stream.write_all(b"here\n").unwrap();
        }
    });
    listener
}

/// What a server says; it may still be starting.
pub(crate) fn call(address: IpAddr, port: u16) -> String {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(5)) {
            Ok(mut stream) => {
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                return text;
            }
            Err(error) => {
                let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
                assert!(refused && Instant::now() < give_up, "{address}: {error}");
                thread::yield_now();
            }
        }
    }
}

/// Does work inside a group, on a thread of its own.
pub(crate) fn inside<T: Send>(group: &Group, work: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(group.namespace.as_ref().unwrap()).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

/// Takes hierarchies of cgroups away from this host, the innermost first.
pub(crate) fn unmount_cgroups(kind: impl Fn(&str) -> bool) {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    for line in mounts.lines().rev() {
        let mut fields = line.split(' ').skip(1);
        let (point, mounted) = (fields.next().unwrap(), fields.next().unwrap());
        if mounted.starts_with("cgroup") && kind(mounted) {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
}

/// Names of the links of this host.
pub(crate) fn links() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

pub(crate) fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < give_up, "it did not come to that");
        tokio::task::yield_now().await;
    }
}

pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// Whether a process runs; one that waits to be reaped does not.
pub(crate) fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

pub(crate) fn parent(pid: u32) -> u32 {
    stat(pid).unwrap().1
}

fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Files below a directory that contain a text.
pub(crate) fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if fs::read(entry.path()).is_ok_and(|bytes| {
            bytes
                .windows(text.len())
                .any(|window| OsStr::new(text).as_encoded_bytes() == window)
        }) {
            found.push(entry.path());
        }
    }
    found
}
