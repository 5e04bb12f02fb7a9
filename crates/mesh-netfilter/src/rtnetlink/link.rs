//! Links: a pair of virtual Ethernet interfaces with its far end in another namespace.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::{NLM_F_CREATE, NLM_F_EXCL, Request};
use crate::netlink::{Attributes, NLM_F_ACK, NLM_F_REQUEST, attributes};

/// A virtual cable.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    /// The name of the end in the namespace of the socket.
    pub(crate) near: &'a str,
    /// The name of the other end.
    pub(crate) far: &'a str,
    /// The numbers that the ends get, near and far. Where both have the same the kernel takes them
    /// for one interface and lets up to a second pass before it says that the link is up.
    pub(crate) indices: (u32, u32),
    /// Where the other end is.
    pub(crate) namespace: BorrowedFd<'a>,
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`: family, padding, type, index, flags, mask of changed flags.
const HEADER: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_OPERSTATE: u16 = 16;
const IF_OPER_UP: u8 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;

/// The request that makes a pair.
pub(crate) fn new_pair(pair: &Pair<'_>) -> Request {
    let (near, far) = pair.indices;
    let mut body = Attributes::append_to(header(near, 0));
    body.text(IFLA_IFNAME, pair.near);
    body.nested(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "veth");
        info.nested(IFLA_INFO_DATA, |data| {
            // The far end is a whole message in an attribute.
            let mut peer = Attributes::append_to(header(far, 0));
            peer.text(IFLA_IFNAME, pair.far);
            let fd = pair.namespace.as_raw_fd().cast_unsigned();
            peer.host_number(IFLA_NET_NS_FD, fd);
            data.bytes(VETH_INFO_PEER, peer.as_bytes());
        });
    });
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    Request::new(RTM_NEWLINK, flags, body)
}

/// The request that brings a link up.
pub(crate) fn set_up(index: u32) -> Request {
    let body = Attributes::append_to(header(index, IFF_UP));
    Request::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, body)
}

/// The request that removes a link, and with it its other end.
pub(crate) fn delete_link(index: u32) -> Request {
    let body = Attributes::append_to(header(index, 0));
    Request::new(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, body)
}

/// The request that asks for a link.
pub(crate) fn ask_link(index: u32) -> Request {
    let body = Attributes::append_to(header(index, 0));
    Request::new(RTM_GETLINK, NLM_F_REQUEST, body)
}

/// Whether the answer says that the link carries packets. That a link was set up is not enough:
/// the kernel finds its cable a moment later.
pub(crate) fn carries(content: &[u8]) -> bool {
    let attributes = attributes(content.get(HEADER..).unwrap_or_default());
    let mut states = attributes.filter(|attribute| attribute.kind == IFLA_OPERSTATE);
    states.any(|state| state.value == [IF_OPER_UP])
}

fn header(index: u32, flags: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&flags.to_ne_bytes());
    // Only flags that are set are to be changed.
    header.extend_from_slice(&flags.to_ne_bytes());
    debug_assert_eq!(header.len(), HEADER);
    header
}
