//! The sidecar's companion: identity, SDS, ADS relay, DNS, readiness, Envoy supervision.

mod relay;
