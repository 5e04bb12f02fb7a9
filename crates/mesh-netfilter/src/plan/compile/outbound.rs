//! Connections and queries on their way out.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::dns::Sender;
use super::inbound::marked;
use super::part::{loopback, loopback_network, named, ports, rule, senders};
use super::{DNS_PORT, Pass, Purpose, Target};
use crate::plan::local::DELIVERY_V6;
use crate::plan::{Action, List, Match, Rule, Transport, Why};
use crate::{
    DestinationSelect, Destinations, Family, IdentitySelect, Inbound, Loopback, NetworkSet,
    Networks, Outbound, PortSelect, PortSet,
};

/// The source addresses with which the proxy hands inbound connections to the application: by
/// them, and by nothing else, they differ from the proxy's calls to its own workload.
const DELIVERY_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

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
        let tproxy = policy.inbound().and_then(Inbound::tproxy);
        if let Some(tproxy) = tproxy {
            rules.extend(marked(tproxy));
        }
        self.excluded_senders(&mut rules);
        if let Some(inbound) = policy.inbound() {
            self.delivery(&mut rules);
            // With TPROXY, self-calls are marked before and handed over on arrival.
            if tproxy.is_none() || self.purpose == Purpose::Guard {
                self.self_call(inbound, Target::Port(inbound.to), &mut rules);
            }
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
            self.dns(dns, Sender::Process, &mut application);
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

    /// Senders that are not captured, whatever they send or to certain ports.
    pub(super) fn excluded_senders(&self, rules: &mut Vec<Rule>) {
        if let IdentitySelect::Except(identities) = self.policy.identities() {
            // meta skuid { 0 } return
            rules.extend(
                senders(identities)
                    .map(|sender| rule([sender], Action::Return, Why::ExcludedIdentity)),
            );
        }
        for (index, exclusion) in self.policy.per_identity().iter().enumerate() {
            // meta l4proto tcp tcp dport 9092 meta skuid 1000 return
            let name = format!("identity_{index}_ports");
            rules.extend(senders(&exclusion.identities).map(|sender| {
                let transport = Match::Transport(exclusion.transport);
                let ports = Match::DestinationPort(ports(&name, &exclusion.ports));
                rule(
                    [transport, ports, sender],
                    Action::Return,
                    Why::ExcludedIdentityPort,
                )
            }));
        }
    }

    /// oifname "lo" ip saddr 127.0.0.6 return
    pub(super) fn delivery(&self, rules: &mut Vec<Rule>) {
        let sources: NetworkSet = [IpAddr::from(DELIVERY_V4), IpAddr::from(DELIVERY_V6)]
            .into_iter()
            .map(IpNet::from)
            .collect();
        for sources in self.networks(&sources) {
            rules.push(rule(
                [
                    Match::OutInterface(loopback()),
                    Match::Source(sources.into()),
                ],
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
    pub(super) fn self_call(&self, inbound: &Inbound, to: Target, rules: &mut Vec<Rule>) {
        let mut own: PortSet = inbound.tunnel.into_iter().collect();
        if self.policy.dns().is_some() {
            own = own.union(&PortSet::from([DNS_PORT]));
        }
        let not = |excluded: &PortSet| {
            Match::DestinationPortNot(ports("self_call_excluded_ports", excluded))
        };
        let selected = match &inbound.ports {
            PortSelect::All if own.is_empty() => None,
            PortSelect::All => Some(Match::DestinationPortNot(own.into())),
            PortSelect::AllExcept(excluded) => Some(not(&excluded.union(&own))),
            PortSelect::Only(only) => {
                let only = only.without(&own);
                if only.is_empty() {
                    return;
                }
                Some(Match::DestinationPort(ports("self_call_ports", &only)))
            }
        };
        for sender in senders(self.policy.proxy()) {
            for family in self.families {
                let mut matches = vec![
                    Match::OutInterface(loopback()),
                    Match::DestinationNot(loopback_network(*family).into()),
                ];
                matches.extend(self.judged());
                matches.extend(selected.clone());
                matches.push(sender.clone());
                self.capture(matches, to, Why::SelfCall, rules);
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
                Some(networks) => match few_others(captured, *family) {
                    // oifname "lo" ip daddr 127.0.0.1 return
                    Some(others) => Match::Destination(List::fixed(others)),
                    None => named("loopback", networks, Match::DestinationNot),
                },
            };
            rules.push(rule(
                [Match::OutInterface(loopback()), rest],
                Action::Return,
                Why::Loopback,
            ));
        }
    }

    pub(super) fn destinations(&self, outbound: &Outbound, rules: &mut Vec<Rule>) {
        let to = Target::Port(outbound.to);
        match &outbound.destinations {
            DestinationSelect::All => {}
            // tcp dport { 22 } return; ip daddr { 10.0.0.0/8 } return
            DestinationSelect::AllExcept(destinations) => {
                for matches in self.each_destination("excluded", destinations) {
                    rules.push(rule(matches, Action::Return, Why::ExcludedDestination));
                }
            }
            DestinationSelect::Only(destinations) => {
                for matches in self.each_destination("included", destinations) {
                    // The protocol is asked once, in front.
                    let rest = matches
                        .into_iter()
                        .filter(|part| *part != Match::Transport(Transport::Tcp));
                    let matches = self.judged().into_iter().chain(rest).collect();
                    self.capture(matches, to, Why::Outbound, rules);
                }
                return;
            }
        }
        // tcp flags & (fin|syn|rst|ack) == syn redirect to :15001
        self.capture(self.judged(), to, Why::Outbound, rules);
    }

    /// One list of matches for each list of destinations and family.
    fn each_destination(&self, name: &str, destinations: &Destinations) -> Vec<Vec<Match>> {
        let mut all = Vec::new();
        if !destinations.ports.is_empty() {
            let name = format!("{name}_ports");
            all.push(vec![
                Match::Transport(Transport::Tcp),
                Match::DestinationPort(ports(&name, &destinations.ports)),
            ]);
        }
        for networks in self.networks(&destinations.networks) {
            all.push(vec![named(name, networks, Match::Destination)]);
        }
        for (index, pair) in destinations.network_ports.iter().enumerate() {
            let name = format!("{name}_{index}");
            for networks in self.networks(&pair.networks) {
                all.push(vec![
                    named(&name, networks, Match::Destination),
                    Match::Transport(Transport::Tcp),
                    Match::DestinationPort(ports(&format!("{name}_ports"), &pair.ports)),
                ]);
            }
        }
        all
    }
}

/// The networks of a family that are not in `networks`, if they are few and those are many: "all
/// but 127.0.0.1" is thirty-two networks, and a match of one address is a better rule.
fn few_others(networks: &NetworkSet, family: Family) -> Option<Networks> {
    const FEW: usize = 4;
    // What is cut out of everything piece by piece must not be long either.
    const MANY: std::ops::RangeInclusive<usize> = 5..=256;
    let of_family = |set: &NetworkSet| {
        set.iter()
            .filter(|network| Family::of(network.addr()) == family)
            .count()
    };
    if !MANY.contains(&of_family(networks)) {
        return None;
    }
    let others = NetworkSet::everything([family]).without(networks);
    (of_family(&others) <= FEW)
        .then(|| others.of(family))
        .flatten()
}
