//! Why an agent cannot run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use mesh_model::Problems;

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The configuration is wrong; every problem is named.
    #[error("the configuration is not valid: {0}")]
    Config(Problems),
    /// The state directory cannot be used.
    #[error("cannot {action} `{}`", path.display())]
    StateDir {
        /// "create", "write", …
        action: &'static str,
        /// The directory or a file in it.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another agent has the state directory.
    #[error("another agent runs with the state directory `{}`", path.display())]
    AlreadyRunning {
        /// The directory.
        path: PathBuf,
    },
    /// There is no Envoy.
    #[error("there is no executable `{}`", program.display())]
    NoEnvoy {
        /// What was looked for.
        program: PathBuf,
    },
    /// A port is taken.
    #[error("cannot listen on {address} for {what}")]
    Listen {
        /// "readiness", "DNS".
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl AgentError {
    /// What the operator can do, if anything is known to help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Config(_) => Some("correct the file that `--config` names"),
            Self::StateDir { .. } => Some("the state directory must belong to the agent's user"),
            Self::AlreadyRunning { .. } => {
                Some("stop the other agent, or give this one a `state_dir` of its own")
            }
            Self::NoEnvoy { .. } => {
                Some("install Envoy 1.40 into PATH, or name its binary as `envoy` in the file")
            }
            Self::Listen { .. } => {
                Some("another agent or an application has the port in this network namespace")
            }
        }
    }
}
