//! Which HTTP a cluster speaks, and within which limits.

use mesh_model::Protocol;
use mesh_proto::envoy::config::cluster::v3::Cluster;
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use mesh_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use mesh_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};

use super::super::wire;

/// The key of a cluster's protocol options, which is their type.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What a cluster's rule says of HTTP.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Http {
    /// Limits of each connection.
    pub(super) common: Option<core::HttpProtocolOptions>,
    /// Settings of HTTP/2.
    pub(super) http2: core::Http2ProtocolOptions,
    /// Whether plain `http` becomes HTTP/2.
    pub(super) upgrade: bool,
    /// How the server's name follows from a request, if it does.
    pub(super) name: Option<core::UpstreamHttpProtocolOptions>,
}

// === impl Http ===

impl Http {
    /// Sets which HTTP `cluster` speaks; nothing for TCP and TLS.
    ///
    /// On a port of plain `http` it is what the caller speaks, for it may be another sidecar that
    /// listens there.
    pub(super) fn speak(self, cluster: &mut Cluster, protocol: Protocol) {
        let spoken = match protocol {
            Protocol::Http if !self.upgrade => {
                UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                    http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                    http2_protocol_options: Some(self.http2.clone()),
                    ..Default::default()
                })
            }
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => self.explicitly_http2(),
            _ => return,
        };
        self.set(cluster, spoken);
    }

    /// Sets which HTTP `cluster` speaks to the application itself; nothing for TCP and TLS.
    ///
    /// A port of plain `http` is one of HTTP/1.1, as in Istio, whatever the caller speaks: over TLS
    /// browsers speak HTTP/2 to a gateway, which hands it on.
    pub(super) fn speak_to_application(self, cluster: &mut Cluster, protocol: Protocol) {
        let spoken = match protocol {
            Protocol::Http => explicitly(ProtocolConfig::HttpProtocolOptions(
                core::Http1ProtocolOptions::default(),
            )),
            Protocol::Http2 | Protocol::Grpc => self.explicitly_http2(),
            _ => return,
        };
        self.set(cluster, spoken);
    }

    fn explicitly_http2(&self) -> UpstreamProtocolOptions {
        explicitly(ProtocolConfig::Http2ProtocolOptions(self.http2.clone()))
    }

    fn set(self, cluster: &mut Cluster, spoken: UpstreamProtocolOptions) {
        let options = HttpProtocolOptions {
            common_http_protocol_options: self.common,
            upstream_http_protocol_options: self.name,
            upstream_protocol_options: Some(spoken),
            ..Default::default()
        };
        cluster
            .typed_extension_protocol_options
            .insert(KEY.to_owned(), wire::any(&options));
    }
}

fn explicitly(config: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(config),
    })
}
