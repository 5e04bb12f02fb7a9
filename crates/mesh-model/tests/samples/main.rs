//! What Istio itself publishes: its sample files, and the definitions of its kinds.
//!
//! `MESH_ISTIO_SAMPLES=DIR MESH_ISTIO_CRDS=DIR cargo test -p mesh-model --test samples`
//!
//! The first directory holds files of YAML, the second `crds.yaml`.
#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

mod definition;
mod sample;
