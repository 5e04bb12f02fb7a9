//! Which policies hold for a workload.

use std::collections::BTreeSet;

use mesh_model::istio::peer_authentication::MutualTlsMode;
use mesh_model::istio::{AuthorizationPolicy, PeerAuthentication};
use mesh_model::{Object, Workload, authorization, mutual_tls};

use super::Mesh;

/// A port that no service can have, to ask what holds where nothing is said of the port.
const NO_PORT: u16 = 0;

impl Mesh {
    /// What a workload accepts on a port of its own, which is the target port of its services;
    /// never `Unset`.
    pub fn mutual_tls(&self, workload: &Workload, port: u16) -> MutualTlsMode {
        let policies = self.peer_authentications();
        let namespace = workload.namespace.as_str();
        mutual_tls::mode(policies, namespace, &workload.labels, port).mode
    }

    /// What a workload accepts on ports of which nothing special is said; never `Unset`.
    pub fn mutual_tls_elsewhere(&self, workload: &Workload) -> MutualTlsMode {
        self.mutual_tls(workload, NO_PORT)
    }

    /// The ports of a workload of which something special is said.
    pub fn ports_of_mutual_tls(&self, workload: &Workload) -> BTreeSet<u16> {
        self.peer_authentications()
            .filter(|object| object.metadata.namespace == workload.namespace.as_str())
            .filter(|object| {
                let selector = object.spec.selector.as_ref();
                selector.is_some_and(|selector| selector.selects(&workload.labels))
            })
            .flat_map(|object| object.spec.port_level_mtls.keys().copied())
            .collect()
    }

    /// The policies that say who may call a workload, from the oldest to the newest.
    pub fn authorization(
        &self,
        workload: &Workload,
    ) -> impl Iterator<Item = &Object<AuthorizationPolicy>> {
        let policies = self.authorization_policies.iter().map(|object| &**object);
        authorization::policies_for(policies, workload.namespace.as_str(), &workload.labels)
    }

    /// All policies that say who accepts plaintext, from the oldest to the newest.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Object<PeerAuthentication>> {
        self.peer_authentications.iter().map(|object| &**object)
    }
}
