//! Who listens in the namespace: what `/proc/net/tcp` and `/proc/net/tcp6` tell.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Family;

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

/// `TCP_LISTEN`.
const LISTEN: &str = "0A";

/// All listeners of the thread's namespace.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
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
    if words.nth(1)? != LISTEN {
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
