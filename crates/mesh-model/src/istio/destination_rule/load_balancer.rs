//! How endpoints of a host are chosen.

use std::collections::BTreeMap;

use crate::istio::Duration;
use crate::istio::message::{choice, message};

message! {
    /// How endpoints are chosen: at most one of `simple`, `consistentHash`, `backendUtilization`.
    pub struct LoadBalancer {
        /// One of the plain ways.
        pub simple: Option<SimpleLoadBalancer>,
        /// The same endpoint for the same caller, as far as endpoints stay.
        pub consistent_hash: Option<ConsistentHash>,
        /// Not supported: kept, with a warning. By the load that endpoints report.
        pub backend_utilization: Option<BackendUtilization>,
        /// Not supported: kept, with a warning. By locality.
        pub locality_lb_setting: Option<LocalityLoadBalancer>,
        /// Not supported: kept, with a warning. By zone.
        pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancer>,
        /// The older form of `warmup`.
        pub warmup_duration_secs: Option<Duration>,
        /// How new endpoints get their share step by step.
        pub warmup: Option<Warmup>,
    }

    /// The same endpoint for the same caller: one of the first four fields says what is the same.
    pub struct ConsistentHash {
        /// The value of a header.
        pub http_header_name: Option<String>,
        /// The value of a cookie.
        pub http_cookie: Option<HttpCookie>,
        /// The address of the caller.
        pub use_source_ip: Option<bool>,
        /// The value of a parameter of the query.
        pub http_query_parameter_name: Option<String>,
        /// How many places the ring has at least; the older form of `ringHash`.
        pub minimum_ring_size: u64,
        /// A hash ring; the default.
        pub ring_hash: Option<RingHash>,
        /// A Maglev table.
        pub maglev: Option<Maglev>,
    }

    /// A hash ring.
    pub struct RingHash {
        /// How many places it has at least; 1024 unless set.
        pub minimum_ring_size: u64,
    }

    /// A Maglev table.
    pub struct Maglev {
        /// Its size, a prime; 65537 unless set.
        pub table_size: u64,
    }

    /// A cookie.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["name"])))]
    pub struct HttpCookie {
        /// Its name.
        pub name: String,
        /// Its path, if the proxy makes it.
        pub path: String,
        /// How long it lives, if the proxy makes it; without, the proxy makes none, and `0s` is
        /// until the client ends.
        pub ttl: Option<Duration>,
        /// Further attributes.
        pub attributes: Vec<CookieAttribute>,
    }

    /// An attribute of a cookie.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["name"])))]
    pub struct CookieAttribute {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: String,
    }

    /// By the load that endpoints report.
    pub struct BackendUtilization {
        /// How errors count.
        pub error_utilization_penalty_percent: Option<u32>,
        /// The metrics that count.
        pub metric_names_for_computing_utilization: Vec<String>,
        /// How long a weight holds without a report.
        pub weight_expiration_period: Option<Duration>,
        /// How long an endpoint must report before its weight counts.
        pub weight_stabilization_period: Option<Duration>,
        /// Time between two computations of the weights.
        pub weight_update_period: Option<Duration>,
    }

    /// By locality.
    pub struct LocalityLoadBalancer {
        /// Shares of localities.
        pub distribute: Vec<Distribute>,
        /// What takes over for a region that fails.
        pub failover: Vec<Failover>,
        /// Labels by which endpoints are put in order.
        pub failover_priority: Vec<String>,
        /// Whether it is on.
        pub enabled: Option<bool>,
    }

    /// Shares of localities for callers in one.
    pub struct Distribute {
        /// The caller's locality.
        pub from: String,
        /// Localities and their shares in percent.
        pub to: BTreeMap<String, u32>,
    }

    /// What takes over for a region.
    pub struct Failover {
        /// The region.
        pub from: String,
        /// What takes over.
        pub to: String,
    }

    /// By zone.
    pub struct ZoneAwareLoadBalancer {
        /// Whether it is on.
        pub enabled: Option<bool>,
        /// What takes over for a region that fails.
        pub failover: Vec<Failover>,
        /// Labels by which endpoints are put in order.
        pub failover_priority: Vec<String>,
        /// Endpoints below which zones do not count.
        pub min_cluster_size: Option<u32>,
    }

    /// How new endpoints get their share step by step.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["duration"])))]
    pub struct Warmup {
        /// Over how long.
        pub duration: Option<Duration>,
        /// The share at the beginning, in percent.
        pub minimum_percent: Option<f64>,
        /// How the share grows.
        pub aggression: Option<f64>,
    }
}

choice! {
    /// One of the plain ways to choose an endpoint.
    pub enum SimpleLoadBalancer {
        /// As the mesh has it: `LEAST_REQUEST`.
        #[default]
        Unspecified,
        /// The older name of `LEAST_REQUEST`.
        LeastConn,
        /// Any.
        Random,
        /// Not supported: kept, with a warning. The address that the caller connected to.
        Passthrough,
        /// One after the other.
        RoundRobin,
        /// The one of two with fewer requests under way.
        LeastRequest,
    }
}
