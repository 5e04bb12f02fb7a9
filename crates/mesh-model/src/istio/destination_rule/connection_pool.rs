//! Limits and times of connections to a host.

use crate::istio::Duration;
use crate::istio::message::{choice, message};

message! {
    /// Limits and times of connections.
    pub struct ConnectionPool {
        /// Of every connection.
        pub tcp: Option<TcpConnectionPool>,
        /// Of HTTP besides.
        pub http: Option<HttpConnectionPool>,
    }

    /// Limits and times of every connection.
    pub struct TcpConnectionPool {
        /// Connections at a time; no limit unless set.
        pub max_connections: Option<u32>,
        /// How long making a connection may take; 10 s unless set.
        pub connect_timeout: Option<Duration>,
        /// Keepalive of the kernel.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// How long a connection may live.
        pub max_connection_duration: Option<Duration>,
        /// How long a TCP connection may be silent; 1 h unless set, `0s` for ever.
        pub idle_timeout: Option<Duration>,
    }

    /// Keepalive of the kernel.
    pub struct TcpKeepalive {
        /// Probes without an answer after which a connection is dead.
        pub probes: Option<u32>,
        /// How long a connection is silent before the first probe.
        pub time: Option<Duration>,
        /// Time between probes.
        pub interval: Option<Duration>,
    }

    /// Limits and times of HTTP.
    pub struct HttpConnectionPool {
        /// Requests that may wait for a connection; no limit unless set.
        pub http1_max_pending_requests: Option<u32>,
        /// Requests at a time; no limit unless set.
        pub http2_max_requests: Option<u32>,
        /// Requests after which a connection is closed; 0 for no limit.
        pub max_requests_per_connection: u32,
        /// Retries at a time; no limit unless set.
        pub max_retries: Option<u32>,
        /// How long a connection without requests is kept; 1 h unless set.
        pub idle_timeout: Option<Duration>,
        /// Whether HTTP/1 becomes HTTP/2 on the way.
        pub h2_upgrade_policy: Option<H2UpgradePolicy>,
        /// Not supported: kept, with a warning. Whether the caller's version of HTTP is kept.
        pub use_client_protocol: bool,
        /// Requests at a time on one connection of HTTP/2.
        pub max_concurrent_streams: Option<u32>,
        /// Keepalive of HTTP/2.
        pub http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// Keepalive of HTTP/2.
    pub struct Http2KeepAlive {
        /// Time between pings.
        pub interval: Option<Duration>,
        /// How long an answer may take.
        pub timeout: Option<Duration>,
    }
}

choice! {
    /// Whether HTTP/1 becomes HTTP/2 on the way.
    pub enum H2UpgradePolicy {
        /// As the mesh has it.
        #[default]
        Default,
        /// It does not.
        DoNotUpgrade,
        /// It does.
        Upgrade,
    }
}
