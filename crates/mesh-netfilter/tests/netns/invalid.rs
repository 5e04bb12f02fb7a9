//! Packets outside the window: conntrack does not translate them, and the answer to one would end
//! a sound connection.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use mesh_netfilter::{DropInvalid, Policy};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};

use crate::traffic::{Over, connected};
use crate::world::{APP_V4, PEER_V4, ROOT, World, compile, for_each_backend};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;
const SERVICE: u16 = 7000;
/// Nobody captures it and nobody listens: a packet to it is answered with a reset.
const CLOSED: u16 = 15021;
/// Where the packet to it comes from.
const MARKER: u16 = 31_000;

/// A raw socket of the peer, which sees all segments that arrive.
fn raw(world: &World) -> OwnedFd {
    world.peer.inside(ROOT, || {
        let fd = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP)).unwrap();
        let patience = Some(std::time::Duration::from_secs(5));
        set_socket_timeout(&fd, Timeout::Recv, patience).unwrap();
        fd
    })
}

/// Sends a segment with this sequence number and an ACK.
fn inject(fd: &OwnedFd, from: u16, to: u16, sequence: u32) {
    let mut segment = [0_u8; 20];
    segment[0..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&0x0506_0708_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = ACK;
    segment[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let sum = checksum(&segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let to = SocketAddr::from(SocketAddrV4::new(APP_V4, 0));
    sendto(fd, &segment, SendFlags::empty(), &to).unwrap();
}

/// The checksum over pseudo header and segment (RFC 9293, section 3.1).
fn checksum(segment: &[u8]) -> u16 {
    let mut bytes = [PEER_V4.octets(), APP_V4.octets()].concat();
    bytes.extend([0, 6]);
    bytes.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
    bytes.extend(segment);
    let pairs = bytes.chunks_exact(2);
    let mut sum: u32 = pairs
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// The sequence number that comes next from this port, as the answer to its first packet tells.
fn next_sequence(fd: &OwnedFd, from: u16) -> u32 {
    loop {
        let mut packet = [0_u8; 256];
        let (length, _) = recv(fd, &mut packet[..], RecvFlags::empty()).unwrap();
        assert!(length >= 40, "{length}");
        let segment = &packet[usize::from(packet[0] & 0xf) * 4..];
        let port = u16::from_be_bytes([segment[2], segment[3]]);
        if port == from && segment[13] == SYN | ACK {
            return u32::from_be_bytes(segment[8..12].try_into().unwrap());
        }
    }
}

/// The ports that resets go to, up to the one that answers the marker.
fn resets(fd: &OwnedFd) -> Vec<u16> {
    let mut found = Vec::new();
    loop {
        let mut packet = [0_u8; 256];
        let (length, _) = recv(fd, &mut packet[..], RecvFlags::empty()).unwrap();
        assert!(length >= 40, "{length}");
        let segment = &packet[usize::from(packet[0] & 0xf) * 4..];
        let port = u16::from_be_bytes([segment[2], segment[3]]);
        if segment[13] & RST != 0 {
            if port == MARKER {
                return found;
            }
            found.push(port);
        }
    }
}

#[test]
fn a_segment_outside_the_window_is_answered_unless_it_is_dropped() {
    for_each_backend(|backend| {
        for (drop_invalid, is_answered) in [(DropInvalid::No, true), (DropInvalid::Yes, false)] {
            let world = World::new();
            let builder = Policy::sidecar().to_builder().drop_invalid(drop_invalid);
            world
                .app
                .create(backend, &compile(&builder.build().unwrap()));
            let proxy = world
                .app
                .inside(ROOT, || TcpListener::bind(("0.0.0.0", 15006)).unwrap());
            let raw = raw(&world);
            let near = world.peer.inside(ROOT, || {
                let to = SocketAddr::from((APP_V4, SERVICE));
                TcpStream::from(connected(Over::Tcp, None, to).unwrap())
            });
            let (_far, _) = proxy.accept().unwrap();
            let port = near.local_addr().unwrap().port();
            // Far beyond the window; what lies before it, conntrack takes for a late repetition.
            let beyond = next_sequence(&raw, port).wrapping_add(1 << 30);
            inject(&raw, port, SERVICE, beyond);
            // Answered after the other, if that is answered at all. A segment of no connection is
            // not invalid where conntrack picks connections up, so this one passes the drop.
            inject(&raw, MARKER, CLOSED, 1);
            let answered = resets(&raw).contains(&port);
            assert_eq!(answered, is_answered, "{backend}: {drop_invalid:?}");
        }
    });
}
