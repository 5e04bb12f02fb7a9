//! Ring `netns`: rules in real network namespaces, judged by real packets.
//!
//! Needs root, and `ip`, `nft`, `conntrack`, `unshare` in PATH; it runs with every backend that the
//! machine has, and says which. `cargo test -p mesh-netfilter --all-features --test netns`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(
    clippy::print_stderr,
    reason = "who reads the log of a failed test must see this"
)]

mod arbitrary;
mod backends;
mod classes;
mod connection;
mod crash;
mod dns;
mod drain;
mod family;
mod foreign;
mod golden;
mod guard;
mod host;
mod hostile;
mod identity;
mod invalid;
mod lifecycle;
mod load;
mod local;
mod mutation;
mod option;
mod probe;
mod random;
mod status;
mod tampering;
mod traffic;
mod tuple;
mod watch;
mod world;
