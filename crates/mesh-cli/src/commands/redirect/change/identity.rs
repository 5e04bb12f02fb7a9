//! What options change of whose traffic is meant: the proxy's identities, included and excluded ones.

use mesh_netfilter::{
    IdRange, Identities, IdentityPorts, IdentitySelect, Mark, PortRange, Problem, Transport,
};

use super::Draft;
use crate::commands::redirect::option::{Given, Kind};

impl Draft {
    pub(super) fn proxy(&mut self, given: &Given) {
        let proxy = &self.proxy;
        let (mut users, mut groups) = (ranges(proxy, Side::Users), ranges(proxy, Side::Groups));
        let mut marks: Vec<Mark> = proxy.mark_values().iter().copied().collect();
        match given.option.kind {
            Kind::ProxyUids => users = self.list(given, str::parse),
            Kind::ProxyGids => groups = self.list(given, str::parse),
            _ => marks = self.list(given, mark),
        }
        self.proxy = Identities::users(users).and_groups(groups).and_marks(marks);
    }

    pub(super) fn identities(&mut self, given: &Given) {
        if given.option.kind == Kind::ExcludedPortsForUids {
            for value in &given.values {
                if let Some(ports) = identity_ports(value) {
                    self.per_identity.push(ports);
                } else {
                    let expected = "like `tcp:22,8000-8010:1000`";
                    let problem = Problem::new(&given.origin, value, expected);
                    self.problems.push(problem);
                }
            }
            return;
        }
        let ids: Vec<IdRange> = self.list(given, str::parse);
        let (is_included, is_user) = match given.option.kind {
            Kind::IncludedUids => (true, true),
            Kind::IncludedGids => (true, false),
            Kind::ExcludedUids => (false, true),
            _ => (false, false),
        };
        let side = if is_included {
            &mut self.included
        } else {
            &mut self.excluded
        };
        *side = if is_user {
            side.clone().and_users(ids)
        } else {
            side.clone().and_groups(ids)
        };
        if is_included && self.included.is_empty() {
            self.wrong(given, "a list with at least one id");
        }
        self.identities = match (self.included.is_empty(), self.excluded.is_empty()) {
            (false, true) => IdentitySelect::Only(self.included.clone()),
            (true, false) => IdentitySelect::Except(match self.policy.identities() {
                IdentitySelect::Except(before) => before
                    .clone()
                    .and_users(ranges(&self.excluded, Side::Users))
                    .and_groups(ranges(&self.excluded, Side::Groups)),
                _ => self.excluded.clone(),
            }),
            (true, true) => self.identities.clone(),
            (false, false) => {
                self.wrong(given, "of any use beside --include-uids or --include-gids");
                self.identities.clone()
            }
        };
    }
}

#[derive(Clone, Copy)]
enum Side {
    Users,
    Groups,
}

fn ranges(identities: &Identities, side: Side) -> Vec<IdRange> {
    match side {
        Side::Users => identities.user_ids().ranges().to_vec(),
        Side::Groups => identities.group_ids().ranges().to_vec(),
    }
}

/// `0x539/0xfff`, or a value alone for all bits.
fn mark(text: &str) -> Result<Mark, Problem> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match (number(value), number(mask)) {
        (Some(value), Some(mask)) => Mark::new(value, mask),
        _ => Err(Problem::new("", text, "a mark such as `0x539/0xfff`")),
    }
}

/// `tcp:22,8000-8010:1000`, the form that Kuma has for this.
fn identity_ports(text: &str) -> Option<IdentityPorts> {
    let [protocol, ports, users] = text.split(':').collect::<Vec<_>>()[..] else {
        return None;
    };
    let transport = match protocol {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let ports: Result<Vec<PortRange>, Problem> = ports.split(',').map(str::parse).collect();
    let users: Result<Vec<IdRange>, Problem> = users.split(',').map(str::parse).collect();
    Some(IdentityPorts {
        identities: Identities::users(users.ok()?),
        transport,
        ports: ports.ok()?.into_iter().collect(),
    })
}
