//! Policies for the host's own network namespace: what they have to say, and what they leave alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{DestinationSelect, IdentitySelect, Policy, PortSelect};
use crate::{NetworkSet, Port, PortSet, Problem, Problems};

/// By which way somebody administers a host, so that no rule takes it.
///
/// ```
/// # use mesh_netfilter::SshAccess;
/// let access: SshAccess = SshAccess::from_connection("203.0.113.7 50022 192.0.2.1 2222")?;
/// assert_eq!(access.peers.first().unwrap().to_string(), "203.0.113.7");
/// assert_eq!(access.ports.first().unwrap().get(), 2222);
/// # Ok::<(), mesh_netfilter::Problem>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SshAccess {
    /// Where the server listens.
    pub ports: BTreeSet<Port>,
    /// Who is connected.
    pub peers: BTreeSet<IpAddr>,
}

// === impl SshAccess ===

impl SshAccess {
    /// Peer and port of the value of `SSH_CONNECTION`, as `sshd` sets it: address and port of the
    /// client, address and port of the server.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn from_connection(text: &str) -> Result<Self, Problem> {
        let problem = || {
            let expected = "the value of SSH_CONNECTION (two addresses, each with a port)";
            Problem::new("", text, expected)
        };
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [client, _, _, port] = words[..] else {
            return Err(problem());
        };
        // A link-local client has its interface behind a percent sign.
        let client = client.split('%').next().unwrap_or(client);
        let client: IpAddr = client.parse().map_err(|_error| problem())?;
        let port = port.parse().ok().and_then(Port::new).ok_or_else(problem)?;
        Ok(Self {
            ports: BTreeSet::from([port]),
            peers: BTreeSet::from([client.to_canonical()]),
        })
    }
}

// === impl Policy ===

impl Policy {
    /// The policy for the host's own network namespace: it captures what certain senders send and
    /// nothing of anybody else, and never what `access` names.
    ///
    /// # Errors
    /// If the policy does not say whose connections it captures. Everybody's would be those of the
    /// host's own services, the proxy's control plane and the way back in among them.
    pub fn for_host(&self, access: &SshAccess) -> Result<Self, Problems> {
        let sends = self.outbound.is_some() || self.dns.is_some();
        if sends && !matches!(self.identities, IdentitySelect::Only(_)) {
            let found = match self.identities {
                IdentitySelect::Except(_) => "except",
                _ => "everyone",
            };
            let expected = "a list of users or groups to capture (`only`), which the host's own \
                            network namespace requires";
            return Err(Problems(vec![Problem::new("identities", found, expected)]));
        }
        let mut policy = self.clone();
        let ports: PortSet = access.ports.iter().copied().collect();
        let peers = access.peers.iter().copied().map(IpNet::from);
        if let Some(inbound) = &mut policy.inbound {
            inbound.ports = match &inbound.ports {
                PortSelect::All => PortSelect::AllExcept(ports),
                PortSelect::AllExcept(others) => PortSelect::AllExcept(others.union(&ports)),
                PortSelect::Only(others) => PortSelect::Only(others.without(&ports)),
            };
            inbound.excluded_sources = joined(&inbound.excluded_sources, peers.clone());
        }
        if let Some(outbound) = &mut policy.outbound {
            let mut excluded = match &outbound.destinations {
                DestinationSelect::All => super::Destinations::default(),
                DestinationSelect::AllExcept(destinations) => destinations.clone(),
                // Whoever names destinations means them.
                DestinationSelect::Only(_) => return policy.to_builder().build(),
            };
            excluded.networks = joined(&excluded.networks, peers);
            if !excluded.is_empty() {
                outbound.destinations = DestinationSelect::AllExcept(excluded);
            }
        }
        policy.to_builder().build()
    }
}

fn joined(networks: &NetworkSet, more: impl Iterator<Item = IpNet>) -> NetworkSet {
    networks.iter().chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Decision, Facts, Identities, InterfaceName, Owner, Packet, Plan};

    fn access() -> SshAccess {
        let mut access = SshAccess::from_connection("203.0.113.7 50022 192.0.2.1 2222").unwrap();
        access.ports.insert(Port::of::<22>());
        access
    }

    #[test]
    fn a_host_needs_to_know_whom_to_capture() {
        let error = Policy::sidecar().for_host(&access()).unwrap_err();
        assert_eq!(error.0[0].path, "identities");
    }

    #[test]
    fn ssh_is_never_captured_and_the_included_are() {
        let policy = Policy::sidecar()
            .to_builder()
            .identities(IdentitySelect::Only(Identities::users([1000])))
            .build()
            .unwrap();
        let plan = Plan::compile(&policy.for_host(&access()).unwrap(), &Facts::default());
        let link: InterfaceName = "eth0".parse().unwrap();
        let incoming = |from: &str, port| {
            let to = ([192, 0, 2, 1], port).into();
            let packet =
                Packet::incoming(Content::TcpFirst, from.parse().unwrap(), to, link.clone());
            plan.evaluate(&packet).decision
        };
        assert_eq!(incoming("198.51.100.1:1", 22), Decision::Pass);
        assert_eq!(incoming("198.51.100.1:1", 2222), Decision::Pass);
        assert_eq!(incoming("203.0.113.7:1", 80), Decision::Pass);
        assert_eq!(
            incoming("198.51.100.1:1", 80),
            Decision::Redirect(Port::of::<15006>())
        );
        let outgoing = |user, to: &str| {
            let from = ([192, 0, 2, 1], 40_000).into();
            let owner = Owner { user, group: user };
            let to = to.parse().unwrap();
            let packet = Packet::outgoing(Content::TcpFirst, from, to, link.clone(), owner);
            plan.evaluate(&packet).decision
        };
        assert_eq!(outgoing(0, "198.51.100.1:80"), Decision::Pass);
        assert_eq!(outgoing(1000, "203.0.113.7:80"), Decision::Pass);
        assert_eq!(
            outgoing(1000, "198.51.100.1:80"),
            Decision::Redirect(Port::of::<15001>())
        );
    }

    #[test]
    fn only_what_sshd_sets_is_a_connection() {
        for bad in [
            "",
            "a b c d",
            "1.2.3.4 1 2.3.4.5",
            "1.2.3.4 1 2.3.4.5 0",
            "1.2.3.4 1 2.3.4.5 6 7",
        ] {
            assert!(SshAccess::from_connection(bad).is_err(), "{bad}");
        }
        let v6 = SshAccess::from_connection("fe80::1%eth0 1 fe80::2 22").unwrap();
        assert_eq!(v6.peers.first().unwrap().to_string(), "fe80::1");
    }
}
