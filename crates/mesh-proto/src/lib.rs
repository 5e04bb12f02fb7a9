//! Generated wire types, and nothing else: the subset of Envoy's v3 API that the mesh uses,
//! the call of Istio's CA, the calls of etcd that the store needs, what Kubernetes' typed clients post in binary,
//! the binary form of OpenAPI v2 that kubectl reads, and our own agent protocol
//! (`proto/mesh/agent/v1/agent.proto`, where each message is described).
//!
//! Written by `cargo xtask codegen`; `bytes` fields are [`bytes::Bytes`] (sharing, not copying) and maps
//! are `BTreeMap`s, so that equal messages have equal encodings.
//! The modules follow the protobuf packages: [`envoy`], [`google`], [`istio`], [`etcdserverpb`],
//! [`kubernetes`], [`mesh`], [`openapi`].
//!
//! ```
//! use mesh_proto::envoy::config::core::v3::{Address, SocketAddress, address};
//!
//! let address = Address {
//!     address: Some(address::Address::SocketAddress(SocketAddress {
//!         address: "10.213.0.2".to_owned(),
//!         ..Default::default()
//!     })),
//! };
//! # assert!(address.address.is_some());
//! ```

#![expect(
    missing_docs,
    rustdoc::bare_urls,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "generated code is judged by its generator"
)]

#[path = "generated/tree.rs"]
mod tree;

pub use tree::*;

/// The file descriptors of everything here, an encoded `FileDescriptorSet`:
/// with them a reflection library turns messages to JSON and back, `Any` unpacked.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
