//! TCP connections that are open while rules come, change and go.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use mesh_netfilter::{Applied, Drain, HostNetwork, Identities, Owner, Plan, Policy, Removed};

use crate::traffic::{Over, connected};
use crate::world::{
    APP, APP_V4, APP_V6, Namespace, PEER_V4, PEER_V6, ROOT, World, compile, for_each_backend,
};

/// The two ends of a connection.
#[derive(Debug)]
struct Pair {
    near: TcpStream,
    far: TcpStream,
}

/// Longer than any test needs: a drain that ends by itself ends before.
const LIMIT: Drain = Drain::AtMost(Duration::from_secs(30));

fn sidecar() -> Plan {
    compile(&Policy::sidecar())
}

fn other() -> Plan {
    let policy = Policy::sidecar()
        .to_builder()
        .proxy(Identities::users([1337, 1338]))
        .guard(mesh_netfilter::Guard::Off)
        .build();
    compile(&policy.unwrap())
}

fn listen(namespace: &Namespace, port: u16) -> TcpListener {
    namespace.inside(ROOT, || TcpListener::bind(("::", port)).unwrap())
}

impl Pair {
    fn open(from: &Namespace, who: Owner, to: impl Into<IpAddr>, at: &TcpListener) -> Self {
        // Redirected or not: whoever accepts is the far end.
        let to = SocketAddr::new(to.into(), 7000);
        let near = from.inside(who, || {
            TcpStream::from(connected(Over::Tcp, None, to).unwrap())
        });
        let (far, _) = at.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        }
        Self { near, far }
    }

    /// Whether both directions carry a byte.
    fn is_alive(&mut self) -> bool {
        let mut byte = [0];
        let mut carry = || -> std::io::Result<()> {
            self.near.write_all(b"1")?;
            self.far.read_exact(&mut byte)?;
            self.far.write_all(b"2")?;
            self.near.read_exact(&mut byte)
        };
        carry().is_ok()
    }
}

/// Connections of both families and directions; the listeners are those that shall get them.
fn open_all(world: &World, outbound: &TcpListener, inbound: &TcpListener) -> Vec<Pair> {
    let (app, peer) = (&world.app, &world.peer);
    vec![
        Pair::open(app, APP, PEER_V4, outbound),
        Pair::open(app, APP, PEER_V6, outbound),
        Pair::open(peer, ROOT, APP_V4, inbound),
        Pair::open(peer, ROOT, APP_V6, inbound),
    ]
}

#[test]
fn connections_live_through_apply_change_and_repeat() {
    for_each_backend(|backend| {
        let world = World::new();
        let (server, own) = (listen(&world.peer, 7000), listen(&world.app, 7000));
        let proxy = [15001, 15006].map(|port| listen(&world.app, port));
        let engine = world.app.engine_of(backend);
        let mut pairs = open_all(&world, &server, &own);
        for (plan, expected) in [
            (sidecar(), Applied::Created),
            (sidecar(), Applied::Unchanged),
            (other(), Applied::Replaced),
            (sidecar(), Applied::Replaced),
        ] {
            let applied = engine.apply(&plan, HostNetwork::Refuse).unwrap();
            assert_eq!(applied, expected, "{backend}");
            for pair in &mut pairs {
                assert!(pair.is_alive(), "{backend}: {expected:?} broke {pair:?}");
            }
            pairs.extend(open_all(&world, &proxy[0], &proxy[1]));
        }
        assert_eq!(pairs.len(), 20);
    });
}

#[test]
fn a_drain_keeps_redirected_connections_until_they_end() {
    for_each_backend(|backend| {
        let world = World::new();
        let server = listen(&world.peer, 7000);
        let proxy = [15001, 15006].map(|port| listen(&world.app, port));
        let engine = world.app.create(backend, &sidecar());
        let mut pairs = open_all(&world, &proxy[0], &proxy[1]);
        let plan = sidecar();
        std::thread::scope(|scope| {
            let remove = scope.spawn(|| engine.remove(plan.instance(), LIMIT).unwrap());
            // The rules go first: then new connections are direct.
            for listener in [&server, &proxy[0]] {
                listener.set_nonblocking(true).unwrap();
            }
            let to = Some(SocketAddr::new(PEER_V4.into(), 7000));
            world.app.inside(APP, || {
                while let Some(to) = to.filter(|_| server.accept().is_err()) {
                    drop(connected(Over::Tcp, None, to).unwrap());
                    // Not to fill its queue; those of before the removal do not interest.
                    drop(proxy[0].accept());
                }
            });
            for pair in &mut pairs {
                assert!(pair.is_alive(), "{backend}: {pair:?}");
            }
            assert!(!remove.is_finished(), "{backend}: it did not wait");
            pairs.clear();
            assert_eq!(remove.join().unwrap(), Removed::Drained { cut: 0 });
        });
        assert_eq!(world.app.ruleset().matches("mesh").count(), 0);
    });
}

#[test]
fn without_a_drain_redirected_connections_end_and_direct_ones_go_on() {
    for_each_backend(|backend| {
        let world = World::new();
        let server = listen(&world.peer, 7000);
        let proxy = [15001, 15006].map(|port| listen(&world.app, port));
        let engine = world.app.engine_of(backend);
        let mut direct = Pair::open(&world.app, APP, PEER_V4, &server);
        let plan = sidecar();
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        let mut redirected = open_all(&world, &proxy[0], &proxy[1]);
        let removed = engine.remove(plan.instance(), Drain::Off).unwrap();
        assert_eq!(removed, Removed::Removed);
        assert!(direct.is_alive(), "{backend}");
        for pair in &mut redirected {
            assert!(!pair.is_alive(), "{backend}: this test sees no break");
        }
    });
}
