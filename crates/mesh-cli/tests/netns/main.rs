//! Ring `netns`: the binary as a user calls it, where it needs root and network namespaces.
//!
//! `cargo test -p mesh-cli --test netns`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]
#![expect(
    clippy::print_stderr,
    reason = "who reads the log of a failed test must see this"
)]

mod cni;
mod explicit;
mod ground;
mod redirect;
mod vm;
