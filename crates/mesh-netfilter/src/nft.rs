//! Plans in the syntax of `nft`, as one transaction.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::bytecode;
use crate::plan::{ABOUT_CHAIN, Action, Chain, List, Match, Plan, Rule, Table, Transport, Values};
use crate::{Family, Mark, Networks, PortSet};

/// `nft -f` takes a script whole or not at all.
pub(crate) fn script(plan: &Plan) -> String {
    Script(plan).to_string()
}

/// One condition of a rule that has all these.
pub(crate) fn condition(part: &Match, all: &[Match]) -> String {
    ConditionText(part, all).to_string()
}

/// What a rule does.
pub(crate) fn action(action: &Action) -> String {
    ActionText(action).to_string()
}

/// A rule, without comment and counter.
pub(crate) fn rule(rule: &Rule) -> String {
    let conditions = rule.matches.iter();
    let conditions = conditions.map(|part| condition(part, &rule.matches));
    let words: Vec<String> = conditions.chain([action(&rule.action)]).collect();
    words.join(" ")
}

struct Script<'a>(&'a Plan);
struct TableText<'a>(&'a Table, &'a str);
struct ChainText<'a>(&'a Chain);
struct RuleText<'a>(&'a Rule);
struct ConditionText<'a>(&'a Match, &'a [Match]);
struct ActionText<'a>(&'a Action);

/// Values as `nft` writes a set; one value stands without braces, which means the same.
struct Braced<'a, T>(&'a [T]);

impl fmt::Display for Script<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = bytecode::about(self.0);
        // Creating a table that exists does nothing, and deleting one that does not is an error.
        for name in self.0.instance().tables() {
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
        for (name, values) in table.lists() {
            let (kind, elements) = match values {
                Values::Networks(Networks::V4(networks)) => {
                    ("ipv4_addr", listed(networks.iter().copied().map(network)))
                }
                Values::Networks(Networks::V6(networks)) => {
                    ("ipv6_addr", listed(networks.iter().copied().map(network)))
                }
                Values::Ports(ports) => ("inet_service", listed(ports.ranges())),
            };
            writeln!(f, "\tset {name} {{")?;
            writeln!(f, "\t\ttype {kind}; flags interval;")?;
            writeln!(f, "\t\telements = {{ {elements} }}")?;
            writeln!(f, "\t}}\n")?;
        }
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
            write!(f, "{} ", ConditionText(part, &rule.matches))?;
        }
        write!(f, "counter {}", ActionText(&rule.action))?;
        write!(f, " comment \"{}\"", rule.why)
    }
}

impl<T: fmt::Display> fmt::Display for Braced<'_, T> {
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

impl fmt::Display for ActionText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Action::Return => f.write_str("return"),
            Action::Accept => f.write_str("accept"),
            Action::Redirect(port) => write!(f, "redirect to :{port}"),
            Action::Dnat(address @ SocketAddr::V4(_)) => write!(f, "dnat ip to {address}"),
            Action::Dnat(address @ SocketAddr::V6(_)) => write!(f, "dnat ip6 to {address}"),
            Action::Tproxy { to, mark } => {
                write!(f, "tproxy to :{to} meta mark set {mark:#x} accept")
            }
            Action::Reset => f.write_str("reject with tcp reset"),
            Action::Unreachable => f.write_str("reject with icmpx type port-unreachable"),
            Action::Drop => f.write_str("drop"),
            Action::Goto(chain) => write!(f, "goto {chain}"),
            Action::Zone(zone) => write!(f, "ct original zone set {zone}"),
            Action::SetMark(mark) => write!(f, "meta mark set {mark:#x}"),
            Action::MarkAndAccept(mark) => write!(f, "meta mark set {mark:#x} accept"),
            Action::SaveMark => f.write_str("ct mark set meta mark"),
            Action::RestoreMark => f.write_str("meta mark set ct mark"),
        }
    }
}

impl fmt::Display for ConditionText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(part, all) = self;
        match part {
            Match::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Match::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Match::Transport(Transport::Tcp) => f.write_str("meta l4proto tcp"),
            Match::Transport(Transport::Udp) => f.write_str("meta l4proto udp"),
            Match::Transport(Transport::TcpOrUdp) => f.write_str("meta l4proto { tcp, udp }"),
            Match::InInterface(names) => write!(f, "iifname {}", quoted(names)),
            Match::OutInterface(names) => write!(f, "oifname {}", quoted(names)),
            Match::Source(networks) => write_networks(f, "saddr", "", networks),
            Match::SourceNot(networks) => write_networks(f, "saddr", "!= ", networks),
            Match::Destination(networks) => write_networks(f, "daddr", "", networks),
            Match::DestinationNot(networks) => write_networks(f, "daddr", "!= ", networks),
            Match::DestinationPort(ports) => {
                write!(f, "{} dport {}", header(all), port_values(ports))
            }
            Match::DestinationPortNot(ports) => {
                write!(f, "{} dport != {}", header(all), port_values(ports))
            }
            Match::FirstPacket => f.write_str("tcp flags & (fin|syn|rst|ack) == syn"),
            Match::User(ids) => write!(f, "meta skuid {}", Braced(ids.ranges())),
            Match::Group(ids) => write!(f, "meta skgid {}", Braced(ids.ranges())),
            Match::Mark(mark) => write_mark(f, "meta mark", *mark, "=="),
            Match::MarkNot(mark) => write_mark(f, "meta mark", *mark, "!="),
            Match::ConnectionMark(mark) => write_mark(f, "ct mark", *mark, "=="),
            Match::Translated => f.write_str("ct status dnat"),
            Match::Reply => f.write_str("ct direction reply"),
            Match::Invalid => f.write_str("ct state invalid"),
            Match::TransparentSocket => {
                f.write_str("tcp flags & (fin|syn|rst|ack) != syn socket transparent 1")
            }
        }
    }
}

fn port_values(ports: &List<PortSet>) -> String {
    match ports.name() {
        Some(name) => format!("@{name}"),
        None => Braced(ports.ranges()).to_string(),
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
    networks: &List<Networks>,
) -> fmt::Result {
    let (header, values) = match networks.values() {
        Networks::V4(networks) => ("ip", networks.iter().copied().map(network).collect()),
        Networks::V6(networks) => {
            let networks: Vec<String> = networks.iter().copied().map(network).collect();
            ("ip6", networks)
        }
    };
    write!(f, "{header} {side} {not}")?;
    match networks.name() {
        Some(name) => write!(f, "@{name}"),
        None => write!(f, "{}", Braced(&values)),
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

fn write_mark(f: &mut fmt::Formatter<'_>, key: &str, mark: Mark, is: &str) -> fmt::Result {
    let value = mark.value();
    match mark.mask() {
        u32::MAX if is == "==" => write!(f, "{key} {value:#x}"),
        u32::MAX => write!(f, "{key} {is} {value:#x}"),
        bits => write!(f, "{key} & {bits:#x} {is} {value:#x}"),
    }
}

fn quoted(names: &BTreeSet<crate::InterfaceName>) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    Braced(&names).to_string()
}

fn listed<T: fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    values.join(", ")
}
