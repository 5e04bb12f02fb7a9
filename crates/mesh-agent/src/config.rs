//! What the agent is told, checked whole before anything starts, and where its files and ports are.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_model::{Problem, Problems, SidecarConfig};

/// The ports of the agent and of its Envoy that belong to no workload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// Readiness, HTTP, on every address.
    pub readiness: u16,
    /// DNS, udp and tcp, on loopback.
    pub dns: u16,
    /// Envoy's metrics for Prometheus, on every address.
    pub envoy_metrics: u16,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often readiness is looked at once it was reached; while starting it is looked at more often.
    pub readiness_interval: Duration,
    /// How old a verdict on the redirect rules may be: its writer looks every second.
    pub verdict_age: Duration,
    /// How long Envoy goes on after Pilot was told that this workload leaves,
    /// so that callers hear of it before their connections end.
    pub drain: Duration,
    /// How long Envoy may take to end by itself before it is killed.
    pub kill_after: Duration,
    /// How long changes of the accepted configuration are gathered before they are written.
    pub persist_after: Duration,
}

/// Where the agent's files are, all in its own directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paths {
    /// The directory.
    pub state_dir: PathBuf,
    /// Key and certificate.
    pub identity: PathBuf,
    /// The socket on which Envoy finds ADS and SDS.
    pub agent_socket: PathBuf,
    /// Envoy's admin socket.
    pub admin_socket: PathBuf,
    /// Envoy's bootstrap.
    pub bootstrap: PathBuf,
    /// The last accepted configuration.
    pub accepted: PathBuf,
    /// Which process Envoy is, for an agent that starts after one that was killed.
    pub envoy_process: PathBuf,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            readiness: mesh_model::sidecar::READINESS_PORT,
            dns: mesh_model::sidecar::DNS_PORT,
            envoy_metrics: mesh_model::sidecar::ENVOY_METRICS_PORT,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            readiness_interval: Duration::from_secs(1),
            verdict_age: Duration::from_secs(10),
            drain: Duration::from_secs(2),
            kill_after: Duration::from_secs(5),
            persist_after: Duration::from_millis(300),
        }
    }
}

impl Paths {
    /// The files in `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            identity: state_dir.join("identity"),
            agent_socket: state_dir.join("agent.sock"),
            admin_socket: state_dir.join("admin.sock"),
            bootstrap: state_dir.join("envoy.json"),
            accepted: state_dir.join("accepted.bin"),
            envoy_process: state_dir.join("envoy.pid"),
        }
    }
}

/// Everything that is wrong with `config`, at once: what the model finds, and what only an agent minds.
///
/// # Errors
///
/// The problems, each with the path of its field.
pub fn validate(config: &SidecarConfig) -> Result<(), Problems> {
    let mut problems = config.validate().err().unwrap_or_default();
    let socket = Paths::new(&config.state_dir).agent_socket;
    if socket.as_os_str().as_bytes().len() > SOCKET_PATH_MAX {
        problems.push(Problem::new(
            "state_dir",
            config.state_dir.display().to_string(),
            format!(
                "a path of at most {} bytes (the sockets in it have a limit)",
                SOCKET_PATH_MAX - "/agent.sock".len()
            ),
        ));
    }
    problems.into_result(())
}

/// `sun_path` of `sockaddr_un` without its terminating zero: unix(7).
const SOCKET_PATH_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SidecarConfig {
        serde_json::from_value(serde_json::json!({
            "workload": {
                "id": "shop/web-1",
                "namespace": "shop",
                "service_account": "web",
                "addresses": ["10.213.0.2"],
            },
            "pilots": ["10.213.0.1:15012"],
            "cas": ["10.213.0.1:15012"],
            "root_hashes": ["a".repeat(64)],
            "state_dir": "/var/lib/mesh/agent",
        }))
        .unwrap()
    }

    #[test]
    fn a_complete_configuration_is_accepted() {
        validate(&config()).unwrap();
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let mut config = config();
        config.pilots.clear();
        config.state_dir = format!("/{}", "x".repeat(100)).into();
        let problems = validate(&config).unwrap_err();
        let paths: Vec<_> = problems.0.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["pilots", "state_dir"]);
    }
}
