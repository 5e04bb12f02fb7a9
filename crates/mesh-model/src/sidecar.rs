//! What a sidecar is told when it starts; the file that `mesh agent --config` reads.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{TrustDomain, Workload};

/// Numeric user and group of every proxy; redirect rules let its traffic pass.
pub const PROXY_UID: u32 = 1337;
/// Where captured outbound connections arrive.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where captured inbound connections arrive.
pub const INBOUND_PORT: u16 = 15006;
/// Mixer, under mutual TLS of the mesh.
pub const MIXER_PORT: u16 = 15011;
/// xDS and CA.
pub const XDS_PORT: u16 = 15012;
/// Metrics and health of a control plane process.
pub const METRICS_PORT: u16 = 15014;
/// Readiness of a sidecar.
pub const READINESS_PORT: u16 = 15021;
/// DNS of a sidecar, on loopback.
pub const DNS_PORT: u16 = 15053;
/// Prometheus metrics of Envoy.
pub const ENVOY_METRICS_PORT: u16 = 15090;
/// The API server.
pub const API_PORT: u16 = 6443;

/// What a sidecar is told when it starts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarConfig {
    /// The workload that it stands beside.
    pub workload: Workload,
    /// The trust domain of the mesh.
    #[serde(default)]
    pub trust_domain: TrustDomain,
    /// Replicas of Pilot; the agent registers with each and takes ADS from one.
    pub pilots: Vec<SocketAddr>,
    /// Replicas of the CA.
    pub cas: Vec<SocketAddr>,
    /// SHA-256 of the DER of each root certificate to trust at first, in hex.
    pub root_hashes: Vec<String>,
    /// The join token, read at each use; not needed while a stored certificate lives.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The agent's own directory (0700): key, certificate, last accepted configuration, sockets.
    pub state_dir: PathBuf,
    /// The Envoy binary; from PATH when absent.
    #[serde(default)]
    pub envoy: Option<PathBuf>,
    /// Where names outside the mesh are asked for.
    #[serde(default)]
    pub upstream_dns: Vec<SocketAddr>,
    /// Where the watcher of the redirect rules writes its verdict; absent when there are no rules.
    #[serde(default)]
    pub rules_verdict: Option<PathBuf>,
    /// Lifetime to ask of the CA for each certificate, in seconds; the CA may give less.
    #[serde(default)]
    pub certificate_ttl_seconds: Option<u64>,
}
