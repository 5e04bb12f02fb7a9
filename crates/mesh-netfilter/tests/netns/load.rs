//! Rules are replaced under load: no connection slips past, and none fails.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh_netfilter::{
    Backend, DestinationSelect, Destinations, Guard, HostNetwork, Outbound, Plan, Policy, Port,
    parse_network,
};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SocketType, listen};

use crate::traffic::{Over, connected, listening};
use crate::world::{
    APP, FAR_V4, FAR_V6, PEER_V4, PEER_V6, World, backends, compile, for_each_backend,
};

/// What clients have seen so far.
#[derive(Debug, Default)]
struct Seen {
    captured: AtomicUsize,
    escaped: AtomicUsize,
    failed: AtomicUsize,
    /// Why the last one failed.
    failure: Mutex<Option<std::io::Error>>,
}

/// Opens connections and accepts them itself: nothing waits for another thread.
#[derive(Debug)]
struct Client {
    /// Where the proxy listens.
    captured: TcpListener,
    /// Where those arrive that slipped past.
    escaped: TcpListener,
    servers: [IpAddr; 2],
}

/// All backends together make at least so many connections and replacements.
const CONNECTIONS: usize = 51_000;
const REPLACEMENTS: usize = 510;
/// Between two connections of a client; much shorter than a leak lasts.
const PAUSE: Duration = Duration::from_micros(500);
/// A connection that nobody has by then is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// A plan that captures what the clients do, whatever else it excludes.
fn plan(number: u32) -> Plan {
    let network = format!("10.99.{}.0/24", number % 250);
    let excluded = Destinations {
        networks: [parse_network(&network).unwrap()].into_iter().collect(),
        // Every tenth time another list of ports, and so on: not only one set changes.
        ports: match number % 10 {
            0 => [Port::new(7000).unwrap()].into(),
            _ => [Port::new(9090).unwrap()].into(),
        },
        ..Destinations::default()
    };
    let policy = Policy::sidecar()
        .to_builder()
        .outbound(
            Outbound::to(Port::of::<15001>()).destinations(DestinationSelect::AllExcept(excluded)),
        )
        // Whatever slips past shall be seen, not refused.
        .guard(Guard::Off)
        .build();
    compile(&policy.unwrap())
}

/// Opens connections in both families, each from a thread of its own, while `work` runs.
fn under_load(world: &World, work: impl FnOnce(&Seen)) -> Seen {
    let clients = [
        Client::new(world, [PEER_V4.into(), FAR_V4.into()]),
        Client::new(world, [PEER_V6.into(), FAR_V6.into()]),
    ];
    let (seen, stop) = (Seen::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| world.app.inside(APP, || client.run(&seen, &stop)));
        }
        // The clients end, whatever becomes of the work.
        let _stop = Stop(&stop);
        work(&seen);
    });
    seen
}

impl Client {
    fn new(world: &World, servers: [IpAddr; 2]) -> Self {
        let listener = |namespace, port| {
            let at = match servers[0] {
                IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
                IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            };
            let fd = listening(namespace, SocketType::STREAM, at);
            listen(&fd, 128).unwrap();
            let listener = TcpListener::from(fd);
            listener.set_nonblocking(true).unwrap();
            listener
        };
        Self {
            captured: listener(&world.app, 15001),
            escaped: listener(&world.peer, 8080),
            servers,
        }
    }

    fn run(&self, seen: &Seen, stop: &AtomicBool) {
        for server in self.servers.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let count = match self.once(SocketAddr::new(*server, 8080)) {
                Ok(true) => &seen.captured,
                Ok(false) => &seen.escaped,
                Err(error) => {
                    *seen.failure.lock().unwrap() = Some(error);
                    &seen.failed
                }
            };
            count.fetch_add(1, Ordering::Relaxed);
            // The kernel finds no end of a grace period on a machine without a pause.
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the proxy got the connection.
    fn once(&self, to: SocketAddr) -> std::io::Result<bool> {
        let near = connected(Over::Tcp, None, to)?;
        // Closed with a reset: no port waits for two minutes, and none is used up.
        set_socket_linger(&near, Some(Duration::ZERO))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (listener, is_captured) in [(&self.captured, true), (&self.escaped, false)] {
                match listener.accept() {
                    Ok((far, _)) => {
                        drop(near);
                        drop(far);
                        return Ok(is_captured);
                    }
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    Err(_) => {}
                }
            }
            if Instant::now() > deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_connection_escapes_or_fails_while_rules_are_replaced() {
    let share = backends().len();
    for_each_backend(|backend| {
        let world = World::new();
        let engine = world.app.create(backend, &plan(0));
        let mut replaced = 0;
        let seen = under_load(&world, |seen| {
            let enough = || {
                seen.captured.load(Ordering::Relaxed) * share >= CONNECTIONS
                    || seen.escaped.load(Ordering::Relaxed) > 0
                    || seen.failed.load(Ordering::Relaxed) > 0
            };
            while (replaced as usize) * share < REPLACEMENTS || !enough() {
                replaced += 1;
                engine.apply(&plan(replaced), HostNetwork::Refuse).unwrap();
            }
        });
        assert_eq!(seen.escaped.load(Ordering::Relaxed), 0, "{seen:?}");
        assert_eq!(seen.failed.load(Ordering::Relaxed), 0, "{seen:?}");
    });
}

#[test]
fn the_same_load_finds_the_leak_of_flush_and_append() {
    for_each_backend(|backend| {
        let world = World::new();
        world.app.create(backend, &plan(0));
        let deadline = Instant::now() + Duration::from_secs(20);
        let seen = under_load(&world, |seen| {
            while seen.escaped.load(Ordering::Relaxed) == 0 {
                assert!(Instant::now() < deadline, "{backend}: no leak was found");
                flush_and_append(&world, backend);
            }
        });
        assert!(seen.escaped.into_inner() > 0);
    });
}

/// What careless tools do: first nothing is left, then everything is put back.
fn flush_and_append(world: &World, backend: Backend) {
    let app = &world.app;
    if backend == Backend::Netlink {
        app.nft("flush chain inet mesh_mesh nat_out");
        app.nft(&plan(0).to_nft());
        return;
    }
    for family in ["iptables", "ip6tables"] {
        let tool = backend.to_string().replace("iptables", family);
        let save = format!("{tool}-save");
        let saved = app.exec(&save, &["-t", "nat"]);
        app.exec(&tool, &["-t", "nat", "-F", "OUTPUT"]);
        app.feed(&format!("{tool}-restore"), &saved);
    }
}
