//! Access logs: to the Mixer, which makes metrics of them, and as text to the sidecar's output.

use std::time::Duration;

use mesh_model::Host;
use mesh_proto::envoy::config::accesslog::v3::access_log::ConfigType;
use mesh_proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use mesh_proto::envoy::config::accesslog::v3::{AccessLog, AccessLogFilter, ResponseFlagFilter};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::extensions::access_loggers::grpc::v3 as grpc;
use mesh_proto::envoy::extensions::access_loggers::stream::v3::{
    StdoutAccessLog, stdout_access_log::AccessLogFormat,
};
use mesh_proto::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use mesh_proto::google::protobuf::Any;

use super::wire;

/// The key of the service's host in the metadata of a route or cluster, for the tag `service`.
pub(super) const SERVICE: &str = "service";

/// Which side of a call a log is of; its name on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    /// The one that is called.
    Inbound,
    /// The one that calls.
    Outbound,
}

/// How often entries are sent at the latest: metrics follow calls by about a second.
const FLUSH: Duration = Duration::from_secs(1);

/// How many bytes of entries are held before that.
const BUFFER: u32 = 8 * 1024;

// === impl Side ===

impl Side {
    /// The side's name, also of the log.
    fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// The formatter of the other side's identity, as the proxy verified it.
    fn peer(self) -> &'static str {
        match self {
            Self::Inbound => "%DOWNSTREAM_PEER_URI_SAN%",
            Self::Outbound => "%UPSTREAM_PEER_URI_SAN%",
        }
    }

    /// The formatter of the TLS version towards the other side.
    fn tls(self) -> &'static str {
        match self {
            Self::Inbound => "%DOWNSTREAM_TLS_VERSION%",
            Self::Outbound => "%UPSTREAM_TLS_VERSION%",
        }
    }
}

/// The logs of HTTP requests; the service is the one named by the route that was taken.
pub(super) fn http(side: Side) -> Vec<AccessLog> {
    let service = format!("%METADATA(ROUTE:{}:{SERVICE})%", wire::METADATA);
    let config = grpc::HttpGrpcAccessLogConfig {
        common_config: Some(common(side, Some(service))),
        ..Default::default()
    };
    let text = format!(
        "%START_TIME% {side} http \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
         authority=\"%REQ(:AUTHORITY)%\" code=%RESPONSE_CODE% details=%RESPONSE_CODE_DETAILS% \
         request=%REQ(X-REQUEST-ID)% {connection}\n",
        side = side.name(),
        connection = connection(side),
    );
    vec![
        log("envoy.access_loggers.http_grpc", wire::any(&config)),
        stdout(text),
    ]
}

/// The logs of connections, to `service` if that is known before the call.
pub(super) fn tcp(side: Side, service: Option<&Host>) -> Vec<AccessLog> {
    connections(side, service.map(ToString::to_string))
}

/// The logs of connections to an address; the service is the one that the cluster names.
pub(super) fn direct() -> Vec<AccessLog> {
    let service = format!("%CLUSTER_METADATA({}:{SERVICE})%", wire::METADATA);
    connections(Side::Outbound, Some(service))
}

fn connections(side: Side, service: Option<String>) -> Vec<AccessLog> {
    let config = grpc::TcpGrpcAccessLogConfig {
        common_config: Some(common(side, service)),
    };
    let text = format!(
        "%START_TIME% {side} tcp details=%CONNECTION_TERMINATION_DETAILS% {connection}\n",
        side = side.name(),
        connection = connection(side),
    );
    vec![
        log("envoy.access_loggers.tcp_grpc", wire::any(&config)),
        stdout(text),
    ]
}

/// The log of a listener: connections that no filter chain takes, such as plaintext under STRICT.
pub(super) fn refused(side: Side) -> Vec<AccessLog> {
    let text = format!(
        "%START_TIME% {side} refused flags=%RESPONSE_FLAGS% from=%DOWNSTREAM_REMOTE_ADDRESS% \
         to=%DOWNSTREAM_LOCAL_ADDRESS% failure=\"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\"\n",
        side = side.name(),
    );
    let no_route = ResponseFlagFilter {
        flags: vec!["NR".to_owned()],
    };
    vec![AccessLog {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(no_route)),
        }),
        ..stdout(text)
    }]
}

/// What every line says of the connection.
fn connection(side: Side) -> String {
    format!(
        "flags=%RESPONSE_FLAGS% peer=\"{peer}\" tls={tls} cluster=\"%UPSTREAM_CLUSTER%\" \
         upstream=%UPSTREAM_HOST% from=%DOWNSTREAM_REMOTE_ADDRESS% to=%DOWNSTREAM_LOCAL_ADDRESS% \
         received=%BYTES_RECEIVED% sent=%BYTES_SENT% duration_ms=%DURATION% \
         failure=\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\"",
        peer = side.peer(),
        tls = side.tls(),
    )
}

/// What both kinds of log to the Mixer share.
fn common(side: Side, service: Option<String>) -> grpc::CommonGrpcAccessLogConfig {
    let tags = [("peer", Some(side.peer().to_owned())), (SERVICE, service)];
    grpc::CommonGrpcAccessLogConfig {
        log_name: side.name().to_owned(),
        grpc_service: Some(wire::grpc_service(super::cluster::MIXER)),
        transport_api_version: core::ApiVersion::V3.into(),
        buffer_flush_interval: wire::duration(FLUSH),
        buffer_size_bytes: wire::uint(BUFFER),
        custom_tags: tags
            .into_iter()
            .filter_map(|(tag, value)| {
                Some(CustomTag {
                    tag: tag.to_owned(),
                    r#type: Some(custom_tag::Type::Value(value?)),
                })
            })
            .collect(),
        ..Default::default()
    }
}

/// Text to the standard output, by the logger made for it: the file `/dev/stdout` cannot be
/// opened by a process that gave up root.
fn stdout(text: String) -> AccessLog {
    let config = StdoutAccessLog {
        access_log_format: Some(AccessLogFormat::LogFormat(wire::format(text))),
    };
    log("envoy.access_loggers.stdout", wire::any(&config))
}

fn log(name: &str, config: Any) -> AccessLog {
    AccessLog {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
