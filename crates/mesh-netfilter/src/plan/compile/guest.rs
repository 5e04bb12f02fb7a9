//! Guests behind virtual interfaces: what arrives from them is outbound traffic.

use std::collections::BTreeSet;

use super::dns::Sender;
use super::outbound::Rules;
use super::part::{named, rule};
use super::{Pass, Purpose};
use crate::InterfaceName;
use crate::plan::{Action, Match, Rule, Why};

impl Pass<'_> {
    /// The names of all virtual interfaces.
    pub(super) fn guest_interfaces(&self) -> BTreeSet<InterfaceName> {
        let interfaces = self.policy.virtual_interfaces().iter();
        interfaces.map(|interface| interface.name.clone()).collect()
    }

    /// Traffic of guests, none if there are none: the rules that lead to the chain of their own,
    /// and those of that chain.
    pub(super) fn guest_rules(&self) -> Option<Rules> {
        let policy = self.policy;
        let interfaces = self.guest_interfaces();
        if interfaces.is_empty() {
            return None;
        }
        let mut base = Vec::new();
        for (index, interface) in policy.virtual_interfaces().iter().enumerate() {
            // iifname "docker0" ip daddr 172.17.0.0/16 return
            for networks in self.networks(&interface.direct) {
                let name = format!("guest_{index}_direct");
                base.push(rule(
                    [
                        Match::InInterface(BTreeSet::from([interface.name.clone()])),
                        named(&name, networks, Match::Destination),
                    ],
                    Action::Return,
                    Why::GuestDirect,
                ));
            }
        }
        // iifname { "docker0", "kvm0" } goto nat_guest
        //
        // The chain takes no way back: the rest of guests' traffic is not inbound.
        let chain = match self.purpose {
            Purpose::Capture => "nat_guest",
            Purpose::Guard => "guard_guest",
        };
        base.push(rule(
            [Match::InInterface(interfaces)],
            Action::Goto(chain),
            Why::Guest,
        ));
        let mut included: Vec<Rule> = Vec::new();
        if let Some(dns) = policy.dns() {
            self.dns(dns, Sender::Guest, &mut included);
        }
        if let Some(outbound) = policy.outbound() {
            self.destinations(outbound, &mut included);
        }
        Some(Rules {
            base,
            included: Some(included),
        })
    }
}
