//! Removing: what becomes of open connections.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mesh_netfilter::{
    Backend, Drain, Engine, Facts, HostNetwork, InstanceName, Plan, Policy, Removed,
};

use crate::traffic::{Attempt, From, Over, Servers, connected, there};
use crate::world::{APP, PEER_V4, PEER_V6, ROOT, World};

/// A redirected connection of the application: its end, and that of the proxy.
fn redirected(world: &World, proxy: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let app = world.app.inside(APP, || {
        TcpStream::from(connected(Over::Tcp, None, to).unwrap())
    });
    let (far_end, _) = proxy.accept().unwrap();
    far_end
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    (app, far_end)
}

fn talks((one, two): &mut (TcpStream, TcpStream)) -> bool {
    let mut byte = [0];
    one.write_all(b"1").is_ok()
        && two.read_exact(&mut byte).is_ok()
        && two.write_all(b"2").is_ok()
        && one.read_exact(&mut byte).is_ok()
}

/// Whether the rules are gone and connections are kept alive.
fn is_draining(world: &World) -> bool {
    let saved =
        ["nft", "legacy"].map(|variant| world.app.exec(&format!("iptables-{variant}-save"), &[]));
    let rules = world.app.ruleset();
    rules.contains("mesh_mesh.drain")
        && !rules.contains("redirect to")
        && saved.iter().all(|rules| !rules.contains("REDIRECT"))
}

fn instances(engine: &Engine) -> usize {
    engine.list().unwrap().len()
}

#[test]
fn draining_keeps_open_connections_and_lets_new_ones_pass() {
    for backend in Backend::ALL {
        let world = World::new();
        let engine = Engine::detect(&world.app.netns(), Some(backend)).unwrap();
        let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        let proxies = ["127.0.0.1:15001", "[::1]:15001"]
            .map(|at| world.app.inside(ROOT, || TcpListener::bind(at).unwrap()));
        let mut v4 = redirected(&world, &proxies[0], (PEER_V4, 7000).into());
        let mut v6 = redirected(&world, &proxies[1], (PEER_V6, 7000).into());
        assert!(talks(&mut v4) && talks(&mut v6));
        let _listener = world
            .peer
            .inside(ROOT, || TcpListener::bind((PEER_V4, 7001)).unwrap());
        let limit = Drain::AtMost(Duration::from_secs(20));
        let removed = std::thread::scope(|scope| {
            let removing = scope.spawn(|| engine.remove(plan.instance(), limit).unwrap());
            while !is_draining(&world) {
                assert!(!removing.is_finished());
                std::thread::yield_now();
            }
            assert!(talks(&mut v4) && talks(&mut v6), "while it drains");
            // A new connection goes where it was sent.
            world.app.inside(APP, || {
                TcpStream::from(connected(Over::Tcp, None, (PEER_V4, 7001).into()).unwrap())
            });
            drop((v4, v6));
            removing.join().unwrap()
        });
        assert_eq!(removed, Removed::Drained { cut: 0 });
        assert_eq!(instances(&engine), 0);
        assert!(!world.app.ruleset().contains("drain"));
    }
}

#[test]
fn draining_ends_when_its_time_is_up() {
    for backend in Backend::ALL {
        let world = World::new();
        let engine = Engine::detect(&world.app.netns(), Some(backend)).unwrap();
        let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        let proxy = world
            .app
            .inside(ROOT, || TcpListener::bind("127.0.0.1:15001").unwrap());
        let _open = redirected(&world, &proxy, (PEER_V4, 7000).into());
        let began = Instant::now();
        let limit = Duration::from_millis(300);
        let removed = engine
            .remove(plan.instance(), Drain::AtMost(limit))
            .unwrap();
        assert_eq!(removed, Removed::Drained { cut: 1 });
        assert!(began.elapsed() >= limit);
        assert_eq!(instances(&engine), 0);
        assert!(!world.app.ruleset().contains("drain"));
    }
}

#[test]
fn draining_nothing_takes_no_time() {
    for backend in Backend::ALL {
        let world = World::new();
        let _servers = Servers::start(&world);
        let engine = Engine::detect(&world.app.netns(), Some(backend)).unwrap();
        let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        let began = Instant::now();
        let drain = Drain::AtMost(Duration::from_secs(60));
        assert_eq!(
            engine.remove(plan.instance(), drain).unwrap(),
            Removed::Drained { cut: 0 }
        );
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(
            engine.remove(plan.instance(), drain).unwrap(),
            Removed::Absent
        );
        let attempt = Attempt::tcp(From::App(APP), (PEER_V4, 80));
        assert_eq!(attempt.make(&world), there(80));
    }
}

#[test]
fn what_somebody_who_was_killed_left_behind_is_removed() {
    let world = World::new();
    let engine = world.app.engine();
    for name in ["mesh_mesh.drain", "mesh_mesh.probe"] {
        world.app.nft(&format!("add table inet {name}"));
    }
    world.app.nft("add table inet mesh_other.drain");
    engine.remove(&InstanceName::default(), Drain::Off).unwrap();
    assert_eq!(world.app.ruleset(), "table inet mesh_other.drain {\n}\n");
}
