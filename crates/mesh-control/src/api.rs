//! The Kubernetes-shaped API server.
