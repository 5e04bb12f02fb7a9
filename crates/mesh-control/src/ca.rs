//! The certificate authority: signs what agents ask for, the SAN written from who they proved to be.
//!
//! ```text
//! connection ──gate──► Caller ──service──► csr: public key ──Issuer──► chain
//!   certificate,          │                                              ▲
//!   token (TokenReview),  │                                              │
//!   identity of Nomad     └──────────── identity ────────────────────────┘
//! ```
//!
//! Nothing but the public key is taken from a request: not its subject, not its SAN, no extension.

pub mod csr;
pub mod gate;
pub mod issuer;
pub mod lifetime;
mod nomad;
pub mod root;
pub mod service;
#[cfg(test)]
mod tests;

pub use gate::{Caller, Gate};
pub use issuer::{IssueError, Issuer, Order, RootIssuer};
pub use lifetime::Lifetimes;
pub use root::{Root, RootError};
pub use service::CertificateService;
