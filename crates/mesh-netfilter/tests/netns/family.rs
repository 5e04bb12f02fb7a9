//! IPv6 as namespaces have it: link-local only, switched off, without IPv4; nothing slips past.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use mesh_netfilter::{Backend, HostNetwork, Ipv6, Policy, RuleState};

use crate::classes::{app, peer};
use crate::traffic::{Attempt, From, Over, Reached, Servers, connected, here, there};
use crate::world::{
    APP, APP_V4, APP_V6, PEER_V4, PEER_V6, PROXY, World, compile, for_each_backend,
};

const POLICIES: [Ipv6; 3] = [Ipv6::Redirect, Ipv6::Block, Ipv6::Bypass];

/// What a policy makes of a connection over IPv6 that would reach `direct`.
fn expected(ipv6: Ipv6, redirected: Reached, direct: Reached) -> Reached {
    match ipv6 {
        Ipv6::Redirect => redirected,
        Ipv6::Block => Reached::Refused,
        _ => direct,
    }
}

fn for_each_policy(check: impl Fn(Backend, Ipv6, &World) + Sync) {
    for_each_backend(|backend| {
        for ipv6 in POLICIES {
            let world = World::new();
            let _servers = Servers::start(&world);
            check(backend, ipv6, &world);
        }
    });
}

fn apply(backend: Backend, ipv6: Ipv6, world: &World) {
    let policy = Policy::sidecar().to_builder().ipv6(ipv6).build().unwrap();
    let plan = compile(&policy);
    let engine = world.app.engine_of(backend);
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
}

#[test]
fn link_local_addresses_are_addresses() {
    for_each_policy(|backend, ipv6, world| {
        world.app.ip("-6 addr add fe80::a/64 dev a0 nodad");
        world.peer.ip("-6 addr add fe80::b/64 dev p0 nodad");
        world.app.ip(&format!("-6 addr del {APP_V6}/64 dev a0"));
        apply(backend, ipv6, world);
        let far = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb);
        let to = SocketAddr::from(SocketAddrV6::new(far, 80, 0, 11));
        for (who, reached) in [
            // The kernel delivers no packet from a link-local address to `::1`: what is redirected is
            // lost. It does not get past the proxy, and that is what counts here.
            (APP, expected(ipv6, Reached::Nobody, there(80))),
            (PROXY, there(80)),
        ] {
            let attempt = Attempt::tcp(From::App(who), to);
            assert_eq!(attempt.make(world), reached, "{backend}, {ipv6:?}");
        }
        assert_eq!(app(APP, PEER_V4, 80).make(world), here(15001));
    });
}

#[test]
fn what_is_switched_on_later_is_captured_then() {
    for_each_policy(|backend, ipv6, world| {
        let switch = |value: &str| {
            let setting = format!("net.ipv6.conf.a0.disable_ipv6={value}");
            world.app.exec("sysctl", &["-q", "-w", &setting]);
        };
        switch("1");
        apply(backend, ipv6, world);
        let to = SocketAddr::from((PEER_V6, 80));
        world.app.inside(APP, || {
            connected(Over::Tcp, None, to).unwrap_err();
        });
        assert_eq!(app(APP, PEER_V4, 80).make(world), here(15001));
        switch("0");
        world
            .app
            .ip(&format!("-6 addr add {APP_V6}/64 dev a0 nodad"));
        let reached = expected(ipv6, here(15001), there(80));
        assert_eq!(settled(world, &app(APP, PEER_V6, 80)), reached, "{backend}");
        let reached = expected(ipv6, here(15006), here(8080));
        assert_eq!(settled(world, &peer(APP_V6, 8080)), reached, "{backend}");
    });
}

/// What an attempt comes to once the link carries packets again: lost ones prove nothing.
fn settled(world: &World, attempt: &Attempt) -> Reached {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let reached = attempt.make(world);
        if reached != Reached::Nobody || Instant::now() > deadline {
            return reached;
        }
    }
}

#[test]
fn a_namespace_without_ipv4_is_as_captured_as_one_with() {
    for_each_policy(|backend, ipv6, world| {
        world.app.ip(&format!("addr del {APP_V4}/24 dev a0"));
        apply(backend, ipv6, world);
        let reached = expected(ipv6, here(15001), there(80));
        assert_eq!(app(APP, PEER_V6, 80).make(world), reached, "{backend}");
        let reached = expected(ipv6, here(15006), here(8080));
        assert_eq!(peer(APP_V6, 8080).make(world), reached, "{backend}");
        assert_eq!(app(PROXY, PEER_V6, 80).make(world), there(80));
    });
}
