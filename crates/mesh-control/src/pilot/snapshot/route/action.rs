//! What becomes of a request that a route takes.

use base64::Engine as _;
use mesh_model::Host;
use mesh_model::istio::virtual_service::{
    DerivePort, DirectResponse, HeaderOperations, Headers, HttpDestination, HttpRoute, Redirect,
    Retries, Rewrite,
};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use mesh_proto::envoy::config::route::v3::route::Action;
use mesh_proto::envoy::config::route::v3::route_action::hash_policy::{self, PolicySpecifier};
use mesh_proto::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier,
};
use mesh_proto::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use mesh_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::super::{View, cluster, fault, outbound, undelivered, wire};
use super::to;
use super::virtual_service::Target;

/// How often Istio tries again unless told otherwise.
const RETRIES: u32 = 2;

/// Which failures Istio tries again unless told otherwise, and those where nothing of the request
/// was sent, or nothing of it was handed to the application: none of them can make an application
/// do something twice.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,reset-before-request,\
                        retriable-headers";

/// The condition that is an answer's header.
const RETRIABLE_HEADERS: &str = "retriable-headers";

/// How often another endpoint is looked for that has not failed yet.
const OTHER_ENDPOINTS: i64 = 5;

/// Sets what a rule does with the requests that it takes.
pub(super) fn apply(target: &Target<'_>, rule: &HttpRoute, route: &mut rds::Route) {
    if let Some(faults) = &rule.fault {
        route
            .typed_per_filter_config
            .insert(outbound::FAULT.to_owned(), wire::any(&fault::of(faults)));
    }
    let changes = Changes::of(rule.headers.as_ref());
    route.request_headers_to_add = changes.request_add;
    route.request_headers_to_remove = changes.request_remove;
    route.response_headers_to_add = changes.response_add;
    route.response_headers_to_remove = changes.response_remove;
    route.action = Some(if let Some(redirect) = &rule.redirect {
        Action::Redirect(redirection(redirect))
    } else if let Some(response) = &rule.direct_response {
        Action::DirectResponse(answer(response))
    } else {
        let mut action = forward(target, rule);
        if let Some(rewrite) = &rule.rewrite {
            rewrite_to(&mut action, rewrite);
        }
        if let Some(authority) = changes.authority {
            action.host_rewrite_specifier =
                Some(HostRewriteSpecifier::HostRewriteLiteral(authority));
        }
        Action::Route(action)
    });
}

/// What is tried again, and how often, unless a route says otherwise.
pub(super) fn default_retries() -> rds::RetryPolicy {
    retries_of(RETRIES, RETRY_ON)
}

/// How requests of one client find the same endpoint again, if a `DestinationRule` asks for it.
pub(super) fn hash_policy(
    view: &View<'_>,
    host: &Host,
    subset: &str,
    port: u16,
) -> Vec<HashPolicy> {
    let policy = view.rules(host).policy(port, subset);
    let Some(hash) = policy
        .load_balancer
        .as_ref()
        .and_then(|balancer| balancer.consistent_hash.as_ref())
    else {
        return Vec::new();
    };
    let specifier = if let Some(name) = &hash.http_header_name {
        PolicySpecifier::Header(hash_policy::Header {
            header_name: name.clone(),
            ..Default::default()
        })
    } else if let Some(cookie) = &hash.http_cookie {
        PolicySpecifier::Cookie(hash_policy::Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.and_then(|ttl| wire::duration(ttl.as_std())),
            path: cookie.path.clone(),
            attributes: cookie
                .attributes
                .iter()
                .map(|attribute| hash_policy::CookieAttribute {
                    name: attribute.name.clone(),
                    value: attribute.value.clone(),
                })
                .collect(),
        })
    } else if let Some(name) = &hash.http_query_parameter_name {
        PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name: name.clone() })
    } else if hash.use_source_ip == Some(true) {
        PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true })
    } else {
        return Vec::new();
    };
    vec![HashPolicy {
        policy_specifier: Some(specifier),
        ..Default::default()
    }]
}

fn forward(target: &Target<'_>, rule: &HttpRoute) -> rds::RouteAction {
    let single = rule.route.len() == 1;
    let destinations: Vec<_> = rule
        .route
        .iter()
        .filter(|route| single || route.weight > 0)
        .filter_map(|route| Some((route, target.cluster(route.destination.as_ref()?)?)))
        .collect();
    let mut action = to(String::new());
    if let Some((route, (host, port, _))) = destinations.first() {
        let subset = route
            .destination
            .as_ref()
            .map_or("", |destination| &destination.subset);
        action.hash_policy = hash_policy(target.view, host, subset, *port);
    }
    action.cluster_specifier = Some(match destinations.as_slice() {
        [] => ClusterSpecifier::Cluster(cluster::BLACK_HOLE.to_owned()),
        [(route, (_, _, name))] if route.headers.is_none() => {
            ClusterSpecifier::Cluster(name.clone())
        }
        _ => ClusterSpecifier::WeightedClusters(rds::WeightedCluster {
            clusters: destinations
                .iter()
                .map(|(route, (_, _, name))| share(route, name.clone()))
                .collect(),
            ..Default::default()
        }),
    });
    if let Some(timeout) = rule.timeout {
        action.timeout = wire::duration(timeout.as_std());
    }
    action.retry_policy = rule.retries.as_ref().map(retries);
    action
}

fn share(route: &HttpDestination, name: String) -> ClusterWeight {
    let changes = Changes::of(route.headers.as_ref());
    ClusterWeight {
        name,
        weight: wire::uint(route.weight.max(1)),
        request_headers_to_add: changes.request_add,
        request_headers_to_remove: changes.request_remove,
        response_headers_to_add: changes.response_add,
        response_headers_to_remove: changes.response_remove,
        host_rewrite_specifier: changes
            .authority
            .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

/// A route's own retries; no attempts replaces the virtual host's policy by one that does nothing.
fn retries(retries: &Retries) -> rds::RetryPolicy {
    if retries.attempts == 0 {
        return rds::RetryPolicy {
            num_retries: wire::uint(0),
            ..Default::default()
        };
    }
    let words = match retries.retry_on.as_str() {
        "" => RETRY_ON,
        words => words,
    };
    rds::RetryPolicy {
        per_try_timeout: retries
            .per_try_timeout
            .and_then(|timeout| wire::duration(timeout.as_std())),
        ..retries_of(retries.attempts, words)
    }
}

/// Retries for these conditions, of which numbers are status codes, as Istio has them.
fn retries_of(attempts: u32, words: &str) -> rds::RetryPolicy {
    let (codes, mut conditions): (Vec<_>, Vec<_>) = words
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .partition(|word| word.parse::<u32>().is_ok());
    if !codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    let reads_headers = conditions.contains(&RETRIABLE_HEADERS);
    rds::RetryPolicy {
        retry_on: conditions.join(","),
        retriable_headers: reads_headers
            .then(undelivered::answer)
            .into_iter()
            .collect(),
        num_retries: wire::uint(attempts),
        retriable_status_codes: codes.iter().filter_map(|code| code.parse().ok()).collect(),
        retry_host_predicate: vec![another_endpoint()],
        host_selection_retry_max_attempts: OTHER_ENDPOINTS,
        ..Default::default()
    }
}

/// Prefers endpoints that have not failed this request yet.
fn another_endpoint() -> rds::retry_policy::RetryHostPredicate {
    use mesh_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
    use rds::retry_policy::retry_host_predicate::ConfigType;
    rds::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(ConfigType::TypedConfig(wire::any(
            &PreviousHostsPredicate::default(),
        ))),
    }
}

/// Sets what is sent on instead of path and authority. Whatever part of the path was matched is
/// replaced: the prefix, or all of it.
fn rewrite_to(action: &mut rds::RouteAction, rewrite: &Rewrite) {
    if let Some(pattern) = &rewrite.uri_regex_rewrite {
        action.regex_rewrite = Some(RegexMatchAndSubstitute {
            pattern: Some(wire::expression_of(&pattern.pattern)),
            substitution: pattern.rewrite.clone(),
        });
    } else if !rewrite.uri.is_empty() {
        action.prefix_rewrite.clone_from(&rewrite.uri);
    }
    if !rewrite.authority.is_empty() {
        let authority = rewrite.authority.clone();
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(authority));
    }
}

fn redirection(redirect: &Redirect) -> rds::RedirectAction {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let derived = match redirect.derive_port {
        Some(DerivePort::FromProtocolDefault) if redirect.scheme == "https" => Some(443),
        Some(DerivePort::FromProtocolDefault) => Some(80),
        _ => None,
    };
    let port = redirect.port.or(derived);
    rds::RedirectAction {
        host_redirect: redirect.authority.clone(),
        port_redirect: port.map_or(0, u32::from),
        response_code: match redirect.redirect_code {
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        }
        .into(),
        scheme_rewrite_specifier: text(&redirect.scheme)
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: text(&redirect.uri)
            .map(PathRewriteSpecifier::PathRedirect)
            .or_else(|| text(&redirect.prefix_rewrite).map(PathRewriteSpecifier::PrefixRewrite)),
        ..Default::default()
    }
}

fn answer(response: &DirectResponse) -> rds::DirectResponseAction {
    let body = response.body.as_ref().and_then(|body| {
        if let Some(text) = &body.string {
            return Some(wire::inline(text.clone()));
        }
        let bytes = base64::prelude::BASE64_STANDARD.decode(body.bytes.as_ref()?);
        Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineBytes(
                bytes.ok()?.into(),
            )),
            ..Default::default()
        })
    });
    rds::DirectResponseAction {
        status: response.status.into(),
        body,
        ..Default::default()
    }
}

/// Changes to headers, in Envoy's terms.
#[derive(Default)]
struct Changes {
    request_add: Vec<core::HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<core::HeaderValueOption>,
    response_remove: Vec<String>,
    /// A new value of `Host`, which Envoy knows as something else than a header.
    authority: Option<String>,
}

// === impl Changes ===

impl Changes {
    fn of(headers: Option<&Headers>) -> Self {
        let Some(headers) = headers else {
            return Self::default();
        };
        let request = headers.request.as_ref();
        let response = headers.response.as_ref();
        Self {
            request_add: request.map(added).unwrap_or_default(),
            request_remove: request.map(removed).unwrap_or_default(),
            response_add: response.map(added).unwrap_or_default(),
            response_remove: response.map(removed).unwrap_or_default(),
            authority: request.and_then(authority),
        }
    }
}

fn added(operations: &HeaderOperations) -> Vec<core::HeaderValueOption> {
    let one = |name: &String, value: &String, action: HeaderAppendAction| {
        is_ordinary(name).then(|| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: name.clone(),
                value: value.clone(),
                ..Default::default()
            }),
            append_action: action.into(),
            ..Default::default()
        })
    };
    let set = operations
        .set
        .iter()
        .filter_map(|(name, value)| one(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = operations
        .add
        .iter()
        .filter_map(|(name, value)| one(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn removed(operations: &HeaderOperations) -> Vec<String> {
    operations
        .remove
        .iter()
        .filter(|name| is_ordinary(name))
        .cloned()
        .collect()
}

fn authority(operations: &HeaderOperations) -> Option<String> {
    operations
        .set
        .iter()
        .find(|(name, _)| is_authority(name))
        .map(|(_, value)| value.clone())
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Whether Envoy lets a route change this header: RFC 9110's token, and neither a
/// pseudo-header nor `Host`.
fn is_ordinary(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token) && !is_authority(name)
}
