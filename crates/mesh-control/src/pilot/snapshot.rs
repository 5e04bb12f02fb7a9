//! Configuration of proxies, made from a [`Mesh`] and nothing else.
//!
//! Equal meshes give equal bytes. What all proxies of a namespace have in common (everything
//! outbound) is made once by [`shared`]; what a workload alone has (everything inbound) by [`own`].

mod access_log;
mod authorization;
mod cluster;
pub(super) mod direct;
pub(super) mod endpoint;
mod explicit;
mod fault;
mod gateway;
mod inbound;
mod listener;
mod name;
mod outbound;
mod route;
mod tls;
mod undelivered;
mod update;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::destination::HostRules;
use mesh_model::istio::VirtualService;
use mesh_model::service::Resolution;
use mesh_model::{Host, Mode, Namespace, Object, Workload};
use mesh_proto::envoy::config::listener::v3::Listener;
use prost::Name;

pub use direct::Directory;
pub use update::shared_after;

use super::mesh::{Entry, Mesh};
use super::resource::{Layer, Resource, ResourceType};

/// The mesh as callers of one namespace see it.
#[derive(Clone, Copy, Debug)]
struct View<'a> {
    mesh: &'a Mesh,
    namespace: &'a Namespace,
}

/// Messages of one type by their names, of which each occurs once.
type Named<M> = BTreeMap<String, M>;

/// What every proxy of `namespace` has to which calls that leave it come in this way: everything
/// for those calls, and the name table.
///
/// Where the layer of an earlier mesh is at hand, [`shared_after`] is sooner done.
pub fn shared(mesh: &Mesh, namespace: &Namespace, mode: Mode) -> Layer {
    let view = View { mesh, namespace };
    let mut direct = None;
    let mut clusters = Named::new();
    let mut endpoints = Named::new();
    let mut listeners = Named::new();
    let mut routes = Named::new();
    let mut names = Named::new();

    let fixed = cluster::fixed(mesh);
    clusters.extend(
        fixed
            .into_iter()
            .map(|cluster| (cluster.name.clone(), cluster)),
    );
    match mode {
        Mode::Transparent => {
            let all = captured(&view);
            listeners.extend(all.map(|listener| (listener.name.clone(), listener)));
            let ports = view.http_ports().into_iter();
            let all = ports.flat_map(|port| route::configurations(&view, port));
            routes.extend(all.map(|routes| (routes.name.clone(), routes)));
            direct = Directory::of(&view);
            let all = direct.iter().flat_map(|it| direct::listeners(&view, it));
            listeners.extend(all.map(|listener| (listener.name.clone(), listener)));
        }
        Mode::Gateway => {}
        Mode::Explicit => {
            let cluster = cluster::forward();
            clusters.insert(cluster.name.clone(), cluster);
            let listener = explicit::forward_proxy();
            listeners.insert(listener.name.clone(), listener);
            let all = route::forward_proxy(&view);
            routes.insert(all.name.clone(), all);
        }
    }
    for entry in mesh.seen_from(namespace) {
        if entry.addresses.is_some() {
            names.insert(entry.service.host.to_string(), name::of(&entry.service));
        }
        for port in entry.service.ports.keys() {
            for part in cluster::parts(&view, entry, *port) {
                if part.resolution(&entry.service) == Resolution::Static {
                    let assignment = endpoint::assignment(mesh, &entry.service, &part);
                    endpoints.insert(part.name.clone(), assignment);
                }
                let cluster = cluster::outbound(mesh, entry, &part);
                clusters.insert(part.name, cluster);
            }
        }
    }

    let mut layer = Layer::default();
    layer.direct = direct.map(Arc::new);
    set(&mut layer, ResourceType::Cluster, &clusters);
    set(&mut layer, ResourceType::Endpoint, &endpoints);
    set(&mut layer, ResourceType::Listener, &listeners);
    set(&mut layer, ResourceType::Route, &routes);
    set(&mut layer, ResourceType::Name, &names);
    layer
}

/// The listeners of what an application calls, by the addresses that it calls. Redirect rules
/// bring it to a listener of the workload's own, which hands it to these.
fn captured<'a>(view: &'a View<'a>) -> impl Iterator<Item = Listener> {
    let http = view.http_ports().into_iter();
    let http = http.map(|port| outbound::http(view, port));
    let services = view.mesh.seen_from(view.namespace);
    let tcp = services.flat_map(|entry| {
        let ports = entry.service.ports.iter();
        ports
            .filter(|(_, declared)| !declared.protocol.is_http())
            .filter_map(|(port, _)| outbound::tcp(view, entry, *port))
    });
    http.chain(tcp)
}

/// What the proxy of `workload` alone has: everything for calls that come to it, where redirect
/// rules bring what its application calls, and its upstreams if it is explicit.
pub fn own(mesh: &Mesh, workload: &Workload) -> Layer {
    if workload.gateway {
        return edge(mesh, workload);
    }
    let declared = inbound::declared(workload);
    let mut numbers = mesh.ports_of_mutual_tls(workload);
    numbers.extend(declared.keys());
    let ports: Vec<_> = numbers
        .into_iter()
        .filter(|number| !super::mesh::is_reserved(*number))
        .filter(|number| workload.taken_at(*number).is_some())
        .map(|number| {
            let known = declared.get(&number);
            inbound::Port {
                number,
                protocol: known.map(|(protocol, _)| *protocol),
                services: known
                    .map(|(_, services)| services.clone())
                    .unwrap_or_default(),
                mode: mesh.mutual_tls(workload, number),
            }
        })
        .collect();

    let mut clusters = Named::new();
    for port in &ports {
        let cluster = match workload.mode() {
            Mode::Transparent => cluster::inbound(port.number, port.protocol),
            Mode::Explicit | Mode::Gateway => {
                cluster::inbound_on_loopback(port.number, port.protocol)
            }
        };
        clusters.insert(cluster.name.clone(), cluster);
    }
    let inbound = inbound::Inbound {
        namespace: &workload.namespace,
        trust_domain: &mesh.trust_domain,
        ports,
        mode: mesh.mutual_tls_elsewhere(workload),
        filters: authorization::Filters::of(mesh, workload),
    };
    let mut listeners = Vec::new();
    let mut routes: Vec<_> = inbound.routes().collect();
    match &workload.explicit {
        None => {
            let rest = cluster::inbound_passthrough();
            clusters.insert(rest.name.clone(), rest);
            let namespace = &workload.namespace;
            let view = View { mesh, namespace };
            let mesh_model::Capture {
                outbound,
                inbound: at,
            } = workload.capture;
            listeners.push(outbound::catch_all(&view, outbound));
            listeners.push(inbound.listener(at));
        }
        Some(explicit) => {
            listeners.extend(inbound.listeners(explicit));
            let namespace = &workload.namespace;
            let view = View { mesh, namespace };
            for upstream in explicit::upstreams(&view, workload) {
                listeners.push(upstream.listener(&view));
                routes.extend(upstream.routes(&view));
            }
        }
    }

    let mut layer = Layer::default();
    set(&mut layer, ResourceType::Cluster, &clusters);
    let listeners: Named<_> = listeners
        .into_iter()
        .map(|listener| (listener.name.clone(), listener))
        .collect();
    set(&mut layer, ResourceType::Listener, &listeners);
    let routes: Named<_> = routes
        .into_iter()
        .map(|routes| (routes.name.clone(), routes))
        .collect();
    set(&mut layer, ResourceType::Route, &routes);
    layer
}

/// What a gateway alone has: all that it serves, with certificates and keys.
fn edge(mesh: &Mesh, workload: &Workload) -> Layer {
    let namespace = &workload.namespace;
    let made = gateway::of(View { mesh, namespace }, workload);
    let mut layer = Layer::default();
    set(&mut layer, ResourceType::Secret, &made.secrets);
    set(&mut layer, ResourceType::Listener, &made.listeners);
    set(&mut layer, ResourceType::Route, &made.routes);
    layer
}

// === impl View ===

impl<'a> View<'a> {
    /// The entry of a host, if callers of this namespace can see it.
    fn entry(&self, host: &Host) -> Option<&'a Entry> {
        let entry = self.mesh.entries.get(host);
        entry.filter(|entry| entry.is_seen_from(self.namespace))
    }

    /// The ports on which some service speaks HTTP.
    fn http_ports(&self) -> BTreeSet<u16> {
        self.mesh
            .seen_from(self.namespace)
            .flat_map(|entry| &entry.service.ports)
            .filter(|(_, port)| port.protocol.is_http())
            .map(|(number, _)| *number)
            .collect()
    }

    /// The services that speak HTTP on a port.
    fn http_entries(&self, port: u16) -> impl Iterator<Item = &'a Entry> {
        self.mesh.seen_from(self.namespace).filter(move |entry| {
            let declared = entry.service.ports.get(&port);
            declared.is_some_and(|declared| declared.protocol.is_http())
        })
    }

    fn virtual_service(&self, host: &Host) -> Option<&'a Object<VirtualService>> {
        self.mesh.virtual_service(host, self.namespace)
    }

    /// How connections to a host are made.
    fn rules(&self, host: &Host) -> HostRules<'a> {
        self.mesh.destination_rules(host, self.namespace)
    }

    /// The hosts that have routes but no entry.
    fn routed_hosts(&self) -> impl Iterator<Item = Host> {
        self.mesh.routed_hosts(self.namespace)
    }
}

/// Encodes the messages of a type; none of a type that has none leaves it empty, not absent.
fn set<M: Name>(layer: &mut Layer, kind: ResourceType, messages: &Named<M>) {
    let resources = messages
        .iter()
        .map(|(name, message)| Resource::encode(name, message))
        .collect();
    let unique = layer.set(kind, resources);
    debug_assert!(unique.is_ok(), "the keys of a map are unique");
}
