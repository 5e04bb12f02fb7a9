//! HashiCorp Nomad for a service mesh: a lossless job model, and what is built on it.

pub mod model;
