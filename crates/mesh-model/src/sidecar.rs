//! What a sidecar is told when it starts; the file that `mesh agent --config` reads.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Problems, TrustDomain, Workload};

/// Numeric user and group of every proxy; redirect rules let its traffic pass.
pub const PROXY_UID: u32 = 1337;
/// Where captured outbound connections arrive.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where an explicit workload's application calls HTTP services, on loopback.
pub const FORWARD_PROXY_PORT: u16 = 15002;
/// Where captured inbound connections arrive.
pub const INBOUND_PORT: u16 = 15006;
/// Mixer, under mutual TLS of the mesh.
pub const MIXER_PORT: u16 = 15011;
/// xDS and CA.
pub const XDS_PORT: u16 = 15012;
/// Metrics and health of a control plane process.
pub const METRICS_PORT: u16 = 15014;
/// At which an agent calls its own addresses, to see that rules take the call to Envoy; captured
/// wherever inbound traffic is, also where only certain ports are.
pub const SELF_CALL_PORT: u16 = 15019;
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

// === impl SidecarConfig ===

impl SidecarConfig {
    /// Everything that is wrong with it, the workload included.
    ///
    /// # Errors
    ///
    /// With every problem, if there is one.
    pub fn validate(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        self.workload.validate("workload", &mut problems);
        for (name, replicas) in [("pilots", &self.pilots), ("cas", &self.cas)] {
            if replicas.is_empty() {
                problems.add(name, "", "at least one address");
            }
        }
        let servers = [
            ("pilots", &self.pilots),
            ("cas", &self.cas),
            ("upstream_dns", &self.upstream_dns),
        ];
        for (name, addresses) in servers {
            for (index, address) in addresses.iter().enumerate() {
                if address.port() == 0 || address.ip().is_unspecified() {
                    let path = format!("{name}[{index}]");
                    problems.add(
                        path,
                        address.to_string(),
                        "an address and port to connect to",
                    );
                }
            }
        }
        if self.root_hashes.is_empty() {
            problems.add("root_hashes", "", "at least one hash");
        }
        for (index, hash) in self.root_hashes.iter().enumerate() {
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let expected = "a SHA-256 in hex (64 digits)";
                problems.add(format!("root_hashes[{index}]"), hash, expected);
            }
        }
        let paths = [
            ("token_file", self.token_file.as_ref()),
            ("state_dir", Some(&self.state_dir)),
            ("envoy", self.envoy.as_ref()),
            ("rules_verdict", self.rules_verdict.as_ref()),
        ];
        for (name, path) in paths {
            // Where the agent is started must not decide which file it reads.
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                problems.add(name, path.display().to_string(), "an absolute path");
            }
        }
        if self.certificate_ttl_seconds == Some(0) {
            problems.add("certificate_ttl_seconds", "0", "a lifetime above 0");
        }
        problems.into_result(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SidecarConfig {
        serde_json::from_value(serde_json::json!({
            "workload": {
                "id": "shop/web", "namespace": "shop", "service_account": "web",
                "addresses": ["10.213.0.2", "fd00::2"],
            },
            "pilots": ["10.213.0.1:15012"],
            "cas": ["10.213.0.1:15012"],
            "root_hashes": ["ab".repeat(32)],
            "state_dir": "/var/lib/mesh/sidecar",
        }))
        .unwrap()
    }

    #[test]
    fn a_plain_configuration_is_right() {
        assert_eq!(config().validate(), Ok(()));
    }

    #[test]
    fn everything_wrong_is_found_at_once() {
        let mut config = config();
        config.workload.addresses.clear();
        config.pilots.clear();
        config.cas = vec!["0.0.0.0:15012".parse().unwrap()];
        config.upstream_dns = vec!["1.1.1.1:0".parse().unwrap()];
        config.root_hashes = vec!["xyz".to_owned()];
        config.token_file = Some("token".into());
        config.certificate_ttl_seconds = Some(0);
        let problems = config.validate().unwrap_err();
        let paths: Vec<_> = problems
            .0
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "workload.addresses",
                "pilots",
                "cas[0]",
                "upstream_dns[0]",
                "root_hashes[0]",
                "token_file",
                "certificate_ttl_seconds",
            ]
        );
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let mut value = serde_json::json!({});
        value["pilotz"] = serde_json::json!([]);
        let error = serde_json::from_value::<SidecarConfig>(value).unwrap_err();
        assert!(error.to_string().contains("pilotz"), "{error}");
    }
}
