//! DNS queries on their way out.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::part::{loopback_network, named};
use super::{DNS_PORT, Pass, Purpose, Target};
use crate::plan::{List, Match, Rule, Transport, Why};
use crate::{Dns, DnsServers, DnsTarget, DnsTcp, Family, NetworkSet, PortSet};

/// Who sends queries.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Sender {
    /// A process of the namespace.
    Process,
    /// A guest behind a virtual interface.
    Guest,
}

impl Pass<'_> {
    /// meta l4proto udp udp dport 53 redirect to :15053
    ///
    /// Before loopback is let alone: the resolver may live there.
    pub(super) fn dns(&self, dns: &Dns, sender: Sender, rules: &mut Vec<Rule>) {
        let port = Match::DestinationPort(PortSet::from([DNS_PORT]).into());
        let udp = vec![Match::Transport(Transport::Udp), port.clone()];
        let mut tcp = self.judged();
        tcp.push(port);
        let transports = match dns.tcp {
            DnsTcp::Capture => vec![udp, tcp],
            DnsTcp::Ordinary => vec![udp],
        };
        for servers in self.dns_servers(dns, sender) {
            for transport in &transports {
                let matches = servers.iter().chain(transport).cloned().collect();
                self.capture(matches, target(dns.to, sender), Why::Dns, rules);
            }
        }
    }

    /// One list of conditions for each family of servers.
    fn dns_servers(&self, dns: &Dns, sender: Sender) -> Vec<Vec<Match>> {
        let asked: Option<NetworkSet> = match &dns.servers {
            DnsServers::All => None,
            DnsServers::List(servers) => Some(servers.iter().copied().map(IpNet::from).collect()),
            // Without a server the C library asks the local machine.
            DnsServers::ResolvConf if self.facts.resolvers.is_empty() => {
                let local = IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
                Some([local].into_iter().collect())
            }
            DnsServers::ResolvConf => {
                let servers = self.facts.resolvers.iter().copied();
                Some(servers.map(IpNet::from).collect())
            }
        };
        let is_everywhere =
            self.purpose == Purpose::Guard || matches!(target(dns.to, sender), Target::Port(_));
        if is_everywhere && asked.is_none() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for family in self.families {
            // What cannot be sent to the server is not captured, and so the guard's.
            if !is_everywhere && !dns.to.takes(*family) {
                continue;
            }
            let mut matches = Vec::new();
            match &asked {
                None => {}
                Some(servers) => match servers.of(*family) {
                    Some(servers) => {
                        matches.push(named("dns_servers", servers, Match::Destination));
                    }
                    None => continue,
                },
            }
            if !is_everywhere {
                matches.extend(beyond_loopback(dns.to, *family));
            }
            if matches.is_empty() {
                matches.push(Match::Family(*family));
            }
            all.push(matches);
        }
        all
    }
}

/// Where captured queries go.
fn target(to: DnsTarget, sender: Sender) -> Target {
    match to {
        DnsTarget::Port(port) => Target::Port(port),
        DnsTarget::Forward(address) => match to.port() {
            // The kernel delivers nothing from elsewhere to loopback addresses; the same port of
            // the interface's address is the nearest to what is meant.
            Some(port) if sender == Sender::Guest && address.ip().is_loopback() => {
                Target::Port(port)
            }
            _ => Target::Address(address),
        },
    }
}

/// ip saddr != 127.0.0.0/8
///
/// The kernel sends nothing from a loopback address to elsewhere.
fn beyond_loopback(to: DnsTarget, family: Family) -> Option<Match> {
    match to {
        DnsTarget::Forward(address) if !address.ip().is_loopback() => {
            Some(Match::DestinationNot(List::fixed(loopback_network(family))))
        }
        DnsTarget::Forward(_) | DnsTarget::Port(_) => None,
    }
}
