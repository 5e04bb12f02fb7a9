//! What one entry of an access log means: a pure function of the entry and of who reports it.

use std::fmt;
use std::time::Duration;

use mesh_model::{Host, SpiffeId};
use mesh_proto::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, ResponseFlags, TcpAccessLogEntry,
};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// Which side of a call reports it; Istio's label `reporter`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reporter {
    /// The proxy of the caller.
    Source,
    /// The proxy of the one called.
    Destination,
}

/// How the connection between the two proxies was secured, as far as the reporter can tell.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Security {
    /// The reporter verified the other side's certificate.
    MutualTls,
    /// Nobody proved anything to the one called.
    None,
    /// The caller has no proof: there was no connection, or one out of the mesh.
    Unknown,
}

/// Istio's standard labels, as far as they can be told without trusting anybody's word.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct Labels {
    /// Which side reports.
    pub reporter: Reporter,
    /// Identity of the caller, `unknown` if it proved none.
    pub source_principal: String,
    /// Namespace of that identity.
    pub source_workload_namespace: String,
    /// Identity of the one called.
    pub destination_principal: String,
    /// Namespace of that identity.
    pub destination_workload_namespace: String,
    /// Host of the service that was called.
    pub destination_service: String,
    /// Its first label.
    pub destination_service_name: String,
    /// Its namespace.
    pub destination_service_namespace: String,
    /// `http`, `grpc` or `tcp`.
    pub request_protocol: &'static str,
    /// Status of the response, 0 if there was none; empty for connections.
    pub response_code: String,
    /// Envoy's short flags joined by commas, `-` if there are none.
    pub response_flags: String,
    /// How the connection was secured.
    pub connection_security_policy: Security,
}

/// What one entry adds.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A request that is over.
    Request {
        /// Of whom and what.
        labels: Labels,
        /// From its first byte to the last of the response.
        duration: Duration,
        /// Headers and body of the request.
        request_bytes: u64,
        /// Headers and body of the response.
        response_bytes: u64,
    },
    /// A connection that began.
    Opened {
        /// Of whom.
        labels: Labels,
        /// By which its end is recognized.
        stream_id: String,
    },
    /// A connection that is over.
    Closed {
        /// Of whom.
        labels: Labels,
        /// The connection.
        stream_id: String,
        /// Bytes that the caller sent.
        received_bytes: u64,
        /// Bytes that the caller got.
        sent_bytes: u64,
    },
}

/// The label's value where nothing is known, as Istio has it.
pub const UNKNOWN: &str = "unknown";
/// Name of the tag with the other side's identity.
const PEER: &str = "peer";
/// Name of the tag with the host of the service.
const SERVICE: &str = "service";

// === impl Reporter ===

impl Reporter {
    /// The side of a log, by its name.
    pub fn of_log(name: &str) -> Option<Self> {
        match name {
            "inbound" => Some(Self::Destination),
            "outbound" => Some(Self::Source),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl EncodeLabelValue for Reporter {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Security {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let text = match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        };
        text.encode(encoder)
    }
}

// === impl Sample ===

impl Sample {
    /// What an entry of an HTTP log means; nothing when the request is not over.
    pub fn of_http(
        entry: &HttpAccessLogEntry,
        reporter: Reporter,
        identity: &SpiffeId,
    ) -> Option<Self> {
        let common = entry.common_properties.as_ref()?;
        match common.access_log_type() {
            AccessLogType::NotSet | AccessLogType::DownstreamEnd => {}
            _ => return None,
        }
        let request = entry.request.as_ref();
        let response = entry.response.as_ref();
        let code = response
            .and_then(|response| response.response_code)
            .map_or(0, |code| code.value);
        let is_grpc = request
            .and_then(|request| request.request_headers.get("content-type"))
            .is_some_and(|kind| kind.starts_with("application/grpc"));
        let labels = Labels {
            request_protocol: if is_grpc { "grpc" } else { "http" },
            response_code: code.to_string(),
            ..labels(common, reporter, identity)
        };
        Some(Self::Request {
            labels,
            duration: duration(common),
            request_bytes: request.map_or(0, |request| {
                request
                    .request_headers_bytes
                    .saturating_add(request.request_body_bytes)
            }),
            response_bytes: response.map_or(0, |response| {
                response
                    .response_headers_bytes
                    .saturating_add(response.response_body_bytes)
            }),
        })
    }

    /// What an entry of a TCP log means; nothing for the reports in between, which repeat
    /// what the last one says in full.
    pub fn of_tcp(
        entry: &TcpAccessLogEntry,
        reporter: Reporter,
        identity: &SpiffeId,
    ) -> Option<Self> {
        let common = entry.common_properties.as_ref()?;
        let stream_id = common.stream_id.clone();
        let labels = labels(common, reporter, identity);
        match common.access_log_type() {
            AccessLogType::TcpConnectionStart | AccessLogType::TcpUpstreamConnected => {
                Some(Self::Opened { labels, stream_id })
            }
            AccessLogType::NotSet | AccessLogType::TcpConnectionEnd => {
                let bytes = entry.connection_properties.unwrap_or_default();
                Some(Self::Closed {
                    labels,
                    stream_id,
                    received_bytes: bytes.received_bytes,
                    sent_bytes: bytes.sent_bytes,
                })
            }
            _ => None,
        }
    }
}

/// The labels that requests and connections share, those of a connection.
fn labels(common: &AccessLogCommon, reporter: Reporter, identity: &SpiffeId) -> Labels {
    let peer: Option<SpiffeId> = common
        .custom_tags
        .get(PEER)
        .and_then(|peer| peer.parse().ok());
    let service: Option<Host> = common
        .custom_tags
        .get(SERVICE)
        .and_then(|service| service.parse().ok());
    let security = match (&peer, reporter) {
        (Some(_), _) => Security::MutualTls,
        (None, Reporter::Destination) => Security::None,
        (None, Reporter::Source) => Security::Unknown,
    };
    let (source, destination) = match reporter {
        Reporter::Source => (Some(identity), peer.as_ref()),
        Reporter::Destination => (peer.as_ref(), Some(identity)),
    };
    let (service_name, service_namespace) = names(service.as_ref(), destination);
    Labels {
        reporter,
        source_principal: principal(source),
        source_workload_namespace: namespace(source),
        destination_principal: principal(destination),
        destination_workload_namespace: namespace(destination),
        destination_service: service
            .map_or_else(|| UNKNOWN.to_owned(), |service| service.to_string()),
        destination_service_name: service_name,
        destination_service_namespace: service_namespace,
        request_protocol: "tcp",
        response_code: String::new(),
        response_flags: flags(common.response_flags.as_ref()),
        connection_security_policy: security,
    }
}

fn principal(identity: Option<&SpiffeId>) -> String {
    identity.map_or_else(|| UNKNOWN.to_owned(), ToString::to_string)
}

fn namespace(identity: Option<&SpiffeId>) -> String {
    identity.map_or_else(
        || UNKNOWN.to_owned(),
        |identity| identity.namespace.to_string(),
    )
}

/// Name and namespace of a service; a host out of the mesh is its own name, as in Istio.
fn names(service: Option<&Host>, destination: Option<&SpiffeId>) -> (String, String) {
    let Some(service) = service else {
        return (UNKNOWN.to_owned(), namespace(destination));
    };
    let of_mesh = service
        .as_str()
        .strip_suffix(".mesh")
        .or_else(|| service.as_str().strip_suffix(".svc.cluster.local"))
        .and_then(|rest| rest.split_once('.'))
        .filter(|(_, namespace)| !namespace.contains('.'));
    match of_mesh {
        Some((name, namespace)) => (name.to_owned(), namespace.to_owned()),
        None => (service.to_string(), namespace(destination)),
    }
}

/// How long it took; older proxies fill only the time of the last byte.
fn duration(common: &AccessLogCommon) -> Duration {
    let taken = common
        .duration
        .as_ref()
        .or(common.time_to_last_downstream_tx_byte.as_ref());
    taken.map_or(Duration::ZERO, |taken| {
        let seconds = u64::try_from(taken.seconds).unwrap_or_default();
        let nanos = u32::try_from(taken.nanos).unwrap_or_default();
        Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()))
    })
}

/// Envoy's short names of response flags, in the order of its documentation of `RESPONSE_FLAGS`.
fn flags(flags: Option<&ResponseFlags>) -> String {
    let Some(set) = flags else {
        return "-".to_owned();
    };
    let all = [
        (set.failed_local_healthcheck, "LH"),
        (set.no_healthy_upstream, "UH"),
        (set.upstream_request_timeout, "UT"),
        (set.local_reset, "LR"),
        (set.upstream_remote_reset, "UR"),
        (set.upstream_connection_failure, "UF"),
        (set.upstream_connection_termination, "UC"),
        (set.upstream_overflow, "UO"),
        (set.no_route_found, "NR"),
        (set.delay_injected, "DI"),
        (set.fault_injected, "FI"),
        (set.rate_limited, "RL"),
        (set.unauthorized_details.is_some(), "UAEX"),
        (set.rate_limit_service_error, "RLSE"),
        (set.downstream_connection_termination, "DC"),
        (set.upstream_retry_limit_exceeded, "URX"),
        (set.stream_idle_timeout, "SI"),
        (set.invalid_envoy_request_headers, "IH"),
        (set.downstream_protocol_error, "DPE"),
        (set.upstream_max_stream_duration_reached, "UMSDR"),
        (set.response_from_cache_filter, "RFCF"),
        (set.no_filter_config_found, "NFCF"),
        (set.duration_timeout, "DT"),
        (set.upstream_protocol_error, "UPE"),
        (set.no_cluster_found, "NC"),
        (set.overload_manager, "OM"),
        (set.dns_resolution_failure, "DF"),
        (set.downstream_remote_reset, "DR"),
    ];
    let set: Vec<&str> = all
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
        .collect();
    if set.is_empty() {
        "-".to_owned()
    } else {
        set.join(",")
    }
}

#[cfg(test)]
pub(crate) mod tests;
