//! DNS flows that conntrack still sends where older rules said.
//!
//! NAT is decided once per flow, and a resolver that keeps its socket keeps its flow: without this
//! it would go round the proxy after apply, and to a proxy that is gone after remove.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::EngineError;
use super::socket::{ListError, Socket};
use crate::netlink::{NFNL_SUBSYS_CTNETLINK, NFPROTO_UNSPEC, attributes};
use crate::{DnsTarget, Port};

/// Which DNS flows are as the rules want them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    /// Those that are redirected to this port.
    Redirected(Port),
    /// Those that are forwarded to this server.
    Forwarded(SocketAddr),
    /// Those that nobody redirected to loopback.
    Untranslated,
}

/// One flow: what the kernel needs to find it again, and what decides.
#[derive(Debug, Default)]
struct Flow {
    family: u8,
    /// The attributes that name it, as they were read.
    original: Vec<u8>,
    id: Vec<u8>,
    protocol: u8,
    destination_port: u16,
    /// Where answers come from: where the flow really goes.
    reply_source: Option<IpAddr>,
    reply_source_port: u16,
    is_translated: bool,
    has_zone: bool,
    /// `enum tcp_conntrack`, if it is a TCP connection.
    tcp_state: u8,
}

/// One direction of a flow.
#[derive(Debug, Default)]
struct Tuple {
    source: Option<IpAddr>,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    has_zone: bool,
}

const GET: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | 1;
const DELETE: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | 2;
const GET_STATS: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
// `enum ctattr_type`, `ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto`.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// What of the tuple is compared: `CTA_FILTER_F_CTA_PROTO_NUM`, `CTA_FILTER_F_CTA_PROTO_DST_PORT`.
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// `TCP_CONNTRACK_TIME_WAIT` and, behind it, those of connections that are closed.
const TIME_WAIT: u8 = 7;
const DNS_PORT: u16 = 53;
const IPS_DST_NAT: u32 = 1 << 5;

/// Forgets the flows to port 53 that are not as `keep` says. Flows in a zone of their own are the
/// proxy's and stay.
pub(super) fn forget_dns(socket: &Socket, keep: Keep) -> Result<(), EngineError> {
    let failed = |source| EngineError::Conntrack { source };
    // Listing flows walks the table of all namespaces. Most namespaces have none at first.
    if count(socket) == Some(0) {
        return Ok(());
    }
    let mut stale = Vec::new();
    let mut listed = Ok(());
    // A list that changed meanwhile is read again; what is new since then is as the rules say.
    for _ in 0..super::ATTEMPTS {
        stale.clear();
        listed = list_dns(socket, |flow| {
            if flow.is_stale(keep) {
                stale.push(flow);
            }
        });
        match &listed {
            Err(ListError::Interrupted) => {}
            _ => break,
        }
    }
    match listed {
        Ok(()) | Err(ListError::Interrupted) => {}
        // Without ctnetlink nobody can, and the flows end by themselves within two minutes.
        Err(ListError::Kernel(error)) if is_unavailable(&error) => return Ok(()),
        Err(ListError::Kernel(error)) => return Err(failed(error)),
    }
    for flow in stale {
        let name = |to: &mut crate::netlink::Attributes| {
            to.bytes(CTA_TUPLE_ORIG | NESTED, &flow.original);
            to.bytes(CTA_ID, &flow.id);
        };
        match socket.ask(DELETE, flow.family, name, |_| {}) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Lists flows over UDP to port 53, of one family after the other.
///
/// The kernel picks them out (since 5.8; older ones ignore the filter and list everything): a busy
/// namespace has a hundred thousand connections that need not be told.
fn list_dns(socket: &Socket, mut each: impl FnMut(Flow)) -> Result<(), ListError> {
    for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
        let filter = |to: &mut crate::netlink::Attributes| {
            to.nested(CTA_TUPLE_ORIG, |to| {
                to.nested(CTA_TUPLE_PROTO, |to| {
                    to.bytes(CTA_PROTO_NUM, &[UDP]);
                    to.bytes(CTA_PROTO_DST_PORT, &DNS_PORT.to_be_bytes());
                });
            });
            to.nested(CTA_FILTER, |to| {
                let flags = FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT;
                to.bytes(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes());
                to.bytes(CTA_FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes());
            });
        };
        socket.list(GET, family, filter, |family, content| {
            each(Flow::read(family, content));
        })?;
    }
    Ok(())
}

/// The number of open TCP connections that are translated to one of these ports.
pub(super) fn count_redirected(
    socket: &Socket,
    ports: &BTreeSet<Port>,
) -> Result<usize, EngineError> {
    let mut open = BTreeSet::new();
    // A list that changes meanwhile may miss one; those found so far count, and so do those found
    // when it is read again.
    for _ in 0..super::ATTEMPTS {
        let listed = socket.list(
            GET,
            NFPROTO_UNSPEC,
            |_| {},
            |family, content| {
                let flow = Flow::read(family, content);
                if flow.is_open()
                    && ports
                        .iter()
                        .any(|port| port.get() == flow.reply_source_port)
                {
                    open.insert(flow.id);
                }
            },
        );
        match listed {
            Ok(()) => break,
            Err(ListError::Interrupted) => {}
            Err(ListError::Kernel(source)) => return Err(EngineError::Conntrack { source }),
        }
    }
    Ok(open.len())
}

/// The number of flows in the namespace; none if the kernel does not tell.
fn count(socket: &Socket) -> Option<u32> {
    let mut count = None;
    let answered = socket.ask(
        GET_STATS,
        NFPROTO_UNSPEC,
        |_| {},
        |content| {
            count = attributes(content)
                .find(|attribute| attribute.kind == CTA_STATS_GLOBAL_ENTRIES)
                .and_then(|attribute| attribute.number());
        },
    );
    answered.ok().and(count)
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

fn is_unavailable(error: &io::Error) -> bool {
    // EINVAL, EPROTONOSUPPORT, EOPNOTSUPP: the kernel has no such subsystem.
    matches!(error.raw_os_error(), Some(22 | 93 | 95))
}

// === impl Keep ===

impl Keep {
    /// The flows as a plan wants them that captures queries so.
    pub(super) fn of(target: Option<DnsTarget>) -> Self {
        match target {
            None => Self::Untranslated,
            Some(DnsTarget::Port(port)) => Self::Redirected(port),
            Some(DnsTarget::Forward(address)) => Self::Forwarded(address),
        }
    }
}

// === impl Flow ===

impl Flow {
    fn read(family: u8, content: &[u8]) -> Self {
        let mut flow = Self {
            family,
            ..Self::default()
        };
        for attribute in attributes(content) {
            match attribute.kind {
                CTA_TUPLE_ORIG => {
                    let tuple = Tuple::read(attribute.value);
                    flow.original = attribute.value.to_vec();
                    flow.protocol = tuple.protocol;
                    flow.destination_port = tuple.destination_port;
                    flow.has_zone |= tuple.has_zone;
                }
                CTA_TUPLE_REPLY => {
                    let tuple = Tuple::read(attribute.value);
                    flow.reply_source = tuple.source;
                    flow.reply_source_port = tuple.source_port;
                }
                CTA_STATUS => {
                    let status = attribute.number().unwrap_or_default();
                    flow.is_translated = status & IPS_DST_NAT != 0;
                }
                CTA_PROTOINFO => {
                    flow.tcp_state = attributes(attribute.value)
                        .filter(|info| info.kind == CTA_PROTOINFO_TCP)
                        .flat_map(|info| attributes(info.value))
                        .find(|info| info.kind == CTA_PROTOINFO_TCP_STATE)
                        .and_then(|state| state.value.first().copied())
                        .unwrap_or_default();
                }
                CTA_ID => flow.id = attribute.value.to_vec(),
                CTA_ZONE => flow.has_zone = true,
                _ => {}
            }
        }
        flow
    }

    /// Whether this is a TCP connection that would end if it were not translated any more.
    fn is_open(&self) -> bool {
        self.protocol == TCP && self.is_translated && self.tcp_state < TIME_WAIT
    }

    fn is_stale(&self, keep: Keep) -> bool {
        if self.protocol != UDP || self.destination_port != DNS_PORT || self.has_zone {
            return false;
        }
        match keep {
            Keep::Redirected(port) => !self.is_translated || self.reply_source_port != port.get(),
            Keep::Forwarded(to) => {
                let from = (self.reply_source, self.reply_source_port);
                !self.is_translated || from != (Some(to.ip()), to.port())
            }
            Keep::Untranslated => {
                self.is_translated
                    && self
                        .reply_source
                        .is_some_and(|address| address.is_loopback())
            }
        }
    }
}

// === impl Tuple ===

impl Tuple {
    fn read(content: &[u8]) -> Self {
        let mut tuple = Self::default();
        for attribute in attributes(content) {
            match attribute.kind {
                CTA_TUPLE_IP => {
                    tuple.source =
                        attributes(attribute.value).find_map(|address| match address.kind {
                            CTA_IP_V4_SRC => {
                                let octets: [u8; 4] = address.value.try_into().ok()?;
                                Some(IpAddr::from(octets))
                            }
                            CTA_IP_V6_SRC => {
                                let octets: [u8; 16] = address.value.try_into().ok()?;
                                Some(IpAddr::from(octets))
                            }
                            _ => None,
                        });
                }
                CTA_TUPLE_PROTO => {
                    for part in attributes(attribute.value) {
                        let port = || part.value.first_chunk().copied().map(u16::from_be_bytes);
                        match part.kind {
                            CTA_PROTO_NUM => {
                                tuple.protocol = part.value.first().copied().unwrap_or_default();
                            }
                            CTA_PROTO_SRC_PORT => tuple.source_port = port().unwrap_or_default(),
                            CTA_PROTO_DST_PORT => {
                                tuple.destination_port = port().unwrap_or_default();
                            }
                            _ => {}
                        }
                    }
                }
                CTA_TUPLE_ZONE => tuple.has_zone = true,
                _ => {}
            }
        }
        tuple
    }
}
