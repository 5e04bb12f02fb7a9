//! DNS flows that conntrack still sends where older rules said.
//!
//! NAT is decided once per flow, and a resolver that keeps its socket keeps its flow: without this
//! it would go round the proxy after apply, and to a proxy that is gone after remove.

use std::io;
use std::net::IpAddr;

use super::EngineError;
use super::socket::{ListError, Socket};
use crate::Port;
use crate::netlink::{NFNL_SUBSYS_CTNETLINK, NFPROTO_UNSPEC, attributes};

/// Which DNS flows are as the rules want them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    /// Those that are redirected to this port.
    Redirected(Port),
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
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const UDP: u8 = 17;
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
        listed = socket.list(
            GET,
            NFPROTO_UNSPEC,
            |_| {},
            |family, content| {
                let flow = Flow::read(family, content);
                if flow.is_stale(keep) {
                    stale.push(flow);
                }
            },
        );
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
                CTA_ID => flow.id = attribute.value.to_vec(),
                CTA_ZONE => flow.has_zone = true,
                _ => {}
            }
        }
        flow
    }

    fn is_stale(&self, keep: Keep) -> bool {
        if self.protocol != UDP || self.destination_port != DNS_PORT || self.has_zone {
            return false;
        }
        match keep {
            Keep::Redirected(port) => !self.is_translated || self.reply_source_port != port.get(),
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
