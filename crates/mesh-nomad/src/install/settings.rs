//! What an operator wants installed.

use mesh_model::TrustDomain;
use mesh_model::sidecar::API_PORT;
use serde::{Deserialize, Serialize};

use crate::inject::Download;

/// What to install. It is kept in a variable of the namespace, so that later commands need not be
/// told again; it holds no secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Settings {
    /// Nomad's namespace of the control plane.
    pub namespace: String,
    /// Where jobs may be placed; globs.
    pub datacenters: Vec<String>,
    /// The node pool of the control plane; Nomad's default unless set.
    pub node_pool: Option<String>,
    /// One job, or one for each piece.
    pub shape: Shape,
    /// How programs get to the nodes.
    pub delivery: Delivery,
    /// Where nodes keep what has to survive, for tasks that are processes.
    pub directory: String,
    /// The port of the API server on its nodes.
    pub api_port: u16,
    /// The trust domain of a new mesh.
    pub trust_domain: Option<TrustDomain>,
    /// The CNI network that injected groups join; none leaves nodes as they are.
    pub network: Option<CniNetwork>,
    /// Gateways that let callers outside the mesh in.
    #[serde(default)]
    pub ingress: Ingress,
}

/// Gateways that let callers outside the mesh in.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ingress {
    /// How many, at most one on a node; 0 for none.
    pub count: u16,
    /// The ports of the node that each of them has for itself: those of the `Gateway`s.
    pub ports: Vec<u16>,
}

/// How much control plane.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    clippy::exhaustive_enums,
    reason = "everything in one process, or each piece on its own"
)]
pub enum Shape {
    /// One job with every role, and a file as the store: for one node.
    Dev,
    /// A job for each piece, and etcd as the store.
    Cluster(Counts),
}

/// How many of each piece.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Members of etcd: 1, 3 or 5. It never changes.
    pub etcd: u16,
    /// API servers, at most one on a node.
    pub api: u16,
    /// CAs.
    pub ca: u16,
    /// Pilots.
    pub pilot: u16,
    /// Mixers.
    pub mixer: u16,
}

/// How programs get to the nodes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Delivery {
    /// What runs the tasks.
    pub runner: Runner,
    /// The image with `mesh`, or where it is on nodes; `local/bin/mesh` with downloads.
    pub mesh: String,
    /// The image with etcd, or where it is on nodes.
    pub etcd: String,
    /// What tasks that are processes download to `local/bin/` first.
    pub downloads: Vec<Artifact>,
}

/// A file or archive that nodes download.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Artifact {
    /// From where.
    pub url: String,
    /// Its checksum, as `sha256:<hex>`.
    pub checksum: String,
}

/// The driver of the control plane's tasks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Runner {
    /// Processes.
    RawExec,
    /// Containers.
    Docker,
}

/// The network that injected groups join, on every node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CniNetwork {
    /// Its name: groups with mode `cni/<name>`.
    pub name: String,
    /// The bridge on the node.
    pub bridge: String,
    /// The addresses of groups; every node has the same.
    pub subnet: String,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "mesh-system".to_owned(),
            datacenters: vec!["*".to_owned()],
            node_pool: None,
            shape: Shape::Cluster(Counts::default()),
            delivery: Delivery::program("/usr/local/bin/mesh"),
            directory: "/var/lib/mesh-nomad".to_owned(),
            api_port: API_PORT,
            trust_domain: None,
            network: Some(CniNetwork::default()),
            ingress: Ingress::default(),
        }
    }
}

impl Settings {
    /// Nomad's namespace of the gateways, which is also theirs in the mesh.
    ///
    /// Not that of the control plane: a gateway, and Pilot for it, may read the Secrets of its
    /// namespace, and there is the key of the mesh's root.
    ///
    /// ```
    /// use mesh_nomad::install::Settings;
    ///
    /// assert_eq!(Settings::default().ingress_namespace(), "mesh-ingress");
    /// ```
    pub fn ingress_namespace(&self) -> String {
        let base = self.namespace.strip_suffix("-system");
        format!("{}-ingress", base.unwrap_or(&self.namespace))
    }
}

// === impl Ingress ===

impl Default for Ingress {
    fn default() -> Self {
        Self {
            count: 0,
            ports: vec![80, 443],
        }
    }
}

// === impl Counts ===

impl Default for Counts {
    /// What survives the loss of a node.
    fn default() -> Self {
        Self {
            etcd: 3,
            api: 2,
            ca: 2,
            pilot: 2,
            mixer: 2,
        }
    }
}

// === impl Delivery ===

impl Delivery {
    /// Programs that nodes have already.
    pub fn program(mesh: &str) -> Self {
        Self {
            runner: Runner::RawExec,
            mesh: mesh.to_owned(),
            etcd: "etcd".to_owned(),
            downloads: Vec::new(),
        }
    }

    /// Programs that tasks download.
    pub fn downloads(downloads: impl IntoIterator<Item = Download>) -> Self {
        let artifact = |download: Download| Artifact {
            url: download.url,
            checksum: download.checksum,
        };
        Self {
            mesh: "local/bin/mesh".to_owned(),
            downloads: downloads.into_iter().map(artifact).collect(),
            ..Self::program("")
        }
    }

    /// Containers.
    pub fn images(mesh: &str, etcd: &str) -> Self {
        Self {
            runner: Runner::Docker,
            mesh: mesh.to_owned(),
            etcd: etcd.to_owned(),
            downloads: Vec::new(),
        }
    }
}

// === impl Runner ===

impl Runner {
    /// Nomad's name of the driver.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RawExec => "raw_exec",
            Self::Docker => "docker",
        }
    }
}

// === impl CniNetwork ===

impl Default for CniNetwork {
    fn default() -> Self {
        Self {
            name: "mesh".to_owned(),
            bridge: "mesh0".to_owned(),
            subnet: "172.27.64.0/20".to_owned(),
        }
    }
}
