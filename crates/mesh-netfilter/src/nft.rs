//! Plans in the syntax of `nft`, as one transaction.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use crate::bytecode;
use crate::plan::{ABOUT_CHAIN, Action, Chain, Match, Plan, Rule, Table, Transport};
use crate::{Family, Mark, Networks};

/// `nft -f` takes a script whole or not at all.
pub(crate) fn script(plan: &Plan) -> String {
    Script(plan).to_string()
}

struct Script<'a>(&'a Plan);
struct TableText<'a>(&'a Table, &'a str);
struct ChainText<'a>(&'a Chain);
struct RuleText<'a>(&'a Rule);

/// Values as `nft` writes a set; one value stands without braces, which means the same.
struct Values<'a, T>(&'a [T]);

impl fmt::Display for Script<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = bytecode::about(self.0.fingerprint());
        // Creating a table that exists does nothing, and deleting one that does not is an error.
        for name in [self.0.instance().table(), self.0.instance().guard_table()] {
            writeln!(f, "add table inet {name}")?;
            writeln!(f, "delete table inet {name}")?;
        }
        for table in self.0.tables() {
            write!(f, "\n{}", TableText(table, &about))?;
        }
        Ok(())
    }
}

impl fmt::Display for TableText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(table, about) = self;
        writeln!(f, "table inet {} {{", table.name())?;
        writeln!(f, "\tchain {ABOUT_CHAIN} {{")?;
        writeln!(f, "\t\treturn comment \"{about}\"")?;
        writeln!(f, "\t}}")?;
        for chain in table.chains() {
            write!(f, "\n{}", ChainText(chain))?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for ChainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.0.name())?;
        if let Some(base) = self.0.base() {
            writeln!(
                f,
                "\t\ttype {} hook {} priority {}; policy accept;",
                base.kind.as_str(),
                base.hook.as_str(),
                base.priority
            )?;
        }
        for rule in self.0.rules() {
            writeln!(f, "\t\t{}", RuleText(rule))?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for RuleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.0;
        for part in &rule.matches {
            write_match(f, part, &rule.matches)?;
            f.write_str(" ")?;
        }
        match &rule.action {
            Action::Return => f.write_str("return")?,
            Action::Redirect(port) => write!(f, "redirect to :{port}")?,
            Action::Reset => f.write_str("reject with tcp reset")?,
            Action::Unreachable => f.write_str("reject with icmpx type port-unreachable")?,
            Action::Goto(chain) => write!(f, "goto {chain}")?,
            Action::Zone(zone) => write!(f, "ct original zone set {zone}")?,
        }
        write!(f, " comment \"{}\"", rule.why)
    }
}

impl<T: fmt::Display> fmt::Display for Values<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [value] = self.0 {
            return value.fmt(f);
        }
        f.write_str("{ ")?;
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            value.fmt(f)?;
        }
        f.write_str(" }")
    }
}

fn write_match(f: &mut fmt::Formatter<'_>, part: &Match, all: &[Match]) -> fmt::Result {
    match part {
        Match::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
        Match::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
        Match::Transport(Transport::Tcp) => f.write_str("meta l4proto tcp"),
        Match::Transport(Transport::Udp) => f.write_str("meta l4proto udp"),
        Match::Transport(Transport::TcpOrUdp) => f.write_str("meta l4proto { tcp, udp }"),
        Match::InInterface(names) => write!(f, "iifname {}", quoted(names)),
        Match::OutInterface(names) => write!(f, "oifname {}", quoted(names)),
        Match::Source(networks) => write_networks(f, "saddr", "", networks),
        Match::Destination(networks) => write_networks(f, "daddr", "", networks),
        Match::DestinationNot(networks) => write_networks(f, "daddr", "!= ", networks),
        Match::DestinationPort(ports) => {
            write!(f, "{} dport {}", header(all), Values(ports.ranges()))
        }
        Match::DestinationPortNot(ports) => {
            write!(f, "{} dport != {}", header(all), Values(ports.ranges()))
        }
        Match::FirstPacket => f.write_str("tcp flags & (fin|syn|rst|ack) == syn"),
        Match::User(ids) => write!(f, "meta skuid {}", Values(&listed(ids))),
        Match::Group(ids) => write!(f, "meta skgid {}", Values(&listed(ids))),
        Match::Mark(mark) => write_mark(f, *mark),
        Match::Translated => f.write_str("ct status dnat"),
        Match::Reply => f.write_str("ct direction reply"),
    }
}

/// The header that a rule's ports are in: `th` where it is that of either protocol.
fn header(all: &[Match]) -> &'static str {
    if all.contains(&Match::Transport(Transport::Tcp)) {
        "tcp"
    } else if all.contains(&Match::Transport(Transport::Udp)) {
        "udp"
    } else {
        "th"
    }
}

fn write_networks(
    f: &mut fmt::Formatter<'_>,
    side: &str,
    not: &str,
    networks: &Networks,
) -> fmt::Result {
    match networks {
        Networks::V4(networks) => {
            let networks: Vec<String> = networks.iter().copied().map(network).collect();
            write!(f, "ip {side} {not}{}", Values(&networks))
        }
        Networks::V6(networks) => {
            let networks: Vec<String> = networks.iter().copied().map(network).collect();
            write!(f, "ip6 {side} {not}{}", Values(&networks))
        }
    }
}

/// A network, or the address if it has only one.
fn network(network: impl Into<IpNet>) -> String {
    let network = network.into();
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

fn write_mark(f: &mut fmt::Formatter<'_>, mark: Mark) -> fmt::Result {
    let value = mark.value();
    match mark.mask() {
        u32::MAX => write!(f, "meta mark {value:#x}"),
        bits => write!(f, "meta mark & {bits:#x} == {value:#x}"),
    }
}

fn quoted(names: &BTreeSet<crate::InterfaceName>) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    Values(&names).to_string()
}

fn listed(ids: &BTreeSet<u32>) -> Vec<u32> {
    ids.iter().copied().collect()
}
