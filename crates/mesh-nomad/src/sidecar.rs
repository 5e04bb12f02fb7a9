//! What the proxy of a task group is told by its job: the file that injection writes beside it.
//!
//! Nothing that changes with an allocation or with a release of the mesh is in it: the former is
//! in Nomad's environment, and a change of the latter would restart every allocation.

mod allocation;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use mesh_model::{Problem, Protocol, ServiceAccount, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::identity::ROLE_META;
use crate::model::{Task, TaskGroup};

pub use self::allocation::{Allocation, ControlPlane, ROOT_TAG};

/// How the traffic of a task group gets to its proxy.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mode {
    /// A CNI plugin redirects it before any task starts; nothing in the job has privilege.
    Cni,
    /// A task with `NET_ADMIN` redirects it and watches over that.
    Guard,
    /// Nothing is redirected: services point at the proxy, and applications call it by name.
    Explicit,
    /// A task redirects that of the group's users in the host's own network; one such group fits
    /// on a node.
    HostExclusive,
    /// The same with ports that Nomad picks; many groups fit on a node.
    HostUid,
}

/// What the proxy of a task group is told by its job.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// How traffic gets to it.
    pub mode: Mode,
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Nomad's namespace with the services of the control plane.
    pub mesh_namespace: String,
    /// The account that the group runs as.
    pub service_account: ServiceAccount,
    /// Whether the task is a gateway of the mesh, which stands beside no application.
    ///
    /// Such a task is the only one of its group. It runs `mesh agent --nomad FILE` as 1337:1337 by
    /// `raw_exec` or `docker`, in the network `host`, with an identity `mesh` (audience `mesh-ca`,
    /// in a file), dynamic ports `mesh_dns`, `mesh_metrics`, and `mesh_health` for the readiness check
    /// at `/ready`, and a static
    /// port for each port of the `Gateway`s that select its labels, so that one such group fits on
    /// a node. Ports below 1024 need the capability `NET_BIND_SERVICE`, which `cap_add` gives to
    /// root alone: started as root with `--as-proxy-user`, the agent goes on as 1337:1337 with that
    /// capability and no other. What its services name is where callers outside find it, and
    /// nothing that the mesh calls. The mode is `explicit`: nothing is redirected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gateway: bool,
    /// Labels by which subsets and policies select it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The services that the group is an instance of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<SidecarService>,
    /// Services that the applications call at a port of loopback; in mode `explicit` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Upstream>,
    /// Checks that come to the proxy, to be made in the group's network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
}

/// A service of the group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarService {
    /// Its name.
    pub name: String,
    /// Where the application listens.
    pub port: PortRef,
    /// The port at which callers reach the service, if not the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u16>,
    /// The port of the proxy that the catalogue has in its place; in mode `explicit` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<PortRef>,
    /// What is spoken on it.
    pub protocol: Protocol,
}

/// A service that applications call at a port of loopback.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The host, as applications of the mesh name it.
    pub host: String,
    /// The service's port.
    pub port: u16,
    /// The port of loopback.
    pub listen: PortRef,
}

/// A check of Nomad's that the proxy makes in its place: the check comes as
/// `GET /app-health/<service>/<index>` to the readiness port.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The service.
    pub service: String,
    /// Which of its checks, from 0.
    pub index: usize,
    /// `http`, `tcp` or `grpc`.
    pub kind: ProbeKind,
    /// Where.
    pub port: PortRef,
    /// How long it may take.
    pub timeout_ms: u64,
    /// The path of a request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The method of a request; `GET` when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Header fields of a request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body of a request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// The service that a gRPC check asks about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grpc_service: String,
}

/// What a check does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProbeKind {
    /// A request that must be answered with 200 to 299.
    Http,
    /// A connection.
    Tcp,
    /// gRPC's health protocol.
    Grpc,
}

/// A port: its number, or the label by which `NOMAD_PORT_<label>` tells it.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(untagged)]
#[expect(
    clippy::exhaustive_enums,
    reason = "Nomad has no third way to say a port"
)]
pub enum PortRef {
    /// The number in the group's network.
    Number(u16),
    /// The label; the number is known when the allocation is placed.
    Label(String),
}

// === impl Sidecar ===

impl Sidecar {
    /// What the proxy of an injected group is told; none if the group has no proxy that this
    /// release understands.
    pub fn of_group(group: &TaskGroup) -> Option<Self> {
        let is_proxy = |task: &&Task| {
            let role = task.meta.get().and_then(|meta| meta.get(ROLE_META));
            role.is_some_and(|role| role == "proxy")
        };
        let proxy = group.tasks.items().iter().find(is_proxy)?;
        let mut templates = proxy.templates.items().iter();
        let file = templates.find(|file| file.destination.text() == SIDECAR_FILE)?;
        serde_json::from_str(file.embedded.text()).ok()
    }
}

// === impl SidecarService ===

impl SidecarService {
    /// The port at which callers reach the service, where the application listens at `own`.
    pub fn number_at(&self, own: u16) -> Option<u16> {
        self.number.or_else(|| match self.port {
            PortRef::Number(number) => Some(number),
            PortRef::Label(_) => usual_number(own, self.protocol),
        })
    }
}

// === impl Mode ===

impl Mode {
    /// All modes.
    pub const ALL: [Self; 5] = [
        Self::Cni,
        Self::Guard,
        Self::Explicit,
        Self::HostExclusive,
        Self::HostUid,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cni => "cni",
            Self::Guard => "guard",
            Self::Explicit => "explicit",
            Self::HostExclusive => "host-exclusive",
            Self::HostUid => "host-uid",
        }
    }

    /// Whether the proxy stands in the host's own network, for all that the mode says.
    pub fn is_host(self) -> bool {
        matches!(self, Self::HostExclusive | Self::HostUid)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| {
                let expected = "cni, guard, explicit, host-exclusive or host-uid";
                Problem::new("", text, expected)
            })
    }
}

// === impl PortRef ===

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Label(label) => f.write_str(label),
        }
    }
}

/// The port at which callers reach what listens at a port of the host: the same if somebody chose
/// it, else what the protocol is usually reached at.
pub(crate) fn usual_number(port: u16, protocol: Protocol) -> Option<u16> {
    if port != 0 && !DYNAMIC_PORTS.contains(&port) {
        return Some(port);
    }
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Some(80),
        Protocol::Tls => Some(443),
        _ => None,
    }
}

/// A label as it is in names of Nomad's environment variables.
pub(crate) fn variable(label: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    label.chars().map(clean).collect()
}

/// The label of the port at which an agent answers DNS, where several share a network; the usual one
/// else.
pub const DNS_LABEL: &str = "mesh_dns";

/// The label of the port at which Envoy tells its metrics, where several share a network; the usual
/// one else.
pub const METRICS_LABEL: &str = "mesh_metrics";

/// Where the task of the proxy finds what it is told.
pub(crate) const SIDECAR_FILE: &str = "local/mesh.json";

/// What Nomad gives to ports that name none, unless a client is configured otherwise.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 20_000..=32_000;
