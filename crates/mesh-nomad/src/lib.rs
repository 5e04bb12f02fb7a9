//! Nomad for a service mesh: a lossless job model, and what is built on it.

pub mod catalogue;
pub mod check;
#[cfg(feature = "client")]
pub mod client;
pub mod cni;
#[cfg(feature = "hcl")]
pub mod hcl;
pub mod identity;
pub mod inject;
pub mod model;
pub mod sidecar;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
