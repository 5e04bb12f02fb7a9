//! The guard: what should have been captured and was not, is refused.

use ipnet::IpNet;

use super::part::{base, captured, loopback, regular, rule, tproxy_mark};
use super::{DNS_PORT, GUARD_PRIORITY, Pass};
use crate::plan::{Action, Chain, ChainKind, Hook, List, Match, Rule, Transport, Why};
use crate::{DnsTarget, Existing, NetworkSet, PortSet};

impl Pass<'_> {
    pub(super) fn guard_chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        let guests = self.guest_rules();
        if self.policy.inbound().is_some() || guests.is_some() {
            let mut rules = vec![
                // iifname "lo" return
                rule(
                    [Match::InInterface(loopback())],
                    Action::Return,
                    Why::LoopbackArrival,
                ),
            ];
            self.arrived(guests.is_some(), &mut rules);
            rules.extend(self.preface(Match::InInterface));
            if let Some(guests) = &guests {
                rules.extend(guests.base.iter().cloned());
            }
            if let Some(inbound) = self.policy.inbound() {
                self.inbound_rules(inbound, &mut rules);
            }
            let kind = ChainKind::Filter;
            chains.push(base("guard_in", kind, Hook::Input, GUARD_PRIORITY, rules));
        }
        if let Some(guests) = guests {
            let mut rules = Vec::new();
            self.arrived(true, &mut rules);
            rules.extend(self.preface(Match::InInterface));
            rules.extend(guests.base);
            let kind = ChainKind::Filter;
            chains.push(base(
                "guard_fwd",
                kind,
                Hook::Forward,
                GUARD_PRIORITY,
                rules,
            ));
            chains.extend(guests.included.map(|rules| regular("guard_guest", rules)));
        }
        let mut rules = self.sent();
        let outbound = self.outbound_rules();
        rules.extend(outbound.base);
        chains.extend(
            outbound
                .included
                .map(|rules| regular("guard_included", rules)),
        );
        let kind = ChainKind::Filter;
        chains.push(base("guard_out", kind, Hook::Output, GUARD_PRIORITY, rules));
        chains
    }

    /// What arrives and was captured, and what the capturing chains did not have to ask.
    fn arrived(&self, has_guests: bool, rules: &mut Vec<Rule>) {
        let policy = self.policy;
        let mut ports = PortSet::default();
        if let Some(inbound) = policy.inbound() {
            match inbound.tproxy() {
                None => ports = PortSet::from([inbound.to]),
                // meta mark 0x539 return
                Some(tproxy) => rules.push(rule(
                    [Match::Mark(tproxy_mark(tproxy.mark))],
                    Action::Return,
                    Why::Captured,
                )),
            }
        }
        let mut transport = Transport::Tcp;
        if has_guests {
            let outbound = policy.outbound().map(|outbound| outbound.to);
            let dns = policy.dns().and_then(|dns| dns.to.port());
            ports = ports.union(&outbound.into_iter().chain(dns).collect());
            if dns.is_some() {
                transport = Transport::TcpOrUdp;
            }
        }
        // ct status dnat meta l4proto tcp tcp dport 15006 return
        if !ports.is_empty() {
            rules.push(captured(transport, ports));
        }
        self.answers(has_guests && policy.dns().is_some(), rules);
    }

    /// What is sent and was captured, and what the capturing chains did not have to ask.
    fn sent(&self) -> Vec<Rule> {
        let policy = self.policy;
        let redirected = policy
            .inbound()
            .filter(|inbound| inbound.tproxy().is_none())
            .map(|inbound| inbound.to);
        let outbound = policy.outbound().map(|outbound| outbound.to);
        let dns = policy.dns().map(|dns| dns.to);
        let dns_port = match dns {
            Some(DnsTarget::Port(port)) => Some(port),
            Some(DnsTarget::Forward(_)) | None => None,
        };
        let ports = redirected.into_iter().chain(outbound).chain(dns_port);
        let ports: PortSet = ports.collect();
        // The ports are compared too: a translation by somebody else is no capture.
        // ct status dnat meta l4proto { tcp, udp } th dport { 15001, 15006, 15053 } return
        let transport = match dns_port {
            Some(_) => Transport::TcpOrUdp,
            None => Transport::Tcp,
        };
        let mut rules = Vec::new();
        if !ports.is_empty() {
            rules.push(captured(transport, ports));
        }
        if let Some(DnsTarget::Forward(address)) = dns {
            let target: NetworkSet = [IpNet::from(address.ip())].into_iter().collect();
            let port: PortSet = dns.and_then(DnsTarget::port).into_iter().collect();
            for target in self.networks(&target) {
                // ct status dnat ip daddr 10.0.0.53 meta l4proto { tcp, udp } th dport 8600 return
                let mut rule = captured(Transport::TcpOrUdp, port.clone());
                let at = 1.min(rule.matches.len());
                rule.matches
                    .insert(at, Match::Destination(List::fixed(target)));
                rules.push(rule);
            }
        }
        self.in_place(&mut rules);
        self.answers(dns.is_some(), &mut rules);
        rules
    }

    /// A query that is sent where captured ones go anyway: translating it changes nothing, which
    /// conntrack does not call a translation.
    fn in_place(&self, rules: &mut Vec<Rule>) {
        let Some(dns) = self.policy.dns() else { return };
        if dns.to.port() != Some(DNS_PORT) {
            return;
        }
        let targets: NetworkSet = match dns.to {
            DnsTarget::Forward(address) => [IpNet::from(address.ip())].into_iter().collect(),
            DnsTarget::Port(_) => super::part::local_hosts(),
        };
        for target in self.networks(&targets) {
            // ip daddr 10.0.0.53 meta l4proto { tcp, udp } th dport 53 return
            rules.push(rule(
                [
                    Match::Destination(List::fixed(target)),
                    Match::Transport(Transport::TcpOrUdp),
                    Match::DestinationPort(PortSet::from([DNS_PORT]).into()),
                ],
                Action::Return,
                Why::Captured,
            ));
        }
    }

    fn answers(&self, judges_dns: bool, rules: &mut Vec<Rule>) {
        match self.policy.existing() {
            // The capturing chains never see an answer, and here all packets are judged.
            // ct direction reply return
            Existing::Break => rules.push(rule([Match::Reply], Action::Return, Why::Reply)),
            // A resolver may ask the application from port 53, and its answer goes to port 53.
            // ct direction reply meta l4proto udp return
            Existing::Keep if judges_dns => rules.push(rule(
                [Match::Reply, Match::Transport(Transport::Udp)],
                Action::Return,
                Why::Reply,
            )),
            Existing::Keep => {}
        }
    }
}
