//! Building a policy: one place that knows what makes it valid.

use std::collections::BTreeSet;

use super::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTarget, DnsTcp, DropInvalid, Existing,
    Guard, IdentityPorts, IdentitySelect, Inbound, Ipv6, Loopback, Outbound, Policy, PortSelect,
    Tproxy, VirtualInterface,
};
use crate::id::INVALID_ID;
use crate::{Identities, InstanceName, InterfaceName, Problem, Problems};

/// A policy in the making. Nothing is captured until it is said; the guard is on.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PolicyBuilder {
    policy: Policy,
}

// === impl PolicyBuilder ===

impl PolicyBuilder {
    pub(super) fn new(proxy: Identities) -> Self {
        Self::from_policy(Policy {
            instance: InstanceName::default(),
            proxy,
            inbound: None,
            outbound: None,
            dns: None,
            identities: IdentitySelect::Everyone,
            ipv6: Ipv6::Redirect,
            guard: Guard::Reject,
            existing: Existing::Keep,
            drop_invalid: DropInvalid::No,
            excluded_interfaces: BTreeSet::new(),
            virtual_interfaces: Vec::new(),
            per_identity: Vec::new(),
        })
    }

    pub(super) fn from_policy(policy: Policy) -> Self {
        Self { policy }
    }

    /// The name of this set of rules; `mesh` if it is not said.
    pub fn instance(mut self, instance: InstanceName) -> Self {
        self.policy.instance = instance;
        self
    }

    /// Somebody else is the proxy.
    pub fn proxy(mut self, proxy: Identities) -> Self {
        self.policy.proxy = proxy;
        self
    }

    /// Captures arriving connections; `None` turns it off.
    pub fn inbound(mut self, inbound: impl Into<Option<Inbound>>) -> Self {
        self.policy.inbound = inbound.into();
        self
    }

    /// Captures opened connections; `None` turns it off.
    pub fn outbound(mut self, outbound: impl Into<Option<Outbound>>) -> Self {
        self.policy.outbound = outbound.into();
        self
    }

    /// Captures DNS queries; `None` turns it off.
    pub fn dns(mut self, dns: impl Into<Option<Dns>>) -> Self {
        self.policy.dns = dns.into();
        self
    }

    /// Who is captured on the way out.
    pub fn identities(mut self, identities: IdentitySelect) -> Self {
        self.policy.identities = identities;
        self
    }

    /// What happens to IPv6.
    pub fn ipv6(mut self, ipv6: Ipv6) -> Self {
        self.policy.ipv6 = ipv6;
        self
    }

    /// What happens to traffic that slips past.
    pub fn guard(mut self, guard: Guard) -> Self {
        self.policy.guard = guard;
        self
    }

    /// Leaves the traffic of these interfaces alone, in both directions.
    pub fn excluded_interfaces(
        mut self,
        interfaces: impl IntoIterator<Item = InterfaceName>,
    ) -> Self {
        self.policy.excluded_interfaces = interfaces.into_iter().collect();
        self
    }

    /// What happens to connections that are open when rules arrive.
    pub fn existing(mut self, existing: Existing) -> Self {
        self.policy.existing = existing;
        self
    }

    /// Whether packets of no connection are dropped.
    pub fn drop_invalid(mut self, drop_invalid: DropInvalid) -> Self {
        self.policy.drop_invalid = drop_invalid;
        self
    }

    /// Takes what arrives at these interfaces for outbound traffic of guests.
    pub fn virtual_interfaces(
        mut self,
        interfaces: impl IntoIterator<Item = VirtualInterface>,
    ) -> Self {
        self.policy.virtual_interfaces = interfaces.into_iter().collect();
        self
    }

    /// Leaves certain ports of certain senders alone.
    pub fn per_identity(mut self, exclusions: impl IntoIterator<Item = IdentityPorts>) -> Self {
        self.policy.per_identity = exclusions.into_iter().collect();
        self
    }

    /// The policy, if it makes sense.
    ///
    /// # Errors
    /// Everything that is wrong with it, with the paths of the fields.
    pub fn build(self) -> Result<Policy, Problems> {
        let mut problems = Problems::default();
        self.check(&mut problems);
        problems.into_result(self.policy)
    }

    /// Adds what is wrong to `problems`.
    pub(super) fn check(&self, problems: &mut Problems) {
        let policy = &self.policy;
        if policy.inbound.is_none() && policy.outbound.is_none() && policy.dns.is_none() {
            problems.push(Problem::new(
                "",
                "off",
                "a policy that captures something (inbound, outbound or dns)",
            ));
        }
        self.check_identities(problems);
        if let Some(inbound) = &policy.inbound {
            check_inbound(inbound, problems);
            if let Some(tproxy) = inbound.tproxy() {
                self.check_tproxy(tproxy, problems);
            }
        }
        if let Some(outbound) = &policy.outbound {
            check_outbound(outbound, problems);
        }
        if let Some(dns) = &policy.dns {
            check_dns(dns, policy.outbound.as_ref(), problems);
        }
        if policy
            .excluded_interfaces
            .contains(&InterfaceName::loopback())
        {
            problems.push(Problem::new(
                "excluded_interfaces",
                "lo",
                "an interface other than loopback (the proxy's calls to its own workload use it)",
            ));
        }
        self.check_virtual_interfaces(problems);
        self.check_per_identity(problems);
    }

    fn check_tproxy(&self, tproxy: Tproxy, problems: &mut Problems) {
        let path = "inbound.capture.mode.tproxy";
        let mut problem = |field: &str, value: u32, expected: &str| {
            problems.push(Problem::new(
                format!("{path}.{field}"),
                value.to_string(),
                expected,
            ));
        };
        if tproxy.mark == 0 || tproxy.mark == u32::MAX {
            problem("mark", tproxy.mark, "a mark between 1 and 4294967294");
        }
        let selected = match &self.policy.identities {
            IdentitySelect::Everyone => None,
            IdentitySelect::Except(selected) | IdentitySelect::Only(selected) => Some(selected),
        };
        let exclusions = self.policy.per_identity.iter();
        let mut marks = selected
            .into_iter()
            .chain([&self.policy.proxy])
            .chain(exclusions.map(|exclusion| &exclusion.identities))
            .flat_map(Identities::mark_values);
        if marks.any(|mark| mark.matches(tproxy.mark) || mark.matches(tproxy.self_call_mark())) {
            problem(
                "mark",
                tproxy.mark,
                "a mark that, like the next number, no identity has",
            );
        }
        // 253 to 255 are the kernel's tables `default`, `main` and `local`.
        if tproxy.table == 0 || (253..=255).contains(&tproxy.table) {
            problem("table", tproxy.table, "a table other than 0 and 253 to 255");
        }
        // The kernel's own policy rules are at 0, 32766 and 32767.
        if tproxy.priority == 0 || tproxy.priority > 32765 {
            problem(
                "priority",
                tproxy.priority,
                "a priority between 1 and 32765",
            );
        }
    }

    fn check_virtual_interfaces(&self, problems: &mut Problems) {
        let policy = &self.policy;
        let interfaces = &policy.virtual_interfaces;
        if !interfaces.is_empty() && policy.outbound.is_none() && policy.dns.is_none() {
            problems.push(Problem::new(
                "virtual_interfaces",
                "outbound off",
                "of use without outbound or dns",
            ));
        }
        for (index, interface) in interfaces.iter().enumerate() {
            let name = &interface.name;
            let mut problem = |expected: &str| {
                problems.push(Problem::new(
                    format!("virtual_interfaces[{index}].name"),
                    name.to_string(),
                    expected,
                ));
            };
            if *name == InterfaceName::loopback() {
                problem("an interface other than loopback");
            }
            if policy.excluded_interfaces.contains(name) {
                problem("an interface that is not excluded");
            }
            let mut before = interfaces.iter().take(index);
            if before.any(|other| other.name == *name) {
                problem("an interface that was not named before");
            }
        }
    }

    fn check_per_identity(&self, problems: &mut Problems) {
        for (index, exclusion) in self.policy.per_identity.iter().enumerate() {
            let path = format!("per_identity[{index}]");
            let identities = format!("{path}.identities");
            if exclusion.identities.is_empty() {
                problems.push(Problem::new(&identities, "nobody", "at least one identity"));
            }
            check_ids(&identities, &exclusion.identities, problems);
            if exclusion.ports.is_empty() {
                problems.push(empty(&format!("{path}.ports"), "a port"));
            }
        }
    }

    fn check_identities(&self, problems: &mut Problems) {
        let proxy = &self.policy.proxy;
        if proxy.is_empty() {
            problems.push(Problem::new(
                "proxy",
                "nobody",
                "at least one user, group or mark (without it the proxy's own traffic loops)",
            ));
        }
        check_ids("proxy", proxy, problems);
        let (path, selected) = match &self.policy.identities {
            IdentitySelect::Everyone => return,
            IdentitySelect::Except(selected) => ("identities.except", selected),
            IdentitySelect::Only(selected) => ("identities.only", selected),
        };
        if selected.is_empty() {
            problems.push(Problem::new(path, "nobody", "at least one identity"));
        }
        check_ids(path, selected, problems);
        if let IdentitySelect::Only(selected) = &self.policy.identities {
            let users = selected.user_ids().intersection(proxy.user_ids());
            let groups = selected.group_ids().intersection(proxy.group_ids());
            for (kind, id) in [("uids", users), ("gids", groups)]
                .iter()
                .flat_map(|(kind, ids)| ids.ranges().iter().map(move |id| (kind, id)))
            {
                problems.push(Problem::new(
                    format!("{path}.{kind}"),
                    id.to_string(),
                    "an identity other than the proxy, which is never captured",
                ));
            }
        }
    }
}

fn check_ids(path: &str, identities: &Identities, problems: &mut Problems) {
    for (kind, ids) in [
        ("uids", identities.user_ids()),
        ("gids", identities.group_ids()),
    ] {
        if ids.contains(INVALID_ID) {
            problems.push(Problem::new(
                format!("{path}.{kind}"),
                INVALID_ID.to_string(),
                "an id below 4294967295",
            ));
        }
    }
}

fn check_inbound(inbound: &Inbound, problems: &mut Problems) {
    match &inbound.ports {
        PortSelect::AllExcept(ports) if ports.is_everything() => problems.push(Problem::new(
            "inbound.capture.ports.all_except",
            ports.to_string(),
            "a selection that leaves a port; to capture none, turn inbound off",
        )),
        PortSelect::AllExcept(ports) if ports.is_empty() => problems.push(empty(
            "inbound.capture.ports.all_except",
            "a port; to capture all of them, say `all`",
        )),
        PortSelect::Only(ports) if ports.is_empty() => problems.push(empty(
            "inbound.capture.ports.only",
            "a port; to capture none, turn inbound off",
        )),
        PortSelect::All | PortSelect::AllExcept(_) | PortSelect::Only(_) => {}
    }
    if inbound.tunnel == Some(inbound.to) {
        problems.push(Problem::new(
            "inbound.capture.tunnel",
            inbound.to.to_string(),
            "a port other than the one that captured connections go to",
        ));
    }
}

fn check_outbound(outbound: &Outbound, problems: &mut Problems) {
    let path = "outbound.capture.destinations";
    match &outbound.destinations {
        DestinationSelect::All => {}
        DestinationSelect::AllExcept(destinations) => {
            let path = format!("{path}.all_except");
            if destinations.is_empty() {
                problems.push(empty(&path, "a destination; to capture all, say `all`"));
            }
            if destinations.ports.is_everything() {
                problems.push(Problem::new(
                    format!("{path}.ports"),
                    destinations.ports.to_string(),
                    "a selection that leaves a port; to capture none, turn outbound off",
                ));
            }
            check_network_ports(&path, destinations, problems);
        }
        DestinationSelect::Only(destinations) => {
            let path = format!("{path}.only");
            if destinations.is_empty() {
                problems.push(empty(
                    &path,
                    "a destination; to capture none, turn outbound off",
                ));
            }
            check_network_ports(&path, destinations, problems);
        }
    }
    if let Loopback::Capture(networks) = &outbound.loopback
        && networks.is_empty()
    {
        problems.push(empty(
            "outbound.capture.loopback.capture",
            "a network; to leave loopback alone, say `direct`",
        ));
    }
}

fn check_network_ports(path: &str, destinations: &Destinations, problems: &mut Problems) {
    for (index, pair) in destinations.network_ports.iter().enumerate() {
        let path = format!("{path}.network_ports[{index}]");
        if pair.networks.is_empty() {
            problems.push(empty(&format!("{path}.networks"), "a network"));
        }
        if pair.ports.is_empty() {
            problems.push(empty(&format!("{path}.ports"), "a port"));
        }
    }
}

fn check_dns(dns: &Dns, outbound: Option<&Outbound>, problems: &mut Problems) {
    if let DnsServers::List(servers) = &dns.servers
        && servers.is_empty()
    {
        problems.push(empty(
            "dns.capture.servers.list",
            "an address; to capture none, turn dns off",
        ));
    }
    if let DnsTarget::Forward(address) = dns.to
        && (address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast())
    {
        problems.push(Problem::new(
            "dns.capture.to",
            address.to_string(),
            "the address and port of a server",
        ));
    }
    let shares = |outbound: &Outbound| dns.to == DnsTarget::Port(outbound.to);
    if dns.tcp == DnsTcp::Capture && outbound.is_some_and(shares) {
        problems.push(Problem::new(
            "dns.capture.to",
            dns.to.to_string(),
            "a port other than the one that outbound connections go to",
        ));
    }
}

fn empty(path: &str, expected: &str) -> Problem {
    Problem::new(path, "[]", expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DestinationSelect, Port, PortSet};

    #[test]
    fn the_sidecar_policy_is_valid() {
        assert_eq!(
            Policy::sidecar().to_builder().build(),
            Ok(Policy::sidecar())
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = Policy::builder(Identities::default())
            .inbound(Inbound {
                tunnel: Some(Port::of::<15006>()),
                ..Inbound::to(Port::of::<15006>()).ports(PortSelect::Only(PortSet::default()))
            })
            .outbound(
                Outbound::to(Port::of::<15001>())
                    .destinations(DestinationSelect::Only(Destinations::default())),
            )
            .dns(Dns::to(Port::of::<15001>()))
            .excluded_interfaces([InterfaceName::loopback()])
            .identities(IdentitySelect::Only(Identities::users([u32::MAX])))
            .build()
            .unwrap_err();
        let paths: Vec<&str> = problems
            .0
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "proxy",
                "identities.only.uids",
                "inbound.capture.ports.only",
                "inbound.capture.tunnel",
                "outbound.capture.destinations.only",
                "dns.capture.to",
                "excluded_interfaces",
            ]
        );
    }

    #[test]
    fn a_policy_that_captures_nothing_is_refused() {
        assert!(Policy::builder(Identities::users([1337])).build().is_err());
    }

    #[test]
    fn the_proxy_is_never_in_the_list_of_the_captured() {
        let problems = Policy::sidecar()
            .to_builder()
            .identities(IdentitySelect::Only(Identities::users([1000, 1337])))
            .build()
            .unwrap_err();
        assert_eq!(problems.0[0].path, "identities.only.uids");
        assert_eq!(problems.0[0].value, "1337");
    }
}
