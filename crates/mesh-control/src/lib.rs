//! The control plane: API server, Pilot, CA and Mixer.
//!
//! Four roles, stateless but for the store, in one process or apart ([`server`] assembles them):
//!
//! - [`api`]: the Kubernetes-shaped API server, the only one that touches the [`store`];
//! - [`pilot`]: reads the API by list and watch, takes registrations of agents, serves delta ADS;
//! - [`ca`]: signs what agents ask for, the SAN written from who they proved to be;
//! - [`mixer`]: takes Envoy's access logs and keeps metrics by both identities.

pub mod api;
pub mod ca;
pub mod mixer;
pub mod pilot;
pub mod server;
pub mod store;
