//! `PeerAuthentication`: whether a workload takes plaintext.

mod validate;

use std::collections::BTreeMap;

use super::message::{choice, message};
use super::shared::WorkloadSelector;

message! {
    /// Whether workloads take plaintext, mutual TLS, or both.
    ///
    /// Source: <https://istio.io/latest/docs/reference/config/security/peer_authentication/>.
    pub struct PeerAuthentication {
        /// The workloads of this object's namespace that it holds for; all of them unless set, and
        /// all of the mesh in the root namespace.
        pub selector: Option<WorkloadSelector>,
        /// What holds for every port.
        pub mtls: Option<MutualTls>,
        /// What holds for single ports of the workload; needs a selector.
        #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, MutualTls>"))]
        pub port_level_mtls: BTreeMap<u16, MutualTls>,
    }

    /// Which connections are taken.
    #[derive(Copy, Eq)]
    pub struct MutualTls {
        /// Which.
        pub mode: MutualTlsMode,
    }
}

choice! {
    /// Which connections a workload takes.
    pub enum MutualTlsMode {
        /// What the wider policy says: the namespace's, then the mesh's, then `PERMISSIVE`.
        #[default]
        Unset,
        /// Plaintext only.
        Disable,
        /// Plaintext and mutual TLS.
        Permissive,
        /// Mutual TLS only.
        Strict,
    }
}

impl PeerAuthentication {
    /// Whether it holds for single workloads, not for a whole namespace or mesh.
    pub fn selects_workloads(&self) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| !selector.match_labels.is_empty())
    }
}
