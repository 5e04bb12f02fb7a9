//! `VirtualService`: where requests and connections to a host go.

pub mod http;
pub mod tcp;

pub(super) mod validate;

pub use http::{
    Abort, CorsPolicy, Delay, Delegate, DerivePort, DirectResponse, Fault, HeaderOperations,
    Headers, HttpBody, HttpDestination, HttpMatch, HttpMirror, HttpRoute, Redirect, RegexRewrite,
    Retries, Rewrite, UnmatchedPreflights,
};
pub use tcp::{L4Match, RouteDestination, TcpRoute, TlsMatch, TlsRoute};

use super::message::message;
use super::shared::PortSelector;

message! {
    /// Where requests and connections to one or more hosts go.
    ///
    /// Source: <https://istio.io/latest/docs/reference/config/networking/virtual-service/>.
    pub struct VirtualService {
        /// The hosts whose traffic is routed, as callers name them. A name without a dot is a
        /// service of this object's namespace; the first label may be `*`.
        pub hosts: Vec<String>,
        /// Where the rules hold: `mesh` is every sidecar and the default, `<namespace>/<name>` or
        /// a name of this object's namespace is a Gateway.
        pub gateways: Vec<String>,
        /// Routes for HTTP, in order; the first that matches is taken.
        pub http: Vec<HttpRoute>,
        /// Not supported in the mesh: kept, with a warning. Routes for TLS by its server name,
        /// which hold at the servers of gateways that pass TLS on.
        pub tls: Vec<TlsRoute>,
        /// Routes for connections, in order; the first that matches is taken.
        pub tcp: Vec<TcpRoute>,
        /// The namespaces whose callers the rules hold for: names, `.` for this object's own, `*`
        /// for all, which is the default.
        pub export_to: Vec<String>,
    }

    /// A service, or a subset of it, that traffic is sent to.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["host"])))]
    pub struct Destination {
        /// The host of the service; a name without a dot is a service of this object's namespace.
        pub host: String,
        /// A subset that a DestinationRule of the host names; empty for all of its endpoints.
        pub subset: String,
        /// The port of the service; needed when it has more than one.
        pub port: Option<PortSelector>,
    }
}

impl VirtualService {
    /// Whether its rules hold for sidecars.
    pub fn is_for_sidecars(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|gateway| gateway == "mesh")
    }
}
