//! Access logs in, metrics out: who called whom, how often, with which result.
//!
//! ```text
//! Envoy ──StreamAccessLogs──► service ──entry──► sample (pure) ──► Metrics ──/metrics──► Prometheus
//!    its certificate: the reporter
//! ```
//!
//! Whoever reports is known by the certificate of its connection; what an entry says of the
//! reporter does not count.
//! The Mixer's absence costs no request: proxies drop entries that they cannot send.
//! Authorization checks and rate limits of proxies are not answered here: gRPC's `UNIMPLEMENTED`.

pub mod metrics;
pub mod sample;
pub mod service;

pub use metrics::{Bounds, Metrics};
pub use sample::{Reporter, Sample};
pub use service::AccessLogs;
