//! Connections and queries on their way out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::part::{loopback, loopback_network, rule, senders, within};
use super::{DNS_PORT, Pass, Purpose};
use crate::plan::{Action, Match, Rule, Transport, Why};
use crate::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTcp, IdentitySelect, Inbound, Loopback,
    NetworkSet, Networks, Outbound, PortSelect, PortSet,
};

/// The source addresses with which the proxy hands inbound connections to the application: by
/// them, and by nothing else, they differ from the proxy's calls to its own workload.
const DELIVERY_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const DELIVERY_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// The rules of one direction: those of the base chain, and those of the chain that it leads to.
pub(super) struct Rules {
    pub(super) base: Vec<Rule>,
    pub(super) included: Option<Vec<Rule>>,
}

impl Pass<'_> {
    /// Connections and queries that processes of the namespace send.
    pub(super) fn outbound_rules(&self) -> Rules {
        let policy = self.policy;
        let mut rules = self.preface(Match::OutInterface);
        if let IdentitySelect::Except(identities) = policy.identities() {
            // meta skuid { 0 } return
            rules.extend(
                senders(identities)
                    .map(|sender| rule([sender], Action::Return, Why::ExcludedIdentity)),
            );
        }
        if let Some(inbound) = policy.inbound() {
            self.delivery(&mut rules);
            self.self_call(inbound, &mut rules);
        }
        if policy.outbound().is_none() && policy.dns().is_none() {
            return Rules {
                base: rules,
                included: None,
            };
        }
        // All self-calls come before the first of these, else a second identity's would pass.
        // meta skuid 1337 return
        rules.extend(
            senders(policy.proxy()).map(|sender| rule([sender], Action::Return, Why::Proxy)),
        );
        let mut application = Vec::new();
        if let Some(dns) = policy.dns() {
            self.dns(dns, &mut application);
        }
        if let Some(outbound) = policy.outbound() {
            self.loopback(outbound, &mut application);
            self.destinations(outbound, &mut application);
        }
        let IdentitySelect::Only(identities) = policy.identities() else {
            rules.extend(application);
            return Rules {
                base: rules,
                included: None,
            };
        };
        // Asked positively: a packet without a socket has no owner and matches neither way.
        // meta skuid { 1000 } goto nat_included
        let chain = match self.purpose {
            Purpose::Capture => "nat_included",
            Purpose::Guard => "guard_included",
        };
        rules.extend(
            senders(identities)
                .map(|sender| rule([sender], Action::Goto(chain), Why::IncludedIdentity)),
        );
        Rules {
            base: rules,
            included: Some(application),
        }
    }

    /// oifname "lo" ip saddr 127.0.0.6 return
    fn delivery(&self, rules: &mut Vec<Rule>) {
        let sources: NetworkSet = [IpAddr::from(DELIVERY_V4), IpAddr::from(DELIVERY_V6)]
            .into_iter()
            .map(IpNet::from)
            .collect();
        for sources in self.networks(&sources) {
            rules.push(rule(
                [Match::OutInterface(loopback()), Match::Source(sources)],
                Action::Return,
                Why::Delivery,
            ));
        }
    }

    /// oifname "lo" ip daddr != 127.0.0.0/8 tcp flags … tcp dport != { 53 } meta skuid 1337
    /// redirect to :15006
    ///
    /// The application called its own service through the proxy. The proxy's second hop must pass
    /// the inbound listener, where the workload's own policy is, so it is judged as a call from
    /// outside: by the ports that inbound captures. DNS of the proxy is its own matter.
    fn self_call(&self, inbound: &Inbound, rules: &mut Vec<Rule>) {
        let mut own: PortSet = inbound.tunnel.into_iter().collect();
        if self.policy.dns().is_some() {
            own = own.union(&PortSet::from([DNS_PORT]));
        }
        let ports = match &inbound.ports {
            PortSelect::All => Match::DestinationPortNot(own),
            PortSelect::AllExcept(ports) => Match::DestinationPortNot(ports.union(&own)),
            PortSelect::Only(ports) => Match::DestinationPort(ports.without(&own)),
        };
        let ports = match ports {
            Match::DestinationPort(ports) if ports.is_empty() => return,
            Match::DestinationPortNot(ports) if ports.is_empty() => None,
            ports => Some(ports),
        };
        for sender in senders(self.policy.proxy()) {
            for family in self.families {
                let mut matches = vec![
                    Match::OutInterface(loopback()),
                    Match::DestinationNot(loopback_network(*family)),
                    Match::Transport(Transport::Tcp),
                    Match::FirstPacket,
                ];
                matches.extend(ports.clone());
                matches.push(sender.clone());
                rules.push(self.capture(matches, inbound.to, Why::SelfCall));
            }
        }
    }

    /// meta l4proto udp udp dport 53 redirect to :15053
    ///
    /// Before loopback is let alone: the resolver may live there.
    fn dns(&self, dns: &Dns, rules: &mut Vec<Rule>) {
        let port = Match::DestinationPort(PortSet::from([DNS_PORT]));
        let udp = vec![Match::Transport(Transport::Udp), port.clone()];
        let tcp = vec![
            Match::Transport(Transport::Tcp),
            Match::FirstPacket,
            port.clone(),
        ];
        let transports = match dns.tcp {
            DnsTcp::Capture => vec![udp, tcp],
            DnsTcp::Ordinary => vec![udp],
        };
        let servers: Vec<Option<Networks>> = match &dns.servers {
            DnsServers::All => vec![None],
            DnsServers::List(servers) => {
                let servers: NetworkSet = servers.iter().copied().map(IpNet::from).collect();
                self.networks(&servers).map(Some).collect()
            }
        };
        for servers in servers {
            for transport in &transports {
                let servers = servers
                    .clone()
                    .map(|servers| within(servers, Match::Destination));
                let matches = servers.into_iter().chain(transport.clone()).collect();
                rules.push(self.capture(matches, dns.to, Why::Dns));
            }
        }
    }

    /// oifname "lo" return
    fn loopback(&self, outbound: &Outbound, rules: &mut Vec<Rule>) {
        let Loopback::Capture(captured) = &outbound.loopback else {
            rules.push(rule(
                [Match::OutInterface(loopback())],
                Action::Return,
                Why::Loopback,
            ));
            return;
        };
        for family in self.families {
            let rest = match captured.of(*family) {
                None => Match::Family(*family),
                Some(networks) if networks.is_everything() => continue,
                Some(networks) => Match::DestinationNot(networks),
            };
            rules.push(rule(
                [Match::OutInterface(loopback()), rest],
                Action::Return,
                Why::Loopback,
            ));
        }
    }

    fn destinations(&self, outbound: &Outbound, rules: &mut Vec<Rule>) {
        let syn = || vec![Match::Transport(Transport::Tcp), Match::FirstPacket];
        match &outbound.destinations {
            DestinationSelect::All => {}
            // tcp dport { 22 } return; ip daddr { 10.0.0.0/8 } return
            DestinationSelect::AllExcept(destinations) => {
                for matches in self.each_destination(destinations) {
                    rules.push(rule(matches, Action::Return, Why::ExcludedDestination));
                }
            }
            DestinationSelect::Only(destinations) => {
                for matches in self.each_destination(destinations) {
                    // The protocol is asked once, in front.
                    let rest = matches
                        .into_iter()
                        .filter(|part| *part != Match::Transport(Transport::Tcp));
                    let matches = syn().into_iter().chain(rest).collect();
                    rules.push(self.capture(matches, outbound.to, Why::Outbound));
                }
                return;
            }
        }
        // tcp flags & (fin|syn|rst|ack) == syn redirect to :15001
        rules.push(self.capture(syn(), outbound.to, Why::Outbound));
    }

    /// One list of matches for each list of destinations and family.
    fn each_destination(&self, destinations: &Destinations) -> Vec<Vec<Match>> {
        let mut all = Vec::new();
        if !destinations.ports.is_empty() {
            all.push(vec![
                Match::Transport(Transport::Tcp),
                Match::DestinationPort(destinations.ports.clone()),
            ]);
        }
        for networks in self.networks(&destinations.networks) {
            all.push(vec![within(networks, Match::Destination)]);
        }
        for pair in &destinations.network_ports {
            for networks in self.networks(&pair.networks) {
                all.push(vec![
                    within(networks, Match::Destination),
                    Match::Transport(Transport::Tcp),
                    Match::DestinationPort(pair.ports.clone()),
                ]);
            }
        }
        all
    }
}
