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
    /// Sets which HTTP `cluster` speaks where only sidecars listen, or whoever the caller chose;
    /// nothing for TCP and TLS.
    ///
    /// On a port of plain `http` it is what the caller speaks: the sidecar there hands it on as
    /// what its application speaks.
    pub(super) fn speak_on(self, cluster: &mut Cluster, protocol: Protocol) {
        let on = UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(self.http2.clone()),
            ..Default::default()
        });
        self.speak(cluster, protocol, on);
    }

    /// Sets which HTTP `cluster` speaks where applications themselves listen; nothing for TCP and
    /// TLS.
    ///
    /// A port of plain `http` is one of HTTP/1.1, as in Istio, whatever the caller speaks: over TLS
    /// browsers speak HTTP/2 to a gateway, which hands it on.
    pub(super) fn speak_to_application(self, cluster: &mut Cluster, protocol: Protocol) {
        let http1 = explicitly(ProtocolConfig::HttpProtocolOptions(
            core::Http1ProtocolOptions::default(),
        ));
        self.speak(cluster, protocol, http1);
    }

    /// `plain` is what is spoken on a port of plain `http`.
    fn speak(self, cluster: &mut Cluster, protocol: Protocol, plain: UpstreamProtocolOptions) {
        let spoken = match protocol {
            Protocol::Http if !self.upgrade => plain,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                explicitly(ProtocolConfig::Http2ProtocolOptions(self.http2.clone()))
            }
            _ => return,
        };
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
