//! Which services of a Compose file are the control plane's, and what their commands mean: pure.
//!
//! The install page of Istio 0.4 starts etcd and the API server of Kubernetes from such a file.
//! Here both are ours: the images are replaced, and the flags that decide something are kept.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh_model::sidecar::API_PORT;
use mesh_runtime::compose::{Compose, FileProblem, FileProblems, Located, Service};
use mesh_runtime::{Readiness, UnitSpec};

use super::flag::{Flag, flags};

/// Our images of what such a file runs.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Images<'a> {
    /// The image with etcd.
    pub(in super::super) etcd: &'a str,
    /// The image with this program.
    pub(in super::super) mesh: &'a str,
}

/// What a file says about the control plane.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in super::super) struct Control {
    /// The service that is etcd.
    pub(in super::super) etcd: Option<Etcd>,
    /// The service that is the API server.
    pub(in super::super) api: Option<Api>,
    /// What is done differently than the file says.
    pub(in super::super) notes: Vec<FileProblem>,
}

/// The service that is etcd.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) struct Etcd {
    /// Its key in the file.
    pub(in super::super) service: String,
    /// The flags that it is started with, beside its own.
    pub(in super::super) flags: Vec<String>,
    /// The port at which clients reach it.
    pub(in super::super) port: u16,
}

/// The service that is the API server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) struct Api {
    /// Its key in the file.
    pub(in super::super) service: String,
    /// The port at which it serves TLS.
    pub(in super::super) port: u16,
    /// The members of the etcd cluster.
    pub(in super::super) etcd_endpoints: Vec<String>,
    /// Whether it says more in its log.
    pub(in super::super) verbose: bool,
}

/// Flags of kube-apiserver that are known.
///
/// Source: `kube-apiserver --help` of Kubernetes 1.7.
const API_FLAGS: [&str; 6] = [
    "etcd-servers",
    "insecure-port",
    "insecure-bind-address",
    "service-cluster-ip-range",
    "v",
    "storage-backend",
];

/// Flags of etcd that are handed on.
///
/// Source: `etcd --help` of etcd 3.4.
const ETCD_FLAGS: [&str; 16] = [
    "advertise-client-urls",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "election-timeout",
    "heartbeat-interval",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "listen-client-urls",
    "listen-peer-urls",
    "log-level",
    "max-request-bytes",
    "name",
    "quota-backend-bytes",
    "snapshot-count",
];

/// Finds etcd and the API server, and replaces their images and commands.
///
/// What is left in the file are ordinary services.
///
/// # Errors
///
/// Every flag that is not known and every value that cannot be kept, with line and column.
pub(in super::super) fn translate(
    file: &str,
    compose: &mut Compose,
    images: Images<'_>,
) -> Result<Control, FileProblems> {
    let mut control = Control::default();
    let mut problems = Vec::new();
    for (key, service) in &mut compose.services {
        let path = format!("services.{key}");
        let program = service.value.image.as_ref().map(|it| program(&it.value));
        let replaced = match program {
            Some("etcd") => {
                if let Some(other) = &control.etcd {
                    let message = format!("`{}` is etcd already, and one is run", other.service);
                    problems.push(FileProblem::new(service.at, &path, message));
                }
                control.etcd = Some(etcd(key, &service.value, &path, &mut problems));
                keep_inside(&path, &mut service.value, &mut control.notes);
                images.etcd
            }
            Some("kube-apiserver") => {
                if let Some(other) = &control.api {
                    let message = format!(
                        "`{}` is the API server already, and one is run",
                        other.service
                    );
                    problems.push(FileProblem::new(service.at, &path, message));
                }
                let mut told = Told {
                    path: &path,
                    problems: &mut problems,
                    notes: &mut control.notes,
                };
                control.api = Some(api(key, service, &mut told));
                images.mesh
            }
            _ => continue,
        };
        refuse(&path, &service.value, &mut problems);
        replace(&path, &mut service.value, replaced, &mut control.notes);
    }
    match (&control.etcd, &control.api) {
        (Some(etcd), None) if problems.is_empty() => {
            let at = compose.services.get(&etcd.service).map(|it| it.at);
            let message =
                "the file has an etcd and no API server (an image named `kube-apiserver`)";
            problems.extend(at.map(|at| FileProblem::new(at, "services", message)));
        }
        _ => {}
    }
    if problems.is_empty() {
        Ok(control)
    } else {
        problems.sort_by_key(|problem| problem.at);
        Err(FileProblems {
            file: file.to_owned(),
            problems,
        })
    }
}

/// What an image is named after, without registry, architecture and tag.
fn program(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split(['@', ':']).next().unwrap_or(name);
    let architectures = ["-amd64", "-arm64", "-arm", "-ppc64le", "-s390x"];
    architectures
        .into_iter()
        .find_map(|it| name.strip_suffix(it))
        .unwrap_or(name)
}

fn replace(path: &str, service: &mut Service, image: &str, notes: &mut Vec<FileProblem>) {
    if let Some(theirs) = &mut service.image {
        let message = format!("`{}` is replaced by `{image}`", theirs.value);
        notes.push(FileProblem::new(
            theirs.at,
            format!("{path}.image"),
            message,
        ));
        image.clone_into(&mut theirs.value);
    }
    service.entrypoint = None;
    service.command = None;
    if service.privileged.value {
        let message = "it needs no right on the host, and gets none";
        let path = format!("{path}.privileged");
        notes.push(FileProblem::new(service.privileged.at, path, message));
        service.privileged.value = false;
    }
}

/// What the control plane decides by itself.
fn refuse(path: &str, service: &Service, problems: &mut Vec<FileProblem>) {
    let mut wrong = |at, key: &str| {
        let message = "the control plane decides that by itself: leave it out";
        problems.push(FileProblem::new(at, format!("{path}.{key}"), message));
    };
    for mount in &service.volumes {
        wrong(mount.at, "volumes");
    }
    for capability in service.cap_add.iter().chain(&service.cap_drop) {
        wrong(capability.at, "cap_add");
    }
    let places = [
        ("user", service.user.as_ref().map(|it| it.at)),
        ("healthcheck", service.healthcheck.as_ref().map(|it| it.at)),
        (
            "network_mode",
            service.network_mode.as_ref().map(|it| it.at),
        ),
    ];
    for (key, at) in places {
        if let Some(at) = at {
            wrong(at, key);
        }
    }
}

/// etcd asks nobody who he is, and holds every secret of the mesh.
fn keep_inside(path: &str, service: &mut Service, notes: &mut Vec<FileProblem>) {
    let open = service
        .ports
        .iter_mut()
        .filter(|it| it.value.address.is_none());
    for port in open {
        port.value.address = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let message = format!(
            "etcd asks for no password: published on this machine alone, as `{}`",
            port.value
        );
        notes.push(FileProblem::new(port.at, format!("{path}.ports"), message));
    }
}

fn etcd(key: &str, service: &Service, path: &str, problems: &mut Vec<FileProblem>) -> Etcd {
    let found = flags(path, service, "etcd", &ETCD_FLAGS, problems);
    let mut etcd = Etcd {
        service: key.to_owned(),
        flags: Vec::new(),
        port: 2379,
    };
    for flag in &found {
        let Flag { name, value, at } = flag;
        if name == "listen-client-urls" {
            // Everywhere: from loopback it is asked whether it is ready, the API server is elsewhere.
            let mut ports = value.split(',').filter_map(|url| {
                let rest = url.strip_prefix("http://")?;
                let address: SocketAddr = rest.trim_end_matches('/').parse().ok()?;
                address.ip().is_unspecified().then(|| address.port())
            });
            if let Some(port) = ports.next_back() {
                etcd.port = port;
            } else {
                let message = format!("`{value}` of `{name}` has no `http://0.0.0.0:PORT`");
                let path = format!("{path}.command");
                problems.push(FileProblem::new(*at, path, message));
            }
        }
        etcd.flags.push(format!("--{name}={value}"));
    }
    let has = |name: &str| found.iter().any(|flag| flag.name == name);
    for name in ["listen-client-urls", "advertise-client-urls"] {
        if !has(name) {
            etcd.flags
                .push(format!("--{name}=http://0.0.0.0:{}", etcd.port));
        }
    }
    etcd
}

impl Etcd {
    /// Changes the command of our etcd to what the file says.
    pub(in super::super) fn change(&self, unit: &mut UnitSpec) {
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let theirs: BTreeSet<_> = self.flags.iter().map(|flag| name(flag)).collect();
        unit.command.retain(|flag| !theirs.contains(&name(flag)));
        unit.command.extend(self.flags.iter().cloned());
        unit.readiness = Some(Readiness::http(self.port, "/health"));
    }
}

impl Api {
    /// Changes the command of our API server to what the file says. It stays at its own port too,
    /// where CA, Pilot and Mixer ask for it.
    pub(in super::super) fn change(&self, unit: &mut UnitSpec, address: Option<Ipv4Addr>) {
        set(unit, "--etcd-endpoints", &self.etcd_endpoints.join(","));
        set(unit, "--store", "etcd");
        if let Some(address) = address {
            for flag in ["--listen", "--advertise"] {
                set(unit, flag, &address.to_string());
            }
            let theirs = (self.port != API_PORT).then_some(self.port);
            for port in std::iter::once(API_PORT).chain(theirs) {
                let listen = format!("{address}:{port}");
                unit.command.extend(["--api-listen".to_owned(), listen]);
            }
        }
        if !self.verbose {
            unit.command.retain(|word| word != "--verbose");
        }
    }
}

/// Sets the value of a flag.
fn set(unit: &mut UnitSpec, flag: &str, value: &str) {
    let place = unit.command.iter().position(|word| word == flag);
    match place.and_then(|place| unit.command.get_mut(place + 1)) {
        Some(word) => value.clone_into(word),
        None => unit.command.extend([flag.to_owned(), value.to_owned()]),
    }
}

/// What is said about a service.
struct Told<'a> {
    path: &'a str,
    problems: &'a mut Vec<FileProblem>,
    notes: &'a mut Vec<FileProblem>,
}

impl Told<'_> {
    fn wrong(&mut self, flag: &Flag, expected: &str) {
        let message = format!("`{}` of `{}` is not {expected}", flag.value, flag.name);
        let path = format!("{}.command", self.path);
        self.problems.push(FileProblem::new(flag.at, path, message));
    }

    fn note(&mut self, flag: &Flag, message: String) {
        let path = format!("{}.command", self.path);
        self.notes.push(FileProblem::new(flag.at, path, message));
    }
}

fn api(key: &str, service: &Located<Service>, told: &mut Told<'_>) -> Api {
    let found = flags(
        told.path,
        &service.value,
        "kube-apiserver",
        &API_FLAGS,
        told.problems,
    );
    let mut api = Api {
        service: key.to_owned(),
        // Where kube-apiserver served in clear unless told otherwise.
        port: 8080,
        etcd_endpoints: Vec::new(),
        verbose: false,
    };
    let before = told.problems.len();
    for flag in &found {
        api_flag(flag, &mut api, told);
    }
    if api.etcd_endpoints.is_empty() && told.problems.len() == before {
        let message = "found no `--etcd-servers`, expected where etcd is";
        let path = format!("{}.command", told.path);
        told.problems
            .push(FileProblem::new(service.at, path, message));
    }
    api
}

fn api_flag(flag: &Flag, api: &mut Api, told: &mut Told<'_>) {
    let value = flag.value.as_str();
    match flag.name.as_str() {
        "etcd-servers" => {
            let all = value.split(',').map(ToOwned::to_owned);
            api.etcd_endpoints = all.collect();
            let is_url = |it: &String| {
                let host = it
                    .strip_prefix("http://")
                    .or_else(|| it.strip_prefix("https://"));
                host.is_some_and(|it| {
                    !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_graphic())
                })
            };
            if !api.etcd_endpoints.iter().all(is_url) {
                told.wrong(
                    flag,
                    "a list of URLs (`http://HOST:PORT`, joined by commas)",
                );
            }
        }
        "insecure-port" => match value.parse::<u16>() {
            Ok(port) if port > 0 => {
                api.port = port;
                let message = format!("port {port} serves TLS, and asks who is calling");
                told.note(flag, message);
            }
            _ => told.wrong(flag, "a port (1 to 65535)"),
        },
        "insecure-bind-address" => match value.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => {}
            _ => told.wrong(
                flag,
                "`0.0.0.0` or `::`: CA, Pilot and Mixer reach it over the network",
            ),
        },
        "service-cluster-ip-range" => {
            if value.parse::<ipnet::IpNet>().is_err() {
                told.wrong(flag, "a range of addresses, as in `10.99.0.0/16`");
            } else {
                let message =
                    format!("`{value}` is not used: addresses of services are in 240.240.0.0/16");
                told.note(flag, message);
            }
        }
        // From 2 on, kube-apiserver tells what it does; below, what goes wrong.
        "v" => match value.parse::<u8>() {
            Ok(level) if level <= 10 => api.verbose = level >= 2,
            _ => told.wrong(flag, "a level (0 to 10)"),
        },
        _ => {
            if value != "etcd3" {
                told.wrong(flag, "`etcd3`, the only storage there is");
            }
        }
    }
}

#[cfg(test)]
mod tests;
