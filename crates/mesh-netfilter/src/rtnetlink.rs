//! Rtnetlink: policy rules, routes, addresses and links as messages, and the kernel's lists of them.
//!
//! Only bytes are made and read here; `crate::engine` moves them. Numbers are those of
//! `linux/rtnetlink.h`, `linux/fib_rules.h`, `linux/if_addr.h` and `linux/if_link.h`.

mod link;

use std::net::IpAddr;
#[cfg(test)]
use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) use self::link::{Pair, ask_link, carries, delete_link, new_pair, set_up};
use crate::Family;
use crate::netlink::{Attribute, Attributes, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, attributes};

/// A request: what it is, and all that follows the netlink header.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
}

/// Something outside the tables that rules depend on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entry {
    /// Packets with a mark are looked up in a routing table of their own.
    Rule {
        family: Family,
        mark: u32,
        mask: u32,
        table: u32,
        priority: u32,
    },
    /// The default route of a table leads to this namespace's own sockets.
    LocalDefault { family: Family, table: u32 },
    /// An address of an interface.
    Address {
        address: IpAddr,
        prefix: u8,
        link: u32,
    },
}

/// An entry that the kernel listed, and who made it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Listed {
    pub(crate) entry: Entry,
    /// Whether it bears our protocol number.
    pub(crate) is_ours: bool,
}

/// By this number in rules, routes and addresses we know our own. Nobody has it in
/// `/etc/iproute2/rt_protos` or in the kernel's `RTPROT_*`.
const PROTOCOL: u8 = 77;
/// The loopback interface has this number in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const RULE_HEADER: usize = 12;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;

const ROUTE_HEADER: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;

const ADDRESS_HEADER: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Since Linux 5.18; older kernels forget it, and then we cannot tell our address from another's.
const IFA_PROTO: u16 = 11;
/// Without duplicate address detection: the address is usable at once.
const IFA_F_NODAD: u8 = 0x02;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The request that adds an entry; it fails with "file exists" where one like it is there.
pub(crate) fn addition(entry: &Entry) -> Request {
    change(
        entry,
        [RTM_NEWRULE, RTM_NEWROUTE, RTM_NEWADDR],
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// The request that removes an entry.
pub(crate) fn deletion(entry: &Entry) -> Request {
    change(entry, [RTM_DELRULE, RTM_DELROUTE, RTM_DELADDR], 0)
}

fn change(entry: &Entry, [rule, route, address]: [u16; 3], flags: u16) -> Request {
    let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    match *entry {
        Entry::Rule {
            family,
            mark,
            mask,
            table,
            priority,
        } => {
            // struct fib_rule_hdr; the table is in an attribute, which has room for large numbers.
            let mut header = [0; RULE_HEADER];
            header[0] = number_of(family);
            header[7] = FR_ACT_TO_TBL;
            let mut body = Attributes::append_to(header.to_vec());
            // Without a priority a second addition would make a second rule.
            body.host_number(FRA_PRIORITY, priority);
            body.host_number(FRA_FWMARK, mark);
            body.host_number(FRA_FWMASK, mask);
            body.host_number(FRA_TABLE, table);
            body.bytes(FRA_PROTOCOL, &[PROTOCOL]);
            Request::new(rule, flags, body)
        }
        Entry::LocalDefault { family, table } => {
            // struct rtmsg
            let mut header = [0; ROUTE_HEADER];
            header[0] = number_of(family);
            header[5] = PROTOCOL;
            header[6] = RT_SCOPE_HOST;
            header[7] = RTN_LOCAL;
            let mut body = Attributes::append_to(header.to_vec());
            body.host_number(RTA_TABLE, table);
            body.host_number(RTA_OIF, LOOPBACK);
            Request::new(route, flags, body)
        }
        Entry::Address {
            address: at,
            prefix,
            link,
        } => {
            // struct ifaddrmsg
            let flag = if at.is_ipv6() { IFA_F_NODAD } else { 0 };
            let mut header = vec![number_of(Family::of(at)), prefix, flag, 0];
            header.extend_from_slice(&link.to_ne_bytes());
            let mut body = Attributes::append_to(header);
            body.bytes(IFA_LOCAL, &octets(at));
            body.bytes(IFA_ADDRESS, &octets(at));
            body.bytes(IFA_PROTO, &[PROTOCOL]);
            Request::new(address, flags, body)
        }
    }
}

/// Requests for all policy rules, routes and addresses of both families.
pub(crate) fn lists() -> impl Iterator<Item = Request> {
    let kinds = [
        (RTM_GETRULE, RULE_HEADER),
        (RTM_GETROUTE, ROUTE_HEADER),
        (RTM_GETADDR, ADDRESS_HEADER),
    ];
    kinds.into_iter().flat_map(|(kind, header)| {
        [Family::V4, Family::V6].map(|family| {
            let mut body = vec![0; header];
            if let Some(first) = body.first_mut() {
                *first = number_of(family);
            }
            Request {
                kind,
                flags: NLM_F_REQUEST | NLM_F_DUMP,
                body,
            }
        })
    })
}

/// The request that asks how the kernel would route to an address.
pub(crate) fn route_to(address: IpAddr) -> Request {
    let octets = octets(address);
    let mut header = [0; ROUTE_HEADER];
    header[0] = number_of(Family::of(address));
    header[1] = if address.is_ipv6() { 128 } else { 32 };
    let mut body = Attributes::append_to(header.to_vec());
    body.bytes(RTA_DST, &octets);
    Request::new(RTM_GETROUTE, NLM_F_REQUEST, body)
}

/// An entry of the kind that we make, out of an answer to one of [`lists`]; none for all others.
pub(crate) fn read(kind: u16, content: &[u8]) -> Option<Listed> {
    match kind {
        RTM_NEWRULE => read_rule(content),
        RTM_NEWROUTE => read_route(content),
        RTM_NEWADDR => read_address(content),
        _ => None,
    }
}

/// Whether an answer to [`route_to`] says that packets to the address stay on this machine.
pub(crate) fn is_local(kind: u16, content: &[u8]) -> bool {
    matches!(
        content.get(..ROUTE_HEADER),
        Some([_, _, _, _, _, _, _, RTN_LOCAL, ..])
    ) && kind == RTM_NEWROUTE
}

fn read_rule(content: &[u8]) -> Option<Listed> {
    let (header, rest) = content.split_at_checked(RULE_HEADER)?;
    let [family, _, _, _, table, _, _, FR_ACT_TO_TBL, ..] = *header else {
        return None;
    };
    let (mut mark, mut bits, mut table, mut priority) = (0, 0, u32::from(table), 0);
    let mut is_ours = false;
    for attribute in attributes(rest) {
        let number = || attribute.host_number().unwrap_or_default();
        match attribute.kind {
            FRA_PRIORITY => priority = number(),
            FRA_FWMARK => mark = number(),
            FRA_FWMASK => bits = number(),
            FRA_TABLE => table = number(),
            FRA_PROTOCOL => is_ours = attribute.value == [PROTOCOL],
            _ => {}
        }
    }
    Some(Listed {
        entry: Entry::Rule {
            family: family_from(family)?,
            mark,
            mask: bits,
            table,
            priority,
        },
        is_ours,
    })
}

fn read_route(content: &[u8]) -> Option<Listed> {
    let (header, rest) = content.split_at_checked(ROUTE_HEADER)?;
    let [family, 0, _, _, table, protocol, _, RTN_LOCAL, ..] = *header else {
        return None;
    };
    let number = |kind| {
        let attribute = attributes(rest).find(|attribute| attribute.kind == kind);
        attribute.and_then(|attribute| attribute.host_number())
    };
    (number(RTA_OIF) == Some(LOOPBACK)).then_some(())?;
    Some(Listed {
        entry: Entry::LocalDefault {
            family: family_from(family)?,
            table: number(RTA_TABLE).unwrap_or_else(|| u32::from(table)),
        },
        is_ours: protocol == PROTOCOL,
    })
}

fn read_address(content: &[u8]) -> Option<Listed> {
    let (header, rest) = content.split_at_checked(ADDRESS_HEADER)?;
    let [_, prefix, _, _, index @ ..] = header else {
        return None;
    };
    let find = |kind| attributes(rest).find(|attribute| attribute.kind == kind);
    let link = u32::from_ne_bytes(index.try_into().ok()?);
    // What others have on their links is nothing that rules depend on.
    (link == LOOPBACK).then_some(())?;
    let address = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    let is_ours = find(IFA_PROTO).is_some_and(|protocol| protocol.value == [PROTOCOL]);
    Some(Listed {
        entry: Entry::Address {
            address: read_octets(&address)?,
            prefix: *prefix,
            link,
        },
        is_ours,
    })
}

fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn family_from(number: u8) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn read_octets(attribute: &Attribute<'_>) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(attribute.value).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(attribute.value).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

// === impl Request ===

impl Request {
    fn new(kind: u16, flags: u16, body: Attributes) -> Self {
        Self {
            kind,
            flags,
            body: body.into_bytes(),
        }
    }
}

// === impl Entry ===

impl Entry {
    pub(crate) fn family(&self) -> Family {
        match *self {
            Self::Rule { family, .. } | Self::LocalDefault { family, .. } => family,
            Self::Address { address, .. } => Family::of(address),
        }
    }

    /// The entry as `ip` takes and shows it.
    pub(crate) fn describe(&self) -> String {
        let flag = |family: &Family| match family {
            Family::V4 => "ip",
            Family::V6 => "ip -6",
        };
        match self {
            Self::Rule {
                family,
                mark,
                mask,
                table,
                priority,
            } => format!(
                "{} rule priority {priority} fwmark {mark:#x}/{mask:#x} lookup {table}",
                flag(family)
            ),
            Self::LocalDefault { family, table } => {
                format!("{} route local default dev lo table {table}", flag(family))
            }
            Self::Address {
                address, prefix, ..
            } => format!("ip address {address}/{prefix} dev lo"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> [Entry; 4] {
        [
            Entry::Rule {
                family: Family::V6,
                mark: 1337,
                mask: 0xffff_ffff,
                table: 70_000,
                priority: 100,
            },
            Entry::LocalDefault {
                family: Family::V4,
                table: 133,
            },
            Entry::Address {
                address: Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
                prefix: 128,
                link: LOOPBACK,
            },
            Entry::Address {
                address: Ipv4Addr::new(192, 0, 2, 1).into(),
                prefix: 30,
                link: LOOPBACK,
            },
        ]
    }

    #[test]
    fn what_is_written_is_read_back_as_ours() {
        for entry in entries() {
            let request = addition(&entry);
            let listed = read(request.kind, &request.body).unwrap();
            assert_eq!(
                listed,
                Listed {
                    entry,
                    is_ours: true
                }
            );
        }
    }

    #[test]
    fn the_same_without_our_number_is_not_ours() {
        for entry in entries() {
            let mut request = addition(&entry);
            for byte in &mut request.body {
                if *byte == PROTOCOL {
                    *byte = 3;
                }
            }
            assert!(!read(request.kind, &request.body).unwrap().is_ours);
        }
    }

    #[test]
    fn a_route_that_stays_here_is_told_from_one_that_leaves() {
        let answer = |route_type| {
            let mut header = [0; ROUTE_HEADER];
            header[7] = route_type;
            header
        };
        assert!(is_local(RTM_NEWROUTE, &answer(RTN_LOCAL)));
        assert!(!is_local(RTM_NEWROUTE, &answer(1))); // RTN_UNICAST
        assert!(!is_local(RTM_NEWADDR, &answer(RTN_LOCAL)));
    }

    #[test]
    fn hostile_answers_are_no_entries() {
        for kind in [RTM_NEWRULE, RTM_NEWROUTE, RTM_NEWADDR, 0] {
            for length in 0..24 {
                let answer = vec![0xff; length];
                assert_eq!(read(kind, &answer), None);
                assert!(!is_local(kind, &answer));
            }
        }
    }
}
