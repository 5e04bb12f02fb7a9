//! A client and a server with sidecars, made of a case and real Envoys.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use std::{fs, thread};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_control::pilot::mesh::{Config, Mesh};
use mesh_control::pilot::snapshot;
use mesh_model::{Health, Host, Workload};
use mesh_proto::envoy::data::accesslog::v3::{AccessLogCommon, TcpAccessLogEntry};
use mesh_proto::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use mesh_proto::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use mesh_proto::envoy::service::accesslog::v3::stream_access_logs_message::{
    Identifier, LogEntries, TcpAccessLogEntries,
};
use mesh_proto::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

use super::bootstrap::{Resources, bootstrap, watch_inbound_routes, write_inbound_routes};
use super::case;
use super::certificate::Authority;
use super::direct::Plane;
use super::namespace::{Machine, PROXY, pair};

/// How long anything may take before it counts as not happening.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A client and a server.
pub(crate) struct World {
    pub(crate) mesh: Mesh,
    pub(crate) client: Sidecar,
    pub(crate) server: Sidecar,
    /// What the client asks, where it asks.
    pub(crate) plane: Option<Plane>,
}

/// An open connection of HTTP/1.1.
pub(crate) struct Kept(BufReader<TcpStream>);

/// A machine with a sidecar.
pub(crate) struct Sidecar {
    envoy: Child,
    /// Access logs that the Mixer gets.
    pub(crate) logs: Receiver<Entry>,
    pub(crate) machine: Machine,
    /// Its bootstrap, secrets and routes.
    files: TempDir,
}

/// What matters of an access log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Entry {
    /// The name of the log: `inbound` or `outbound`.
    pub(crate) log: String,
    pub(crate) peer: String,
    pub(crate) service: String,
    pub(crate) path: String,
    pub(crate) code: u32,
}

// === impl World ===

impl World {
    /// Starts both sides. `workloads` and `objects` are YAML as in the cases, where `CLIENT` and
    /// `SERVER` stand for the addresses.
    pub(crate) fn start(yaml: &str) -> Self {
        Self::of(yaml, |_, _, _| None)
    }

    /// The same where the client asks its agent for the clusters of addresses.
    pub(crate) fn start_asking(yaml: &str) -> Self {
        Self::of(yaml, |mesh, client, authority| {
            Some(Plane::start(mesh, client, authority))
        })
    }

    fn of(yaml: &str, plane: impl FnOnce(&Mesh, &Workload, &Authority) -> Option<Plane>) -> Self {
        let [client, server] = pair();
        let mesh = mesh_of(yaml, &client, &server);
        let authority = Authority::new();
        let plane = plane(&mesh, here(&mesh, &client), &authority);
        let client = Sidecar::start(&mesh, client, &authority, plane.as_ref());
        let server = Sidecar::start(&mesh, server, &authority, None);
        Self {
            mesh,
            client,
            server,
            plane,
        }
    }

    /// Gives the server's proxy the routes of another mesh, and nothing else of it.
    pub(crate) fn change_inbound_routes(&mut self, yaml: &str) {
        self.mesh = mesh_of(yaml, &self.client.machine, &self.server.machine);
        let resources = resources(&self.mesh, &self.server.machine);
        write_inbound_routes(&resources, self.server.files.path());
    }

    /// The virtual addresses of a host.
    pub(crate) fn virtual_addresses(&self, host: &str) -> [IpAddr; 2] {
        let host: Host = host.parse().unwrap();
        let addresses = self.mesh.entries[&host].addresses.unwrap();
        [addresses.v4.into(), addresses.v6.into()]
    }

    /// A request of the client's application, and the whole answer.
    pub(crate) fn get(&self, to: IpAddr, port: u16, host: &str, path: &str) -> String {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nx-forwarded-client-cert: forged\r\nconnection: close\r\n\r\n"
        );
        self.say(to, port, &request).unwrap()
    }

    /// A connection of the client's application that carries one request after the other.
    pub(crate) fn connect(&self, to: IpAddr, port: u16) -> Kept {
        let stream = self
            .client
            .machine
            .inside(move || TcpStream::connect_timeout(&(to, port).into(), PATIENCE).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Kept(BufReader::new(stream))
    }

    /// Bytes of the client's application, and all that is answered.
    pub(crate) fn say(&self, to: IpAddr, port: u16, bytes: &str) -> std::io::Result<String> {
        let bytes = bytes.to_owned();
        self.client.machine.inside(move || {
            let mut stream = TcpStream::connect_timeout(&(to, port).into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(bytes.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }
}

// === impl Kept ===

impl Kept {
    /// The status of the answer to a request, whose body is read as well.
    pub(crate) fn get(&mut self, host: &str, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = || {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "it was closed");
            line.trim_end().to_ascii_lowercase()
        };
        let status = line().split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            let header = line();
            assert_ne!(header, "connection: close");
            if let Some(digits) = header.strip_prefix("content-length: ") {
                length = digits.parse().unwrap();
            }
            if header.is_empty() {
                break;
            }
        }
        self.0.read_exact(&mut vec![0; length]).unwrap();
        status
    }
}

// === impl World, calls of HTTP/2 ===

impl World {
    /// A request of the client's application in HTTP/2, and the status and body of the answer.
    pub(crate) fn get_over_http2(
        &self,
        to: IpAddr,
        port: u16,
        host: &str,
        path: &str,
    ) -> (u16, String) {
        let stream = self
            .client
            .machine
            .inside(move || TcpStream::connect((to, port)).unwrap());
        stream.set_nonblocking(true).unwrap();
        let request = http::Request::get(format!("http://{host}{path}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream).unwrap());
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        })
    }

    /// A call of gRPC by the client's application, which sends one message.
    pub(crate) fn call_grpc(&self, to: IpAddr, port: u16, host: &str) {
        let stream = self
            .client
            .machine
            .inside(move || TcpStream::connect((to, port)).unwrap());
        stream.set_nonblocking(true).unwrap();
        let mut stream = Some(stream);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let connect = tower::service_fn(move |_: http::Uri| {
                let stream = stream.take().unwrap();
                async move { tokio::net::TcpStream::from_std(stream).map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).unwrap();
            let channel = endpoint.connect_with_connector(connect).await.unwrap();
            let message = StreamAccessLogsMessage {
                identifier: Some(Identifier {
                    log_name: "sent by the client".to_owned(),
                    ..Identifier::default()
                }),
                log_entries: Some(LogEntries::TcpLogs(TcpAccessLogEntries {
                    log_entry: vec![TcpAccessLogEntry {
                        common_properties: Some(AccessLogCommon::default()),
                        ..TcpAccessLogEntry::default()
                    }],
                })),
            };
            let messages = tokio_stream::iter([message]);
            AccessLogServiceClient::new(channel)
                .stream_access_logs(messages)
                .await
                .unwrap();
        });
    }
}

// === impl Sidecar ===

impl Sidecar {
    fn start(mesh: &Mesh, machine: Machine, authority: &Authority, plane: Option<&Plane>) -> Self {
        let workload = here(mesh, &machine);
        let mut resources = resources(mesh, &machine);
        without_tls(&mut resources, "mixer");

        let files = TempDir::new().unwrap();
        watch_inbound_routes(&mut resources, files.path());
        let identity = workload.identity(&mesh.trust_domain).to_string();
        let secrets = authority.issue(&identity, files.path());
        let mut config = bootstrap(&resources, &secrets, &files.path().join("admin"));
        if let Some(plane) = plane {
            plane.put_into(&mut config);
        }
        let file = files.path().join("envoy.json");
        fs::write(&file, config.to_string()).unwrap();
        std::os::unix::fs::chown(files.path(), Some(PROXY), Some(PROXY)).unwrap();
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();

        let logs = serve_grpc(machine.inside(|| TcpListener::bind("127.0.0.1:15011").unwrap()));
        let binary = super::envoy();
        let mut envoy = machine.inside(move || {
            Command::new(binary)
                .args([
                    "--disable-hot-restart",
                    "--concurrency",
                    "1",
                    "--log-level",
                    "info",
                ])
                .args(["--file-flush-interval-msec", "50", "-c"])
                .arg(file)
                .uid(PROXY)
                .gid(PROXY)
                .stdout(Stdio::inherit())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut lines = BufReader::new(envoy.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("Envoy did not start:\n{}", said.join("\n"));
            };
            if line.contains("starting workers") {
                break;
            }
            said.push(line);
        }
        // Read on, so that Envoy never waits for a reader.
        thread::spawn(move || lines.for_each(drop));
        Self {
            envoy,
            logs,
            machine,
            files,
        }
    }

    /// The proxy's clusters, as its admin interface lists them.
    pub(crate) fn clusters(&self) -> String {
        let mut stream = UnixStream::connect(self.files.path().join("admin")).unwrap();
        stream
            .write_all(b"GET /clusters HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Serves HTTP: every answer is the request's head, the caller's address before it.
    pub(crate) fn serve_http(&self, address: impl Into<IpAddr>, port: u16) {
        self.serve(address.into(), port, |mut stream| {
            let peer = stream.peer_addr()?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.extend(byte);
            }
            let body = format!("peer: {}\r\n{}", peer.ip(), String::from_utf8_lossy(&head));
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        });
    }

    /// Serves one request on each connection with the same answer, and hands on its first line and
    /// its body, of four bytes.
    pub(crate) fn serve_answer(
        &self,
        port: u16,
        answer: &'static str,
        heard: &Sender<(String, String)>,
    ) {
        let heard = heard.clone();
        self.serve(Ipv6Addr::UNSPECIFIED.into(), port, move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut first = String::new();
            reader.read_line(&mut first)?;
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line)?;
            }
            let mut body = [0; 4];
            reader.read_exact(&mut body)?;
            let body = String::from_utf8_lossy(&body).into_owned();
            // Nobody listens any more when the test is over.
            drop(heard.send((first.trim_end().to_owned(), body)));
            stream.write_all(answer.as_bytes())
        });
    }

    /// Serves a protocol in which the server speaks first and then repeats one line.
    pub(crate) fn serve_lines(&self, address: impl Into<IpAddr>, port: u16) {
        self.serve(address.into(), port, |mut stream| {
            writeln!(stream, "hello {}", stream.peer_addr()?.ip())?;
            let mut line = String::new();
            BufReader::new(stream.try_clone()?).read_line(&mut line)?;
            stream.write_all(line.as_bytes())
        });
    }

    /// Serves gRPC: what is sent is what comes out here.
    pub(crate) fn serve_grpc(&self, port: u16) -> Receiver<Entry> {
        let bind = move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        serve_grpc(self.machine.inside(bind))
    }

    fn serve(
        &self,
        address: IpAddr,
        port: u16,
        answer: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
    ) {
        let listener = self
            .machine
            .inside(move || TcpListener::bind((address, port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A caller that goes away is no concern of a server.
                let answer = answer.clone();
                thread::spawn(move || stream.and_then(answer).ok());
            }
        });
    }

    /// The next access log of which `is_meant` says so.
    pub(crate) fn log(&self, is_meant: impl Fn(&Entry) -> bool) -> Entry {
        let mut others = Vec::new();
        loop {
            match self.logs.recv_timeout(PATIENCE) {
                Ok(entry) if is_meant(&entry) => return entry,
                Ok(entry) => others.push(entry),
                Err(error) => panic!("no such access log: {error}; there were {others:#?}"),
            }
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.envoy.kill());
        drop(self.envoy.wait());
    }
}

/// The mesh that `yaml` describes, in which the machines' addresses are known by their roles.
pub(crate) fn mesh_of(yaml: &str, client: &Machine, server: &Machine) -> Mesh {
    let list = |machine: &Machine| format!("[\"{}\", \"{}\"]", machine.v4, machine.v6);
    let yaml = yaml
        .replace("CLIENT", &list(client))
        .replace("HALFDEAD", &format!("[\"10.99.0.77\", \"{}\"]", server.v6))
        .replace("SERVER4", &format!("[\"{}\"]", server.v4))
        .replace("SERVER6", &format!("[\"{}\"]", server.v6))
        .replace("SERVER", &list(server))
        .replace("OUTSIDE", &server.outside[0].to_string());
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
    let workloads: Vec<Workload> = serde_json::from_value(documents.remove(0)).unwrap();
    let mut config = Config {
        mixer: vec![SocketAddr::from(([127, 0, 0, 1], 15011))],
        ..Config::default()
    };
    for document in &documents {
        case::add(&mut config, document);
    }
    let workloads: Vec<_> = workloads
        .into_iter()
        .map(|workload| (workload, Health::Healthy))
        .collect();
    case::assemble(config, &workloads)
}

/// The workload of a machine.
fn here<'a>(mesh: &'a Mesh, machine: &Machine) -> &'a Workload {
    let is_here = |workload: &&(Workload, Health)| workload.0.addresses == machine.addresses();
    &mesh.workloads().find(is_here).unwrap().0
}

/// What the proxy of a machine gets without asking for it.
fn resources(mesh: &Mesh, machine: &Machine) -> Resources {
    let workload = here(mesh, machine);
    let mut resources = case::json(&snapshot::shared(
        mesh,
        &workload.namespace,
        workload.mode(),
    ));
    for (kind, own) in case::json(&snapshot::own(mesh, workload)) {
        resources.get_mut(kind).unwrap().extend(own);
    }
    let clusters = resources.get_mut("clusters").unwrap();
    clusters.retain(|name, _| !name.starts_with("direct|"));
    resources
}

/// The Mixer of the test speaks without TLS.
fn without_tls(resources: &mut Resources, cluster: &str) {
    let cluster = resources
        .get_mut("clusters")
        .unwrap()
        .get_mut(cluster)
        .unwrap();
    let socket = cluster.as_object_mut().unwrap().remove("transport_socket");
    assert!(socket.is_some_and(|socket| socket.to_string().contains("/sa/mixer")));
    cluster["connect_timeout"] = json!("1s");
}

/// Takes access logs: a Mixer, or an application that happens to speak the same.
fn serve_grpc(listener: TcpListener) -> Receiver<Entry> {
    let (sender, receiver) = channel();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let service = AccessLogServiceServer::new(Mixer { sender });
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
    });
    receiver
}

struct Mixer {
    sender: Sender<Entry>,
}

#[tonic::async_trait]
impl AccessLogService for Mixer {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut stream = request.into_inner();
        let mut name = String::new();
        while let Some(message) = stream.message().await? {
            if let Some(identifier) = message.identifier {
                name = identifier.log_name;
            }
            for mut entry in entries(message.log_entries) {
                entry.log.clone_from(&name);
                // Nobody listens any more when the test is over.
                drop(self.sender.send(entry));
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

fn entries(entries: Option<LogEntries>) -> Vec<Entry> {
    let of = |common: Option<AccessLogCommon>| {
        let tags = common.unwrap().custom_tags;
        Entry {
            peer: tags.get("peer").cloned().unwrap_or_default(),
            service: tags.get("service").cloned().unwrap_or_default(),
            ..Entry::default()
        }
    };
    match entries {
        Some(LogEntries::HttpLogs(logs)) => {
            let logs = logs.log_entry.into_iter().map(|log| Entry {
                path: log.request.unwrap_or_default().path,
                code: log
                    .response
                    .and_then(|it| it.response_code)
                    .map_or(0, |code| code.value),
                ..of(log.common_properties)
            });
            logs.collect()
        }
        Some(LogEntries::TcpLogs(logs)) => {
            let logs = logs.log_entry.into_iter();
            logs.map(|log| of(log.common_properties)).collect()
        }
        None => Vec::new(),
    }
}
