//! Which packets go to the proxy, and how to say so to the kernel.
//!
//! A sidecar proxy needs the traffic of its application without the application's help. This crate
//! makes and keeps the nftables rules for that, inside one network namespace:
//!
//! ```text
//! Policy ──compile──► Plan ──┬─ to_nft ─────► text for people and `nft -f`
//!  what is wanted      rules ├─ evaluate ───► what becomes of a packet, and why
//!                            └─ to_netlink ─► one transaction ──Engine──► kernel
//! ```
//!
//! Everything but `Engine` is pure: no file, no clock, no system call.
//!
//! ```
//! use mesh_netfilter::{Plan, Policy};
//!
//! let plan = Plan::compile(&Policy::sidecar());
//! assert!(plan.to_nft().contains("redirect to :15001"));
//! ```
//!
//! # Features
//! - `apply`: `Engine`, which talks to the kernel. Linux only.
//! - `serde`: policies from and to JSON and the like; plans, reports and verdicts to it.
//!
//! # Out of scope
//! The proxy itself, routes and addresses. The namespace needs a default route for each family
//! whose traffic is to be captured, since NAT comes after routing, and `::6/128` on loopback if the
//! proxy hands inbound IPv6 connections to the application from `::6`.

mod bytecode;
#[cfg(feature = "apply")]
mod drift;
#[cfg(feature = "apply")]
mod engine;
mod identity;
mod name;
mod netlink;
mod network;
mod nft;
mod plan;
mod policy;
mod port;
mod problem;
mod verdict;

pub use self::bytecode::Fingerprint;
#[cfg(feature = "apply")]
pub use self::drift::{Drift, Hazard, Place, Report};
#[cfg(feature = "apply")]
pub use self::engine::{
    Applied, Engine, EngineError, HostNetwork, Installed, Netns, Rejection, Removed,
};
pub use self::identity::{Identities, Mark, Owner};
pub use self::name::{InstanceName, InterfaceName};
pub use self::network::{Family, NetworkSet, Networks, parse_network};
pub use self::plan::{
    Action, Base, Chain, ChainKind, Content, Decision, Direction, FORMAT, Hook, Match, Packet,
    Plan, Rule, Step, Table, Trace, Transport, Why,
};
pub use self::policy::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTcp, Guard, IdentitySelect, Inbound, Ipv6,
    Loopback, NetworkPorts, Outbound, Policy, PolicyBuilder, PortSelect,
};
pub use self::port::{Port, PortRange, PortSet};
pub use self::problem::{Problem, Problems};
pub use self::verdict::{RuleState, Verdict};

/// The example of the README is tested with the rest.
#[cfg(all(doctest, feature = "apply"))]
#[doc = include_str!("../README.md")]
struct Readme;
