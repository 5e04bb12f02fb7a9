//! Servers that tell who they are, and clients that tell whom they reached.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_netfilter::{Content, Decision, Direction, InterfaceName, Owner, Packet};
use rustix::net::sockopt::{Timeout, set_ipv6_v6only, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, Shutdown, SocketType, bind, connect, listen, shutdown, socket};

use crate::arbitrary::{GUEST_LINK, PORTS};
use crate::world::{GATEWAY_V4, GATEWAY_V6, LINK, Namespace, ROOT, World};

/// What a client found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reached {
    /// A server, by its label.
    Server(String),
    /// A reset, or "port unreachable".
    Refused,
    /// Nobody answered.
    Nobody,
}

/// One attempt to reach something.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) from: From,
    pub(crate) over: Over,
    /// Where the sender's socket is bound to; by default the kernel chooses.
    pub(crate) source: Option<IpAddr>,
    pub(crate) to: SocketAddr,
}

/// Where an attempt starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// In the application's namespace, by somebody.
    App(Owner),
    /// At the peer.
    Peer,
    /// At the guest.
    Guest,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Over {
    Tcp,
    Udp,
}

/// Servers on all ports that tests use, until this is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    stop: Arc<AtomicBool>,
    tcp: Vec<Arc<TcpListener>>,
    threads: Vec<JoinHandle<()>>,
}

/// Ports of the proxy.
pub(crate) const PROXY_PORTS: [u16; 2] = [15001, 15006];
pub(crate) const DNS_PORT: u16 = 15053;
/// Where the proxy takes what TPROXY hands over. REDIRECT does not mind.
const TRANSPARENT_PORT: u16 = 15006;

/// How long the kernel has to answer itself. Reached only where nobody answers, which no test of
/// rules expects.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often a UDP server looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);

/// The label of a server: whose it is, and its port.
pub(crate) fn label(side: &str, port: u16) -> String {
    format!("{side}:{port}")
}

/// A server of the application's namespace.
pub(crate) fn here(port: u16) -> Reached {
    Reached::Server(label("app", port))
}

/// A server of the peer.
pub(crate) fn there(port: u16) -> Reached {
    Reached::Server(label("peer", port))
}

/// The family of sockets for an address.
pub(crate) fn family(of: SocketAddr) -> AddressFamily {
    match of {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

/// A connected socket of the calling thread's namespace and user.
pub(crate) fn connected(
    over: Over,
    source: Option<SocketAddr>,
    to: SocketAddr,
) -> std::io::Result<std::os::fd::OwnedFd> {
    let kind = match over {
        Over::Tcp => SocketType::STREAM,
        Over::Udp => SocketType::DGRAM,
    };
    let fd = socket(family(to), kind, None)?;
    set_socket_reuseaddr(&fd, true)?;
    set_socket_timeout(&fd, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
    if let Some(source) = source {
        bind(&fd, &source)?;
    }
    // Asked again, a connection that is under way is waited for.
    rustix::io::retry_on_intr(|| connect(&fd, &to))?;
    Ok(fd)
}

/// Asks over UDP from a given port; the kernel's own one for 0.
pub(crate) fn ask(source: SocketAddr, to: SocketAddr) -> Reached {
    let socket = match connected(Over::Udp, Some(source), to) {
        Ok(fd) => UdpSocket::from(fd),
        Err(error) => return judge(&error),
    };
    question(&socket)
}

/// Sends a question on a connected socket and waits for the answer.
pub(crate) fn question(socket: &UdpSocket) -> Reached {
    let mut answer = [0; 64];
    match socket.send(b"?").and_then(|_| socket.recv(&mut answer)) {
        Ok(length) => Reached::Server(String::from_utf8(answer[..length].to_vec()).unwrap()),
        Err(error) => judge(&error),
    }
}

fn judge(error: &std::io::Error) -> Reached {
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        // A datagram that is refused on its way out is an error of `send`.
        | ErrorKind::PermissionDenied => Reached::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Reached::Nobody,
        // EINPROGRESS: `connect` waited for as long as it may.
        _ if error.raw_os_error() == Some(115) => Reached::Nobody,
        _ => panic!("neither reached nor refused: {error}"),
    }
}

// === impl Attempt ===

impl Attempt {
    pub(crate) fn tcp(from: From, to: impl Into<SocketAddr>) -> Self {
        Self {
            from,
            over: Over::Tcp,
            source: None,
            to: to.into(),
        }
    }

    pub(crate) fn udp(from: From, to: impl Into<SocketAddr>) -> Self {
        Self {
            over: Over::Udp,
            ..Self::tcp(from, to)
        }
    }

    pub(crate) fn bound(self, source: impl Into<IpAddr>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }

    /// Whom the kernel leads the attempt to.
    pub(crate) fn make(&self, world: &World) -> Reached {
        let (namespace, who) = match self.from {
            From::App(owner) => (&world.app, owner),
            From::Peer => (&world.peer, ROOT),
            From::Guest => (world.guest.as_ref().unwrap(), ROOT),
        };
        namespace.inside(who, || self.make_here())
    }

    /// The same from the calling thread, which is where the attempt starts.
    pub(crate) fn make_here(&self) -> Reached {
        let unspecified: IpAddr = match self.to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let source = SocketAddr::new(self.source.unwrap_or(unspecified), 0);
        if self.over == Over::Udp {
            return ask(source, self.to);
        }
        let mut stream = match connected(Over::Tcp, Some(source), self.to) {
            Ok(fd) => TcpStream::from(fd),
            Err(error) => return judge(&error),
        };
        let mut label = String::new();
        match stream.read_to_string(&mut label) {
            Ok(_) => Reached::Server(label),
            Err(error) => judge(&error),
        }
    }

    /// The first packet of the attempt, for the evaluator.
    pub(crate) fn packet(&self) -> Packet {
        let content = match self.over {
            Over::Tcp => Content::TcpFirst,
            Over::Udp => Content::Udp,
        };
        let link: InterfaceName = LINK.parse().unwrap();
        let to = self.to.ip();
        match self.from {
            From::Peer => {
                let source = self.source.unwrap_or_else(|| match to {
                    IpAddr::V4(_) => crate::world::PEER_V4.into(),
                    IpAddr::V6(_) => crate::world::PEER_V6.into(),
                });
                Packet::incoming(content, SocketAddr::new(source, 40000), self.to, link)
            }
            From::Guest => {
                let source: IpAddr = match to {
                    IpAddr::V4(_) => crate::world::GUEST_V4.into(),
                    IpAddr::V6(_) => crate::world::GUEST_V6.into(),
                };
                let link = GUEST_LINK.parse().unwrap();
                let source = SocketAddr::new(source, 40000);
                let mut packet = Packet::incoming(content, source, self.to, link);
                if to != World::app_address(to) {
                    packet.direction = Direction::Through;
                }
                packet
            }
            From::App(owner) => {
                let is_local = to.is_loopback() || to == World::app_address(to);
                let source = match self.source {
                    Some(source) => source,
                    None if is_local => to,
                    None => World::app_address(to),
                };
                let interface = if is_local {
                    InterfaceName::loopback()
                } else {
                    link
                };
                let source = SocketAddr::new(source, 40000);
                Packet::outgoing(content, source, self.to, interface, owner)
            }
        }
    }

    /// Whom an attempt reaches that the rules decided so about.
    pub(crate) fn expected(&self, decision: Decision) -> Reached {
        let to = self.to.ip();
        match decision {
            Decision::Redirect(port) | Decision::Tproxy(port) => here(port.get()),
            Decision::Forward(to) if to.ip().is_loopback() => here(to.port()),
            Decision::Forward(to) => there(to.port()),
            Decision::Refuse => Reached::Refused,
            // A datagram that is dropped on its way out is an error of `send`.
            Decision::Drop if self.over == Over::Udp && matches!(self.from, From::App(_)) => {
                Reached::Refused
            }
            Decision::Drop => Reached::Nobody,
            Decision::Pass if to.is_loopback() || to == World::app_address(to) => {
                here(self.to.port())
            }
            Decision::Pass => there(self.to.port()),
            other => panic!("a decision that this ring does not know: {other:?}"),
        }
    }
}

// === impl Servers ===

impl Servers {
    /// All servers of a world.
    pub(crate) fn start(world: &World) -> Self {
        let mut servers = Self {
            stop: Arc::new(AtomicBool::new(false)),
            tcp: Vec::new(),
            threads: Vec::new(),
        };
        for port in PORTS.into_iter().chain(PROXY_PORTS).chain([DNS_PORT]) {
            servers.tcp(&world.app, "app", port);
        }
        for port in [53, DNS_PORT, 9090] {
            servers.udp(&world.app, "app", port);
            if world.guest.is_some() {
                // Where REDIRECT takes what arrives from the guest.
                for gateway in [IpAddr::from(GATEWAY_V4), GATEWAY_V6.into()] {
                    servers.udp_at(&world.app, "app", SocketAddr::new(gateway, port));
                }
            }
        }
        for port in PORTS {
            servers.tcp(&world.peer, "peer", port);
        }
        for port in [53, 9090] {
            servers.udp(&world.peer, "peer", port);
        }
        servers
    }

    fn tcp(&mut self, namespace: &Namespace, side: &str, port: u16) {
        for address in [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ] {
            let fd = listening(
                namespace,
                SocketType::STREAM,
                SocketAddr::new(address, port),
            );
            if port == TRANSPARENT_PORT {
                make_transparent(&fd, address);
            }
            listen(&fd, 128).unwrap();
            let listener = Arc::new(TcpListener::from(fd));
            self.tcp.push(Arc::clone(&listener));
            let label = label(side, port);
            self.threads.push(std::thread::spawn(move || {
                // Ends when the socket is shut down.
                while let Ok((mut stream, _)) = listener.accept() {
                    // A client that is gone already has its answer.
                    drop(stream.write_all(label.as_bytes()));
                }
            }));
        }
    }

    fn udp(&mut self, namespace: &Namespace, side: &str, port: u16) {
        // One socket for each address: a wildcard one may answer from another address than asked.
        let addresses: [IpAddr; 4] = match side {
            "app" => [
                crate::world::APP_V4.into(),
                crate::world::APP_V6.into(),
                Ipv4Addr::LOCALHOST.into(),
                Ipv6Addr::LOCALHOST.into(),
            ],
            _ => [
                crate::world::PEER_V4.into(),
                crate::world::PEER_V6.into(),
                crate::world::FAR_V4.into(),
                crate::world::FAR_V6.into(),
            ],
        };
        for address in addresses {
            self.udp_at(namespace, side, SocketAddr::new(address, port));
        }
    }

    fn udp_at(&mut self, namespace: &Namespace, side: &str, at: SocketAddr) {
        let fd = listening(namespace, SocketType::DGRAM, at);
        let socket = UdpSocket::from(fd);
        socket.set_read_timeout(Some(TICK)).unwrap();
        let label = label(side, at.port());
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut question = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut question) {
                    // Whoever asked may be gone.
                    drop(socket.send_to(label.as_bytes(), from));
                }
            }
        }));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.tcp {
            shutdown(listener, Shutdown::Both).unwrap();
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// A bound socket of a namespace.
pub(crate) fn listening(
    namespace: &Namespace,
    kind: SocketType,
    at: SocketAddr,
) -> std::os::fd::OwnedFd {
    namespace.inside(ROOT, || {
        let fd = socket(family(at), kind, None).unwrap();
        set_socket_reuseaddr(&fd, true).unwrap();
        if at.is_ipv6() {
            set_ipv6_v6only(&fd, true).unwrap();
        }
        bind(&fd, &at).unwrap();
        fd
    })
}

/// `IP_TRANSPARENT` and `IPV6_TRANSPARENT`, as TPROXY wants it of a listener.
#[expect(unsafe_code, reason = "no safe wrapper has this socket option")]
fn make_transparent(fd: &std::os::fd::OwnedFd, address: IpAddr) {
    use std::os::fd::AsRawFd as _;
    let (level, name) = match address {
        IpAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        IpAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
    // SAFETY: the descriptor is open, and the value is an `int` of this length that outlives the
    // call.
    let set =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const on).cast(), length) };
    assert_eq!(
        set,
        0,
        "IP_TRANSPARENT: {}",
        std::io::Error::last_os_error()
    );
}
