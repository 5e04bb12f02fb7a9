//! A network namespace that stands for a machine with a mesh, and what is asked of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;

/// Tells machines of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The machine; its mesh is taken down with it.
pub(super) struct Machine {
    name: String,
    directory: TempDir,
}

/// An application that answers with what it was asked, and calls what it is told to call, by the
/// proxy that its environment names.
const APPLICATION: &str = r"
import http.server, json, os, socket, socketserver, sys, threading, urllib.error, urllib.parse, urllib.request

class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        path = urllib.parse.unquote(self.path)
        if path.startswith('/call/'):
            answer = call(path[len('/call/'):])
        elif path == '/environment':
            answer = dict(os.environ)
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = {'name': sys.argv[1], 'headers': headers, 'peer': self.client_address[0]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

def call(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return {'status': answer.status, 'body': json.load(answer)}
    except urllib.error.HTTPError as error:
        return {'status': error.code}
    except Exception as error:
        return {'status': 0, 'error': str(error)}

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    def __init__(self, address):
        host, port = address.rsplit(':', 1)
        host = host.strip('[]')
        self.address_family = socket.AF_INET6 if ':' in host else socket.AF_INET
        super().__init__((host, int(port)), Answer)

servers = [Server(address) for address in sys.argv[2:]]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
";

impl Machine {
    /// Makes the machine, and a mesh on it.
    pub(super) fn start() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: run `sudo cargo xtask test`"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let machine = Self {
            name: format!("mesh-explicit-{}-{number}", std::process::id()),
            directory,
        };
        std::fs::write(machine.directory.path().join("application.py"), APPLICATION).unwrap();
        let copied = Command::new("cp")
            .args([env!("CARGO_BIN_EXE_mesh"), "mesh"])
            .current_dir(machine.directory.path())
            .status();
        assert!(copied.unwrap().success());
        ip(&["netns", "add", &machine.name]);
        ip(&["-n", &machine.name, "link", "set", "lo", "up"]);
        machine.mesh(&["up"]);
        machine
    }

    /// The command line that runs an application in its own account.
    pub(super) fn arguments<'a>(name: &'a str, more: &[&'a str], listen: &'a str) -> Vec<&'a str> {
        let mut arguments = vec!["run", "--detach", "--timeout", "90", "--name", name];
        arguments.extend(["--service-account", name, "--user", "1000"]);
        arguments.extend(match name {
            "web" => ["--label", "app=web"],
            _ => ["--label", "app=other"],
        });
        arguments.extend(more);
        arguments.extend(["--", "python3", "application.py", name]);
        arguments.extend(listen.split(' '));
        arguments
    }

    /// Runs an application, and waits until it listens.
    pub(super) fn run(&self, name: &str, more: &[&str], listen: &str) {
        self.mesh(&Self::arguments(name, more, listen));
        let first = listen.split(' ').next().unwrap();
        let port = first.rsplit_once(':').unwrap().1.parse().unwrap();
        let host = if first.contains('[') {
            "::1"
        } else {
            "127.0.0.1"
        };
        let host: IpAddr = host.parse().unwrap();
        let listens = || {
            let connected = self.inside(name, move || TcpStream::connect((host, port)).is_ok());
            Some(()).filter(|()| connected)
        };
        eventually(listens).unwrap_or_else(|| panic!("{name} does not listen at {first}"));
    }

    /// Has an application call a URL: `status` and `body`, or `error`.
    pub(super) fn call(&self, from: &str, url: &str) -> Value {
        let escaped = url.bytes().fold(String::new(), |mut text, byte| {
            write!(text, "%{byte:02x}").unwrap();
            text
        });
        self.get(from, &format!("/call/{escaped}"))
    }

    /// What an application answers to a path; asked on its own loopback, past every sidecar.
    pub(super) fn get(&self, from: &str, path: &str) -> Value {
        let (host, port) = match from {
            "web" => ("127.0.0.1", 8080),
            "till" => ("::1", 7000),
            _ => ("::1", 9080),
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = self.inside(from, move || exchange(host, port, &request));
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{from}: {error}: {answer}"))
    }

    /// Sends bytes from the machine to an address, and reads what comes until the end.
    pub(super) fn say(&self, address: &str, port: u16, bytes: &str) -> String {
        let (address, bytes) = (address.to_owned(), bytes.to_owned());
        let netns = format!("/run/netns/{}", self.name);
        within(&netns, move || exchange(&address, port, &bytes))
    }

    /// The same from inside a workload to its loopback.
    pub(super) fn say_inside(&self, workload: &str, port: u16, bytes: &str) -> String {
        let bytes = bytes.to_owned();
        self.inside(workload, move || exchange("127.0.0.1", port, &bytes))
    }

    /// Whether somebody takes connections from the machine at an address.
    pub(super) fn connect(&self, address: &str, port: u16) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let netns = format!("/run/netns/{}", self.name);
        within(&netns, move || TcpStream::connect((address, port)).is_ok())
    }

    /// A server on the machine itself, outside the mesh: its address and port.
    pub(super) fn serve_on_gateway(&self) -> String {
        let netns = format!("/run/netns/{}", self.name);
        let listener = within(&netns, || TcpListener::bind("10.213.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    request.extend(byte);
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address.to_string()
    }

    /// The netfilter rules in a workload's namespace.
    pub(super) fn rules(&self, workload: &str) -> String {
        let netns = self.namespace(workload);
        let output = Command::new("nsenter")
            .arg(format!("--net={netns}"))
            .args(["nft", "list", "ruleset"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of a workload's units.
    pub(super) fn units(&self, workload: &str) -> Vec<String> {
        let group = self.group(workload);
        let units = group["units"].as_array().unwrap().iter();
        units
            .map(|unit| unit["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The rights of a unit's process, as a set of bits.
    pub(super) fn effective_capabilities(&self, workload: &str, unit: &str) -> u64 {
        let status = format!("/proc/{}/status", self.pid(workload, unit));
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    }

    /// The first address of a workload.
    pub(super) fn address(&self, workload: &str) -> String {
        let group = self.group(workload);
        group["addresses"][0].as_str().unwrap().to_owned()
    }

    /// Stores an object.
    pub(super) fn apply(&self, object: &Value) {
        let file = self.directory.path().join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        self.mesh(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// Runs `mesh` on the machine: what it says.
    pub(super) fn mesh(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "mesh {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `mesh` on the machine, where it must fail: what it says.
    pub(super) fn mesh_fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            !output.status.success(),
            "mesh {arguments:?}: {}",
            text(&output)
        );
        text(&output)
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let directory = self.directory.path();
        // `ip netns exec` would hide the mounts of one call from the next.
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(directory.join("mesh"))
            .args(arguments)
            .current_dir(directory)
            .env("MESH_HOME", directory.join("home"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn group(&self, workload: &str) -> Value {
        let status: Value = serde_json::from_str(&self.mesh(&["status", "--json"])).unwrap();
        let mut groups = status["groups"].as_array().unwrap().iter();
        groups
            .find(|group| group["name"] == workload)
            .unwrap()
            .clone()
    }

    fn pid(&self, workload: &str, unit: &str) -> u64 {
        let group = self.group(workload);
        let mut units = group["units"].as_array().unwrap().iter();
        let unit = units.find(|it| it["name"] == unit).unwrap();
        unit["pid"].as_u64().unwrap()
    }

    fn namespace(&self, workload: &str) -> String {
        self.group(workload)["netns"].as_str().unwrap().to_owned()
    }

    /// Does something in a workload's network namespace.
    fn inside<T: Send + 'static>(
        &self,
        workload: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        within(&self.namespace(workload), work)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            // Envoy writes its log each second.
            thread::sleep(Duration::from_millis(1500));
            for unit in ["api", "web", "till"] {
                let output = self.output(&["logs", unit, "sidecar"]);
                let said = text(&output);
                let skip = said.lines().count().saturating_sub(30);
                eprintln!("--- {unit}");
                said.lines().skip(skip).for_each(|line| eprintln!("{line}"));
            }
        }
        let down = self.output(&["down", "--purge"]);
        ip(&["netns", "del", &self.name]);
        if !thread::panicking() {
            assert!(down.status.success(), "{}", text(&down));
        }
    }
}

/// Asks again until there is an answer, or the time is over.
pub(super) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || began.elapsed() > PATIENCE {
            return answer;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn within<T: Send + 'static>(netns: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(Path::new(netns)).unwrap();
    // A thread of its own, since a thread does not come back from a namespace.
    let thread = thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        work()
    });
    thread.join().unwrap()
}

fn exchange(host: &str, port: u16, bytes: &str) -> String {
    let host: IpAddr = host.parse().unwrap();
    let mut answer = Vec::new();
    let mut talk = || {
        let mut stream = TcpStream::connect((host, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        stream.write_all(bytes.as_bytes())?;
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece)? {
                0 => return Ok::<_, std::io::Error>(()),
                count => answer.extend(piece.iter().take(count)),
            }
        }
    };
    // A connection that is cut is an answer, too.
    let ended = talk();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match ended {
        Err(error) if answer.is_empty() => error.to_string(),
        _ => answer,
    }
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status();
    assert!(status.unwrap().success(), "`ip {}` failed", words.join(" "));
}

fn text(output: &Output) -> String {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&said).into_owned()
}
