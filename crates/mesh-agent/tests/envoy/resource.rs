//! The configuration that the test's Pilot gives: a listener whose route answers by itself,
//! and a cluster that needs endpoints and secrets before it is warm.

#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]

use std::net::SocketAddr;

use mesh_proto::DESCRIPTORS;
use mesh_proto::envoy::service::discovery::v3::Resource;
use mesh_proto::google::protobuf::Any;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use crate::pilot::Resources;

/// Everything for a listener at `address` that answers `body`.
pub(crate) fn served(address: SocketAddr, body: &str) -> Resources {
    [
        resource("envoy.config.cluster.v3.Cluster", "backend", cluster()),
        resource(
            "envoy.config.endpoint.v3.ClusterLoadAssignment",
            "backend",
            json!({ "cluster_name": "backend" }),
        ),
        resource(
            "envoy.config.listener.v3.Listener",
            "test",
            listener(address),
        ),
        resource(
            "envoy.config.route.v3.RouteConfiguration",
            "routes",
            routes(body),
        ),
        resource(
            "mesh.agent.v1.Name",
            "reviews.shop.mesh",
            json!({ "host": "reviews.shop.mesh", "addresses": ["240.240.0.1"] }),
        ),
    ]
    .into_iter()
    .map(|(type_url, resource)| (type_url, [(resource.name.clone(), resource)].into()))
    .collect()
}

/// A cluster that Envoy refuses.
pub(crate) fn bad_cluster() -> (String, Resource) {
    let cluster = json!({ "name": "bad", "type": "STATIC", "connect_timeout": "-1s" });
    resource("envoy.config.cluster.v3.Cluster", "bad", cluster)
}

/// A route whose path is matched by an expression.
pub(crate) fn route_by(expression: &str, body: &str) -> (String, Resource) {
    let mut routes = routes(body);
    routes["virtual_hosts"][0]["routes"][0]["match"] =
        json!({ "safe_regex": { "regex": expression } });
    resource("envoy.config.route.v3.RouteConfiguration", "routes", routes)
}

/// A cluster whose endpoint Envoy looks up by name.
pub(crate) fn looked_up(name: &str, host: &str) -> (String, Resource) {
    let address = json!({ "socket_address": { "address": host, "port_value": 80 } });
    let endpoint = json!({ "endpoint": { "address": address } });
    let cluster = json!({
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
    });
    resource("envoy.config.cluster.v3.Cluster", name, cluster)
}

fn resource(kind: &str, name: &str, json: Value) -> (String, Resource) {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name(kind).unwrap();
    let message = DynamicMessage::deserialize(descriptor, json).unwrap();
    let value = message.encode_to_vec();
    let type_url = format!("type.googleapis.com/{kind}");
    // Any hash does that is another one for another content.
    let version = value.iter().fold(7_u64, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let resource = Resource {
        name: name.to_owned(),
        version: format!("{version:016x}"),
        resource: Some(Any {
            type_url: type_url.clone(),
            value: value.into(),
        }),
        ..Default::default()
    };
    (type_url, resource)
}

fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" })
}

fn secret(name: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "api_config_source": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "agent" } }],
            },
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",
        },
    })
}

fn cluster() -> Value {
    json!({
        "name": "backend",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": { "eds_config": ads() },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [secret("default")],
                    "validation_context_sds_secret_config": secret("ROOTCA"),
                },
            },
        },
    })
}

fn listener(address: SocketAddr) -> Value {
    // Every address of IPv6 is not every address.
    let also = if address.is_ipv6() {
        let v4 = json!({ "address": "0.0.0.0", "port_value": address.port() });
        json!([{ "address": { "socket_address": v4 } }])
    } else {
        json!([])
    };
    json!({
        "name": "test",
        "address": { "socket_address": {
            "address": address.ip().to_string(),
            "port_value": address.port(),
        } },
        "additional_addresses": also,
        "traffic_direction": "INBOUND",
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "test",
                "rds": { "route_config_name": "routes", "config_source": ads() },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    },
                }],
            },
        }] }],
    })
}

fn routes(body: &str) -> Value {
    json!({
        "name": "routes",
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{
                "match": { "prefix": "/" },
                "direct_response": { "status": 200, "body": { "inline_string": body } },
            }],
        }],
    })
}
