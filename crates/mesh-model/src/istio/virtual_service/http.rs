//! Routes for HTTP requests.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Destination;
use crate::istio::Duration;
use crate::istio::message::{choice, message};
use crate::istio::shared::{Percent, StringMatch};

message! {
    /// What happens to requests that match.
    pub struct HttpRoute {
        /// A name for people and logs.
        pub name: String,
        /// Conditions, of which one must hold; none means every request.
        #[serde(rename = "match")]
        pub matches: Vec<HttpMatch>,
        /// Where requests go, by weight. Exactly one of `route`, `redirect` and `directResponse`.
        pub route: Vec<HttpDestination>,
        /// Answer with a redirect.
        pub redirect: Option<Redirect>,
        /// Answer with a fixed response.
        pub direct_response: Option<DirectResponse>,
        /// Not supported: kept, with a warning. The object that the decision is left to.
        pub delegate: Option<Delegate>,
        /// What is changed of path and authority before a request is sent on.
        pub rewrite: Option<Rewrite>,
        /// How long a request may take, retries included; none unless set.
        pub timeout: Option<Duration>,
        /// How failed requests are tried again.
        pub retries: Option<Retries>,
        /// Faults made on purpose, to test callers.
        pub fault: Option<Fault>,
        /// Not supported: kept, with a warning. Where a copy of each request goes.
        pub mirror: Option<Destination>,
        /// Not supported: kept, with a warning. Where copies of requests go.
        pub mirrors: Vec<HttpMirror>,
        /// Not supported: kept, with a warning. The older form of `mirrorPercentage`.
        pub mirror_percent: Option<u32>,
        /// Not supported: kept, with a warning. The oldest form of `mirrorPercentage`.
        #[serde(rename = "mirror_percent")]
        pub mirror_percent_old: Option<u32>,
        /// Not supported: kept, with a warning. The share of requests that `mirror` copies.
        pub mirror_percentage: Option<Percent>,
        /// Not supported: kept, with a warning. What browsers may do across origins.
        pub cors_policy: Option<CorsPolicy>,
        /// Changes to headers of requests and responses.
        pub headers: Option<Headers>,
    }

    /// Conditions on a request, which must all hold.
    pub struct HttpMatch {
        /// A name, which logs show after the name of the route.
        pub name: String,
        /// The path, without its query.
        pub uri: Option<StringMatch>,
        /// The scheme: `http` or `https`.
        pub scheme: Option<StringMatch>,
        /// The method.
        pub method: Option<StringMatch>,
        /// The authority: the host that the caller asked for, in HTTP/1 the header `Host`.
        pub authority: Option<StringMatch>,
        /// Headers by their names in lower case; an empty match asks only that the header is there.
        pub headers: BTreeMap<String, StringMatch>,
        /// Headers that must not match.
        pub without_headers: BTreeMap<String, StringMatch>,
        /// Parameters of the query by name.
        pub query_params: BTreeMap<String, StringMatch>,
        /// The port of the host that the caller asked for.
        pub port: Option<u16>,
        /// Labels that the calling workload must have.
        pub source_labels: BTreeMap<String, String>,
        /// The namespace that the calling workload must be in.
        pub source_namespace: String,
        /// Where the condition holds, instead of the object's own `gateways`.
        pub gateways: Vec<String>,
        /// Whether `exact` and `prefix` of `uri` take upper and lower case for the same.
        pub ignore_uri_case: bool,
        /// Not supported: kept, with a warning. A prefix for the names of statistics.
        pub stat_prefix: String,
    }

    /// A destination with its share.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["destination"])))]
    pub struct HttpDestination {
        /// The service or subset.
        pub destination: Option<Destination>,
        /// Its share against the other destinations of the route; a single one needs none.
        pub weight: u32,
        /// Changes to headers for this destination only.
        pub headers: Option<Headers>,
    }

    /// Changes to headers.
    pub struct Headers {
        /// Of the request, before it is sent on.
        pub request: Option<HeaderOperations>,
        /// Of the response, before it is given back.
        pub response: Option<HeaderOperations>,
    }

    /// What is done to headers: first set, then add, then remove.
    pub struct HeaderOperations {
        /// Headers that get this value instead of theirs.
        pub set: BTreeMap<String, String>,
        /// Headers that get this value besides theirs.
        pub add: BTreeMap<String, String>,
        /// Headers that are taken away.
        pub remove: Vec<String>,
    }

    /// A redirect.
    pub struct Redirect {
        /// The new path; the request's own when empty.
        pub uri: String,
        /// What replaces the prefix that was matched.
        pub prefix_rewrite: String,
        /// The new authority; the request's own when empty.
        pub authority: String,
        /// The new port.
        pub port: Option<u16>,
        /// Where the new port comes from; instead of `port`.
        pub derive_port: Option<DerivePort>,
        /// The new scheme; the request's own when empty.
        pub scheme: String,
        /// The status code: 301 (the default), 302, 303, 307 or 308.
        pub redirect_code: u16,
    }

    /// A fixed response.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["status"])))]
    pub struct DirectResponse {
        /// The status code.
        pub status: u16,
        /// The body; empty unless set.
        pub body: Option<HttpBody>,
    }

    /// A body, at most 1 MiB: one of the fields.
    pub struct HttpBody {
        /// As text.
        pub string: Option<String>,
        /// As bytes in base64.
        pub bytes: Option<String>,
    }

    /// Another VirtualService.
    pub struct Delegate {
        /// Its name.
        pub name: String,
        /// Its namespace; this object's own when empty.
        pub namespace: String,
    }

    /// What is changed of path and authority.
    pub struct Rewrite {
        /// What replaces the path, or the prefix of it that was matched.
        pub uri: String,
        /// What replaces the authority.
        pub authority: String,
        /// A regular expression and what replaces its matches in the path; instead of `uri`.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// A regular expression and its replacement.
    pub struct RegexRewrite {
        /// The expression, in the syntax of RE2.
        #[serde(rename = "match")]
        pub pattern: String,
        /// The replacement; `\1` is the first group.
        pub rewrite: String,
    }

    /// How failed requests are tried again.
    pub struct Retries {
        /// How often at most, besides the first try; 0 for never.
        pub attempts: u32,
        /// How long each try may take; as long as the whole request unless set.
        pub per_try_timeout: Option<Duration>,
        /// Which failures are tried again, in Envoy's words, joined by commas.
        pub retry_on: String,
        /// Not supported: kept, with a warning. Whether other localities are tried.
        pub retry_remote_localities: Option<bool>,
        /// Not supported: kept, with a warning. Whether endpoints that failed may be tried again.
        pub retry_ignore_previous_hosts: Option<bool>,
        /// Not supported: kept, with a warning. The shortest wait between tries.
        pub backoff: Option<Duration>,
    }

    /// Faults made on purpose; delays come first.
    pub struct Fault {
        /// Requests are held back.
        pub delay: Option<Delay>,
        /// Requests are answered with an error and not sent on.
        pub abort: Option<Abort>,
    }

    /// How long requests are held back.
    pub struct Delay {
        /// How long.
        pub fixed_delay: Option<Duration>,
        /// Refused, as by Istio, which never supported it.
        pub exponential_delay: Option<Duration>,
        /// The older form of `percentage`, in whole percents.
        pub percent: u32,
        /// The share of requests; all of them unless set.
        pub percentage: Option<Percent>,
    }

    /// The error that requests are answered with.
    pub struct Abort {
        /// A status of HTTP, from 200 to 599.
        pub http_status: Option<u32>,
        /// A status of gRPC by its name, such as `UNAVAILABLE`.
        pub grpc_status: Option<String>,
        /// Refused, as by Istio, which never supported it.
        pub http2_error: Option<String>,
        /// The share of requests; all of them unless set.
        pub percentage: Option<Percent>,
    }

    /// A destination of copies.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["destination"])))]
    pub struct HttpMirror {
        /// The service or subset.
        pub destination: Option<Destination>,
        /// The share of requests that is copied; all of them unless set.
        pub percentage: Option<Percent>,
    }

    /// What browsers may do across origins.
    pub struct CorsPolicy {
        /// The older form of `allowOrigins`.
        pub allow_origin: Vec<String>,
        /// Origins that may ask.
        pub allow_origins: Vec<StringMatch>,
        /// Methods that may be used.
        pub allow_methods: Vec<String>,
        /// Headers that requests may carry.
        pub allow_headers: Vec<String>,
        /// Headers of responses that scripts may read.
        pub expose_headers: Vec<String>,
        /// How long the answer to a preflight request may be kept.
        pub max_age: Option<Duration>,
        /// Whether requests may carry credentials.
        pub allow_credentials: Option<bool>,
        /// What happens to preflight requests of other origins.
        pub unmatched_preflights: Option<UnmatchedPreflights>,
    }
}

choice! {
    /// Where the port of a redirect comes from.
    pub enum DerivePort {
        /// The scheme: 80 or 443.
        #[default]
        FromProtocolDefault,
        /// The request's own port.
        FromRequestPort,
    }

    /// What happens to preflight requests of origins that are not allowed.
    pub enum UnmatchedPreflights {
        /// As `FORWARD`.
        #[default]
        Unspecified,
        /// They are sent on.
        Forward,
        /// They are answered without the headers of CORS.
        Ignore,
    }
}

impl HttpBody {
    /// The body; `None` when `bytes` is not base64.
    pub fn content(&self) -> Option<Vec<u8>> {
        match (&self.string, &self.bytes) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(bytes)) => BASE64.decode(bytes).ok(),
            (None, None) => Some(Vec::new()),
        }
    }
}

impl Abort {
    /// The number of its gRPC status; `None` without one, or for a name that gRPC does not have.
    pub fn grpc_code(&self) -> Option<u32> {
        let name = self.grpc_status.as_deref()?;
        let place = GRPC_STATUSES.iter().position(|known| *known == name)?;
        u32::try_from(place).ok()
    }
}

/// The names of gRPC's status codes, in their order from 0.
///
/// Source: <https://grpc.io/docs/guides/status-codes/>.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
