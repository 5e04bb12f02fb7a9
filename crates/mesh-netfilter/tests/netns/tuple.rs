//! Many connections from one source port: each keeps its own destination.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use mesh_netfilter::{Backend, Inbound, InboundMode, Policy, Port, Tproxy};
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{SocketType, bind, listen, socket};

use crate::traffic::{Over, connected};
use crate::world::{APP_V4, APP_V6, PEER_V4, PEER_V6, ROOT, World, compile, for_each_backend};

const DESTINATIONS: [u16; 4] = [7001, 7002, 7003, 7004];
const SOURCES: std::ops::Range<u16> = 30_000..30_010;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Redirect,
    Tproxy,
}

fn policy(mode: Mode) -> Policy {
    let inbound = Inbound::to(Port::of::<15006>());
    let inbound = match mode {
        Mode::Redirect => inbound,
        Mode::Tproxy => inbound.mode(InboundMode::Tproxy(Tproxy::default())),
    };
    let builder = Policy::sidecar().to_builder().inbound(Some(inbound));
    builder.build().unwrap()
}

/// Where the proxy takes inbound connections of one family.
fn listener(world: &World, mode: Mode, like: IpAddr) -> TcpListener {
    let any: IpAddr = match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    world.app.inside(ROOT, || {
        let at = SocketAddr::new(any, 15006);
        let fd = socket(crate::traffic::family(at), SocketType::STREAM, None).unwrap();
        set_socket_reuseaddr(&fd, true).unwrap();
        if at.is_ipv6() {
            set_ipv6_v6only(&fd, true).unwrap();
        }
        if mode == Mode::Tproxy {
            crate::option::set_transparent(fd.as_fd(), at);
        }
        bind(&fd, &at).unwrap();
        listen(&fd, 128).unwrap();
        TcpListener::from(fd)
    })
}

/// Four connections at a time from each source port. Each tells where it wanted to go, and the
/// proxy finds out the same.
fn check(world: &World, mode: Mode, from: IpAddr, to: IpAddr) {
    let listener = listener(world, mode, to);
    let mut open = Vec::new();
    for source in SOURCES {
        for port in DESTINATIONS {
            let mut near = world.peer.inside(ROOT, || {
                let source = Some(SocketAddr::new(from, source));
                let to = SocketAddr::new(to, port);
                TcpStream::from(connected(Over::Tcp, source, to).unwrap())
            });
            near.write_all(&port.to_be_bytes()).unwrap();
            let (mut far, caller) = listener.accept().unwrap();
            let mut wanted = [0; 2];
            far.read_exact(&mut wanted).unwrap();
            let found = match mode {
                Mode::Redirect => crate::option::original_destination(far.as_fd(), to),
                Mode::Tproxy => far.local_addr().unwrap(),
            };
            assert_eq!(found, SocketAddr::new(to, u16::from_be_bytes(wanted)));
            assert_eq!(found.port(), port);
            if mode == Mode::Tproxy {
                assert_eq!(caller, SocketAddr::new(from, source));
            }
            open.push((near, far));
        }
    }
    assert_eq!(open.len(), SOURCES.len() * DESTINATIONS.len());
}

fn check_both(backend: Backend, mode: Mode, early_demux: &str) {
    let world = World::new();
    let setting = format!("net.ipv4.ip_early_demux={early_demux}");
    world.app.exec("sysctl", &["-q", "-w", &setting]);
    world.app.create(backend, &compile(&policy(mode)));
    check(&world, mode, PEER_V4.into(), APP_V4.into());
    check(&world, mode, PEER_V6.into(), APP_V6.into());
}

#[test]
fn one_source_port_reaches_many_ports_through_one_listener() {
    for_each_backend(|backend| {
        for early_demux in ["0", "1"] {
            check_both(backend, Mode::Redirect, early_demux);
        }
    });
}

#[test]
fn a_transparent_listener_sees_both_ends_as_they_are() {
    for_each_backend(|backend| {
        for early_demux in ["0", "1"] {
            check_both(backend, Mode::Tproxy, early_demux);
        }
    });
}
