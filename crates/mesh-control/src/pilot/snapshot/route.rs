//! Routes for HTTP requests: which virtual hosts there are, and under which names they answer.
//!
//! The virtual hosts of a port are cut into one `RouteConfiguration` for each bucket of virtual
//! addresses, and one for calls to addresses that are not ours. Envoy refuses a whole
//! `RouteConfiguration` for one bad virtual host, so each is checked before it is put in.

mod action;
mod matching;
mod virtual_service;

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::service::Resolution;
use mesh_model::{Host, Namespace, virtual_address};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::config::route::v3::route::Action;
use mesh_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use mesh_proto::envoy::config::route::v3::route_match::PathSpecifier;

pub(super) use virtual_service::{Target, connections};

use super::{View, access_log, cluster, undelivered, wire};
use crate::pilot::mesh::{Entry, OutboundPolicy};

/// The name of the RouteConfiguration of a port and bucket.
pub(super) fn bucket_name(port: u16, bucket: u8) -> String {
    format!("{port}/{bucket}")
}

/// The name of the RouteConfiguration of a port for addresses that are not ours.
pub(super) fn default_name(port: u16) -> String {
    format!("{port}/default")
}

/// All `RouteConfiguration`s of an HTTP port: the buckets, also the empty ones since the listener
/// waits for each, and the default.
pub(super) fn configurations(view: &View<'_>, port: u16) -> Vec<rds::RouteConfiguration> {
    let mut buckets: BTreeMap<u8, Vec<rds::VirtualHost>> = (0..virtual_address::BUCKETS)
        .map(|bucket| (bucket, Vec::new()))
        .collect();
    for entry in view.http_entries(port) {
        let Some(addresses) = entry.addresses else {
            continue;
        };
        let host = virtual_host(view, entry, port);
        // The record may be of another making: each family is looked at for itself.
        let of_v4 = virtual_address::bucket_of_v4(addresses.v4);
        let of_v6 = virtual_address::bucket_of_v6(addresses.v6);
        for bucket in BTreeSet::from([of_v4, of_v6]).into_iter().flatten() {
            buckets.entry(bucket).or_default().push(host.clone());
        }
    }
    buckets
        .into_iter()
        .map(|(bucket, hosts)| configuration(bucket_name(port, bucket), hosts))
        .chain([foreign(view, port)])
        .collect()
}

/// The RouteConfiguration for requests to addresses that are not ours: hosts outside the mesh
/// that somebody described, then everything else as the outbound policy says.
fn foreign(view: &View<'_>, port: u16) -> rds::RouteConfiguration {
    let described = view
        .http_entries(port)
        .filter(|entry| entry.foreign)
        .map(|entry| virtual_host(view, entry, port));
    let routed = view.routed_hosts().map(|host| {
        let routes = virtual_service::of_host(view, &host, port);
        finished(host.as_str(), vec![host.to_string()], routes)
    });
    let rest = elsewhere(view, cluster::PASSTHROUGH);
    configuration(
        default_name(port),
        described.chain(routed).chain([rest]).collect(),
    )
}

/// The virtual host of what nobody described: to `way`, or refused by the outbound policy.
fn elsewhere(view: &View<'_>, way: &str) -> rds::VirtualHost {
    let route = match view.mesh.outbound {
        OutboundPolicy::AllowAny => all_to(way.to_owned()),
        OutboundPolicy::RegistryOnly => rds::Route {
            r#match: Some(everything()),
            action: Some(Action::DirectResponse(rds::DirectResponseAction {
                status: 502,
                ..Default::default()
            })),
            ..Default::default()
        },
    };
    rds::VirtualHost {
        name: "elsewhere".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    }
}

/// The route of everything to one cluster.
fn all_to(cluster: String) -> rds::Route {
    rds::Route {
        r#match: Some(everything()),
        action: Some(Action::Route(to(cluster))),
        ..Default::default()
    }
}

/// The routes of the forward proxy: every service and port under its names with that port, which
/// may be left out when it is 80; everything else as the outbound policy says.
///
/// It is one configuration, for requests to all ports come to one place.
pub(super) fn forward_proxy(view: &View<'_>) -> rds::RouteConfiguration {
    let mut hosts = Vec::new();
    for port in view.http_ports() {
        for entry in view.http_entries(port) {
            let mut host = virtual_host(view, entry, port);
            if entry.service.resolution == Resolution::None {
                // Nobody went to an address of its own: it is looked up as the rest is.
                host.routes = vec![all_to(cluster::FORWARD.to_owned())];
            }
            hosts.push(host_at_port(host, port));
        }
        hosts.extend(view.routed_hosts().map(|host| {
            let routes = virtual_service::of_host(view, &host, port);
            host_at_port(
                finished(host.as_str(), vec![host.to_string()], routes),
                port,
            )
        }));
    }
    hosts.push(elsewhere(view, cluster::FORWARD));
    rds::RouteConfiguration {
        ignore_port_in_host_matching: false,
        ..configuration(FORWARD_PROXY.to_owned(), hosts)
    }
}

/// The routes of one port of a service, whatever host a request names.
pub(super) fn upstream(
    view: &View<'_>,
    name: String,
    entry: &Entry,
    port: u16,
) -> rds::RouteConfiguration {
    let host = rds::VirtualHost {
        domains: vec!["*".to_owned()],
        ..virtual_host(view, entry, port)
    };
    configuration(name, vec![host])
}

/// The name of the `RouteConfiguration` of the forward proxy.
pub(super) const FORWARD_PROXY: &str = "forwardProxy";

/// A virtual host that is meant only with this port, under a name that says so.
fn host_at_port(mut host: rds::VirtualHost, port: u16) -> rds::VirtualHost {
    /// The port of `http` URLs without one.
    const HTTP: u16 = 80;
    host.name = format!("{}:{port}", host.name);
    let bare = host.domains;
    host.domains = bare.iter().map(|name| format!("{name}:{port}")).collect();
    if port == HTTP {
        host.domains.extend(bare);
    }
    host
}

/// The routes of a workload's own port: everything to the application. What differs by service is
/// only the name that logs show.
pub(super) fn inbound(
    port: u16,
    services: &BTreeSet<Host>,
    namespace: &Namespace,
) -> rds::RouteConfiguration {
    let name = cluster::inbound_name(port);
    let host = |service: Option<&Host>, domains: Vec<String>| rds::VirtualHost {
        name: service.map_or_else(|| name.clone(), ToString::to_string),
        domains,
        routes: vec![rds::Route {
            r#match: Some(everything()),
            metadata: service.map(service_metadata),
            action: Some(Action::Route(to(name.clone()))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let all = || vec!["*".to_owned()];
    let hosts = match services.len() {
        0 | 1 => vec![host(services.first(), all())],
        _ => services
            .iter()
            .map(|service| host(Some(service), service.names(namespace)))
            .chain([host(None, all())])
            .collect(),
    };
    configuration(name.clone(), hosts)
}

/// Everything to one cluster, without a time limit.
pub(super) fn to(cluster: String) -> rds::RouteAction {
    rds::RouteAction {
        // Envoy's own limit of 15 seconds is nobody's wish; Istio has none.
        timeout: wire::nought(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..Default::default()
    }
}

/// Matches every request.
pub(super) fn everything() -> rds::RouteMatch {
    rds::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    }
}

/// What tells logs which service a route is of.
pub(super) fn service_metadata(service: &Host) -> core::Metadata {
    wire::metadata(wire::METADATA, access_log::SERVICE, service.as_str())
}

/// The virtual host of a service's port, under all its names. Ports are not among them: the
/// listener has already told them apart.
fn virtual_host(view: &View<'_>, entry: &Entry, port: u16) -> rds::VirtualHost {
    let service = &entry.service;
    let mut domains = service.host.names(view.namespace);
    if let Some(addresses) = entry.addresses {
        domains.push(addresses.v4.to_string());
        domains.push(format!("[{}]", addresses.v6));
    }
    let routes = virtual_service::of_service(view, service, port);
    finished(service.host.as_str(), domains, routes)
}

/// A virtual host with what all of ours have: failed requests are tried again as Istio does.
pub(super) fn finished(
    name: &str,
    domains: Vec<String>,
    routes: Vec<rds::Route>,
) -> rds::VirtualHost {
    rds::VirtualHost {
        name: name.to_owned(),
        domains,
        routes,
        retry_policy: Some(action::default_retries()),
        ..Default::default()
    }
}

/// A RouteConfiguration of the hosts that Envoy will accept together.
///
/// A full host comes before anybody's short form of another, the earlier host before the later;
/// a host without a name of its own is left out. By that name Envoy also calls the virtual host,
/// so those names are unique too. One without routes answers 404.
pub(super) fn configuration(
    name: String,
    mut hosts: Vec<rds::VirtualHost>,
) -> rds::RouteConfiguration {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    hosts.retain(|host| {
        let first = host.domains.first();
        first.is_some_and(|first| taken.insert(first.clone()))
    });
    for host in &mut hosts {
        let mut own = true;
        host.domains
            .retain(|domain| std::mem::take(&mut own) || taken.insert(domain.clone()));
    }
    rds::RouteConfiguration {
        name,
        max_direct_response_body_size_bytes: largest_body(&hosts),
        virtual_hosts: hosts,
        ignore_port_in_host_matching: true,
        // Inbound an application cannot set it, for a sidecar's own answers are marked after this;
        // outbound it is taken off once it was decided whether to try again.
        response_headers_to_remove: vec![undelivered::HEADER.to_owned()],
        ..Default::default()
    }
}

/// Envoy refuses fixed responses over 4 KiB unless told how long they may be.
fn largest_body(hosts: &[rds::VirtualHost]) -> Option<mesh_proto::google::protobuf::UInt32Value> {
    const ENVOYS: usize = 4096;
    let largest = hosts
        .iter()
        .flat_map(|host| &host.routes)
        .filter_map(|route| match &route.action {
            Some(Action::DirectResponse(response)) => response.body.as_ref(),
            _ => None,
        })
        .map(prost::Message::encoded_len)
        .max()
        .filter(|largest| *largest > ENVOYS)?;
    wire::uint(u32::try_from(largest).unwrap_or(u32::MAX))
}
