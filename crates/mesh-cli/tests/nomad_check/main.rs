//! Nomad's CHECK of a network, which it asks for only where the bridge plugin is 1.3.0 or later.
//!
//! Needs what the `nomad` ring needs, and such plugins in `MESH_CNI_PLUGINS`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "so is a panic, with a better message")]
#![expect(
    clippy::indexing_slicing,
    reason = "a missing element is a failed test"
)]
#![expect(clippy::print_stderr, reason = "the log of an agent whose test failed")]

#[path = "../../../mesh-nomad/benches/nomad/machine.rs"]
mod machine;

#[path = "../nomad/application.rs"]
mod application;
#[path = "../nomad/node.rs"]
mod node;

mod repair;

/// The binary under test.
fn mesh() -> std::ffi::OsString {
    env!("CARGO_BIN_EXE_mesh").into()
}
