//! What can be called: a service, whatever it was declared by, and what only proxies need of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_model::service::{Location, Resolution, VirtualAddresses};
use mesh_model::{Host, Namespace, Service};

use mesh_model::host::is_exported;

/// A service that can be called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The service. Its virtual addresses are unspecified when [`Self::addresses`] is `None`.
    pub service: Service,
    /// Its virtual addresses, unless it is only called at addresses of its own: wildcards, and
    /// services whose endpoints are not known.
    pub addresses: Option<VirtualAddresses>,
    /// Addresses besides the virtual ones at which callers know it.
    pub own_addresses: Vec<IpAddr>,
    /// Who can call it: Istio's `exportTo`.
    pub export_to: Vec<String>,
    /// Names that its certificate may carry, when it is outside the mesh.
    pub subject_alt_names: Vec<String>,
    /// Whether a `ServiceEntry` declares it, so that callers may know it by other addresses.
    pub foreign: bool,
}

// === impl Entry ===

impl Entry {
    /// A service without ports and endpoints.
    pub(super) fn new(host: Host, namespace: Namespace) -> Self {
        Self {
            service: Service {
                host,
                namespace,
                ports: std::collections::BTreeMap::new(),
                virtual_addresses: VirtualAddresses {
                    v4: Ipv4Addr::UNSPECIFIED,
                    v6: Ipv6Addr::UNSPECIFIED,
                },
                identities: Vec::new(),
                endpoints: Vec::new(),
                location: Location::MeshInternal,
                resolution: Resolution::Static,
            },
            addresses: None,
            own_addresses: Vec::new(),
            export_to: Vec::new(),
            subject_alt_names: Vec::new(),
            foreign: false,
        }
    }

    /// Whether callers of a namespace can call it.
    pub fn is_seen_from(&self, namespace: &Namespace) -> bool {
        let owner = self.service.namespace.as_str();
        is_exported(&self.export_to, owner, namespace.as_str())
    }

    /// Whether its name must resolve to a virtual address before anybody can call it.
    pub(super) fn needs_addresses(&self) -> bool {
        self.service.resolution != Resolution::None && !self.service.host.as_str().starts_with('*')
    }

    /// Fills in what follows from its endpoints, and orders them.
    pub(super) fn finished(mut self) -> Self {
        let service = &mut self.service;
        service
            .endpoints
            .sort_by(|a, b| (&a.workload, &a.address).cmp(&(&b.workload, &b.address)));
        let identities: BTreeSet<_> = service
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.identity.clone())
            .collect();
        service.identities = identities.into_iter().collect();
        self
    }
}
