//! Constructors of the messages that occur all over Envoy's configuration.

#![expect(
    clippy::unnecessary_wraps,
    reason = "nearly every field is optional; a value of the field's own type reads best"
)]

use std::time::Duration;

use ipnet::IpNet;
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use mesh_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use mesh_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh_proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use mesh_proto::envoy::r#type::v3::FractionalPercent;
use mesh_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use mesh_proto::google::protobuf;
use mesh_proto::google::protobuf::value::Kind;

/// The key under which our own facts stand in Envoy's metadata.
pub(super) const METADATA: &str = "mesh";

/// Packs a message with its type.
pub(super) fn any<M: prost::Name>(message: &M) -> protobuf::Any {
    protobuf::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec().into(),
    }
}

/// A wrapped integer.
pub(super) fn uint(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

/// A wrapped truth value.
pub(super) fn truth(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

/// A duration; one too long for protobuf is the longest.
pub(super) fn duration(value: Duration) -> Option<protobuf::Duration> {
    Some(protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    })
}

/// The duration nought, which to Envoy often means "without limit".
pub(super) fn nought() -> Option<protobuf::Duration> {
    duration(Duration::ZERO)
}

/// A share of requests, exact to a millionth.
pub(super) fn fraction(percent: f64) -> FractionalPercent {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=1_000_000 first"
    )]
    let numerator = (percent * 10_000.0).round().clamp(0.0, 1_000_000.0) as u32;
    FractionalPercent {
        numerator,
        denominator: DenominatorType::Million.into(),
    }
}

/// An address with a TCP port.
pub(super) fn socket(address: impl Into<String>, port: u16) -> core::SocketAddress {
    core::SocketAddress {
        address: address.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    }
}

/// An address with a TCP port, as most messages want it.
pub(super) fn address(address: impl Into<String>, port: u16) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(socket(address, port))),
    })
}

/// A network.
pub(super) fn network(network: impl Into<IpNet>) -> core::CidrRange {
    let network = network.into();
    core::CidrRange {
        address_prefix: network.network().to_string(),
        prefix_len: uint(network.prefix_len().into()),
    }
}

/// Resources by the stream that brought the resource which refers to them.
///
/// No fetch times out: a listener or cluster waits for its parts instead of working half made.
pub(super) fn ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        initial_fetch_timeout: nought(),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    })
}

/// Secrets by the agent's own socket, which never leave the workload's machine.
pub(super) fn secrets() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        initial_fetch_timeout: nought(),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(
            core::ApiConfigSource {
                api_type: core::api_config_source::ApiType::DeltaGrpc.into(),
                transport_api_version: core::ApiVersion::V3.into(),
                grpc_services: vec![grpc_service("agent")],
                ..Default::default()
            },
        )),
        ..Default::default()
    })
}

/// A gRPC service behind one of Envoy's clusters.
pub(super) fn grpc_service(cluster: &str) -> core::GrpcService {
    core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Metadata of one key and one text.
pub(super) fn metadata(namespace: &str, key: &str, text: &str) -> core::Metadata {
    core::Metadata {
        filter_metadata: [(namespace.to_owned(), structure(key, text))].into(),
        ..Default::default()
    }
}

/// A structure of one key and one text.
pub(super) fn structure(key: &str, text: &str) -> protobuf::Struct {
    let value = protobuf::Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    protobuf::Struct {
        fields: [(key.to_owned(), value)].into(),
    }
}

/// Text that Envoy fills in.
pub(super) fn format(text: impl Into<String>) -> core::SubstitutionFormatString {
    core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::TextFormatSource(
            inline(text),
        )),
        ..Default::default()
    }
}

/// Text in place.
pub(super) fn inline(text: impl Into<String>) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    }
}

/// Matches text that is equal.
pub(super) fn exact(text: impl Into<String>) -> StringMatcher {
    pattern(MatchPattern::Exact(text.into()))
}

/// Matches text that begins so.
pub(super) fn prefix(text: impl Into<String>) -> StringMatcher {
    pattern(MatchPattern::Prefix(text.into()))
}

/// Matches text that ends so.
pub(super) fn suffix(text: impl Into<String>) -> StringMatcher {
    pattern(MatchPattern::Suffix(text.into()))
}

/// Matches the whole text by an expression that the user wrote as one.
pub(super) fn regex(expression: &str) -> StringMatcher {
    pattern(MatchPattern::SafeRegex(expression_of(expression)))
}

/// An expression in RE2, as the user wrote it; nothing of ours is ever pasted into one.
pub(super) fn expression_of(expression: &str) -> RegexMatcher {
    RegexMatcher {
        regex: expression.to_owned(),
        ..Default::default()
    }
}

fn pattern(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}
