//! `ServiceEntry`: a service that no registry lists.

mod validate;

use std::collections::BTreeMap;

use super::message::{choice, message};
use super::workload_entry::WorkloadEntry;
use crate::Protocol;

message! {
    /// A service that no registry lists, in the mesh or outside of it.
    ///
    /// Source: <https://istio.io/latest/docs/reference/config/networking/service-entry/>.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["hosts"])))]
    pub struct ServiceEntry {
        /// Its hosts; the first label may be `*`.
        pub hosts: Vec<String>,
        /// Addresses, or networks, by which callers reach it; the mesh gives it one when empty.
        pub addresses: Vec<String>,
        /// Its ports.
        pub ports: Vec<ServiceEntryPort>,
        /// Whether its endpoints have sidecars.
        pub location: ServiceEntryLocation,
        /// How its endpoints are found.
        pub resolution: ServiceEntryResolution,
        /// Its endpoints; instead of `workloadSelector`.
        pub endpoints: Vec<WorkloadEntry>,
        /// Selects workloads of this object's namespace as endpoints; instead of `endpoints`.
        pub workload_selector: Option<ServiceEntrySelector>,
        /// The namespaces whose callers see the service: names, `.` for this object's own, `*`
        /// for all, which is the default.
        pub export_to: Vec<String>,
        /// Names of which the certificate of each endpoint must have one.
        pub subject_alt_names: Vec<String>,
    }

    /// A port of a service.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["name", "number"])))]
    pub struct ServiceEntryPort {
        /// The number, which callers use.
        pub number: u16,
        /// What is spoken: HTTP, HTTP2, HTTPS, GRPC, GRPC-WEB, MONGO, REDIS, MYSQL, TCP or TLS.
        /// Without it the name's part before the first `-` says it, else it is TCP.
        pub protocol: String,
        /// The name, unique in the service.
        pub name: String,
        /// The port of the endpoints; `number` unless set.
        pub target_port: Option<u16>,
    }

    /// Selects workloads by their labels.
    pub struct ServiceEntrySelector {
        /// Labels that a workload must have, each with this value.
        pub labels: BTreeMap<String, String>,
    }
}

choice! {
    /// Whether endpoints have sidecars.
    pub enum ServiceEntryLocation {
        /// They have none.
        #[default]
        MeshExternal,
        /// They have: mutual TLS.
        MeshInternal,
    }

    /// How endpoints are found.
    pub enum ServiceEntryResolution {
        /// The address that the caller connected to.
        #[default]
        None,
        /// The addresses of the endpoints.
        Static,
        /// The proxy resolves the names of the endpoints, or the host when there are none, and
        /// uses all addresses.
        Dns,
        /// The same, and one address is used until it changes.
        DnsRoundRobin,
        /// Not supported: kept, with a warning. The proxy resolves the host of each request.
        DynamicDns,
    }
}

impl ServiceEntryPort {
    /// What is spoken on it, as far as the mesh makes a difference.
    ///
    /// ```
    /// # use mesh_model::{Protocol, istio::service_entry::ServiceEntryPort};
    /// let named = |name: &str, protocol: &str| ServiceEntryPort {
    ///     name: name.to_owned(),
    ///     protocol: protocol.to_owned(),
    ///     ..ServiceEntryPort::default()
    /// };
    /// assert_eq!(named("web", "HTTP").protocol(), Protocol::Http);
    /// assert_eq!(named("grpc-api", "").protocol(), Protocol::Grpc);
    /// assert_eq!(named("db", "MYSQL").protocol(), Protocol::Tcp);
    /// ```
    pub fn protocol(&self) -> Protocol {
        let by_name = self.name.split('-').next().unwrap_or_default();
        let word = if self.protocol.is_empty() {
            by_name
        } else {
            &self.protocol
        };
        match word.to_ascii_lowercase().as_str() {
            "http" => Protocol::Http,
            "http2" => Protocol::Http2,
            "grpc" | "grpc-web" => Protocol::Grpc,
            "https" | "tls" => Protocol::Tls,
            _ => Protocol::Tcp,
        }
    }
}
