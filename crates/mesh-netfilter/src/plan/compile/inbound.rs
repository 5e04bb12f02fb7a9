//! Connections on their way in, and the marks that TPROXY needs.

use super::part::{loopback, named, ports, rule, tproxy_mark};
use super::{Pass, Target};
use crate::plan::{Action, Match, Rule, Transport, Why};
use crate::{Existing, Inbound, Ipv6, PortSelect, PortSet, Tproxy};

impl Pass<'_> {
    /// Connections that arrive.
    pub(super) fn inbound_rules(&self, inbound: &Inbound, rules: &mut Vec<Rule>) {
        // ip saddr { 10.9.0.0/16 } return
        for sources in self.networks(&inbound.excluded_sources) {
            rules.push(rule(
                [named("excluded_sources", sources, Match::Source)],
                Action::Return,
                Why::ExcludedSource,
            ));
        }
        let tcp = || Match::Transport(Transport::Tcp);
        // tcp dport 15008 return
        if let Some(tunnel) = inbound.tunnel {
            rules.push(rule(
                [
                    tcp(),
                    Match::DestinationPort(PortSet::from([tunnel]).into()),
                ],
                Action::Return,
                Why::Tunnel,
            ));
        }
        let mut matches = self.judged();
        match &inbound.ports {
            PortSelect::All => {}
            // tcp dport { 15020, 15021, 15090 } return
            PortSelect::AllExcept(excluded) => rules.push(rule(
                [
                    tcp(),
                    Match::DestinationPort(ports("inbound_excluded_ports", excluded)),
                ],
                Action::Return,
                Why::ExcludedPort,
            )),
            PortSelect::Only(only) => {
                matches.push(Match::DestinationPort(ports("inbound_ports", only)));
            }
        }
        // tcp flags & (fin|syn|rst|ack) == syn redirect to :15006
        let to = match inbound.tproxy() {
            None => Target::Port(inbound.to),
            Some(tproxy) => Target::Tproxy(inbound.to, tproxy.mark),
        };
        self.capture(matches, to, Why::Inbound, rules);
    }

    /// What arrives, before NAT: what belongs to no connection, and what TPROXY takes.
    pub(super) fn arrival_rules(&self) -> Vec<Rule> {
        let policy = self.policy;
        let mut rules = Vec::new();
        let tproxy = policy
            .inbound()
            .and_then(|inbound| Some((inbound, inbound.tproxy()?)));
        self.drop_invalid(&mut rules);
        if tproxy.is_none() && rules.is_empty() {
            return rules;
        }
        let invalid = std::mem::take(&mut rules);
        let mut others = self.other_families();
        // Blocked IPv6 is not captured, and what belongs to no connection is dropped all the same.
        if policy.ipv6() == Ipv6::Bypass {
            rules.append(&mut others);
        }
        self.excluded_interfaces(Match::InInterface, &mut rules);
        rules.extend(invalid);
        if let Some((inbound, tproxy)) = tproxy {
            rules.append(&mut others);
            self.tproxy_rules(inbound, tproxy, &mut rules);
        }
        rules
    }

    fn tproxy_rules(&self, inbound: &Inbound, tproxy: Tproxy, rules: &mut Vec<Rule>) {
        // iifname "docker0" return
        let guests = self.guest_interfaces();
        if !guests.is_empty() {
            let matches = [Match::InInterface(guests)];
            rules.push(rule(matches, Action::Return, Why::Guest));
        }
        // iifname "lo" meta l4proto tcp meta mark 0x539 ct mark set meta mark
        //
        // The proxy opened a connection to the application with the caller's address. What the
        // application answers to that address must come back here instead of leaving.
        let delivery = vec![
            Match::InInterface(loopback()),
            Match::Transport(Transport::Tcp),
            Match::Mark(tproxy_mark(tproxy.mark)),
        ];
        rules.push(rule(delivery.clone(), Action::SaveMark, Why::Delivery));
        rules.push(rule(delivery, Action::Return, Why::Delivery));
        // meta l4proto tcp tcp flags & (fin|syn|rst|ack) != syn socket transparent 1
        // meta mark set 0x539 accept
        //
        // A first packet would also find the listener on the wildcard address, if somebody calls
        // its port.
        rules.push(rule(
            [Match::Transport(Transport::Tcp), Match::TransparentSocket],
            Action::MarkAndAccept(tproxy.mark),
            Why::Intercepted,
        ));
        // iifname "lo" meta mark 0x53a tcp flags & (fin|syn|rst|ack) == syn tproxy to :15006 …
        //
        // Its port was judged when it was marked.
        let mut called = vec![
            Match::InInterface(loopback()),
            Match::Mark(tproxy_mark(tproxy.self_call_mark())),
        ];
        called.extend(self.judged());
        let to = Target::Tproxy(inbound.to, tproxy.mark);
        self.capture(called, to, Why::SelfCall, rules);
        // iifname "lo" return
        rules.push(rule(
            [Match::InInterface(loopback())],
            Action::Return,
            Why::LoopbackArrival,
        ));
        // ct direction reply return
        //
        // Where all packets are judged, answers to what processes here asked are among them.
        if self.policy.existing() == Existing::Break {
            rules.push(rule([Match::Reply], Action::Return, Why::Reply));
        }
        self.inbound_rules(inbound, rules);
    }

    /// What leaves and TPROXY is to take when it arrives over loopback.
    pub(super) fn marking_rules(&self, inbound: &Inbound, tproxy: Tproxy) -> Vec<Rule> {
        let mut rules = vec![
            // meta l4proto tcp ct mark 0x539 meta mark set ct mark
            rule(
                [
                    Match::Transport(Transport::Tcp),
                    Match::ConnectionMark(tproxy_mark(tproxy.mark)),
                ],
                Action::RestoreMark,
                Why::DeliveryAnswer,
            ),
        ];
        rules.push(marked_delivery(tproxy));
        self.excluded_senders(&mut rules);
        self.delivery(&mut rules);
        let to = Target::Mark(tproxy.self_call_mark());
        self.self_call(inbound, to, &mut rules);
        rules
    }
}

/// What the marking rules decided before.
pub(super) fn marked(tproxy: Tproxy) -> [Rule; 2] {
    // oifname "lo" meta mark 0x53a return
    let called = rule(
        [
            Match::OutInterface(loopback()),
            Match::Mark(tproxy_mark(tproxy.self_call_mark())),
        ],
        Action::Return,
        Why::Captured,
    );
    [marked_delivery(tproxy), called]
}

/// oifname "lo" meta mark 0x539 return
fn marked_delivery(tproxy: Tproxy) -> Rule {
    rule(
        [
            Match::OutInterface(loopback()),
            Match::Mark(tproxy_mark(tproxy.mark)),
        ],
        Action::Return,
        Why::Delivery,
    )
}
