//! What a sidecar listens at where no redirect rules bring traffic to it.
//!
//! Applications then call by the forward proxy ([`FORWARD_PROXY_PORT`]) or by a loopback address
//! for each upstream that they declare, and others call them at ports of the sidecar's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::sidecar::FORWARD_PROXY_PORT;
use crate::{Host, Namespace, Problem, Problems, WorkloadPort, WorkloadService};

/// How the traffic of an application comes to its sidecar.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// By redirect rules in its network namespace: the application notices nothing.
    #[default]
    Transparent,
    /// By the application itself, which is told where its sidecar listens; no rule is set.
    Explicit,
    /// From outside the mesh: it is a gateway, which has no application.
    Gateway,
}

/// What the sidecar of an explicit workload listens at.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Explicit {
    /// For each port of the application's own, the sidecar's at which others call it.
    #[serde(default)]
    pub inbound: BTreeMap<u16, u16>,
    /// The services that the application calls at loopback addresses.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
}

/// A service that an application calls at a loopback address of its sidecar's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The service as the workload calls it: `reviews`, `db.shop`, `api.example.com`.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// Where the sidecar takes the calls.
    pub listen: SocketAddr,
}

/// An upstream as somebody writes it, `HOST:PORT[=ADDRESS:PORT]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeclaredUpstream {
    /// The service as the workload calls it.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// Where the sidecar is to take the calls; the next free port of ours when absent.
    pub listen: Option<SocketAddr>,
}

// === impl Explicit ===

impl Explicit {
    /// What the sidecar of a workload with these services and upstreams listens at: a port from
    /// [`INBOUND_PORTS`] for each port of the application's, and for each upstream that names no
    /// address one from [`UPSTREAM_PORTS`] of 127.0.0.1.
    ///
    /// ```
    /// # use mesh_model::Explicit;
    /// let upstream = |text: &str| text.parse().unwrap();
    /// let explicit = Explicit::new(&[], &[upstream("reviews:9080"), upstream("db.shop:6379=127.0.0.1:6379")]);
    /// assert_eq!(explicit.environment()["MESH_UPSTREAM_ADDR_REVIEWS"], "127.0.0.1:15200");
    /// assert_eq!(explicit.environment()["MESH_UPSTREAM_PORT_DB_SHOP"], "6379");
    /// ```
    pub fn new(services: &[WorkloadService], upstreams: &[DeclaredUpstream]) -> Self {
        let targets: BTreeSet<_> = targets(services).collect();
        let mut free = UPSTREAM_PORTS;
        let mut next = || {
            // Beyond the last port validation says what is wrong.
            let port = free.next().unwrap_or(0);
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
        };
        Self {
            inbound: targets.into_iter().zip(INBOUND_PORTS).collect(),
            upstreams: upstreams
                .iter()
                .map(|declared| Upstream {
                    name: declared.name.clone(),
                    port: declared.port,
                    listen: declared.listen.unwrap_or_else(&mut next),
                })
                .collect(),
        }
    }

    /// The variables by which an application finds its sidecar: the forward proxy, and address, IP
    /// and port of each upstream, as Nomad names those of its own.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let proxy = format!("http://127.0.0.1:{FORWARD_PROXY_PORT}");
        let mut variables = BTreeMap::new();
        // Programs look for the one, the other, or both.
        for name in ["HTTP_PROXY", "http_proxy"] {
            variables.insert(name.to_owned(), proxy.clone());
        }
        for name in ["NO_PROXY", "no_proxy"] {
            // Some compare the host of a URL with its brackets.
            let loopback = "localhost,127.0.0.1,::1,[::1]";
            variables.insert(name.to_owned(), loopback.to_owned());
        }
        for upstream in &self.upstreams {
            let listen = upstream.listen;
            let parts = [
                ("ADDR", listen.to_string()),
                ("IP", listen.ip().to_string()),
                ("PORT", listen.port().to_string()),
            ];
            for (part, value) in parts {
                variables.insert(
                    format!("MESH_UPSTREAM_{part}_{}", upstream.variable()),
                    value,
                );
            }
        }
        variables
    }

    /// Everything that is wrong with it, for a workload with these services.
    pub fn validate(
        &self,
        namespace: &Namespace,
        services: &[WorkloadService],
        path: &str,
        problems: &mut Problems,
    ) {
        let targets: BTreeSet<_> = targets(services).collect();
        for target in targets.difference(&self.inbound.keys().copied().collect()) {
            let path = format!("{path}.inbound[{target}]");
            problems.add(path, "", "a port of the sidecar for this port of a service");
        }
        let mut taken = targets;
        for (target, port) in &self.inbound {
            if is_sidecars(*port) || !taken.insert(*port) {
                let path = format!("{path}.inbound[{target}]");
                problems.add(path, port.to_string(), FREE_PORT);
            }
        }
        let mut variables = BTreeSet::new();
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let path = format!("{path}.upstreams[{index}]");
            if Host::resolve(&upstream.name, namespace).is_err() {
                let expected = "the name of a service (`reviews`, `db.shop`) or a host";
                problems.add(format!("{path}.name"), &upstream.name, expected);
            }
            if !variables.insert(upstream.variable()) {
                let expected = "a name whose variables no upstream before has";
                problems.add(format!("{path}.name"), &upstream.name, expected);
            }
            if upstream.port == 0 {
                problems.add(format!("{path}.port"), "0", "a port between 1 and 65535");
            }
            let listen = upstream.listen;
            if !listen.ip().is_loopback() {
                let expected = "a loopback address, which nobody else can call";
                problems.add(format!("{path}.listen"), listen.to_string(), expected);
            }
            if is_sidecars(listen.port()) || !taken.insert(listen.port()) {
                problems.add(format!("{path}.listen"), listen.to_string(), FREE_PORT);
            }
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// What its environment variables end in: its name in upper case, `_` for all but letters and
    /// digits.
    fn variable(&self) -> String {
        let letter = |letter: char| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_uppercase()
            } else {
                '_'
            }
        };
        self.name.chars().map(letter).collect()
    }
}

// === impl DeclaredUpstream ===

impl FromStr for DeclaredUpstream {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let expected =
            "HOST:PORT or HOST:PORT=ADDRESS:PORT (`reviews:9080`, `db.shop:6379=127.0.0.1:16379`)";
        let problem = || Problem::new("upstream", text, expected);
        let (service, listen) = match text.split_once('=') {
            Some((service, listen)) => (service, Some(listen)),
            None => (text, None),
        };
        let (name, port) = service.rsplit_once(':').ok_or_else(problem)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(problem)?;
        let listen = match listen {
            Some(text) => Some(text.parse().ok().ok_or_else(problem)?),
            None => None,
        };
        if name.is_empty() || name.contains([':', '*']) {
            return Err(problem());
        }
        Ok(Self {
            name: name.to_owned(),
            port,
            listen,
        })
    }
}

/// The application's own ports.
fn targets(services: &[WorkloadService]) -> impl Iterator<Item = u16> {
    let ports = services.iter().flat_map(|service| &service.ports);
    ports.map(WorkloadPort::own)
}

/// Whether a port cannot be given away, because each sidecar has something there, or is none.
fn is_sidecars(port: u16) -> bool {
    port == 0 || SIDECAR_PORTS.contains(&port)
}

/// Where others call the application, unless the workload says otherwise.
pub const INBOUND_PORTS: std::ops::RangeInclusive<u16> = 15100..=15199;

/// Where the application calls its upstreams, unless it says otherwise.
pub const UPSTREAM_PORTS: std::ops::RangeInclusive<u16> = 15200..=15299;

/// What a sidecar itself listens at.
const SIDECAR_PORTS: std::ops::RangeInclusive<u16> = 15000..=15090;

const FREE_PORT: &str =
    "a port that neither the sidecar (15000 to 15090), the application nor another entry has";

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Vec<WorkloadService> {
        serde_json::from_value(serde_json::json!([
            { "name": "web", "ports": [
                { "name": "http", "number": 80, "target": 8080, "protocol": "http" },
                { "name": "tcp", "number": 81, "target": 9090, "protocol": "tcp" },
            ] },
            { "name": "admin", "ports": [
                { "name": "http", "number": 80, "target": 8080, "protocol": "http" },
            ] },
        ]))
        .unwrap()
    }

    fn upstreams(texts: &[&str]) -> Vec<DeclaredUpstream> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn paths(explicit: &Explicit) -> Vec<String> {
        let mut problems = Problems::default();
        let namespace = "shop".parse().unwrap();
        explicit.validate(&namespace, &services(), "explicit", &mut problems);
        problems.0.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn every_port_of_the_application_gets_one_of_the_sidecars() {
        let explicit = Explicit::new(&services(), &[]);
        assert_eq!(explicit.inbound, [(8080, 15100), (9090, 15101)].into());
        assert_eq!(paths(&explicit), [""; 0]);
    }

    #[test]
    fn an_upstream_listens_where_it_is_told_or_at_the_next_port() {
        let explicit = Explicit::new(&[], &upstreams(&["a:1", "b:2=[::1]:7", "c-d.e:3"]));
        let variables = explicit.environment();
        assert_eq!(variables["MESH_UPSTREAM_ADDR_A"], "127.0.0.1:15200");
        assert_eq!(variables["MESH_UPSTREAM_ADDR_B"], "[::1]:7");
        assert_eq!(variables["MESH_UPSTREAM_IP_B"], "::1");
        assert_eq!(variables["MESH_UPSTREAM_PORT_C_D_E"], "15201");
        assert_eq!(variables["http_proxy"], "http://127.0.0.1:15002");
    }

    #[test]
    fn everything_wrong_is_found_at_once() {
        let mut explicit = Explicit::new(
            &services(),
            &upstreams(&[
                "a:1=10.0.0.1:99",
                "a:2=127.0.0.1:8080",
                "a..b:1=127.0.0.1:15002",
            ]),
        );
        explicit.inbound = [(8080, 15006)].into();
        assert_eq!(
            paths(&explicit),
            [
                "explicit.inbound[9090]",
                "explicit.inbound[8080]",
                "explicit.upstreams[0].listen",
                "explicit.upstreams[1].name",
                "explicit.upstreams[1].listen",
                "explicit.upstreams[2].name",
                "explicit.upstreams[2].listen",
            ]
        );
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        for wrong in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:70000",
            "a:1=",
            "a:1=x:1",
            "a:1=127.0.0.1",
            "*:1",
        ] {
            assert!(wrong.parse::<DeclaredUpstream>().is_err(), "{wrong}");
        }
    }
}
