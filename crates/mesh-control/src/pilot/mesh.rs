//! The whole input of a snapshot: services, policies and workloads, resolved against each other.
//!
//! [`Mesh::assemble`] is pure: equal inputs give equal meshes, whatever the order they came in.
//! What contradicts itself is decided by a fixed rule (the older object, the smaller id) and named
//! in [`Mesh::warnings`]; nothing is refused as a whole because of a part.

mod change;
mod credential;
mod edge;
mod entry;
mod node;
mod policy;
mod registered;
mod scope;
mod service_entry;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_model::destination::{self, HostRules};
use mesh_model::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, PeerAuthentication, ServiceEntry,
    VirtualService, WorkloadEntry,
};
use mesh_model::service::VirtualAddresses;
use mesh_model::{
    Health, Host, Namespace, Object, ObjectMeta, TrustDomain, Workload, WorkloadId, route,
};

pub use credential::{Credential, CredentialKey, Credentials, KeyPair};
pub use edge::{Edge, Secrets, Served};
pub use entry::Entry;
use scope::ByHost;

/// What the API server holds, typed: everything that configures proxies but the workloads.
///
/// The order of objects does not matter.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// What a proxy does with calls to addresses that no service has.
    pub outbound: OutboundPolicy,
    /// The recorded virtual addresses, by host; a host without any is not reachable by name yet
    /// and stands in [`Mesh::unaddressed`].
    pub virtual_addresses: BTreeMap<Host, VirtualAddresses>,
    /// Where the Mixer takes access logs; empty when there is none.
    pub mixer: Vec<SocketAddr>,
    /// Routes.
    pub virtual_services: Vec<Arc<Object<VirtualService>>>,
    /// Subsets, and how connections are made.
    pub destination_rules: Vec<Arc<Object<DestinationRule>>>,
    /// What gateways serve.
    pub gateways: Vec<Arc<Object<Gateway>>>,
    /// The Secrets of gateways that were looked at.
    pub credentials: Credentials,
    /// Services that no workload declares.
    pub service_entries: Vec<Arc<Object<ServiceEntry>>>,
    /// Endpoints that no agent registers.
    pub workload_entries: Vec<Arc<Object<WorkloadEntry>>>,
    /// Who takes plaintext.
    pub peer_authentications: Vec<Arc<Object<PeerAuthentication>>>,
    /// Who may call whom.
    pub authorization_policies: Vec<Arc<Object<AuthorizationPolicy>>>,
}

/// What a proxy does with calls to addresses that no service has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OutboundPolicy {
    /// Lets them pass, as Istio does unless told otherwise.
    #[default]
    AllowAny,
    /// Refuses them.
    RegistryOnly,
}

/// Everything that configures proxies, resolved.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// What a proxy does with calls to addresses that no service has.
    pub outbound: OutboundPolicy,
    /// Where the Mixer takes access logs.
    pub mixer: Vec<SocketAddr>,
    /// What can be called, by host.
    pub entries: BTreeMap<Host, Entry>,
    /// Hosts that need virtual addresses and have none yet; they are in no snapshot until
    /// [`Config::virtual_addresses`] has them.
    pub unaddressed: BTreeSet<Host>,
    /// What contradicts itself or is left out, in a fixed order.
    pub warnings: Vec<Warning>,
    /// The addresses of nodes at which workloads with sidecars are called, or were.
    pub nodes: BTreeSet<IpAddr>,
    workloads: BTreeMap<WorkloadId, (Workload, Health)>,
    virtual_services: ByHost<VirtualService>,
    destination_rules: ByHost<DestinationRule>,
    /// From the oldest to the newest, as everything that gateways are made from.
    gateways: Vec<Arc<Object<Gateway>>>,
    gateway_routes: Vec<Arc<Object<VirtualService>>>,
    credentials: Credentials,
    peer_authentications: Vec<Arc<Object<PeerAuthentication>>>,
    authorization_policies: Vec<Arc<Object<AuthorizationPolicy>>>,
}

/// Something that was left out of the mesh, and why.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Warning {
    /// What it is about: `VirtualService shop/reviews`, `workload shop/web-1`.
    pub source: String,
    /// What was found, and what became of it.
    pub message: String,
}

/// Ports that are the sidecar's own; a service on one of them would take its listener away.
const RESERVED: [u16; 9] = [
    15000, 15001, 15002, 15006, 15008, 15020, 15021, 15053, 15090,
];

// === impl Mesh ===

impl Mesh {
    /// Resolves everything against everything.
    pub fn assemble(config: &Config, workloads: &[(Workload, Health)]) -> Self {
        let workloads: BTreeMap<_, _> = workloads
            .iter()
            .map(|(workload, health)| (workload.id.clone(), (workload.clone(), *health)))
            .collect();
        let mut warnings = Vec::new();
        let mut drafts = registered::services(&workloads, &config.trust_domain, &mut warnings);
        service_entry::add(config, &workloads, &mut drafts, &mut warnings);

        let mut mesh = Self {
            trust_domain: config.trust_domain.clone(),
            outbound: config.outbound,
            mixer: config.mixer.clone(),
            nodes: node::addresses(&workloads),
            workloads,
            gateways: by_age(&config.gateways),
            gateway_routes: by_age(&config.virtual_services),
            credentials: Arc::clone(&config.credentials),
            peer_authentications: by_age(&config.peer_authentications),
            authorization_policies: by_age(&config.authorization_policies),
            ..Self::default()
        };
        for (host, mut entry) in drafts {
            if entry.needs_addresses() {
                let Some(addresses) = config.virtual_addresses.get(&host) else {
                    mesh.unaddressed.insert(host);
                    continue;
                };
                entry.service.virtual_addresses = *addresses;
                entry.addresses = Some(*addresses);
            }
            mesh.entries.insert(host, entry.finished());
        }
        let is_bound = |object: &Arc<Object<VirtualService>>| {
            object.spec.gateways.iter().any(|name| name != "mesh")
        };
        mesh.gateway_routes.retain(is_bound);
        mesh.virtual_services = scope::virtual_services(config, &mut warnings);
        mesh.destination_rules = scope::destination_rules(config);
        let gateways = mesh.workloads().filter(|(workload, _)| workload.gateway);
        warnings.extend(gateways.flat_map(|(workload, _)| mesh.edge(workload).warnings));
        warnings.sort();
        warnings.dedup();
        mesh.warnings = warnings;
        mesh
    }

    /// A registered workload and what its agent says of its health.
    pub fn workload(&self, id: &WorkloadId) -> Option<&(Workload, Health)> {
        self.workloads.get(id)
    }

    /// All registered workloads, in the order of their ids.
    pub fn workloads(&self) -> impl Iterator<Item = &(Workload, Health)> {
        self.workloads.values()
    }

    /// What callers of a namespace can call, by host.
    pub fn seen_from(&self, namespace: &Namespace) -> impl Iterator<Item = &Entry> {
        self.entries
            .values()
            .filter(|entry| entry.is_seen_from(namespace))
    }

    /// How callers of `from` are routed to `host`, if anybody says.
    pub fn virtual_service(
        &self,
        host: &Host,
        from: &Namespace,
    ) -> Option<&Object<VirtualService>> {
        let candidates = self.virtual_services.candidates(host);
        route::virtual_service_for(host.as_str(), from.as_str(), candidates)
    }

    /// How callers of `from` connect to `host`, by all the rules that hold for it.
    pub fn destination_rules(&self, host: &Host, from: &Namespace) -> HostRules<'_> {
        let entry = self.entries.get(host);
        let owner = entry.map_or("", |entry| entry.service.namespace.as_str());
        let candidates = self.destination_rules.candidates(host);
        destination::rules_for(host.as_str(), owner, from.as_str(), candidates)
    }

    /// The hosts that callers of `from` are routed to without there being an entry of that name.
    pub fn routed_hosts(&self, from: &Namespace) -> impl Iterator<Item = Host> {
        self.virtual_services
            .hosts()
            .filter(|host| !self.entries.contains_key(host) && !self.unaddressed.contains(host))
            // Services of the mesh are called at their addresses, whose routes stand there.
            .filter(|host| host.as_str().rsplit('.').next() != Some("mesh"))
            .filter(|host| self.virtual_service(host, from).is_some())
    }
}

// === impl Warning ===

impl Warning {
    /// A warning about `source`.
    fn new(source: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            message: message.into(),
        }
    }

    /// A warning about an object.
    fn of(kind: &str, object: &ObjectMeta, message: impl Into<String>) -> Self {
        Self::new(
            format!("{kind} {}/{}", object.namespace, object.name),
            message,
        )
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.message)
    }
}

/// Whether a port is one of the sidecar's own.
pub(super) fn is_reserved(port: u16) -> bool {
    RESERVED.contains(&port)
}

/// The objects from the oldest to the newest.
fn by_age<S>(objects: &[Arc<Object<S>>]) -> Vec<Arc<Object<S>>> {
    let mut objects = objects.to_vec();
    objects.sort_by(|a, b| a.metadata.age().cmp(&b.metadata.age()));
    objects
}

#[cfg(test)]
mod tests;
