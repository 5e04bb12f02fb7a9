//! A real Nomad: `mesh nomad` installs, upgrades and leaves no trace; injected jobs run, with
//! `mesh-cni` and the guard when it is Nomad that calls them.
//!
//! Needs root, `nomad` in `NOMAD_BIN` or PATH, dockerd, Envoy, etcd, kubectl, curl, openssl, perl, nft,
//! and the standard CNI plugins: those of `MESH_CNI_PLUGINS`, else the distribution's.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "so is a panic, with a better message")]
#![expect(
    clippy::indexing_slicing,
    reason = "a missing element is a failed test"
)]
#![expect(clippy::print_stderr, reason = "the log of an agent whose test failed")]

#[path = "../../../mesh-nomad/benches/nomad/machine.rs"]
mod machine;

#[path = "../../../mesh-nomad/tests/nomad/lab.rs"]
#[expect(dead_code, reason = "mesh-nomad's own tests use more of it")]
mod lab;

mod application;
mod cni;
mod guard;
mod host;
mod image;
mod ingress;
mod install;
mod node;
mod program;
mod restore;

/// The binary under test.
fn mesh() -> std::ffi::OsString {
    program::MESH.into()
}
