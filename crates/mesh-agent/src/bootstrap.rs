//! What Envoy is started with: its bootstrap document and its flags. Everything else it asks the agent for.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use mesh_model::SidecarConfig;
use mesh_proto::envoy::config::core::v3::Node;
use mesh_proto::google::protobuf::value::Kind;
use mesh_proto::google::protobuf::{Struct, Value as ProtoValue};
use serde_json::{Value, json};

use crate::config::{Paths, Ports};

/// Seconds in which Envoy drains a listener that changed or goes.
/// Envoy's own 600 s would let plaintext go on that long after a change to STRICT.
const DRAIN_SECONDS: u32 = 5;
/// Access logs reach the log within a second; Envoy's own interval is ten.
const LOG_FLUSH_MILLISECONDS: u32 = 1000;
/// Worker threads of a sidecar; more cost memory for each thread and are not needed beside one workload.
const WORKERS: u32 = 2;
/// The largest compiled regular expression, as Istio sets it; `mesh_model::pattern` keeps below it.
/// Envoy's own 100 refuses ordinary ones, and with each a whole resource.
const LARGEST_EXPRESSION: u32 = 32_768;
/// Connections that Envoy takes before it refuses more, so that it cannot run out of descriptors.
const MAX_CONNECTIONS: u32 = 50_000;

/// What this proxy says that it is, to Pilot and in its own bootstrap.
pub(crate) fn node(config: &SidecarConfig) -> Node {
    let workload = &config.workload;
    let text = |text: &str| ProtoValue {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let labels = Struct {
        fields: workload
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect(),
    };
    let fields = [
        ("namespace", text(workload.namespace.as_str())),
        ("service_account", text(workload.service_account.as_str())),
        ("mesh_version", text(env!("CARGO_PKG_VERSION"))),
        (
            "labels",
            ProtoValue {
                kind: Some(Kind::StructValue(labels)),
            },
        ),
    ];
    Node {
        id: workload.id.to_string(),
        cluster: cluster(config),
        metadata: Some(Struct {
            fields: fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        }),
        ..Default::default()
    }
}

/// Envoy's bootstrap, in JSON.
///
/// Source: `envoy.config.bootstrap.v3.Bootstrap`.
pub(crate) fn bootstrap(config: &SidecarConfig, paths: &Paths, ports: Ports) -> Value {
    let workload = &config.workload;
    let mut document = json!({
        "node": {
            "id": workload.id,
            "cluster": cluster(config),
            "metadata": {
                "namespace": workload.namespace,
                "service_account": workload.service_account,
                "mesh_version": env!("CARGO_PKG_VERSION"),
                "labels": workload.labels,
            },
        },
        // On TCP it would be open to the application: REDIRECT does not guard loopback.
        "admin": {
            "address": pipe(&paths.admin_socket, Some(0o600)),
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "agent" } }],
            },
            // Never with half a configuration: until the first answer the ports stay closed.
            "cds_config": ads(),
            "lds_config": ads(),
        },
        "static_resources": {
            "clusters": [agent_cluster(paths), admin_cluster(paths)],
            "listeners": [metrics_listener(ports)],
        },
        "stats_config": {
            // 113 statistics for each cluster otherwise: 64 MB at 1,000 clusters.
            "stats_matcher": { "inclusion_list": { "patterns": KEPT_STATS
                .iter()
                .map(|&(kind, text)| json!({ kind: text }))
                .collect::<Vec<_>>() } },
        },
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "overload_manager": {
            "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": MAX_CONNECTIONS,
                },
            }],
        },
        "layered_runtime": {
            "layers": [
                {
                    "name": "limits",
                    "static_layer": { "re2.max_program_size.error_level": LARGEST_EXPRESSION },
                },
                { "name": "admin", "admin_layer": {} },
            ],
        },
    });
    if let Some(resolver) = resolver(&config.upstream_dns)
        && let Some(fields) = document.as_object_mut()
    {
        fields.insert("typed_dns_resolver_config".to_owned(), resolver);
    }
    document
}

/// Where Envoy itself looks names up, as for a `ServiceEntry` with `resolution: DNS`: at the servers
/// that the agent asks, by whole names. Without servers it reads `/etc/resolv.conf`, which may name
/// a resolver that knows the mesh's names and gives addresses that lead back into the proxy.
fn resolver(servers: &[SocketAddr]) -> Option<Value> {
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| {
            json!({ "socket_address": {
                "address": server.ip(),
                "port_value": server.port(),
            } })
        })
        .collect();
    (!addresses.is_empty()).then(|| {
        json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": addresses,
                "dns_resolver_options": { "no_default_search_domain": true },
            },
        })
    })
}

/// Envoy's command line.
pub(crate) fn arguments(paths: &Paths) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--config-path".into(), paths.bootstrap.clone().into()];
    let fixed = [
        // Hot restart keeps shared memory that a crash leaves behind, and aborts on another user's.
        "--disable-hot-restart".to_owned(),
        "--drain-time-s".to_owned(),
        DRAIN_SECONDS.to_string(),
        "--file-flush-interval-msec".to_owned(),
        LOG_FLUSH_MILLISECONDS.to_string(),
        "--concurrency".to_owned(),
        WORKERS.to_string(),
    ];
    arguments.extend(fixed.into_iter().map(OsString::from));
    arguments
}

fn cluster(config: &SidecarConfig) -> String {
    let workload = &config.workload;
    format!("{}.{}", workload.service_account, workload.namespace)
}

fn pipe(path: &Path, mode: Option<u32>) -> Value {
    match mode {
        Some(mode) => json!({ "pipe": { "path": path, "mode": mode } }),
        None => json!({ "pipe": { "path": path } }),
    }
}

fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" })
}

fn endpoint(cluster: &str, path: &Path) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": pipe(path, None) } }] }],
    })
}

/// The agent: ADS and SDS.
fn agent_cluster(paths: &Paths) -> Value {
    json!({
        "name": "agent",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": endpoint("agent", &paths.agent_socket),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        // An agent that hangs is noticed; one that died closes the socket.
                        "connection_keepalive": { "interval": "30s", "timeout": "10s" },
                    },
                },
            },
        },
    })
}

/// Envoy's own admin, for the metrics listener only.
fn admin_cluster(paths: &Paths) -> Value {
    json!({
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": endpoint("admin", &paths.admin_socket),
    })
}

/// `/stats/prometheus` of the admin interface and nothing else of it, on both families.
fn metrics_listener(ports: Ports) -> Value {
    let on = |address: &str| {
        json!({ "socket_address": {
            "address": address,
            "port_value": ports.envoy_metrics,
        } })
    };
    json!({
        "name": "prometheus",
        "address": on("0.0.0.0"),
        "additional_addresses": [{ "address": on("::") }],
        // A scrape is no reason to keep a leaving proxy.
        "drain_type": "MODIFY_ONLY",
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "prometheus",
                "normalize_path": true,
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    },
                }],
                "route_config": {
                    "name": "prometheus",
                    "virtual_hosts": [{
                        "name": "prometheus",
                        "domains": ["*"],
                        "routes": [{
                            "match": {
                                "path": "/stats/prometheus",
                                "headers": [{
                                    "name": ":method",
                                    "string_match": { "exact": "GET" },
                                }],
                            },
                            "route": { "cluster": "admin" },
                        }],
                    }],
                },
            },
        }] }],
    })
}

/// The statistics that are kept: what tells whether the proxy, its configuration and its calls are well.
const KEPT_STATS: [(&str, &str); 17] = [
    ("prefix", "server."),
    ("prefix", "listener_manager."),
    ("prefix", "cluster_manager."),
    ("prefix", "control_plane."),
    ("prefix", "sds."),
    ("contains", ".ssl."),
    ("contains", ".rbac."),
    ("contains", "http_local_rate_limit"),
    ("suffix", "downstream_cx_active"),
    ("suffix", "downstream_cx_total"),
    ("suffix", "no_filter_chain_match"),
    ("suffix", "downstream_listener_filter_error"),
    ("suffix", "upstream_cx_active"),
    ("suffix", "upstream_cx_total"),
    ("suffix", "upstream_cx_connect_fail"),
    ("suffix", "upstream_rq_completed"),
    ("contains", "upstream_rq_pending"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        document_with(&[])
    }

    fn document_with(upstream_dns: &[&str]) -> Value {
        let config: SidecarConfig = serde_json::from_value(json!({
            "workload": {
                "id": "shop/web-1",
                "namespace": "shop",
                "service_account": "web",
                "addresses": ["10.213.0.2"],
                "labels": { "version": "v2" },
            },
            "pilots": [], "cas": [], "root_hashes": [],
            "state_dir": "/var/lib/mesh/agent",
            "upstream_dns": upstream_dns,
        }))
        .unwrap();
        bootstrap(&config, &Paths::new(&config.state_dir), Ports::default())
    }

    #[test]
    fn envoy_says_who_it_is_as_the_agent_does() {
        let document = document();
        assert_eq!(document["node"]["id"], "shop/web-1");
        assert_eq!(document["node"]["cluster"], "web.shop");
        assert_eq!(document["node"]["metadata"]["labels"]["version"], "v2");
    }

    #[test]
    fn admin_is_a_socket_of_its_owner_alone() {
        let pipe = &document()["admin"]["address"]["pipe"];
        assert_eq!(pipe["path"], "/var/lib/mesh/agent/admin.sock");
        assert_eq!(pipe["mode"], 384);
    }

    #[test]
    fn configuration_is_waited_for_without_end() {
        let dynamic = &document()["dynamic_resources"];
        for which in ["cds_config", "lds_config"] {
            assert_eq!(dynamic[which]["initial_fetch_timeout"], "0s");
        }
    }

    #[test]
    fn names_are_looked_up_where_the_agent_looks_them_up() {
        assert_eq!(document().get("typed_dns_resolver_config"), None);
        let document = document_with(&["192.0.2.53:53", "[2001:db8::53]:5353"]);
        let resolvers = &document["typed_dns_resolver_config"]["typed_config"]["resolvers"];
        assert_eq!(
            *resolvers,
            json!([
                { "socket_address": { "address": "192.0.2.53", "port_value": 53 } },
                { "socket_address": { "address": "2001:db8::53", "port_value": 5353 } },
            ])
        );
    }

    #[test]
    fn only_the_metrics_of_admin_are_reachable_by_tcp() {
        let document = document();
        let listeners = document["static_resources"]["listeners"]
            .as_array()
            .unwrap();
        assert_eq!(listeners.len(), 1);
        let hosts = &listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]
            ["virtual_hosts"];
        let routes = hosts[0]["routes"].as_array().unwrap();
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0]["match"]["path"], "/stats/prometheus");
    }
}
