//! The nouns of the mesh, and decisions on them.
//!
//! No I/O, no async, no clock: equal inputs give equal outputs.
//!
//! ```text
//! Workload ──declares──► Service ◄──names── VirtualService, DestinationRule, ServiceEntry
//!    │ runs as                                        (module `istio`)
//!    ▼
//! SpiffeId ◄──speak of── PeerAuthentication, AuthorizationPolicy
//! ```

pub mod authorization;
pub mod destination;
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

pub use identity::{SpiffeId, TrustDomain};
pub use kind::{Cell, Column, KINDS, Kind};
pub use name::{Host, Namespace, ServiceAccount, ServiceName, WorkloadId};
pub use object::{Object, ObjectMeta, ObjectRef};
pub use problem::{Problem, Problems};
pub use request::HttpRequest;
pub use service::{Endpoint, Protocol, Service, ServicePort};
pub use sidecar::SidecarConfig;
pub use workload::{Health, Workload, WorkloadPort, WorkloadService};
