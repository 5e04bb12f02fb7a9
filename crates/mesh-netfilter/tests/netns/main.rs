//! Ring `netns`: rules in real network namespaces, judged by real packets.
//!
//! Needs root, and `ip`, `nft`, `conntrack` in PATH. `cargo test -p mesh-netfilter --all-features
//! --test netns`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]

mod arbitrary;
mod classes;
mod dns;
mod golden;
mod guard;
mod lifecycle;
mod random;
mod tampering;
mod traffic;
mod world;
