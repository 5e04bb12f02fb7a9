//! Where the control plane is: as configured, or told anew while the agent runs.

use std::net::SocketAddr;
use std::path::PathBuf;

use mesh_identity::renewal::JoinFuture;
use mesh_identity::{Fingerprint, JoinSource, Ticket, TokenFile};
use mesh_model::SidecarConfig;
use tokio::sync::watch;

/// Where the control plane is, and whom to believe that it is it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct ControlPlane {
    /// Replicas of Pilot; the agent registers with each.
    pub pilots: Vec<SocketAddr>,
    /// Replicas of the CA.
    pub cas: Vec<SocketAddr>,
    /// The roots to trust at first.
    pub roots: Vec<Fingerprint>,
}

/// How the agent joins: by the token of a file, at the CA where it is now.
#[derive(Debug)]
pub(crate) struct Join {
    /// The file, read at each attempt.
    pub(crate) token: Option<PathBuf>,
    /// Whether somebody writes a new token before the old one ends.
    pub(crate) is_renewed: bool,
    /// Where the CA is.
    pub(crate) control: watch::Receiver<ControlPlane>,
}

impl ControlPlane {
    /// What a configuration says.
    pub fn of(config: &SidecarConfig) -> Self {
        let roots = config
            .root_hashes
            .iter()
            // Each was parsed when the configuration was validated.
            .filter_map(|hash| hash.parse().ok());
        Self {
            pilots: config.pilots.clone(),
            cas: config.cas.clone(),
            roots: roots.collect(),
        }
    }
}

impl Join {
    /// The join with what is known now.
    fn now(&self) -> TokenFile {
        let control = self.control.borrow();
        TokenFile {
            path: self.token.clone(),
            addresses: control.cas.clone(),
            roots: control.roots.clone(),
        }
    }
}

impl JoinSource for Join {
    fn addresses(&self) -> JoinFuture<'_, Vec<SocketAddr>> {
        let now = self.now();
        Box::pin(async move { now.addresses().await })
    }

    fn ticket(&self) -> JoinFuture<'_, Ticket> {
        let now = self.now();
        Box::pin(async move { now.ticket().await })
    }

    fn is_renewed(&self) -> bool {
        self.is_renewed
    }
}
