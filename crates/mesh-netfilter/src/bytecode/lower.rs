//! From rules to the kernel's instructions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    Bytes, Ct, Element, Expression, Header, Meta, NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_RETURN,
    Operator, Program, ProgramBase, ProgramChain, ProgramRule, ProgramTable, Set, SocketKey,
};
use crate::plan::{Action, Chain, List, Match, Rule, Table, Transport, Values};
use crate::{Family, IdSet, InterfaceName, Mark, Networks, PortSet};

/// The named sets of a table.
type Sets<'a> = BTreeMap<&'a str, Arc<Set>>;

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

/// Most rules have no more expressions.
const USUAL: usize = 12;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// FIN, SYN, RST and ACK in the flags byte of TCP (RFC 9293 3.1), and SYN alone.
const TCP_CONTROL_FLAGS: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
/// `IPS_DST_NAT` of the kernel's conntrack status.
const STATUS_DST_NAT: u32 = 1 << 5;
/// `NF_CT_STATE_INVALID_BIT`.
const STATE_INVALID: u32 = 1;
const REPLY_DIRECTION: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `NFT_REJECT_TCP_RST`; `NFT_REJECT_ICMPX_UNREACH` with `NFT_REJECT_ICMPX_PORT_UNREACH`.
const REJECT_TCP_RST: (u32, u8) = (1, 0);
const REJECT_PORT_UNREACHABLE: (u32, u8) = (2, 1);

/// Tables as the kernel will hold them, but for the chain that tells about them.
pub(super) fn program(tables: &[Table]) -> Program {
    Program {
        tables: tables
            .iter()
            .map(|table| {
                let lists = table.lists().into_iter();
                let sets = lists
                    .map(|(name, values)| (name, Arc::new(named_set(name, values))))
                    .collect();
                let chains = table.chains().iter();
                ProgramTable {
                    name: table.name().to_owned(),
                    flags: 0,
                    chains: chains.map(|chain| lower_chain(chain, &sets)).collect(),
                }
            })
            .collect(),
    }
}

/// Always a set of intervals, so that a list may get its first range without another set.
fn named_set(name: &str, values: Values<'_>) -> Set {
    let set = match values {
        Values::Networks(Networks::V4(networks)) => {
            interval_set(&IPV4_ADDRESS, ipv4_bounds(networks))
        }
        Values::Networks(Networks::V6(networks)) => {
            interval_set(&IPV6_ADDRESS, ipv6_bounds(networks))
        }
        Values::Ports(ports) => interval_set(&INET_SERVICE, port_bounds(ports)),
    };
    Set {
        name: Some(name.to_owned()),
        ..set
    }
}

fn lower_chain(chain: &Chain, sets: &Sets<'_>) -> ProgramChain {
    ProgramChain {
        name: chain.name().to_owned(),
        base: chain.base().map(|base| ProgramBase {
            kind: base.kind.as_str().to_owned(),
            hook: base.hook.number(),
            priority: base.priority,
            policy: NF_ACCEPT,
        }),
        rules: chain
            .rules()
            .iter()
            .map(|rule| lower_rule(rule, sets))
            .collect(),
    }
}

fn lower_rule(rule: &Rule, sets: &Sets<'_>) -> ProgramRule {
    let mut expressions = Vec::with_capacity(USUAL);
    for part in &rule.matches {
        lower_match(part, sets, &mut expressions);
    }
    expressions.push(Expression::Counter);
    lower_action(&rule.action, &mut expressions);
    ProgramRule {
        expressions,
        comment: Some(rule.why.as_str().into()),
        counter: None,
    }
}

fn lower_match(part: &Match, sets: &Sets<'_>, to: &mut Vec<Expression>) {
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
        Match::Source(networks) => lower_networks(networks, Side::Source, false, sets, to),
        Match::SourceNot(networks) => lower_networks(networks, Side::Source, true, sets, to),
        Match::Destination(networks) => {
            lower_networks(networks, Side::Destination, false, sets, to);
        }
        Match::DestinationNot(networks) => {
            lower_networks(networks, Side::Destination, true, sets, to);
        }
        Match::DestinationPort(ports) => lower_ports(ports, false, sets, to),
        Match::DestinationPortNot(ports) => lower_ports(ports, true, sets, to),
        Match::FirstPacket => lower_flags(Operator::Equal, to),
        Match::User(ids) => lower_ids(Meta::User, &USER_ID, ids, to),
        Match::Group(ids) => lower_ids(Meta::Group, &GROUP_ID, ids, to),
        Match::Mark(mark) => lower_mark(Expression::Meta(Meta::Mark), *mark, false, to),
        Match::MarkNot(mark) => lower_mark(Expression::Meta(Meta::Mark), *mark, true, to),
        Match::ConnectionMark(mark) => lower_mark(Expression::Ct(Ct::Mark), *mark, false, to),
        Match::Translated => lower_bit(Ct::Status, STATUS_DST_NAT, to),
        Match::Invalid => lower_bit(Ct::State, STATE_INVALID, to),
        Match::TransparentSocket => {
            lower_flags(Operator::NotEqual, to);
            to.push(Expression::Socket(SocketKey::Transparent));
            to.push(equal(&[1]));
        }
        Match::Reply => {
            to.push(Expression::Ct(Ct::Direction));
            to.push(equal(&[REPLY_DIRECTION]));
        }
    }
}

fn lower_flags(operator: Operator, to: &mut Vec<Expression>) {
    to.push(Expression::Payload {
        base: Header::Transport,
        offset: 13,
        length: 1,
    });
    to.push(Expression::Mask([TCP_CONTROL_FLAGS].into()));
    to.push(compare(operator, &[TCP_SYN]));
}

fn lower_mark(load: Expression, mark: Mark, inverted: bool, to: &mut Vec<Expression>) {
    to.push(load);
    if mark.mask() != u32::MAX {
        to.push(Expression::Mask(mark.mask().to_ne_bytes().into()));
    }
    let operator = Operator::equal_unless(inverted);
    to.push(compare(operator, &mark.value().to_ne_bytes()));
}

fn lower_bit(key: Ct, bit: u32, to: &mut Vec<Expression>) {
    to.push(Expression::Ct(key));
    to.push(Expression::Mask(bit.to_ne_bytes().into()));
    to.push(compare(Operator::NotEqual, &[0; 4]));
}

fn lower_action(action: &Action, to: &mut Vec<Expression>) {
    let mark = |mark: u32| {
        [
            Expression::Load(mark.to_ne_bytes().into()),
            Expression::SetMark,
        ]
    };
    match action {
        Action::Return => to.push(verdict(NFT_RETURN, None)),
        Action::Accept => to.push(accept()),
        Action::Drop => to.push(verdict(NF_DROP.cast_signed(), None)),
        Action::Goto(chain) => to.push(verdict(NFT_GOTO, Some(chain))),
        Action::Redirect(port) => {
            to.push(Expression::Load(port.get().to_be_bytes().into()));
            to.push(Expression::Redirect);
        }
        Action::Dnat(address) => {
            let (bytes, family) = match address {
                SocketAddr::V4(address) => (Bytes::from(address.ip().octets()), NFPROTO_IPV4),
                SocketAddr::V6(address) => (address.ip().octets().into(), NFPROTO_IPV6),
            };
            to.push(Expression::Load(bytes));
            to.push(Expression::LoadSecond(address.port().to_be_bytes().into()));
            to.push(Expression::Dnat {
                family: u32::from(family),
            });
        }
        Action::Tproxy { to: port, mark: m } => {
            to.push(Expression::Load(port.get().to_be_bytes().into()));
            to.push(Expression::Tproxy);
            to.extend(mark(*m));
            to.push(accept());
        }
        Action::Reset => to.push(reject(REJECT_TCP_RST)),
        Action::Unreachable => to.push(reject(REJECT_PORT_UNREACHABLE)),
        Action::Zone(zone) => {
            to.push(Expression::Load(zone.to_ne_bytes().into()));
            to.push(Expression::OriginalZone);
        }
        Action::SetMark(m) => to.extend(mark(*m)),
        Action::MarkAndAccept(m) => {
            to.extend(mark(*m));
            to.push(accept());
        }
        Action::SaveMark => {
            to.push(Expression::Meta(Meta::Mark));
            to.push(Expression::SetConnectionMark);
        }
        Action::RestoreMark => {
            to.push(Expression::Ct(Ct::Mark));
            to.push(Expression::SetMark);
        }
    }
}

fn accept() -> Expression {
    verdict(NF_ACCEPT.cast_signed(), None)
}

fn lower_family(family: Family, to: &mut Vec<Expression>) {
    let number = match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    };
    // Asked once, however many conditions imply it.
    if !to.contains(&Expression::Meta(Meta::Family)) {
        to.push(Expression::Meta(Meta::Family));
        to.push(equal(&[number]));
    }
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

fn lower_ids(key: Meta, key_type: &KeyType, ids: &IdSet, to: &mut Vec<Expression>) {
    to.push(Expression::Meta(key));
    let ranges = ids.ranges();
    if ranges.iter().all(|range| range.first() == range.last()) {
        let mut ids = ranges.iter().map(|range| range.first().to_ne_bytes());
        to.push(match (ids.next(), ranges.len()) {
            (Some(id), 1) => equal(&id),
            (first, _) => lookup(plain_set(key_type, first.into_iter().chain(ids)), false),
        });
        return;
    }
    // Order is that of bytes, so the number's must be the network's.
    to.push(Expression::NetworkOrder);
    if let [range] = ranges {
        to.push(compare(Operator::AtLeast, &range.first().to_be_bytes()));
        to.push(compare(Operator::AtMost, &range.last().to_be_bytes()));
        return;
    }
    let bounds = ranges
        .iter()
        .map(|range| (u128::from(range.first()), u128::from(range.last())));
    to.push(lookup(interval_set(key_type, bounds), false));
}

fn lower_ports(ports: &List<PortSet>, inverted: bool, sets: &Sets<'_>, to: &mut Vec<Expression>) {
    to.push(Expression::Payload {
        base: Header::Transport,
        offset: 2,
        length: 2,
    });
    if let Some(set) = ports.name().and_then(|name| sets.get(name)) {
        to.push(Expression::Lookup {
            set: Arc::clone(set),
            inverted,
        });
        return;
    }
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
            from: first.to_be_bytes().into(),
            to: last.to_be_bytes().into(),
        }),
        [(first, last)] => {
            to.push(compare(Operator::AtLeast, &first.to_be_bytes()));
            to.push(compare(Operator::AtMost, &last.to_be_bytes()));
        }
        _ if bounds.iter().all(|(first, last)| first == last) => {
            let ports = bounds.iter().map(|(first, _)| first.to_be_bytes());
            to.push(lookup(plain_set(&INET_SERVICE, ports), inverted));
        }
        _ => to.push(lookup(
            interval_set(&INET_SERVICE, port_bounds(ports)),
            inverted,
        )),
    }
}

fn port_bounds(ports: &PortSet) -> impl Iterator<Item = (u128, u128)> + '_ {
    ports.ranges().iter().map(|range| {
        let (first, last) = (range.first().get(), range.last().get());
        (u128::from(first), u128::from(last))
    })
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn lower_networks(
    networks: &List<Networks>,
    side: Side,
    inverted: bool,
    sets: &Sets<'_>,
    to: &mut Vec<Expression>,
) {
    lower_family(networks.family(), to);
    // RFC 791 3.1 and RFC 8200 3.
    let (offset, length) = match (networks.values(), side) {
        (Networks::V4(_), Side::Source) => (12, 4),
        (Networks::V4(_), Side::Destination) => (16, 4),
        (Networks::V6(_), Side::Source) => (8, 16),
        (Networks::V6(_), Side::Destination) => (24, 16),
    };
    if let Some(set) = networks.name().and_then(|name| sets.get(name)) {
        to.push(load_address(offset, length));
        to.push(Expression::Lookup {
            set: Arc::clone(set),
            inverted,
        });
        return;
    }
    match networks.values() {
        Networks::V4(networks) => {
            if let [network] = networks.as_slice() {
                let address = network.network().octets();
                let mask = network.netmask().octets();
                lower_network(offset, &address, &mask, network.prefix_len(), inverted, to);
                return;
            }
            to.push(load_address(offset, length));
            to.push(lookup(ipv4_set(networks), inverted));
        }
        Networks::V6(networks) => {
            if let [network] = networks.as_slice() {
                let address = network.network().octets();
                let mask = network.netmask().octets();
                lower_network(offset, &address, &mask, network.prefix_len(), inverted, to);
                return;
            }
            to.push(load_address(offset, length));
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
        to.push(Expression::Mask(mask.into()));
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
    interval_set(&IPV4_ADDRESS, ipv4_bounds(networks))
}

fn ipv4_bounds(networks: &[Ipv4Net]) -> impl Iterator<Item = (u128, u128)> + '_ {
    let number = |address: Ipv4Addr| u128::from(address.to_bits());
    networks
        .iter()
        .map(move |network| (number(network.network()), number(network.broadcast())))
}

fn ipv6_set(networks: &[Ipv6Net]) -> Set {
    if networks.iter().all(|network| network.prefix_len() == 128) {
        return plain_set(
            &IPV6_ADDRESS,
            networks.iter().map(|network| network.network().octets()),
        );
    }
    interval_set(&IPV6_ADDRESS, ipv6_bounds(networks))
}

fn ipv6_bounds(networks: &[Ipv6Net]) -> impl Iterator<Item = (u128, u128)> + '_ {
    networks
        .iter()
        .map(|network| (network.network().to_bits(), network.broadcast().to_bits()))
}

fn plain_set<K: AsRef<[u8]>>(
    KeyType(key_type, key_length): &KeyType,
    keys: impl IntoIterator<Item = K>,
) -> Set {
    let mut elements: Vec<Element> = keys
        .into_iter()
        .map(|key| Element {
            key: key.as_ref().into(),
            is_end: false,
        })
        .collect();
    elements.sort_unstable();
    Set {
        name: None,
        key_type: *key_type,
        key_length: *key_length,
        is_interval: false,
        timeout: None,
        elements,
    }
}

/// A set of intervals, each with its first and last key, ascending and without overlap.
///
/// The kernel wants boundaries: where an interval begins, and where none begins any more.
/// Intervals that touch are one; one that reaches the highest key has no end.
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
        let bytes = bytes.get(16 - *key_length as usize..);
        Bytes::from(bytes.unwrap_or_default())
    };
    let mut elements = Vec::with_capacity(2 * merged.len());
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
        name: None,
        key_type: *key_type,
        key_length: *key_length,
        is_interval: true,
        timeout: None,
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
    Expression::Lookup {
        set: Arc::new(set),
        inverted,
    }
}

fn equal(value: &[u8]) -> Expression {
    compare(Operator::Equal, value)
}

fn compare(operator: Operator, value: &[u8]) -> Expression {
    Expression::Compare {
        operator,
        value: value.into(),
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
