//! The guard: what it refuses once the NAT rules are gone, and what it lets pass.

use mesh_netfilter::{Applied, Backend, Engine, HostNetwork, Identities, Policy, RuleState};

use crate::classes::world;
use crate::traffic::{Attempt, From, Reached, here, there};
use crate::world::{APP, APP_V4, APP_V6, PEER_V4, PEER_V6, PROXY, PROXY_2};

#[test]
fn without_nat_rules_the_guard_refuses_what_should_have_been_captured() {
    let policy = Policy::sidecar()
        .to_builder()
        .proxy(Identities::users([1337, 1338]))
        .build()
        .unwrap();
    let (world, _servers, plan) = world(Backend::Netlink, &policy);
    world.app.nft("delete table inet mesh_mesh");
    let app = From::App(APP);
    for (attempt, expected) in [
        (Attempt::tcp(app, (PEER_V4, 80)), Reached::Refused),
        (Attempt::tcp(app, (PEER_V6, 80)), Reached::Refused),
        (Attempt::udp(app, (PEER_V4, 53)), Reached::Refused),
        (Attempt::udp(app, (PEER_V6, 53)), Reached::Refused),
        (Attempt::tcp(From::Peer, (APP_V4, 8080)), Reached::Refused),
        (Attempt::tcp(From::Peer, (APP_V6, 8080)), Reached::Refused),
        (
            Attempt::tcp(From::App(PROXY), (APP_V4, 8080)),
            Reached::Refused,
        ),
        (
            Attempt::tcp(From::App(PROXY_2), (APP_V6, 8080)),
            Reached::Refused,
        ),
        (Attempt::tcp(From::App(PROXY), (PEER_V4, 80)), there(80)),
        (Attempt::udp(From::App(PROXY_2), (PEER_V6, 53)), there(53)),
        (Attempt::tcp(From::Peer, (APP_V4, 15021)), here(15021)),
        (Attempt::tcp(From::Peer, (APP_V6, 15021)), here(15021)),
        (Attempt::tcp(app, (APP_V4, 8080)), here(8080)),
        (Attempt::udp(app, (PEER_V4, 9090)), there(9090)),
    ] {
        let trace = plan.evaluate_guard(&attempt.packet());
        assert_eq!(
            attempt.expected(trace.decision),
            expected,
            "{attempt:?}: {trace:?}"
        );
        assert_eq!(attempt.make(&world), expected, "{attempt:?}");
    }
    let engine: Engine = world.app.engine();
    assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Drifted);
    let repaired = engine.apply(&plan, HostNetwork::Refuse).unwrap();
    assert_eq!(repaired, Applied::Replaced);
    assert_eq!(Attempt::tcp(app, (PEER_V4, 80)).make(&world), here(15001));
}

#[test]
fn a_translation_by_somebody_else_is_no_capture() {
    let (world, _servers, _plan) = world(Backend::Netlink, &Policy::sidecar());
    world.app.nft(
        "table ip other { chain out { type nat hook output priority -100; \
         tcp dport 80 dnat to 10.88.1.1:8080; }; }",
    );
    let attempt = Attempt::tcp(From::App(APP), (PEER_V4, 80));
    assert_eq!(attempt.make(&world), here(15001));
    world.app.nft("delete table inet mesh_mesh");
    assert_eq!(attempt.make(&world), Reached::Refused);
}

#[test]
fn an_answer_to_a_query_from_port_53_passes_the_guard() {
    let (world, _servers, _plan) = world(Backend::Netlink, &Policy::sidecar());
    // The application is a DNS server, and a resolver asks it from port 53.
    for (resolver, server) in [
        ((PEER_V4.into(), 53), (APP_V4.into(), 9090)),
        ((PEER_V6.into(), 53), (APP_V6.into(), 9090)),
    ] {
        let (resolver, server): ((std::net::IpAddr, u16), (std::net::IpAddr, u16)) =
            (resolver, server);
        // The peer's own server on port 53 is another socket of the same address.
        world.peer.ip("addr add 10.77.0.3/24 dev p0");
        world.peer.ip("-6 addr add fd77::3/64 dev p0 nodad");
        let from = match resolver.0 {
            std::net::IpAddr::V4(_) => "10.77.0.3:53".parse().unwrap(),
            std::net::IpAddr::V6(_) => "[fd77::3]:53".parse().unwrap(),
        };
        let reached = world.peer.inside(crate::world::ROOT, || {
            crate::traffic::ask(from, server.into())
        });
        assert_eq!(reached, here(9090));
        world.peer.ip("addr del 10.77.0.3/24 dev p0");
        world.peer.ip("-6 addr del fd77::3/64 dev p0");
    }
}

#[test]
fn without_a_guard_traffic_passes_when_the_rules_are_gone() {
    let policy = Policy::sidecar()
        .to_builder()
        .guard(mesh_netfilter::Guard::Off)
        .build()
        .unwrap();
    let (world, _servers, _plan) = world(Backend::Netlink, &policy);
    world.app.nft("delete table inet mesh_mesh");
    assert_eq!(
        Attempt::tcp(From::App(APP), (PEER_V4, 80)).make(&world),
        there(80)
    );
}
