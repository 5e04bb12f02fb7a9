//! Routes for connections: TCP, and the placeholders of TLS.

use std::collections::BTreeMap;

use super::Destination;
use crate::istio::message::message;

message! {
    /// Where connections that match go.
    pub struct TcpRoute {
        /// Conditions, of which one must hold; none means every connection.
        #[serde(rename = "match")]
        pub matches: Vec<L4Match>,
        /// Where connections go, by weight.
        pub route: Vec<RouteDestination>,
    }

    /// Conditions on a connection, which must all hold.
    pub struct L4Match {
        /// Not supported: such a condition never holds, with a warning. Networks that the destination address may be in.
        pub destination_subnets: Vec<String>,
        /// The port that the caller connects to.
        pub port: Option<u16>,
        /// Not supported: kept, with a warning. Never did anything in Istio either.
        pub source_subnet: String,
        /// Labels that the calling workload must have.
        pub source_labels: BTreeMap<String, String>,
        /// Where the condition holds, instead of the object's own `gateways`.
        pub gateways: Vec<String>,
        /// The namespace that the calling workload must be in.
        pub source_namespace: String,
    }

    /// A destination of connections with its share.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["destination"])))]
    pub struct RouteDestination {
        /// The service or subset.
        pub destination: Option<Destination>,
        /// Its share against the other destinations of the route; a single one needs none.
        pub weight: u32,
    }

    /// Where TLS connections that match go, at gateways that pass TLS on.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["match"])))]
    pub struct TlsRoute {
        /// Conditions, of which one must hold.
        #[serde(rename = "match")]
        pub matches: Vec<TlsMatch>,
        /// Where connections go, by weight.
        pub route: Vec<RouteDestination>,
    }

    /// Conditions on a TLS connection, which must all hold.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["sniHosts"])))]
    pub struct TlsMatch {
        /// Server names, of which one must be asked for; the first label may be `*`.
        pub sni_hosts: Vec<String>,
        /// Networks that the destination address may be in.
        pub destination_subnets: Vec<String>,
        /// The port that the caller connects to.
        pub port: Option<u16>,
        /// Labels that the calling workload must have.
        pub source_labels: BTreeMap<String, String>,
        /// Where the condition holds, instead of the object's own `gateways`.
        pub gateways: Vec<String>,
        /// The namespace that the calling workload must be in.
        pub source_namespace: String,
    }
}
