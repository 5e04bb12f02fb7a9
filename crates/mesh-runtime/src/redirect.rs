//! The redirect rules of a group; nothing else in this crate talks to netfilter.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

pub(crate) use mesh_netfilter::Policy;
use mesh_netfilter::{
    Applied, DnsServers, Drain, Engine, EngineError, Facts, HostNetwork, InstanceName, Netns, Plan,
};

use crate::Creation;

/// Which traffic of a workload goes to its sidecar.
pub(crate) fn sidecar_policy() -> Policy {
    Policy::sidecar()
}

/// Sets the rules of a policy in the network namespace at `path`, in one transaction.
pub(crate) fn apply(path: &Path, policy: &Policy) -> Result<Creation, EngineError> {
    let plan = Plan::compile(policy, &Facts::default());
    let engine = Engine::netlink(&Netns::Path(path.to_path_buf()))?;
    match engine.apply(&plan, HostNetwork::Refuse)? {
        Applied::Unchanged => Ok(Creation::Exists),
        _ => Ok(Creation::Created),
    }
}

/// Removes the rules that [`apply`] sets, from the network namespace at `path`.
#[cfg(feature = "docker")]
pub(crate) fn remove(path: &Path) -> Result<(), EngineError> {
    let engine = Engine::netlink(&Netns::Path(path.to_path_buf()))?;
    engine
        .remove(&InstanceName::default(), Drain::Off)
        .map(drop)
}

/// A policy as it must be for a group on a Docker network.
///
/// Containers there ask Docker's own resolver at 127.0.0.11, which asks others from inside the
/// same namespace. Were those questions captured as well, they would come back to the sidecar, that
/// asks Docker's resolver again, and so on. So what is captured is questions to that resolver, and
/// no others: a sidecar whose own upstream it is answers everything.
#[must_use]
pub fn policy_beside_resolver(policy: &Policy) -> Policy {
    let dns = policy.dns().cloned().map(|mut dns| {
        dns.servers = DnsServers::List(BTreeSet::from([RESOLVER]));
        dns
    });
    // A narrower choice of servers cannot make a valid policy invalid.
    policy
        .to_builder()
        .dns(dns)
        .build()
        .unwrap_or_else(|_problems| policy.clone())
}

/// Where Docker's resolver answers on networks of one's own.
pub const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_dockers_resolver_only_questions_to_it_are_captured() {
        let policy = policy_beside_resolver(&Policy::sidecar());
        let servers = &policy.dns().unwrap().servers;
        assert_eq!(*servers, DnsServers::List([RESOLVER].into()));
        assert_eq!(policy.outbound(), Policy::sidecar().outbound());
    }
}
