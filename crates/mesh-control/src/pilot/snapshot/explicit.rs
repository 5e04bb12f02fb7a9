//! Listeners for what the application of an explicit workload calls: the forward proxy, and one on
//! loopback for each upstream. No redirect rule leads to them: the application is told of them.

use mesh_model::sidecar::FORWARD_PROXY_PORT;
use mesh_model::{Host, Upstream, Workload};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::listener::v3 as lds;
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::extensions::filters::http::dynamic_forward_proxy::v3::FilterConfig;

use super::access_log::{self, Side};
use super::{View, cluster, listener, outbound, route, wire};
use crate::pilot::mesh::Entry;

/// The listener of the forward proxy, which takes HTTP requests for any host.
pub(super) fn forward_proxy() -> lds::Listener {
    let lookup = FilterConfig {
        dns_cache_config: Some(cluster::dns_cache()),
    };
    let lookup = listener::http_filter(
        "envoy.filters.http.dynamic_forward_proxy",
        wire::any(&lookup),
    );
    let filters = vec![outbound::fault(), lookup];
    let filter = listener::http(
        Side::Outbound,
        route::FORWARD_PROXY.to_owned(),
        filters,
        None,
    );
    lds::Listener {
        additional_addresses: vec![listener::also("::1", FORWARD_PROXY_PORT)],
        ..on("forwardProxy", "127.0.0.1", FORWARD_PROXY_PORT, filter)
    }
}

/// An upstream, and the port of a service that it is.
pub(super) struct Known<'a> {
    upstream: &'a Upstream,
    entry: &'a Entry,
}

/// The upstreams of a workload whose services there are. A call to one that is not there yet is
/// refused by the kernel: nobody listens.
pub(super) fn upstreams<'a>(
    view: &View<'a>,
    workload: &'a Workload,
) -> impl Iterator<Item = Known<'a>> {
    let view = *view;
    let explicit = workload.explicit.iter();
    let all = explicit.flat_map(|explicit| &explicit.upstreams);
    all.filter_map(move |upstream| {
        let entry = find(&view, &upstream.name)?;
        let is_known = entry.service.ports.contains_key(&upstream.port);
        is_known.then_some(Known { upstream, entry })
    })
}

// === impl Known ===

impl Known<'_> {
    /// The listener.
    pub(super) fn listener(&self, view: &View<'_>) -> lds::Listener {
        let service = &self.entry.service;
        let Upstream { port, listen, .. } = self.upstream;
        let name = self.name();
        let filter = if self.is_http() {
            listener::http(Side::Outbound, name.clone(), vec![outbound::fault()], None)
        } else {
            let log = access_log::tcp(Side::Outbound, Some(&service.host));
            let target = route::connections(view, service, *port);
            let idle = outbound::idle_timeout(view, service, *port);
            listener::tcp(&name, target, log, idle)
        };
        on(&name, &listen.ip().to_string(), listen.port(), filter)
    }

    /// The routes of its listener, if requests are read there.
    pub(super) fn routes(&self, view: &View<'_>) -> Option<rds::RouteConfiguration> {
        let routes = || route::upstream(view, self.name(), self.entry, self.upstream.port);
        self.is_http().then(routes)
    }

    fn is_http(&self) -> bool {
        let declared = self.entry.service.ports.get(&self.upstream.port);
        declared.is_some_and(|declared| declared.protocol.is_http())
    }

    /// The name of its listener and routes.
    fn name(&self) -> String {
        format!("upstream|{}", self.upstream.listen)
    }
}

/// The service that a caller means, by any name by which its DNS would answer.
fn find<'a>(view: &View<'a>, name: &str) -> Option<&'a Entry> {
    let with_end = format!("{name}.mesh");
    let mut hosts = [name, &with_end]
        .into_iter()
        .filter_map(|name| Host::resolve(name, view.namespace).ok());
    hosts.find_map(|host| view.entry(&host))
}

/// A listener with one chain.
fn on(name: &str, address: &str, port: u16, filter: lds::Filter) -> lds::Listener {
    lds::Listener {
        name: name.to_owned(),
        address: wire::address(address, port),
        filter_chains: vec![listener::chain("service", None, vec![filter])],
        traffic_direction: core::TrafficDirection::Outbound.into(),
        ..Default::default()
    }
}
