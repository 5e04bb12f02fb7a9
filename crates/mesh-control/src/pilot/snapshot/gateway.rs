//! What a gateway has for itself: a listener for each port that its `Gateway`s name, and the routes
//! behind it.
//!
//! Whoever comes is a stranger: what a request says of itself (`x-envoy-…`, `x-forwarded-…`) is not
//! believed, and no certificate makes a caller an identity of the mesh.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_model::istio::VirtualService;
use mesh_model::istio::gateway::ServerProtocol;
use mesh_model::route::{Caller, http_routes_at_gateway, tcp_routes, tls_routes};
use mesh_model::{Host, Object, Workload};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::listener::v3 as lds;
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::config::route::v3::redirect_action::SchemeRewriteSpecifier;
use mesh_proto::envoy::config::route::v3::route::Action;
use mesh_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use mesh_proto::envoy::extensions::transport_sockets::tls::v3::Secret;

use super::access_log::{self, Side};
use super::authorization::Filters;
use super::route::{self, Target};
use super::{Named, View, listener, outbound, tls, wire};
use crate::pilot::mesh::{Edge, Served};

/// How long a caller may take to say hello in TLS.
const HELLO: Duration = Duration::from_secs(10);

/// How many bytes of a slow caller's or service's are held for one connection.
const BUFFER: u32 = 32 * 1024;

/// The resources of a gateway.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    pub(super) listeners: Named<lds::Listener>,
    pub(super) routes: Named<rds::RouteConfiguration>,
    pub(super) secrets: Named<Secret>,
}

/// What all of it is made from.
struct Maker<'a> {
    view: View<'a>,
    workload: &'a Workload,
    filters: Filters,
    made: Gateway,
}

/// The resources of the gateway that a workload is.
pub(super) fn of(view: View<'_>, workload: &Workload) -> Gateway {
    let Edge { ports, .. } = view.mesh.edge(workload);
    let mut maker = Maker {
        view,
        workload,
        filters: Filters::of(view.mesh, workload),
        made: Gateway::default(),
    };
    for (port, servers) in &ports {
        maker.port(*port, servers);
    }
    maker.made
}

// === impl Maker ===

impl Maker<'_> {
    /// The listener of a port, if anything can be served there.
    fn port(&mut self, port: u16, servers: &[Served<'_>]) {
        let chains: Vec<_> = match servers.first().map(|served| served.protocol) {
            Some(ServerProtocol::Http) => vec![self.plain(port, servers)],
            _ => servers
                .iter()
                .flat_map(|served| self.server(port, served))
                .collect(),
        };
        if chains.is_empty() {
            return;
        }
        let inspects = servers
            .iter()
            .any(|served| matches!(served.protocol, ServerProtocol::Https | ServerProtocol::Tls));
        let inspector = listener::listener_filter(
            "envoy.filters.listener.tls_inspector",
            wire::any(&TlsInspector::default()),
            &[],
        );
        let name = format!("gateway|{port}");
        let made = lds::Listener {
            listener_filters: inspects.then_some(inspector).into_iter().collect(),
            listener_filters_timeout: wire::duration(HELLO),
            per_connection_buffer_limit_bytes: wire::uint(BUFFER),
            filter_chains: chains,
            access_log: access_log::refused(Side::Inbound),
            // A gateway that leaves drains what comes in.
            ..listener::on_every_address(&name, port, Side::Inbound)
        };
        self.made.listeners.insert(name, made);
    }

    /// The chains of one server.
    fn server(&mut self, port: u16, served: &Served<'_>) -> Vec<lds::FilterChain> {
        match served.protocol {
            ServerProtocol::Http => Vec::new(),
            ServerProtocol::Https => vec![self.https(port, served)],
            ServerProtocol::Tls if served.secrets.is_none() => self.passed(port, served),
            ServerProtocol::Tcp | ServerProtocol::Tls => {
                self.bytes(port, served).into_iter().collect()
            }
        }
    }

    /// One chain for all servers of requests in plaintext: the request says which is meant.
    fn plain(&mut self, port: u16, servers: &[Served<'_>]) -> lds::FilterChain {
        let name = format!("gateway|{port}");
        let hosts = self.virtual_hosts(port, servers);
        let filter = self.requests(&name, hosts);
        listener::chain("http", None, vec![filter])
    }

    /// The chain of a server whose TLS the gateway ends before it reads requests.
    fn https(&mut self, port: u16, served: &Served<'_>) -> lds::FilterChain {
        let name = format!("gateway|{port}|{}", key(served));
        let hosts = self.virtual_hosts(port, std::slice::from_ref(served));
        let filter = self.requests(&name, hosts);
        self.secured(&name, served, vec![filter])
    }

    /// The chain of bytes, with TLS ended first where the server says so; none without a route.
    fn bytes(&mut self, port: u16, served: &Served<'_>) -> Option<lds::FilterChain> {
        let name = format!("gateway|{port}|{}", key(served));
        let bound = self.view.mesh.routes_at(served, self.workload);
        let mut objects = bound.into_values().flatten();
        let caller = self.caller(served);
        let target = objects.find_map(|object| {
            let route = tcp_routes(object, caller, port).into_iter().next()?;
            let target = Target::at_gateway(&self.view, object, None, port);
            Some(target.spread(&route.route.route))
        })?;
        let filters = self.connections(&name, target);
        Some(if served.secrets.is_some() {
            self.secured(&name, served, filters)
        } else {
            listener::chain(name, None, filters)
        })
    }

    /// The chains of TLS that is passed on: one for each server name that somebody routes.
    fn passed(&self, port: u16, served: &Served<'_>) -> Vec<lds::FilterChain> {
        let caller = self.caller(served);
        let mut chains = BTreeMap::new();
        let bound = self.view.mesh.routes_at(served, self.workload);
        for (host, objects) in bound {
            for object in objects {
                for (route, conditions) in tls_routes(object, caller, port) {
                    let names = conditions.iter().flat_map(|condition| &condition.sni_hosts);
                    for sni in names.filter(|sni| is_within(sni, &host)) {
                        chains.entry(sni.to_ascii_lowercase()).or_insert_with(|| {
                            let target = Target::at_gateway(&self.view, object, None, port);
                            let name = format!("gateway|{port}|{}|{sni}", key(served));
                            let filters = self.connections(&name, target.spread(&route.route));
                            let matching = matching([sni.to_ascii_lowercase()].iter());
                            listener::chain(name, Some(matching), filters)
                        });
                    }
                }
            }
        }
        chains.into_values().collect()
    }

    /// The filters for bytes.
    fn connections(&self, name: &str, target: listener::Weighted) -> Vec<lds::Filter> {
        let target = if target.is_empty() {
            vec![(super::cluster::BLACK_HOLE.to_owned(), 1)]
        } else {
            target
        };
        let log = access_log::tcp(Side::Outbound, None);
        let proxy = listener::tcp(name, target, log, None);
        let network = self.filters.network().into_iter();
        network.chain([proxy]).collect()
    }

    /// The filter for requests, whose routes are these.
    fn requests(&mut self, name: &str, hosts: Vec<rds::VirtualHost>) -> lds::Filter {
        let routes = rds::RouteConfiguration {
            typed_per_filter_config: self.filters.of_routes(),
            ..route::configuration(name.to_owned(), hosts)
        };
        self.made.routes.insert(name.to_owned(), routes);
        let mut filters = self.filters.http();
        filters.push(outbound::fault());
        listener::edge(name.to_owned(), filters)
    }

    /// A chain for the hosts of a server, whose Secrets become resources.
    fn secured(
        &mut self,
        name: &str,
        served: &Served<'_>,
        filters: Vec<lds::Filter>,
    ) -> lds::FilterChain {
        let matching = matching(served.hosts.iter());
        let mut chain = listener::chain(name, Some(matching), filters);
        if let (Some(settings), Some(secrets)) = (&served.server.tls, &served.secrets) {
            let is_http = served.protocol == ServerProtocol::Https;
            chain.transport_socket = Some(tls::edge(settings, secrets, is_http));
            chain.transport_socket_connect_timeout = wire::duration(HELLO);
            let (mesh, name) = (self.view.mesh, &secrets.name);
            let found = mesh.credential(self.workload, name);
            let pair = found.and_then(|found| found.pair.as_ref().ok());
            let pair = pair.map(|pair| tls::pair_secret(name, pair));
            let roots = secrets.is_mutual.then(|| mesh.roots(self.workload, name));
            let roots = roots.flatten().map(|roots| tls::roots_secret(name, roots));
            let all = pair.into_iter().chain(roots);
            self.made
                .secrets
                .extend(all.map(|secret| (secret.name.clone(), secret)));
        }
        chain
    }

    /// The virtual hosts of servers that are told apart by requests alone. A host that only
    /// redirects does so whatever routes are bound to it elsewhere on the port.
    fn virtual_hosts(&self, port: u16, servers: &[Served<'_>]) -> Vec<rds::VirtualHost> {
        let redirected: Vec<&String> = servers
            .iter()
            .filter(|served| served.server.redirects())
            .flat_map(|served| &served.hosts)
            .collect();
        let mut routes = BTreeMap::<String, Vec<rds::Route>>::new();
        for host in &redirected {
            routes.insert((*host).clone(), vec![to_https()]);
        }
        for served in servers.iter().filter(|served| !served.server.redirects()) {
            let caller = self.caller(served);
            for (host, objects) in self.view.mesh.routes_at(served, self.workload) {
                if redirected.iter().any(|other| **other == host) {
                    continue;
                }
                let made = self.routes(&host, &objects, caller, port);
                routes.entry(host).or_default().extend(made);
            }
        }
        routes
            .into_iter()
            .map(|(host, routes)| {
                let mut domains = vec![host.clone()];
                let service = host
                    .strip_suffix(".mesh")
                    .filter(|rest| !rest.contains('*'));
                domains.extend(service.map(|rest| format!("{rest}.svc.cluster.local")));
                route::finished(&host, domains, routes)
            })
            .collect()
    }

    fn routes(
        &self,
        host: &str,
        objects: &[&Object<VirtualService>],
        caller: Caller<'_>,
        port: u16,
    ) -> Vec<rds::Route> {
        let host = host.parse::<Host>().ok();
        let candidates = http_routes_at_gateway(objects, caller, port).into_iter();
        candidates
            .flat_map(|(object, candidate)| {
                let target = Target::at_gateway(&self.view, object, host.as_ref(), port);
                target.routes(&candidate)
            })
            .collect()
    }

    fn caller<'b>(&'b self, served: &'b Served<'_>) -> Caller<'b> {
        Caller {
            namespace: self.workload.namespace.as_str(),
            labels: &self.workload.labels,
            gateway: Some(&served.gateway),
        }
    }
}

/// What sets a server apart from the others of its port; the names of an object's ports are unique.
fn key(served: &Served<'_>) -> String {
    let port = served.server.port.as_ref();
    let port = port.map_or("", |port| port.name.as_str());
    format!(
        "{}/{}/{port}",
        served.gateway.namespace, served.gateway.name
    )
}

/// TLS towards one of these server names; `*` is any, also none.
fn matching<'a>(hosts: impl Iterator<Item = &'a String> + Clone) -> lds::FilterChainMatch {
    let any = hosts.clone().any(|host| host == "*");
    lds::FilterChainMatch {
        transport_protocol: "tls".to_owned(),
        server_names: if any {
            Vec::new()
        } else {
            hosts.cloned().collect()
        },
        ..Default::default()
    }
}

/// Whether a server name that a route asks for is among those of a host.
fn is_within(sni: &str, host: &str) -> bool {
    use mesh_model::host::HostPattern;
    HostPattern::resolve(host, "").covers(&HostPattern::resolve(sni, ""))
}

/// The answer to every request where only HTTPS is served.
fn to_https() -> rds::Route {
    let redirect = rds::RedirectAction {
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
        ..Default::default()
    };
    rds::Route {
        name: "to-https".to_owned(),
        r#match: Some(route::everything()),
        action: Some(Action::Redirect(redirect)),
        ..Default::default()
    }
}

/// How HTTP/2 is limited towards strangers, and how long a connection may do nothing.
pub(super) fn limits() -> (core::Http2ProtocolOptions, core::HttpProtocolOptions) {
    const STREAMS: u32 = 100;
    const STREAM_WINDOW: u32 = 64 * 1024;
    const CONNECTION_WINDOW: u32 = 1024 * 1024;
    const IDLE: Duration = Duration::from_secs(3600);
    let http2 = core::Http2ProtocolOptions {
        max_concurrent_streams: wire::uint(STREAMS),
        initial_stream_window_size: wire::uint(STREAM_WINDOW),
        initial_connection_window_size: wire::uint(CONNECTION_WINDOW),
        ..Default::default()
    };
    let common = core::HttpProtocolOptions {
        idle_timeout: wire::duration(IDLE),
        ..Default::default()
    };
    (http2, common)
}
