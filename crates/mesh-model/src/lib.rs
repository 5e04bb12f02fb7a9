//! The nouns of the mesh, and decisions on them.
//!
//! No I/O, no async, no clock: equal inputs give equal outputs.
//!
//! ```text
//! Workload ──declares──► Service ◄──names── VirtualService, DestinationRule, ServiceEntry
//!    │ runs as              │                       (module `istio`)
//!    ▼                      ▼
//! SpiffeId              VirtualAddresses
//!    ▲
//!    └──speak of── PeerAuthentication, AuthorizationPolicy
//! ```
//!
//! Input becomes values of these types at the edge, once: names by `FromStr`, a workload by
//! [`Workload::validate`], an object of Istio's by [`istio::check`], which says everything that is
//! wrong with it at once. Decisions take such values and say why: [`route`] where a request goes, [`gateway`] what is served to the outside,
//! [`destination`] how a host is reached, [`authorization`] who may call, [`mutual_tls`] who may
//! call in plaintext, [`virtual_address`] what names resolve to.
//!
//! The feature `schema` adds `OpenAPI` schemas of Istio's kinds.

pub mod authorization;
pub mod destination;
pub mod explicit;
pub mod gateway;
pub mod host;
pub mod identity;
pub mod istio;
pub mod kind;
pub mod label;
pub mod mutual_tls;
pub mod name;
pub mod object;
pub mod pattern;
pub mod problem;
pub mod request;
pub mod route;
pub mod service;
pub mod sidecar;
pub mod virtual_address;
pub mod workload;

#[cfg(test)]
mod testing;

pub use explicit::{DeclaredUpstream, Explicit, Mode, Upstream};
pub use identity::{SpiffeId, TrustDomain};
pub use kind::{Cell, Column, KINDS, Kind};
pub use name::{Host, Namespace, ServiceAccount, ServiceName, WorkloadId};
pub use object::{Object, ObjectMeta, ObjectRef};
pub use problem::{Problem, Problems};
pub use request::HttpRequest;
pub use service::{Endpoint, Protocol, Service, ServicePort};
pub use sidecar::SidecarConfig;
pub use workload::{Capture, Health, Sidecar, Workload, WorkloadPort, WorkloadService};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
