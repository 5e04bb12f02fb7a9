//! The parts that listeners are made of: addresses, filter chains, the HTTP and TCP proxies.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::listener::v3 as lds;
use mesh_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as manager;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use mesh_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use mesh_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy;
use mesh_proto::google::protobuf::Any;

use super::access_log::{self, Side};
use super::{cluster, wire};

/// Clusters that connections are spread over, by weight.
pub(super) type Weighted = Vec<(String, u32)>;

/// A listener without filter chains, on the wildcard address of both families.
pub(super) fn on_every_address(name: &str, port: u16, direction: Side) -> lds::Listener {
    lds::Listener {
        name: name.to_owned(),
        address: wire::address("0.0.0.0", port),
        additional_addresses: vec![also("::", port)],
        traffic_direction: match direction {
            Side::Inbound => core::TrafficDirection::Inbound,
            Side::Outbound => core::TrafficDirection::Outbound,
        }
        .into(),
        ..Default::default()
    }
}

/// One more address of a listener.
pub(super) fn also(address: impl Into<String>, port: u16) -> lds::AdditionalAddress {
    lds::AdditionalAddress {
        address: wire::address(address, port),
        ..Default::default()
    }
}

/// A filter chain; `name` is unique in its listener and stable, since Envoy drains the
/// connections of a chain that it does not find again.
pub(super) fn chain(
    name: impl Into<String>,
    matching: Option<lds::FilterChainMatch>,
    filters: Vec<lds::Filter>,
) -> lds::FilterChain {
    lds::FilterChain {
        name: name.into(),
        filter_chain_match: matching,
        filters,
        ..Default::default()
    }
}

/// The chain that ends whoever dials a redirect port itself: passed on to its original
/// destination, such a connection would come back for ever.
pub(super) fn trap(port: u16) -> lds::FilterChain {
    let matching = lds::FilterChainMatch {
        destination_port: wire::uint(port.into()),
        ..Default::default()
    };
    let target = vec![(cluster::BLACK_HOLE.to_owned(), 1)];
    let proxy = tcp("trap", target, Vec::new(), None);
    chain("trap", Some(matching), vec![proxy])
}

/// The filter that passes bytes on.
pub(super) fn tcp(
    stat_prefix: &str,
    mut target: Weighted,
    access_log: Vec<mesh_proto::envoy::config::accesslog::v3::AccessLog>,
    idle: Option<Duration>,
) -> lds::Filter {
    let specifier = match target.as_mut_slice() {
        [(only, _)] => tcp_proxy::ClusterSpecifier::Cluster(std::mem::take(only)),
        _ => tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: target
                .into_iter()
                .map(
                    |(name, weight)| tcp_proxy::weighted_cluster::ClusterWeight {
                        name,
                        weight,
                        ..Default::default()
                    },
                )
                .collect(),
        }),
    };
    let config = tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        access_log,
        idle_timeout: idle.and_then(wire::duration),
        cluster_specifier: Some(specifier),
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", wire::any(&config))
}

/// The filter that passes bytes on to the cluster that a filter before it has named, which ADS is
/// asked for if it is not known; a connection waits so long for it.
pub(super) fn on_demand(
    stat_prefix: &str,
    access_log: Vec<mesh_proto::envoy::config::accesslog::v3::AccessLog>,
    patience: Duration,
) -> lds::Filter {
    let unnamed = cluster::BLACK_HOLE.to_owned();
    let config = tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        access_log,
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(unnamed)),
        on_demand: Some(tcp_proxy::OnDemand {
            odcds_config: wire::ads(),
            timeout: wire::duration(patience),
            ..Default::default()
        }),
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", wire::any(&config))
}

/// The filter that passes requests on by the `RouteConfiguration` that ADS has under the name
/// `routes`, with `filters` before the router. What it answers by itself is as `replies` say.
pub(super) fn http(
    side: Side,
    routes: String,
    filters: Vec<hcm::HttpFilter>,
    replies: Option<hcm::LocalReplyConfig>,
) -> lds::Filter {
    let routes = RouteSpecifier::Rds(hcm::Rds {
        config_source: wire::ads(),
        route_config_name: routes,
    });
    let last = http_filter("envoy.filters.http.router", wire::any(&silent_router()));
    let mut config = hcm::HttpConnectionManager {
        stat_prefix: match side {
            Side::Inbound => "inbound",
            Side::Outbound => "outbound",
        }
        .to_owned(),
        http_filters: filters.into_iter().chain([last]).collect(),
        server_header_transformation: manager::ServerHeaderTransformation::PassThrough.into(),
        // A stream may be silent for as long as its ends like; routes have their own timeouts.
        stream_idle_timeout: wire::nought(),
        access_log: access_log::http(side),
        local_reply_config: replies,
        use_remote_address: wire::truth(false),
        // Nobody is trusted because of an address: identities are what counts here.
        internal_address_config: Some(manager::InternalAddressConfig::default()),
        preserve_external_request_id: true,
        upgrade_configs: vec![manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        normalize_path: wire::truth(true),
        strip_trailing_host_dot: true,
        route_specifier: Some(routes),
        ..Default::default()
    };
    if side == Side::Inbound {
        harden(&mut config);
    }
    filter(
        "envoy.filters.network.http_connection_manager",
        wire::any(&config),
    )
}

/// The filter that passes requests of strangers on, by the `RouteConfiguration` that ADS has under
/// the name `routes`.
///
/// Source: <https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge>.
pub(super) fn edge(routes: String, filters: Vec<hcm::HttpFilter>) -> lds::Filter {
    /// How long the head of a request may take.
    const HEAD: Duration = Duration::from_secs(10);
    /// How long a request may do nothing.
    const IDLE: Duration = Duration::from_secs(300);
    let (http2, common) = super::gateway::limits();
    let last = http_filter("envoy.filters.http.router", wire::any(&silent_router()));
    let mut config = hcm::HttpConnectionManager {
        stat_prefix: "gateway".to_owned(),
        http_filters: filters.into_iter().chain([last]).collect(),
        common_http_protocol_options: Some(common),
        http2_protocol_options: Some(http2),
        // What serves behind the gateway is nobody's business outside.
        server_name: "mesh".to_owned(),
        server_header_transformation: manager::ServerHeaderTransformation::Overwrite.into(),
        request_headers_timeout: wire::duration(HEAD),
        stream_idle_timeout: wire::duration(IDLE),
        access_log: access_log::http(Side::Outbound),
        // The caller is who connects; what a request says of others before it is passed on in
        // `x-forwarded-for`, with the caller added, and not believed.
        use_remote_address: wire::truth(true),
        xff_num_trusted_hops: 0,
        internal_address_config: Some(manager::InternalAddressConfig {
            // An empty list would be the private networks, whose callers could set `x-envoy-…`.
            cidr_ranges: vec![wire::network(IpAddr::from(Ipv4Addr::BROADCAST))],
            ..Default::default()
        }),
        preserve_external_request_id: false,
        upgrade_configs: vec![manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        normalize_path: wire::truth(true),
        strip_trailing_host_dot: true,
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: wire::ads(),
            route_config_name: routes,
        })),
        ..Default::default()
    };
    harden(&mut config);
    config.forward_client_cert_details = manager::ForwardClientCertDetails::Sanitize.into();
    config.set_current_client_cert_details = None;
    filter(
        "envoy.filters.network.http_connection_manager",
        wire::any(&config),
    )
}

/// What only the called side does: policies read a path that the application reads alike, and
/// the caller that the application is told of is the one that TLS proved.
fn harden(config: &mut hcm::HttpConnectionManager) {
    config.merge_slashes = true;
    config.path_with_escaped_slashes_action =
        manager::PathWithEscapedSlashesAction::UnescapeAndForward.into();
    config.forward_client_cert_details = manager::ForwardClientCertDetails::SanitizeSet.into();
    config.set_current_client_cert_details = Some(manager::SetCurrentClientCertDetails {
        uri: true,
        ..Default::default()
    });
}

/// The last HTTP filter; it adds no headers of Envoy's own, so that neither side sees the proxy.
fn silent_router() -> Router {
    Router {
        suppress_envoy_headers: true,
        ..Default::default()
    }
}

/// An HTTP filter.
pub(super) fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// A network filter.
pub(super) fn filter(name: &str, config: Any) -> lds::Filter {
    lds::Filter {
        name: name.to_owned(),
        config_type: Some(lds::filter::ConfigType::TypedConfig(config)),
    }
}

/// A listener filter that is off for connections to `disabled` ports.
pub(super) fn listener_filter(name: &str, config: Any, disabled: &[u16]) -> lds::ListenerFilter {
    lds::ListenerFilter {
        name: name.to_owned(),
        filter_disabled: predicate(disabled),
        config_type: Some(lds::listener_filter::ConfigType::TypedConfig(config)),
    }
}

fn predicate(ports: &[u16]) -> Option<lds::ListenerFilterChainMatchPredicate> {
    use lds::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let mut rules: Vec<_> = ports
        .iter()
        .map(|port| {
            let (start, end) = (i32::from(*port), i32::from(*port) + 1);
            let range = mesh_proto::envoy::r#type::v3::Int32Range { start, end };
            lds::ListenerFilterChainMatchPredicate {
                rule: Some(Rule::DestinationPortRange(range)),
            }
        })
        .collect();
    match rules.len() {
        0 | 1 => rules.pop(),
        // A set needs two members at least.
        _ => Some(lds::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        }),
    }
}
