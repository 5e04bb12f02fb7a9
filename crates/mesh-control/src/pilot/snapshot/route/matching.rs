//! Which requests a route is for.

use std::collections::BTreeMap;

use mesh_model::istio::shared::{Matcher, StringMatch};
use mesh_model::istio::virtual_service::HttpMatch;
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use mesh_proto::envoy::config::route::v3::route_match::PathSpecifier;
use mesh_proto::envoy::r#type::matcher::v3::StringMatcher;

use super::super::wire;

/// The request side of a match: what of it depends on the caller is decided before.
pub(super) fn request(condition: &HttpMatch) -> rds::RouteMatch {
    let pseudo = [
        (":method", &condition.method),
        (":authority", &condition.authority),
        (":scheme", &condition.scheme),
    ];
    let pseudo = pseudo
        .into_iter()
        .filter_map(|(name, text)| Some(header(name, text.as_ref()?)));
    let wanted = all(&condition.headers, header);
    let unwanted = all(&condition.without_headers, without);
    rds::RouteMatch {
        case_sensitive: condition
            .ignore_uri_case
            .then_some(mesh_proto::google::protobuf::BoolValue { value: false }),
        headers: pseudo.chain(wanted).chain(unwanted).collect(),
        query_parameters: all(&condition.query_params, parameter).collect(),
        path_specifier: Some(path(condition.uri.as_ref())),
        ..Default::default()
    }
}

fn all<'a, T>(
    matches: &'a BTreeMap<String, StringMatch>,
    one: impl Fn(&str, &StringMatch) -> T + 'a,
) -> impl Iterator<Item = T> + 'a {
    matches.iter().map(move |(name, text)| one(name, text))
}

fn path(uri: Option<&StringMatch>) -> PathSpecifier {
    match uri.map_or(Matcher::Present, StringMatch::matcher) {
        Matcher::Present => PathSpecifier::Prefix("/".to_owned()),
        Matcher::Exact(text) => PathSpecifier::Path(text.to_owned()),
        Matcher::Prefix(text) => PathSpecifier::Prefix(text.to_owned()),
        Matcher::Regex(text) => PathSpecifier::SafeRegex(wire::expression_of(text)),
    }
}

/// A header by its value; a match without a value asks only that it is there.
fn header(name: &str, text: &StringMatch) -> rds::HeaderMatcher {
    let specifier = match string(text) {
        Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    rds::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// A header that must not match; one that is not there does not match.
///
/// The expression `*`, which is none, is Istio's other way to say that it must not be there.
fn without(name: &str, text: &StringMatch) -> rds::HeaderMatcher {
    let absent = StringMatch::default();
    let text = if text.regex.as_deref() == Some("*") {
        &absent
    } else {
        text
    };
    rds::HeaderMatcher {
        invert_match: true,
        treat_missing_header_as_empty: string(text).is_some(),
        ..header(name, text)
    }
}

fn parameter(name: &str, text: &StringMatch) -> rds::QueryParameterMatcher {
    let specifier = match string(text) {
        Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
        None => QueryParameterMatchSpecifier::PresentMatch(true),
    };
    rds::QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

fn string(text: &StringMatch) -> Option<StringMatcher> {
    match text.matcher() {
        Matcher::Present => None,
        Matcher::Exact(text) => Some(wire::exact(text)),
        Matcher::Prefix(text) => Some(wire::prefix(text)),
        Matcher::Regex(text) => Some(wire::regex(text)),
    }
}
