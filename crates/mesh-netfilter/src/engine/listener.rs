//! Who listens in the namespace.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::route::RouteSocket;
use crate::Family;
use crate::netlink::{NFPROTO_IPV4, NFPROTO_IPV6, NLM_F_DUMP, NLM_F_REQUEST};
use crate::rtnetlink::Request;

/// A TCP socket that waits for connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Listener {
    pub(super) at: SocketAddr,
    /// The number that `/proc/PID/fd` shows for it.
    pub(super) inode: u64,
}

/// Who can be reached at a port from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    Nobody,
    /// Somebody listens, on loopback addresses only.
    Loopback,
    Outside,
}

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
const TCP: u8 = 6;
/// `TCP_LISTEN`, as a state and as `/proc/net/tcp` writes it.
const LISTEN: u8 = 10;
const LISTEN_TEXT: &str = "0A";
/// Bytes of `struct inet_diag_sockid`; all of them zero asks for every socket.
const SOCKET_ID: usize = 48;

/// All listeners of the thread's namespace.
///
/// `/proc/net/tcp` would tell them too. But it walks all connections of the machine to do so, for
/// milliseconds on a large one, and a watcher asks every second.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
    // A kernel may be built without sock_diag.
    asked_for().or_else(|_| listed_by_proc())
}

/// What `sock_diag(7)` tells of sockets that listen.
fn asked_for() -> io::Result<Vec<Listener>> {
    let socket = RouteSocket::open_for_sockets()?;
    let mut all = Vec::new();
    // The address families have the numbers of netfilter's.
    for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
        socket.ask(&request(family), |kind, content| {
            if kind == BY_FAMILY {
                all.extend(read(content));
            }
        })?;
    }
    Ok(all)
}

/// `struct inet_diag_req_v2`.
fn request(family: u8) -> Request {
    let mut body = vec![family, TCP, 0, 0];
    body.extend_from_slice(&(1_u32 << LISTEN).to_ne_bytes());
    body.extend_from_slice(&[0; SOCKET_ID]);
    Request {
        kind: BY_FAMILY,
        flags: NLM_F_REQUEST | NLM_F_DUMP,
        body,
    }
}

/// `struct inet_diag_msg`.
fn read(message: &[u8]) -> Option<Listener> {
    const PORT: usize = 4;
    const ADDRESS: usize = 8;
    const INODE: usize = 68;
    let port = message.get(PORT..)?.first_chunk().copied()?;
    let address = message.get(ADDRESS..)?;
    let ip = match *message.first()? {
        NFPROTO_IPV4 => IpAddr::from(*address.first_chunk::<4>()?),
        NFPROTO_IPV6 => IpAddr::from(*address.first_chunk::<16>()?).to_canonical(),
        _ => return None,
    };
    let inode = message.get(INODE..)?.first_chunk().copied()?;
    Some(Listener {
        at: SocketAddr::new(ip, u16::from_be_bytes(port)),
        inode: u32::from_ne_bytes(inode).into(),
    })
}

/// What `/proc/net/tcp` and `/proc/net/tcp6` list.
fn listed_by_proc() -> io::Result<Vec<Listener>> {
    let mut all = Vec::new();
    for file in ["tcp", "tcp6"] {
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(text) => all.extend(text.lines().filter_map(parse)),
            // A kernel without IPv6 has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Who can be reached at a port in a family. A listener on `::` may or may not take IPv4, which
/// the files do not tell; most do.
pub(super) fn reach(listeners: &[Listener], port: u16, family: Family) -> Reach {
    let fits = |listener: &&Listener| {
        let ip = listener.at.ip();
        listener.at.port() == port
            && (Family::of(ip) == family || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    };
    let mut reach = Reach::Nobody;
    for listener in listeners.iter().filter(fits) {
        if !listener.at.ip().is_loopback() {
            return Reach::Outside;
        }
        reach = Reach::Loopback;
    }
    reach
}

/// A line such as `0: 0100007F:3A9E 00000000:0000 0A … 1337 0 12345 …`.
fn parse(line: &str) -> Option<Listener> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    if words.nth(1)? != LISTEN_TEXT {
        return None;
    }
    // Queues, timer, retransmissions, user, timeout; then the inode.
    let inode = words.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let text = address.get(index * 8..index * 8 + 8)?;
        // Each word of 32 bits is printed as a number of this machine.
        u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(Listener {
        at: SocketAddr::new(ip, port),
        inode,
    })
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:3A9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 4242 1 0000000000000000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0000000000000000 100 0 0 10 0
   2: 0100007F:0050 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 8 1 0000000000000000 100 0 0 10 0
   0: 00000000000000000000000001000000:3A9E 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000000000000:3AA0 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 10 1 0000000000000000 100 0 0 10 0";

    #[test]
    fn listeners_are_read_and_connections_are_not() {
        let found: Vec<Listener> = TABLE.lines().filter_map(parse).collect();
        let texts: Vec<String> = found
            .iter()
            .map(|it| format!("{} {}", it.at, it.inode))
            .collect();
        assert_eq!(
            texts,
            [
                "127.0.0.1:15006 4242",
                "0.0.0.0:22 7",
                "[::1]:15006 9",
                "[::]:15008 10"
            ]
        );
    }

    #[test]
    fn the_kernel_tells_the_same_as_its_files() {
        use std::net::TcpListener;
        let mut ours = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
        // Not every machine has IPv6.
        ours.extend(TcpListener::bind("[::]:0"));
        let port = |it: &TcpListener| it.local_addr().unwrap().port();
        let ports: Vec<u16> = ours.iter().map(port).collect();
        // Other tests of the process listen too.
        let of_ours = |found: io::Result<Vec<Listener>>| {
            let mut found = found.unwrap();
            found.retain(|it| ports.contains(&it.at.port()));
            found.sort_by_key(|it| it.at);
            found
        };
        let asked = of_ours(asked_for());
        assert_eq!(asked.len(), ours.len(), "{asked:?}");
        assert_eq!(asked, of_ours(listed_by_proc()));
    }

    #[test]
    fn hostile_messages_are_no_listeners() {
        for message in [&[][..], &[2], &[2; 71], &[9; 72], &[10; 20]] {
            assert_eq!(read(message), None, "{message:?}");
        }
        assert!(read(&[2; 72]).is_some());
    }

    #[test]
    fn loopback_is_no_place_to_be_called_from_outside() {
        let found: Vec<Listener> = TABLE.lines().filter_map(parse).collect();
        assert_eq!(reach(&found, 15006, Family::V4), Reach::Loopback);
        assert_eq!(reach(&found, 15006, Family::V6), Reach::Loopback);
        assert_eq!(reach(&found, 22, Family::V4), Reach::Outside);
        assert_eq!(reach(&found, 22, Family::V6), Reach::Nobody);
        assert_eq!(reach(&found, 15008, Family::V4), Reach::Outside);
        assert_eq!(reach(&found, 1, Family::V4), Reach::Nobody);
    }

    #[test]
    fn hostile_lines_are_no_listeners() {
        for line in [
            "",
            "0:",
            "0: zz:zz x 0A",
            "0: 0100007F:3A9E 0:0 0A 0 0 0 0 0 x",
            "0: \u{e9}100007F:1 0:0 0A 0 0 0 0 0 1",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
