//! What options change of a policy; pure, and every problem bears the name of its option.

mod direction;
mod dns;
mod identity;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use mesh_netfilter::{
    Dns, DropInvalid, Existing, Guard, Identities, IdentityPorts, IdentitySelect, Inbound,
    InstanceName, InterfaceName, Ipv6, Outbound, Policy, Problem, Problems, VirtualInterface,
};

use super::option::{Given, Kind};

/// Every port, every network.
const ALL: &str = "*";

/// The policy with what the options say.
pub(super) fn change(policy: &Policy, given: &[&Given]) -> Result<Policy, Problems> {
    let mut draft = Draft::of(policy);
    let mut given = given.to_vec();
    given.sort_by_key(|given| given.option.kind as usize);
    for given in given {
        draft.apply(given);
    }
    draft.build()
}

/// A policy that is being changed.
struct Draft {
    policy: Policy,
    instance: InstanceName,
    proxy: Identities,
    inbound: Option<Inbound>,
    outbound: Option<Outbound>,
    dns: Option<Dns>,
    identities: IdentitySelect,
    included: Identities,
    excluded: Identities,
    per_identity: Vec<IdentityPorts>,
    excluded_interfaces: BTreeSet<InterfaceName>,
    virtual_interfaces: Vec<VirtualInterface>,
    ipv6: Ipv6,
    guard: Guard,
    existing: Existing,
    drop_invalid: DropInvalid,
    problems: Problems,
}

// === impl Draft ===

impl Draft {
    fn of(policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            instance: policy.instance().clone(),
            proxy: policy.proxy().clone(),
            inbound: policy.inbound().cloned(),
            outbound: policy.outbound().cloned(),
            dns: policy.dns().cloned(),
            identities: policy.identities().clone(),
            included: Identities::default(),
            excluded: Identities::default(),
            per_identity: policy.per_identity().to_vec(),
            excluded_interfaces: policy.excluded_interfaces().clone(),
            virtual_interfaces: policy.virtual_interfaces().to_vec(),
            ipv6: policy.ipv6(),
            guard: policy.guard(),
            existing: policy.existing(),
            drop_invalid: policy.drop_invalid(),
            problems: Problems::default(),
        }
    }

    fn apply(&mut self, given: &Given) {
        match given.option.kind {
            Kind::Instance => self.set(given, |draft, name| draft.instance = name),
            Kind::ProxyUids | Kind::ProxyGids | Kind::ProxyMarks => self.proxy(given),
            Kind::InboundPort
            | Kind::TunnelPort
            | Kind::InboundPorts
            | Kind::ExcludedInboundPorts
            | Kind::ExcludedSources
            | Kind::InboundMode
            | Kind::TproxyMark
            | Kind::TproxyTable => self.inbound(given),
            Kind::OutboundPort
            | Kind::OutboundNetworks
            | Kind::OutboundPorts
            | Kind::ExcludedOutboundNetworks
            | Kind::ExcludedOutboundPorts
            | Kind::CapturedLoopback => self.outbound(given),
            Kind::IncludedUids
            | Kind::IncludedGids
            | Kind::ExcludedUids
            | Kind::ExcludedGids
            | Kind::ExcludedPortsForUids => self.identities(given),
            Kind::DnsTo
            | Kind::DnsServers
            | Kind::RedirectDns
            | Kind::CaptureAllDns
            | Kind::NoDns => self.dns(given),
            Kind::ExcludedInterfaces => {
                let names: Vec<InterfaceName> = self.list(given, str::parse);
                self.excluded_interfaces.extend(names);
            }
            Kind::VirtualInterfaces => {
                let names: Vec<InterfaceName> = self.list(given, str::parse);
                let interfaces = names.into_iter().map(VirtualInterface::new);
                self.virtual_interfaces.extend(interfaces);
            }
            Kind::Ipv6 | Kind::Guard | Kind::NoGuard | Kind::Existing | Kind::DropInvalid => {
                self.whole(given);
            }
            Kind::Tool => {}
        }
    }

    fn whole(&mut self, given: &Given) {
        match (given.option.kind, given.last()) {
            (Kind::Ipv6, "redirect") => self.ipv6 = Ipv6::Redirect,
            (Kind::Ipv6, "block") => self.ipv6 = Ipv6::Block,
            (Kind::Ipv6, "bypass") => self.ipv6 = Ipv6::Bypass,
            (Kind::Ipv6, _) => self.wrong(given, "`redirect`, `block` or `bypass`"),
            (Kind::Guard, "off") => self.guard = Guard::Off,
            (Kind::Guard, "reject") => self.guard = Guard::Reject,
            (Kind::Guard, "drop") => self.guard = Guard::Drop,
            (Kind::Guard, _) => self.wrong(given, "`off`, `reject` or `drop`"),
            (Kind::Existing, "keep") => self.existing = Existing::Keep,
            (Kind::Existing, "break") => self.existing = Existing::Break,
            (Kind::Existing, _) => self.wrong(given, "`keep` or `break`"),
            (Kind::NoGuard, _) if self.switch(given) => self.guard = Guard::Off,
            (Kind::DropInvalid, _) => {
                self.drop_invalid = if self.switch(given) {
                    DropInvalid::Yes
                } else {
                    DropInvalid::No
                };
            }
            _ => {}
        }
    }

    fn build(self) -> Result<Policy, Problems> {
        self.problems.into_result(())?;
        self.policy
            .to_builder()
            .instance(self.instance)
            .proxy(self.proxy)
            .inbound(self.inbound)
            .outbound(self.outbound)
            .dns(self.dns)
            .identities(self.identities)
            .per_identity(self.per_identity)
            .excluded_interfaces(self.excluded_interfaces)
            .virtual_interfaces(self.virtual_interfaces)
            .ipv6(self.ipv6)
            .guard(self.guard)
            .existing(self.existing)
            .drop_invalid(self.drop_invalid)
            .build()
    }

    fn set<T: FromStr<Err = Problem>>(&mut self, given: &Given, set: impl Fn(&mut Self, T)) {
        if let Some(value) = self.one(given, str::parse) {
            set(self, value);
        }
    }

    fn one<T>(&mut self, given: &Given, read: impl Fn(&str) -> Result<T, Problem>) -> Option<T> {
        match read(given.last()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.wrong(given, problem.expected);
                None
            }
        }
    }

    fn list<T>(&mut self, given: &Given, read: impl Fn(&str) -> Result<T, Problem>) -> Vec<T> {
        let mut values = Vec::new();
        for part in given.list() {
            match read(part) {
                Ok(value) => values.push(value),
                Err(problem) => {
                    let problem = Problem::new(&given.origin, part, problem.expected);
                    self.problems.push(problem);
                }
            }
        }
        values
    }

    fn switch(&mut self, given: &Given) -> bool {
        match given.last() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => {
                self.wrong(given, "`true` or `false`");
                false
            }
        }
    }

    fn wrong(&mut self, given: &Given, expected: impl Into<String>) {
        let problem = Problem::new(&given.origin, given.last(), expected);
        self.problems.push(problem);
    }

    fn off(&mut self, given: &Given, direction: impl Display) {
        self.wrong(given, format!("of any use while {direction} is off"));
    }
}
