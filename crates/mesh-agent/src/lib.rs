//! The sidecar's companion: identity, SDS, ADS relay, DNS, readiness, Envoy supervision.
//!
//! One agent stands beside one workload, with one Envoy:
//!
//! ```text
//!            CA ◄──key, CSR── identity ──► SDS ──┐
//!                                                ├─ unix socket ──► Envoy ◄── supervision
//!  every Pilot ◄── registration, health ◄──┐     │                    │ admin socket
//!    one Pilot ◄──────── ADS ──────► relay ┼─────┘                    ▼
//!                                      │   └───────────────────── readiness ──► :15021
//!                                      └─ name table ──► DNS :15053
//! ```
//!
//! The data plane does not need the control plane to go on: the relay keeps what Envoy accepted, on disk too,
//! and a restarted Envoy is served from there.
//! Envoy cannot outlive the agent (the kernel kills it with the agent), so that nothing is ever left behind.
//!
//! [`run`] is the whole of it; [`wait_ready`] is the gate for whoever starts the application.

mod agent;
mod backoff;
mod bootstrap;
pub mod config;
mod control_plane;
mod dns;
mod envoy;
mod error;
mod exchange;
mod file;
mod local;
mod names;
mod readiness;
mod register;
mod relay;
mod sds;
mod wait;

pub use agent::{Agent, run};
pub use config::{Ports, Timing};
pub use control_plane::ControlPlane;
pub use error::AgentError;
pub use readiness::application::{AppProbe, AppProbeKind};
pub use wait::{WaitError, wait_ready};
