//! The whole input of a snapshot: services, policies and workloads, resolved against each other.
