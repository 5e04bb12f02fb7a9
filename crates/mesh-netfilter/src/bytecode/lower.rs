//! From rules to the kernel's instructions.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    Ct, Element, Expression, Header, Meta, NF_ACCEPT, NFT_GOTO, NFT_RETURN, Operator, Program,
    ProgramBase, ProgramChain, ProgramRule, ProgramTable, Set,
};
use crate::plan::{Action, Chain, Match, Rule, Table, Transport};
use crate::{Family, InterfaceName, Networks, PortSet};

/// How `nft` numbers the types of keys (`enum datatypes`), and their bytes.
struct KeyType(u32, u32);

const IPV4_ADDRESS: KeyType = KeyType(7, 4);
const IPV6_ADDRESS: KeyType = KeyType(8, 16);
const INET_PROTOCOL: KeyType = KeyType(12, 1);
const INET_SERVICE: KeyType = KeyType(13, 2);
const USER_ID: KeyType = KeyType(24, 4);
const GROUP_ID: KeyType = KeyType(25, 4);
const INTERFACE_NAME: KeyType = KeyType(41, 16);

pub(super) const HOST_ORDER_KEYS: [u32; 3] = [USER_ID.0, GROUP_ID.0, INTERFACE_NAME.0];

const TCP: u8 = 6;
const UDP: u8 = 17;
/// FIN, SYN, RST and ACK in the flags byte of TCP (RFC 9293 3.1), and SYN alone.
const TCP_CONTROL_FLAGS: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
/// `IPS_DST_NAT` of the kernel's conntrack status.
const STATUS_DST_NAT: u32 = 1 << 5;
const REPLY_DIRECTION: u8 = 1;
/// `NFT_REJECT_TCP_RST`; `NFT_REJECT_ICMPX_UNREACH` with `NFT_REJECT_ICMPX_PORT_UNREACH`.
const REJECT_TCP_RST: (u32, u8) = (1, 0);
const REJECT_PORT_UNREACHABLE: (u32, u8) = (2, 1);

/// Tables as the kernel will hold them, but for the chain that tells about them.
pub(super) fn program(tables: &[Table]) -> Program {
    Program {
        tables: tables
            .iter()
            .map(|table| ProgramTable {
                name: table.name().to_owned(),
                flags: 0,
                chains: table.chains().iter().map(lower_chain).collect(),
            })
            .collect(),
    }
}

fn lower_chain(chain: &Chain) -> ProgramChain {
    ProgramChain {
        name: chain.name().to_owned(),
        base: chain.base().map(|base| ProgramBase {
            kind: base.kind.as_str().to_owned(),
            hook: base.hook.number(),
            priority: base.priority,
            policy: NF_ACCEPT,
        }),
        rules: chain.rules().iter().map(lower_rule).collect(),
    }
}

fn lower_rule(rule: &Rule) -> ProgramRule {
    let mut expressions = Vec::new();
    for part in &rule.matches {
        lower_match(part, &mut expressions);
    }
    lower_action(&rule.action, &mut expressions);
    ProgramRule {
        expressions,
        comment: Some(rule.why.as_str().to_owned()),
    }
}

fn lower_match(part: &Match, to: &mut Vec<Expression>) {
    match part {
        Match::Family(family) => lower_family(*family, to),
        Match::Transport(transport) => {
            to.push(Expression::Meta(Meta::Transport));
            to.push(match transport {
                Transport::Tcp => equal(&[TCP]),
                Transport::Udp => equal(&[UDP]),
                Transport::TcpOrUdp => lookup(plain_set(&INET_PROTOCOL, [[TCP], [UDP]]), false),
            });
        }
        Match::InInterface(names) => lower_interfaces(Meta::InInterface, names, to),
        Match::OutInterface(names) => lower_interfaces(Meta::OutInterface, names, to),
        Match::Source(networks) => lower_networks(networks, Side::Source, false, to),
        Match::Destination(networks) => lower_networks(networks, Side::Destination, false, to),
        Match::DestinationNot(networks) => lower_networks(networks, Side::Destination, true, to),
        Match::DestinationPort(ports) => lower_ports(ports, false, to),
        Match::DestinationPortNot(ports) => lower_ports(ports, true, to),
        Match::FirstPacket => {
            to.push(Expression::Payload {
                base: Header::Transport,
                offset: 13,
                length: 1,
            });
            to.push(Expression::Mask(vec![TCP_CONTROL_FLAGS]));
            to.push(equal(&[TCP_SYN]));
        }
        Match::User(ids) => lower_ids(Meta::User, &USER_ID, ids, to),
        Match::Group(ids) => lower_ids(Meta::Group, &GROUP_ID, ids, to),
        Match::Mark(mark) => {
            to.push(Expression::Meta(Meta::Mark));
            if mark.mask() != u32::MAX {
                to.push(Expression::Mask(mark.mask().to_ne_bytes().to_vec()));
            }
            to.push(equal(&mark.value().to_ne_bytes()));
        }
        Match::Translated => {
            to.push(Expression::Ct(Ct::Status));
            to.push(Expression::Mask(STATUS_DST_NAT.to_ne_bytes().to_vec()));
            to.push(compare(Operator::NotEqual, &[0; 4]));
        }
        Match::Reply => {
            to.push(Expression::Ct(Ct::Direction));
            to.push(equal(&[REPLY_DIRECTION]));
        }
    }
}

fn lower_action(action: &Action, to: &mut Vec<Expression>) {
    match action {
        Action::Return => to.push(verdict(NFT_RETURN, None)),
        Action::Goto(chain) => to.push(verdict(NFT_GOTO, Some(chain))),
        Action::Redirect(port) => {
            to.push(Expression::Load(port.get().to_be_bytes().to_vec()));
            to.push(Expression::Redirect);
        }
        Action::Reset => to.push(reject(REJECT_TCP_RST)),
        Action::Unreachable => to.push(reject(REJECT_PORT_UNREACHABLE)),
        Action::Zone(zone) => {
            to.push(Expression::Load(zone.to_ne_bytes().to_vec()));
            to.push(Expression::OriginalZone);
        }
    }
}

fn lower_family(family: Family, to: &mut Vec<Expression>) {
    // NFPROTO_IPV4 and NFPROTO_IPV6.
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    to.push(Expression::Meta(Meta::Family));
    to.push(equal(&[number]));
}

fn lower_interfaces(key: Meta, names: &BTreeSet<InterfaceName>, to: &mut Vec<Expression>) {
    let padded = |name: &InterfaceName| {
        let mut bytes = name.as_str().as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes
    };
    to.push(Expression::Meta(key));
    to.push(match names.first() {
        Some(name) if names.len() == 1 => equal(&padded(name)),
        _ => lookup(plain_set(&INTERFACE_NAME, names.iter().map(padded)), false),
    });
}

fn lower_ids(key: Meta, key_type: &KeyType, ids: &BTreeSet<u32>, to: &mut Vec<Expression>) {
    to.push(Expression::Meta(key));
    to.push(match ids.first() {
        Some(id) if ids.len() == 1 => equal(&id.to_ne_bytes()),
        _ => lookup(
            plain_set(key_type, ids.iter().map(|id| id.to_ne_bytes())),
            false,
        ),
    });
}

fn lower_ports(ports: &PortSet, inverted: bool, to: &mut Vec<Expression>) {
    to.push(Expression::Payload {
        base: Header::Transport,
        offset: 2,
        length: 2,
    });
    let bounds: Vec<(u16, u16)> = ports
        .ranges()
        .iter()
        .map(|range| (range.first().get(), range.last().get()))
        .collect();
    match bounds.as_slice() {
        [(first, last)] if first == last => {
            to.push(compare(
                Operator::equal_unless(inverted),
                &first.to_be_bytes(),
            ));
        }
        [(first, last)] if inverted => to.push(Expression::Outside {
            from: first.to_be_bytes().to_vec(),
            to: last.to_be_bytes().to_vec(),
        }),
        [(first, last)] => {
            to.push(compare(Operator::AtLeast, &first.to_be_bytes()));
            to.push(compare(Operator::AtMost, &last.to_be_bytes()));
        }
        _ if bounds.iter().all(|(first, last)| first == last) => {
            let ports = bounds.iter().map(|(first, _)| first.to_be_bytes());
            to.push(lookup(plain_set(&INET_SERVICE, ports), inverted));
        }
        _ => {
            let bounds = bounds
                .iter()
                .map(|(first, last)| (u128::from(*first), u128::from(*last)));
            to.push(lookup(interval_set(&INET_SERVICE, bounds), inverted));
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn lower_networks(networks: &Networks, side: Side, inverted: bool, to: &mut Vec<Expression>) {
    lower_family(networks.family(), to);
    match networks {
        Networks::V4(networks) => {
            // RFC 791 3.1.
            let offset = match side {
                Side::Source => 12,
                Side::Destination => 16,
            };
            if let [network] = networks.as_slice() {
                let address = network.network().octets();
                let mask = network.netmask().octets();
                lower_network(offset, &address, &mask, network.prefix_len(), inverted, to);
                return;
            }
            to.push(load_address(offset, 4));
            to.push(lookup(ipv4_set(networks), inverted));
        }
        Networks::V6(networks) => {
            // RFC 8200 3.
            let offset = match side {
                Side::Source => 8,
                Side::Destination => 24,
            };
            if let [network] = networks.as_slice() {
                let address = network.network().octets();
                let mask = network.netmask().octets();
                lower_network(offset, &address, &mask, network.prefix_len(), inverted, to);
                return;
            }
            to.push(load_address(offset, 16));
            to.push(lookup(ipv6_set(networks), inverted));
        }
    }
}

/// One network is compared without a set; as few bytes as its prefix allows.
fn lower_network(
    offset: u32,
    address: &[u8],
    mask: &[u8],
    prefix: u8,
    inverted: bool,
    to: &mut Vec<Expression>,
) {
    let operator = Operator::equal_unless(inverted);
    if prefix > 0 && prefix.is_multiple_of(8) {
        let bytes = address.get(..usize::from(prefix / 8)).unwrap_or(address);
        to.push(load_address(offset, u32::from(prefix / 8)));
        to.push(compare(operator, bytes));
    } else {
        to.push(load_address(
            offset,
            if address.len() == 4 { 4 } else { 16 },
        ));
        to.push(Expression::Mask(mask.to_vec()));
        to.push(compare(operator, address));
    }
}

fn ipv4_set(networks: &[Ipv4Net]) -> Set {
    if networks.iter().all(|network| network.prefix_len() == 32) {
        return plain_set(
            &IPV4_ADDRESS,
            networks.iter().map(|network| network.network().octets()),
        );
    }
    let number = |address: Ipv4Addr| u128::from(address.to_bits());
    let bounds = networks
        .iter()
        .map(|network| (number(network.network()), number(network.broadcast())));
    interval_set(&IPV4_ADDRESS, bounds)
}

fn ipv6_set(networks: &[Ipv6Net]) -> Set {
    if networks.iter().all(|network| network.prefix_len() == 128) {
        return plain_set(
            &IPV6_ADDRESS,
            networks.iter().map(|network| network.network().octets()),
        );
    }
    let bounds = networks
        .iter()
        .map(|network| (network.network().to_bits(), network.broadcast().to_bits()));
    interval_set(&IPV6_ADDRESS, bounds)
}

fn plain_set<K: AsRef<[u8]>>(
    KeyType(key_type, key_length): &KeyType,
    keys: impl IntoIterator<Item = K>,
) -> Set {
    let mut elements: Vec<Element> = keys
        .into_iter()
        .map(|key| Element {
            key: key.as_ref().to_vec(),
            is_end: false,
        })
        .collect();
    elements.sort_unstable();
    Set {
        key_type: *key_type,
        key_length: *key_length,
        is_interval: false,
        elements,
    }
}

/// A set of intervals, each with its first and last key, ascending and without overlap.
///
/// The kernel wants boundaries: where an interval begins, where none begins any more, and an end
/// at zero in front. Intervals that touch are one; one that reaches the highest key has no end.
fn interval_set(
    KeyType(key_type, key_length): &KeyType,
    bounds: impl Iterator<Item = (u128, u128)>,
) -> Set {
    let highest = u128::MAX >> (128 - 8 * key_length);
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in bounds {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => {
                previous.1 = previous.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    let key = |number: u128| {
        let bytes = number.to_be_bytes();
        bytes
            .get(16 - *key_length as usize..)
            .unwrap_or_default()
            .to_vec()
    };
    let mut elements = Vec::with_capacity(2 * merged.len() + 1);
    if merged.first().is_some_and(|(first, _)| *first > 0) {
        elements.push(Element {
            key: key(0),
            is_end: true,
        });
    }
    for (first, last) in merged {
        elements.push(Element {
            key: key(first),
            is_end: false,
        });
        if last < highest {
            elements.push(Element {
                key: key(last + 1),
                is_end: true,
            });
        }
    }
    Set {
        key_type: *key_type,
        key_length: *key_length,
        is_interval: true,
        elements,
    }
}

fn load_address(offset: u32, length: u32) -> Expression {
    Expression::Payload {
        base: Header::Network,
        offset,
        length,
    }
}

fn lookup(set: Set, inverted: bool) -> Expression {
    Expression::Lookup { set, inverted }
}

fn equal(value: &[u8]) -> Expression {
    compare(Operator::Equal, value)
}

fn compare(operator: Operator, value: &[u8]) -> Expression {
    Expression::Compare {
        operator,
        value: value.to_vec(),
    }
}

fn reject((kind, code): (u32, u8)) -> Expression {
    Expression::Reject { kind, code }
}

fn verdict(code: i32, chain: Option<&str>) -> Expression {
    Expression::Verdict {
        code,
        chain: chain.map(str::to_owned),
    }
}

impl Operator {
    fn equal_unless(inverted: bool) -> Self {
        if inverted {
            Self::NotEqual
        } else {
            Self::Equal
        }
    }
}
