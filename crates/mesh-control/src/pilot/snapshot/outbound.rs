//! Listeners for what an application calls.
//!
//! The redirect rules bring every connection to one port, whose listener hands it to the listener
//! of the address that was called, if there is one: of a TCP service (its own), or of an HTTP port
//! (one for all services; its filter chains are the buckets of [`virtual_address`]).

use std::time::Duration;

use mesh_model::{Service, virtual_address};
use mesh_proto::envoy::config::listener::v3 as lds;
use mesh_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use mesh_proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::access_log::{self, Side};
use super::{View, cluster, direct, listener, route, wire};
use crate::pilot::mesh::{Entry, OutboundPolicy};

/// The name of the HTTP filter that delays and aborts.
pub(super) const FAULT: &str = "envoy.filters.http.fault";

/// How long the first bytes may take on an HTTP port towards an address that is not ours: then
/// the connection is passed on unread, as it is for a server that speaks first.
const SNIFF: Duration = Duration::from_secs(1);

/// The listener of all that no other takes, at the `port` to which redirect rules bring it.
pub(super) fn catch_all(view: &View<'_>, port: u16) -> lds::Listener {
    let filter_chains = [listener::trap(port)].into_iter();
    let filter_chains = filter_chains.chain(direct::chains(view.mesh));
    lds::Listener {
        use_original_dst: wire::truth(true),
        filter_chains: filter_chains.collect(),
        default_filter_chain: Some(elsewhere(view)),
        ..listener::on_every_address("virtualOutbound", port, Side::Outbound)
    }
}

/// The listener of an HTTP port: a chain for each bucket, one for HTTP to addresses that are not
/// ours, and what is not HTTP passes.
pub(super) fn http(view: &View<'_>, port: u16) -> lds::Listener {
    let buckets = (0..virtual_address::BUCKETS).filter_map(|bucket| {
        let (v4, v6) = virtual_address::bucket_prefixes(bucket)?;
        let matching = lds::FilterChainMatch {
            prefix_ranges: vec![wire::network(v4), wire::network(v6)],
            ..Default::default()
        };
        let routes = route::bucket_name(port, bucket);
        let filters = vec![manager(routes.clone())];
        Some(listener::chain(routes, Some(matching), filters))
    });
    let foreign = lds::FilterChainMatch {
        application_protocols: ["http/1.0", "http/1.1", "h2c"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let routes = route::default_name(port);
    let foreign = listener::chain(routes.clone(), Some(foreign), vec![manager(routes)]);
    lds::Listener {
        bind_to_port: wire::truth(false),
        listener_filters: vec![listener::listener_filter(
            "envoy.filters.listener.http_inspector",
            wire::any(&HttpInspector::default()),
            &[],
        )],
        listener_filters_timeout: wire::duration(SNIFF),
        continue_on_listener_filters_timeout: true,
        filter_chains: buckets.chain([foreign]).collect(),
        default_filter_chain: Some(elsewhere(view)),
        ..listener::on_every_address(&format!("outbound|{port}"), port, Side::Outbound)
    }
}

fn manager(routes: String) -> lds::Filter {
    listener::http(Side::Outbound, routes, vec![fault()], None)
}

/// The filter that delays and aborts; without configuration it does nothing, and routes with a
/// fault have theirs.
pub(super) fn fault() -> HttpFilter {
    listener::http_filter(FAULT, wire::any(&HttpFault::default()))
}

/// The chain of what goes to addresses that no service has.
fn elsewhere(view: &View<'_>) -> lds::FilterChain {
    let target = match view.mesh.outbound {
        OutboundPolicy::AllowAny => cluster::PASSTHROUGH,
        OutboundPolicy::RegistryOnly => cluster::BLACK_HOLE,
    };
    let log = access_log::tcp(Side::Outbound, None);
    let proxy = listener::tcp(target, vec![(target.to_owned(), 1)], log, None);
    listener::chain("elsewhere", None, vec![proxy])
}

/// How long a connection to a TCP port may be silent, if a `DestinationRule` says.
pub(super) fn idle_timeout(view: &View<'_>, service: &Service, port: u16) -> Option<Duration> {
    let policy = view.rules(&service.host).policy(port, "");
    let pool = policy.connection_pool?;
    pool.tcp?
        .idle_timeout
        .map(mesh_model::istio::Duration::as_std)
}

/// The listener of one TCP port of a service, on its virtual addresses and those that callers
/// know it by; none if it has no address.
pub(super) fn tcp(view: &View<'_>, entry: &Entry, port: u16) -> Option<lds::Listener> {
    let service = &entry.service;
    let mut addresses = entry
        .addresses
        .map(|addresses| vec![addresses.v4.to_string(), addresses.v6.to_string()])
        .unwrap_or_default();
    addresses.extend(entry.own_addresses.iter().map(ToString::to_string));
    let mut addresses = addresses.into_iter();
    let first = addresses.next()?;
    let name = format!("outbound|{port}||{}", service.host);
    let target = route::connections(view, service, port);
    let idle = idle_timeout(view, service, port);
    let log = access_log::tcp(Side::Outbound, Some(&service.host));
    let proxy = listener::tcp(&name, target, log, idle);
    Some(lds::Listener {
        address: wire::address(first, port),
        additional_addresses: addresses
            .map(|address| listener::also(address, port))
            .collect(),
        bind_to_port: wire::truth(false),
        filter_chains: vec![listener::chain("service", None, vec![proxy])],
        ..listener::on_every_address(&name, port, Side::Outbound)
    })
}
