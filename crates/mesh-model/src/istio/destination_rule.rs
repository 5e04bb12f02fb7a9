//! `DestinationRule`: subsets of a service, and how connections to it are made.

pub mod connection_pool;
pub mod load_balancer;

mod validate;

use std::collections::BTreeMap;

pub use connection_pool::{
    ConnectionPool, H2UpgradePolicy, Http2KeepAlive, HttpConnectionPool, TcpConnectionPool,
    TcpKeepalive,
};
pub use load_balancer::{
    BackendUtilization, ConsistentHash, CookieAttribute, Distribute, Failover, HttpCookie,
    LoadBalancer, LocalityLoadBalancer, Maglev, RingHash, SimpleLoadBalancer, Warmup,
    ZoneAwareLoadBalancer,
};

use super::Duration;
use super::message::{choice, message};
use super::shared::{PortSelector, WorkloadSelector};

message! {
    /// Subsets of a service, and how connections to it are made.
    ///
    /// Source: <https://istio.io/latest/docs/reference/config/networking/destination-rule/>.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["host"])))]
    pub struct DestinationRule {
        /// The host of the service; a name without a dot is a service of this object's namespace,
        /// the first label may be `*`.
        pub host: String,
        /// What holds for the host, unless a subset says otherwise.
        pub traffic_policy: Option<TrafficPolicy>,
        /// Named parts of the service.
        pub subsets: Vec<Subset>,
        /// The namespaces whose callers the rule holds for: names, `.` for this object's own, `*`
        /// for all, which is the default.
        pub export_to: Vec<String>,
        /// Not supported: a rule with it is not applied, with a warning. The callers that it holds for.
        pub workload_selector: Option<WorkloadSelector>,
    }

    /// The endpoints of a service that have some labels.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["name"])))]
    pub struct Subset {
        /// The name, which routes use.
        pub name: String,
        /// Labels that an endpoint must have; none means all endpoints.
        pub labels: BTreeMap<String, String>,
        /// What holds for this subset; each field replaces the rule's own.
        pub traffic_policy: Option<TrafficPolicy>,
    }

    /// How connections to a host are made.
    pub struct TrafficPolicy {
        /// How endpoints are chosen.
        pub load_balancer: Option<LoadBalancer>,
        /// Limits and times of connections.
        pub connection_pool: Option<ConnectionPool>,
        /// When endpoints that fail are left out for a while.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS of connections to the endpoints.
        pub tls: Option<ClientTls>,
        /// What holds for single ports; replaces all of the above there.
        pub port_level_settings: Vec<PortTrafficPolicy>,
        /// Not supported: kept, with a warning. A proxy that connections are tunnelled through.
        pub tunnel: Option<Tunnel>,
        /// Not supported: kept, with a warning. The PROXY protocol towards the endpoints.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Not supported: kept, with a warning. The share of requests that may be retries.
        pub retry_budget: Option<RetryBudget>,
    }

    /// How connections to one port of a host are made.
    pub struct PortTrafficPolicy {
        /// The port of the service.
        pub port: Option<PortSelector>,
        /// How endpoints are chosen.
        pub load_balancer: Option<LoadBalancer>,
        /// Limits and times of connections.
        pub connection_pool: Option<ConnectionPool>,
        /// When endpoints that fail are left out for a while.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS of connections to the endpoints.
        pub tls: Option<ClientTls>,
    }

    /// When endpoints that fail are left out for a while.
    pub struct OutlierDetection {
        /// Errors in a row of any kind; the oldest form, no longer used.
        pub consecutive_errors: u32,
        /// Whether failures to connect are counted apart from errors of the service.
        pub split_external_local_origin_errors: bool,
        /// Failures to connect in a row that leave an endpoint out.
        pub consecutive_local_origin_failures: Option<u32>,
        /// Answers 502, 503 and 504 in a row that leave an endpoint out; 0 for never.
        pub consecutive_gateway_errors: Option<u32>,
        /// Answers of 500 and more in a row that leave an endpoint out; 5 unless set, 0 for never.
        #[serde(rename = "consecutive5xxErrors")]
        pub consecutive_5xx_errors: Option<u32>,
        /// How often endpoints are looked at; 10 s unless set.
        pub interval: Option<Duration>,
        /// How long an endpoint is left out, times how often it was; 30 s unless set.
        pub base_ejection_time: Option<Duration>,
        /// The share of endpoints in percent that may be left out; 10 unless set.
        pub max_ejection_percent: u32,
        /// The share of endpoints in percent below which none is left out.
        pub min_health_percent: u32,
        /// Not supported: kept, with a warning. The answers that count as errors.
        pub outlier_detection_http_error_codes: Vec<u32>,
    }

    /// TLS of connections to endpoints.
    pub struct ClientTls {
        /// Which TLS.
        pub mode: TlsMode,
        /// A file of the proxy with the client's certificate, for `MUTUAL`.
        pub client_certificate: String,
        /// A file of the proxy with the client's key, for `MUTUAL`.
        pub private_key: String,
        /// A file of the proxy with the roots that the server's certificate is checked against.
        pub ca_certificates: String,
        /// Not supported: kept, with a warning. The Secret with the certificates.
        pub credential_name: String,
        /// Names of which the server's certificate must have one.
        pub subject_alt_names: Vec<String>,
        /// The server name that is asked for.
        pub sni: String,
        /// Whether the server's certificate is not checked.
        pub insecure_skip_verify: Option<bool>,
        /// A file of the proxy with a list of revoked certificates.
        pub ca_crl: String,
    }

    /// A proxy that connections are tunnelled through.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["targetHost", "targetPort"])))]
    pub struct Tunnel {
        /// How: `CONNECT` or `POST`.
        pub protocol: String,
        /// The host that is asked of the proxy.
        pub target_host: String,
        /// The port that is asked of the proxy.
        pub target_port: u16,
    }

    /// The PROXY protocol towards endpoints.
    pub struct ProxyProtocol {
        /// Which of its versions.
        pub version: ProxyProtocolVersion,
    }

    /// The share of requests that may be retries.
    pub struct RetryBudget {
        /// In percent of the requests under way.
        pub percent: Option<f64>,
        /// Retries that are always allowed.
        pub min_retry_concurrency: u32,
        /// The time over which requests are counted.
        pub budget_interval: Option<Duration>,
    }
}

choice! {
    /// Which TLS is used towards endpoints.
    pub enum TlsMode {
        /// None.
        #[default]
        Disable,
        /// TLS with the server's certificate only.
        Simple,
        /// TLS with certificates of both sides, of the operator's own.
        Mutual,
        /// Mutual TLS of the mesh, with the workload's own certificate.
        IstioMutual,
    }

    /// A version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// In text.
        #[default]
        V1,
        /// In binary.
        V2,
    }
}
