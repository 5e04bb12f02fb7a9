//! Turns the API's objects and the registered workloads into configuration of proxies.
//!
//! ```text
//! config (list + watch) ─┐
//!                        ├─► Mesh ──snapshot──► Layers of encoded resources ──session──► agents
//! registry (agents) ─────┘   pure               shared by all with equal view     delta ADS
//! ```

pub mod ads;
mod caller;
pub mod config;
pub mod mesh;
pub mod publisher;
pub mod registry;
pub mod resource;
pub mod session;
pub mod snapshot;
