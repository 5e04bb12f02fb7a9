//! The control plane, applications and their sidecars on a real Docker daemon, or podman's service, one
//! for each test, by the `mesh` binary alone.
//! Needs root, dockerd, podman with netavark and aardvark-dns, etcd, kubectl, curl, Envoy in PATH or `ENVOY_BIN`, and in
//! `MESH_SEED_COMPOSE` the Compose file of the install page of Istio 0.4.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../../mesh-runtime/tests/docker/dockerd.rs"]
mod dockerd;

mod file;
mod host;
mod image;
mod mesh;
mod podman;
mod sidecar;
mod up;
