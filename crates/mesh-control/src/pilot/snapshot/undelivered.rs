//! Requests that never reached the application they were for, marked so that callers may safely
//! try another endpoint.
//!
//! An application that ends is called until everybody has heard of it. What its own sidecar then
//! answers is a 503 as any other to the caller's sidecar, which must not repeat a request that may
//! have been acted on. But a sidecar that could not connect to its application knows that nothing
//! was handed on, and says so: whatever the method, another endpoint may be asked. The mark is for
//! proxies alone. Neither can an application set it nor does one ever see it.

use mesh_proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use mesh_proto::envoy::config::accesslog::v3::{AccessLogFilter, ResponseFlagFilter};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mesh_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

/// The header that marks them. Its value are the flags of what went wrong.
pub(super) const HEADER: &str = "x-mesh-undelivered";

/// Envoy's flag of a request for which no connection came about.
///
/// Source: <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>.
const NO_CONNECTION: &str = "UF";

/// Marks what a called sidecar answers by itself because its application takes no connection.
pub(super) fn replies() -> hcm::LocalReplyConfig {
    let flag = ResponseFlagFilter {
        flags: vec![NO_CONNECTION.to_owned()],
    };
    hcm::LocalReplyConfig {
        mappers: vec![hcm::ResponseMapper {
            filter: Some(AccessLogFilter {
                filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(flag)),
            }),
            headers_to_add: vec![core::HeaderValueOption {
                header: Some(core::HeaderValue {
                    key: HEADER.to_owned(),
                    value: "%RESPONSE_FLAGS%".to_owned(),
                    ..Default::default()
                }),
                append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Matches answers with the mark, by the flag alone: with another beside it something more than
/// the connection failed.
pub(super) fn answer() -> rds::HeaderMatcher {
    let exact = StringMatcher {
        match_pattern: Some(MatchPattern::Exact(NO_CONNECTION.to_owned())),
        ..Default::default()
    };
    rds::HeaderMatcher {
        name: HEADER.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..Default::default()
    }
}
