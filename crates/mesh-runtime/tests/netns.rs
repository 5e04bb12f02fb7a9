//! The process engine on real namespaces, links, cgroups and processes.
//!
//! Each test plays the host in a network and mount namespace of its own. Needs root.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "conformance/lib.rs"]
mod conformance;
#[path = "netns/host.rs"]
mod host;

#[path = "netns/conformance.rs"]
mod conforms;
#[path = "netns/enrolment.rs"]
mod enrolment;
#[path = "netns/life.rs"]
mod life;
#[path = "netns/network.rs"]
mod network;
#[path = "netns/unit.rs"]
mod unit;

use std::time::Duration;

/// Far more than anything takes that is waited for.
const SOON: Duration = Duration::from_secs(10);
