//! The listeners for what comes to a workload.
//!
//! A filter chain is chosen by port, by whether TLS is spoken, and by whether it is the mesh's
//! own (its marker among the offered protocols). What a port's mode does not allow has no chain:
//! the connection is closed before a byte of it is passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_model::istio::peer_authentication::MutualTlsMode as Mode;
use mesh_model::{Explicit, Host, Namespace, Protocol, TrustDomain, Workload};
use mesh_proto::envoy::config::listener::v3 as lds;
use mesh_proto::envoy::config::route::v3::RouteConfiguration;
use mesh_proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use mesh_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::LocalReplyConfig;

use super::access_log::{self, Side};
use super::authorization::Filters;
use super::{cluster, listener, route, tls, undelivered, wire};

/// How long a caller may take to show whether it speaks TLS; where plaintext is allowed too, a
/// server that speaks first answers no sooner. Under STRICT a slower caller is refused.
const SNIFF: Duration = Duration::from_secs(3);

/// A port at which a workload listens, or on which a policy has a word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Port {
    /// Its number, by which the application knows it.
    pub(super) number: u16,
    /// What is spoken there; nothing if no service is declared on it.
    pub(super) protocol: Option<Protocol>,
    /// The services that it serves.
    pub(super) services: BTreeSet<Host>,
    /// What is accepted.
    pub(super) mode: Mode,
}

/// What the chains of a workload are made from.
#[derive(Debug)]
pub(super) struct Inbound<'a> {
    /// Where the workload is.
    pub(super) namespace: &'a Namespace,
    /// Whose certificates are accepted.
    pub(super) trust_domain: &'a TrustDomain,
    /// The ports, by number.
    pub(super) ports: Vec<Port>,
    /// What is accepted on all other ports.
    pub(super) mode: Mode,
    /// Who may do what.
    pub(super) filters: Filters,
}

/// The ports that a workload declares: what it says first of a port holds.
pub(super) fn declared(workload: &Workload) -> BTreeMap<u16, (Protocol, BTreeSet<Host>)> {
    let mut ports = BTreeMap::new();
    for service in &workload.services {
        let host = Host::of_service(&service.name, &workload.namespace);
        for port in &service.ports {
            let (_, services) = ports
                .entry(port.own())
                .or_insert_with(|| (port.protocol, BTreeSet::new()));
            services.insert(host.clone());
        }
    }
    ports
}

impl Inbound<'_> {
    /// The listener at the port to which redirect rules bring what comes to the workload.
    pub(super) fn listener(&self, at: u16) -> lds::Listener {
        // Looking for TLS means waiting for bytes, which is lost time where TLS means nothing.
        let plain: Vec<u16> = self
            .ports
            .iter()
            .filter(|port| port.mode == Mode::Disable && !port.is_http())
            .map(|port| port.number)
            .collect();
        let chains = self
            .ports
            .iter()
            .flat_map(|port| self.port(port, Some(port.number)));
        lds::Listener {
            listener_filters: vec![
                listener::listener_filter(
                    "envoy.filters.listener.original_dst",
                    wire::any(&OriginalDst::default()),
                    &[],
                ),
                listener::listener_filter(
                    "envoy.filters.listener.tls_inspector",
                    wire::any(&TlsInspector::default()),
                    &plain,
                ),
            ],
            listener_filters_timeout: wire::duration(SNIFF),
            continue_on_listener_filters_timeout: true,
            filter_chains: [listener::trap(at)]
                .into_iter()
                .chain(chains)
                .chain(self.undeclared())
                .collect(),
            access_log: access_log::refused(Side::Inbound),
            ..listener::on_every_address("virtualInbound", at, Side::Inbound)
        }
    }

    /// The listeners of an explicit workload: one for each port of the application's, at the port
    /// of the sidecar's where others call it.
    pub(super) fn listeners(&self, explicit: &Explicit) -> Vec<lds::Listener> {
        let called = |port: &Port| Some((port.clone(), *explicit.inbound.get(&port.number)?));
        let ports = self.ports.iter().filter_map(called);
        ports
            .map(|(port, called_at)| {
                let name = cluster::inbound_name(port.number);
                let inspector = listener::listener_filter(
                    "envoy.filters.listener.tls_inspector",
                    wire::any(&TlsInspector::default()),
                    &[],
                );
                let looks = port.mode != Mode::Disable || port.is_http();
                lds::Listener {
                    listener_filters: looks.then_some(inspector).into_iter().collect(),
                    listener_filters_timeout: wire::duration(SNIFF),
                    continue_on_listener_filters_timeout: true,
                    filter_chains: self.port(&port, None),
                    access_log: access_log::refused(Side::Inbound),
                    ..listener::on_every_address(&name, called_at, Side::Inbound)
                }
            })
            .collect()
    }

    /// The routes of the ports whose requests are read, with the rules for those requests.
    pub(super) fn routes(&self) -> impl Iterator<Item = RouteConfiguration> {
        let read = self.ports.iter().filter(|port| port.is_http());
        read.map(|port| RouteConfiguration {
            typed_per_filter_config: self.filters.of_routes(),
            ..route::inbound(port.number, &port.services, self.namespace)
        })
    }

    /// The chains of one port, for connections to `destination` where a listener has several.
    fn port(&self, port: &Port, destination: Option<u16>) -> Vec<lds::FilterChain> {
        let name = |way: &str| format!("{}/{way}", port.number);
        let matching = |transport: &str, marker: bool| lds::FilterChainMatch {
            destination_port: destination.and_then(|port| wire::uint(port.into())),
            ..seen(transport, marker)
        };
        let mut chains = Vec::new();
        if port.mode != Mode::Disable {
            chains.push(lds::FilterChain {
                transport_socket: Some(tls::server(self.trust_domain)),
                ..listener::chain(
                    name("mesh"),
                    Some(matching("tls", true)),
                    self.declared(port, Some(undelivered::replies())),
                )
            });
        }
        if port.mode == Mode::Strict {
            return chains;
        }
        // Envoy looks no further once a chain names the transport that it saw, so both stand here.
        let plain = Some(matching("raw_buffer", false));
        chains.push(listener::chain(
            name("plain"),
            plain,
            self.declared(port, None),
        ));
        // TLS of the application's own, whatever the port was declared to speak.
        let foreign = Some(matching("tls", false));
        chains.push(listener::chain(name("tls"), foreign, self.bytes(port)));
        chains
    }

    /// The chains of all other ports.
    fn undeclared(&self) -> Vec<lds::FilterChain> {
        let proxy = || {
            let target = vec![(cluster::INBOUND_PASSTHROUGH.to_owned(), 1)];
            let log = access_log::tcp(Side::Inbound, None);
            let proxy = listener::tcp("InboundPassthrough", target, log, None);
            self.filters.network().into_iter().chain([proxy]).collect()
        };
        let mut chains = Vec::new();
        if self.mode != Mode::Disable {
            chains.push(lds::FilterChain {
                transport_socket: Some(tls::server(self.trust_domain)),
                ..listener::chain("other/mesh", Some(seen("tls", true)), proxy())
            });
        }
        if self.mode != Mode::Strict {
            let plain = Some(seen("raw_buffer", false));
            chains.push(listener::chain("other/plain", plain, proxy()));
            chains.push(listener::chain(
                "other/tls",
                Some(seen("tls", false)),
                proxy(),
            ));
        }
        chains
    }

    /// The filters for what the port was declared to speak; where that are requests, with these
    /// answers of the sidecar's own.
    fn declared(&self, port: &Port, replies: Option<LocalReplyConfig>) -> Vec<lds::Filter> {
        if !port.is_http() {
            return self.bytes(port);
        }
        let routes = cluster::inbound_name(port.number);
        let filters = self.filters.http();
        vec![listener::http(Side::Inbound, routes, filters, replies)]
    }

    /// The filters for bytes.
    fn bytes(&self, port: &Port) -> Vec<lds::Filter> {
        let name = cluster::inbound_name(port.number);
        let mut services = port.services.iter();
        let only = services.next().filter(|_| services.next().is_none());
        let log = access_log::tcp(Side::Inbound, only);
        let proxy = listener::tcp(&name, vec![(name.clone(), 1)], log, None);
        self.filters.network().into_iter().chain([proxy]).collect()
    }
}

impl Port {
    /// Whether requests are read there.
    pub(super) fn is_http(&self) -> bool {
        self.protocol.is_some_and(Protocol::is_http)
    }
}

/// What the TLS inspector must have seen.
fn seen(transport: &str, marker: bool) -> lds::FilterChainMatch {
    lds::FilterChainMatch {
        transport_protocol: transport.to_owned(),
        application_protocols: marker.then(|| tls::MARKER.to_owned()).into_iter().collect(),
        ..Default::default()
    }
}
