//! Rules of other people, before ours and after them: all are still there, and still work.

use std::net::{Ipv4Addr, SocketAddr};

use mesh_netfilter::{Applied, Backend, Drain, Guard, HostNetwork, Policy, Removed, RuleState};

use crate::classes::app;
use crate::traffic::{Attempt, From, Reached, Servers, ask, here, there};
use crate::world::{APP, APP_V4, Namespace, PEER_V4, PROXY, World, compile, for_each_backend};

/// What firewalld and an administrator have. One rule of each can be seen at work.
const NFT: &str = "
    table inet firewalld {
        chain nat_OUTPUT { type nat hook output priority -90; policy accept; goto nat_zones; }
        chain nat_zones { return; }
        chain filter_INPUT {
            type filter hook input priority 10; policy accept;
            ct state { established, related } accept
            ct status dnat accept
            iifname lo accept
            udp dport 9090 reject
        }
    }
    table ip admin {
        set closed { type inet_service; elements = { 8081, 9090 }; }
        chain out { type filter hook output priority 0; udp dport @closed drop; }
    }";

/// Docker's shape: a chain of NAT that a jump leads to, with its resolver and a published port.
fn docker(namespace: &Namespace, backend: Backend) {
    if backend == Backend::Netlink {
        namespace.nft(
            "table ip docker { \
             chain out { type nat hook output priority -100; jump DOCKER_OUTPUT; }; \
             chain DOCKER_OUTPUT { \
               ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.1:9090; \
               ip daddr 10.99.0.1 tcp dport 80 dnat to 10.77.0.2:8080; }; }",
        );
        return;
    }
    for rule in [
        "-N DOCKER_OUTPUT",
        "-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp --dport 53 -j DNAT --to-destination 127.0.0.1:9090",
        "-A DOCKER_OUTPUT -d 10.99.0.1/32 -p tcp --dport 80 -j DNAT --to-destination 10.77.0.2:8080",
        "-A OUTPUT -j DOCKER_OUTPUT",
    ] {
        let mut arguments = vec!["-w", "-t", "nat"];
        arguments.extend(rule.split(' '));
        namespace.exec(backend.as_str(), &arguments);
    }
}

/// The rules of the others, without counters.
fn foreign(namespace: &Namespace, backend: Backend) -> Vec<String> {
    let list =
        |family: &str, table: &str| namespace.exec("nft", &["-s", "list", "table", family, table]);
    let mut all = vec![list("inet", "firewalld"), list("ip", "admin")];
    if backend == Backend::Netlink {
        all.push(list("ip", "docker"));
        return all;
    }
    let saved = namespace.exec(&format!("{backend}-save"), &["-t", "nat"]);
    let is_theirs = |line: &&str| line.starts_with('-') && !line.contains("MESH_");
    all.extend(saved.lines().filter(is_theirs).map(str::to_owned));
    all
}

/// What everybody's rules do with packets, while ours are there.
fn check(world: &World) {
    let published = Ipv4Addr::new(10, 99, 0, 1);
    let udp = |who, to: Ipv4Addr| Attempt::udp(From::App(who), (to, 9090));
    for (attempt, expected) in [
        (app(APP, PEER_V4, 80), here(15001)),
        (app(APP, published, 80), here(15001)),
        (app(PROXY, published, 80), there(8080)),
        (app(PROXY, APP_V4, 8080), here(15006)),
        (udp(APP, PEER_V4), Reached::Refused),
        (Attempt::tcp(From::Peer, (APP_V4, 8080)), here(15006)),
        (Attempt::udp(From::Peer, (APP_V4, 9090)), Reached::Refused),
    ] {
        assert_eq!(attempt.make(world), expected, "{attempt:?}");
    }
    let resolver = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11), 53));
    let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let asked = world.app.inside(APP, || ask(source, resolver));
    assert_eq!(asked, here(15053), "the application's query is ours first");
}

#[test]
fn rules_of_others_stay_and_work_whoever_came_first() {
    for_each_backend(|backend| {
        for ours_first in [false, true] {
            let world = World::new();
            let _servers = Servers::start(&world);
            let engine = world.app.engine_of(backend);
            let plan = compile(&Policy::sidecar());
            if ours_first {
                engine.apply(&plan, HostNetwork::Refuse).unwrap();
            }
            world.app.nft(NFT);
            docker(&world.app, backend);
            let before = foreign(&world.app, backend);
            let dockers = before.iter().filter(|text| text.contains("DOCKER_OUTPUT"));
            assert!(dockers.count() > 0, "{before:?}");
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
            assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
            check(&world);
            let other = Policy::sidecar().to_builder().guard(Guard::Off).build();
            let other = compile(&other.unwrap());
            let applied = engine.apply(&other, HostNetwork::Refuse).unwrap();
            assert_eq!(applied, Applied::Replaced);
            check(&world);
            assert_eq!(foreign(&world.app, backend), before, "{backend}");
            let removed = engine.remove(plan.instance(), Drain::Off).unwrap();
            assert_eq!(removed, Removed::Removed);
            assert_eq!(foreign(&world.app, backend), before, "{backend}");
            let published = app(APP, Ipv4Addr::new(10, 99, 0, 1), 80);
            assert_eq!(published.make(&world), there(8080), "{backend}");
        }
    });
}
