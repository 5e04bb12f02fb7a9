//! Which packets go to the proxy, and how to say so to the kernel.
//!
//! A sidecar proxy needs the traffic of its application without the application's help. This crate
//! makes and keeps the nftables rules for that, inside one network namespace:
//!
//! ```text
//! Policy ─┐                 ┌─ to_nft ─────► text for people and `nft -f`
//! Facts ──┴─compile──► Plan ┼─ to_iptables ► text for `iptables-restore`
//!  wanted, and found  rules ├─ evaluate ───► what becomes of a packet, and why
//!                     state ├─ local ──────► policy rules, routes, addresses
//!                           └─ to_netlink ─► one transaction ──Engine──► kernel
//! ```
//!
//! Everything but `Engine` is pure: no file, no clock, no system call.
//!
//! ```
//! use mesh_netfilter::{Facts, Plan, Policy};
//!
//! let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
//! assert!(plan.to_nft().contains("redirect to :15001"));
//! ```
//!
//! # Features
//! - `apply`: `Engine`, which talks to the kernel. Linux only.
//! - `iptables`: engines that put the same rules into the tables of `iptables-nft` and
//!   `iptables-legacy`, for namespaces where others manage them so. Implies `apply`.
//! - `serde`: policies from and to JSON and the like; plans, reports and verdicts to it.
//!
//! # Out of scope
//! The proxy itself, and links and routes to the outside: the namespace needs a default route for
//! each family whose traffic is to be captured, since NAT comes after routing (verifying names a
//! family that has none). What the rules themselves depend on, the engine adds and takes away:
//! `::6/128` on loopback, from which the proxy hands inbound IPv6 connections to the application,
//! and the policy rules and routes of TPROXY. They bear protocol number 77.

mod backend;
mod bytecode;
#[cfg(feature = "apply")]
mod diff;
#[cfg(feature = "apply")]
mod drift;
#[cfg(feature = "apply")]
mod engine;
mod facts;
mod id;
mod identity;
pub mod import;
mod iptables;
#[cfg(feature = "apply")]
mod listing;
mod name;
mod netlink;
mod network;
mod nft;
mod plan;
mod policy;
mod port;
mod problem;
#[cfg(feature = "apply")]
mod rtnetlink;
mod verdict;

pub use self::backend::Backend;
pub use self::bytecode::{Counter, Fingerprint};
#[cfg(feature = "apply")]
pub use self::diff::{Change, Diff, Side};
#[cfg(feature = "apply")]
pub use self::drift::{Drift, Hazard, Note, Place, Report};
#[cfg(feature = "apply")]
pub use self::engine::{
    Applied, Check, Confirmed, Drain, Engine, EngineError, HostNetwork, Installed, Look, Maker,
    Mended, Netns, Outcome, ProbeOptions, ProbeReport, Reason, Rejection, Removed, Repair,
    RuleCount, Status, Unusable, WatchOptions,
};
pub use self::facts::Facts;
pub use self::id::{IdRange, IdSet};
pub use self::identity::{Identities, Mark, Owner};
pub use self::iptables::{Iptables, IptablesError};
pub use self::name::{InstanceName, InterfaceName};
pub use self::network::{Family, NetworkSet, Networks, parse_network};
pub use self::plan::{
    Action, Base, Chain, ChainKind, Content, Decision, Direction, FORMAT, Hook, List, LocalRoute,
    LocalState, Match, Packet, Plan, PolicyRule, Rule, Step, Table, Trace, Transport, Why,
};
pub use self::policy::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTarget, DnsTcp, DnsZones, DropInvalid,
    Existing, Guard, IdentityPorts, IdentitySelect, Inbound, InboundMode, Ipv6, Loopback,
    NetworkPorts, Outbound, Policy, PolicyBuilder, PortSelect, SshAccess, Tproxy, VirtualInterface,
};
pub use self::port::{Port, PortRange, PortSet};
pub use self::problem::{Problem, Problems};
pub use self::verdict::{Repaired, RuleState, Verdict};

/// The example of the README is tested with the rest.
#[cfg(all(doctest, feature = "apply"))]
#[doc = include_str!("../README.md")]
struct Readme;
