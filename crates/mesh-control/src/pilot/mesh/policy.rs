//! Which policies hold for a workload.

use mesh_model::istio::peer_authentication::MutualTlsMode;
use mesh_model::istio::{AuthorizationPolicy, PeerAuthentication, WorkloadSelector};
use mesh_model::{Namespace, Object, Workload};

use super::Mesh;

impl Mesh {
    /// What a workload accepts on the ports of which nothing special is said; never `Unset`.
    pub fn mutual_tls(&self, workload: &Workload) -> MutualTlsMode {
        self.peer_authentications_of(workload)
            .filter_map(|object| object.spec.mtls.map(|mtls| mtls.mode))
            .find(|mode| *mode != MutualTlsMode::Unset)
            // Istio's default: a mesh can be moved into one workload at a time.
            .unwrap_or(MutualTlsMode::Permissive)
    }

    /// The ports on which a workload accepts something else, which are ports of its own and not
    /// of a service; never `Unset`.
    pub fn mutual_tls_of_ports(
        &self,
        workload: &Workload,
    ) -> impl Iterator<Item = (u16, MutualTlsMode)> {
        // Ports can only be spoken of where workloads are selected.
        self.peer_authentications_of(workload)
            .next()
            .filter(|object| object.spec.selector.is_some())
            .into_iter()
            .flat_map(|object| &object.spec.port_level_mtls)
            .map(|(port, mtls)| (*port, mtls.mode))
            .filter(|(_, mode)| *mode != MutualTlsMode::Unset)
    }

    /// The policies that say who may call a workload, from the oldest to the newest.
    pub fn authorization(
        &self,
        workload: &Workload,
    ) -> impl Iterator<Item = &Object<AuthorizationPolicy>> {
        self.authorization_policies
            .iter()
            .map(|object| &**object)
            .filter(|object| {
                let selector = object.spec.selector.as_ref();
                is_near(&object.metadata.namespace, workload)
                    && selector.is_none_or(|selector| selector.selects(&workload.labels))
            })
    }

    /// What is said of a workload, the nearest first: of itself, of its namespace, of the mesh.
    fn peer_authentications_of(
        &self,
        workload: &Workload,
    ) -> impl Iterator<Item = &Object<PeerAuthentication>> {
        let own = workload.namespace.as_str();
        let find = move |namespace: &str, selected: bool| {
            self.peer_authentications
                .iter()
                .find(|object| {
                    let selector = object.spec.selector.as_ref().filter(|s| !selects_all(s));
                    object.metadata.namespace == namespace
                        && selector.is_some() == selected
                        && selector.is_none_or(|selector| selector.selects(&workload.labels))
                })
                .map(|object| &**object)
        };
        [
            find(own, true),
            find(own, false),
            find(Namespace::root().as_str(), false),
        ]
        .into_iter()
        .flatten()
    }
}

/// Whether objects of a namespace can hold for a workload.
fn is_near(namespace: &str, workload: &Workload) -> bool {
    namespace == workload.namespace.as_str() || namespace == Namespace::root().as_str()
}

/// Whether a selector says nothing, which is as good as none.
fn selects_all(selector: &WorkloadSelector) -> bool {
    selector.match_labels.is_empty()
}
