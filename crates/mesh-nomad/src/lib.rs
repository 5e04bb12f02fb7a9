//! Nomad for a service mesh: a lossless job model, and what is built on it.

pub mod catalogue;
pub mod check;
#[cfg(feature = "client")]
pub mod client;
pub mod cni;
pub mod files;
#[cfg(feature = "hcl")]
pub mod hcl;
pub mod identity;
pub mod inject;
pub mod install;
pub mod instances;
#[cfg(feature = "client")]
mod keep;
pub mod model;
mod refusal;
pub mod sidecar;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
