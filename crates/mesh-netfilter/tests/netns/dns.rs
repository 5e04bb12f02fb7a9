//! DNS flows: those of proxy and application never meet, and those of before do not stay.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use mesh_netfilter::{HostNetwork, Owner, Plan, Policy, Removed};

use crate::classes::world;
use crate::traffic::{Over, Reached, Servers, ask, connected, here, question, there};
use crate::world::{APP, APP_V4, APP_V6, PEER_V4, PEER_V6, PROXY, World};

fn from_port(world: &World, who: Owner, port: u16, server: IpAddr) -> Reached {
    let source = SocketAddr::new(World::app_address(server), port);
    let to = SocketAddr::new(server, 53);
    world.app.inside(who, || ask(source, to))
}

#[test]
fn proxy_and_application_use_one_source_port_after_the_other() {
    let (world, _servers, _plan) = world(&Policy::sidecar());
    for server in [IpAddr::from(PEER_V4), IpAddr::from(PEER_V6)] {
        assert_eq!(from_port(&world, PROXY, 20001, server), there(53));
        assert_eq!(from_port(&world, APP, 20001, server), here(15053));
        assert_eq!(from_port(&world, APP, 20002, server), here(15053));
        assert_eq!(from_port(&world, PROXY, 20002, server), there(53));
        assert_eq!(from_port(&world, APP, 20002, server), here(15053));
    }
}

#[test]
fn without_zones_the_same_test_finds_the_race() {
    let (world, _servers, _plan) = world(&Policy::sidecar());
    world.app.nft("flush chain inet mesh_mesh raw_out");
    let server = IpAddr::from(PEER_V4);
    assert_eq!(from_port(&world, PROXY, 20001, server), there(53));
    assert_eq!(from_port(&world, APP, 20001, server), Reached::Refused);
    assert_eq!(from_port(&world, APP, 20002, server), here(15053));
    assert_eq!(from_port(&world, PROXY, 20002, server), here(15053));
}

#[test]
fn a_silent_server_makes_no_difference() {
    let (world, servers, _plan) = world(&Policy::sidecar());
    drop(servers);
    // Nobody listens, neither at the proxy nor at the peer: entries stay unanswered.
    for server in [IpAddr::from(PEER_V4), IpAddr::from(PEER_V6)] {
        world.peer.nft(
            "add table inet mute; add chain inet mute in { type filter hook input priority 0; }; \
                        add rule inet mute in udp dport 53 drop",
        );
        assert_eq!(from_port(&world, PROXY, 20001, server), Reached::Nobody);
        let _servers = Servers::start(&world);
        assert_eq!(from_port(&world, APP, 20001, server), here(15053));
        world.peer.nft("delete table inet mute");
        assert_eq!(from_port(&world, PROXY, 20001, server), there(53));
    }
}

#[test]
fn docker_s_resolver_answers_the_proxy_from_another_port() {
    let (world, _servers, _plan) = world(&Policy::sidecar());
    // Docker's shape: its resolver is at 127.0.0.11, port 53 translated to a port of its own.
    world.app.nft(
        "table ip docker { chain out { type nat hook output priority -100; \
         ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.1:9090; }; }",
    );
    let resolver = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11), 53));
    let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 20001));
    for _ in 0..2 {
        let reached = world.app.inside(APP, || ask(source, resolver));
        assert_eq!(reached, here(15053));
        let reached = world.app.inside(PROXY, || ask(source, resolver));
        assert_eq!(reached, here(9090));
    }
}

#[test]
fn a_resolver_that_keeps_its_socket_follows_the_rules() {
    let world = World::new();
    let _servers = Servers::start(&world);
    let engine = world.app.engine();
    let plan = Plan::compile(&Policy::sidecar());
    // Somebody keeps conntrack on all the time, else flows would be forgotten by themselves.
    world.app.nft(
        "table inet other { chain out { type nat hook output priority 0; }; \
         chain in { type filter hook input priority 0; ct state new accept; }; }",
    );
    for (address, server) in [
        (IpAddr::from(APP_V4), IpAddr::from(PEER_V4)),
        (APP_V6.into(), PEER_V6.into()),
    ] {
        let resolver = world.app.inside(APP, || {
            let source = Some(SocketAddr::new(address, 0));
            UdpSocket::from(connected(Over::Udp, source, (server, 53).into()).unwrap())
        });
        assert_eq!(question(&resolver), there(53));
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        assert_eq!(question(&resolver), here(15053));
        assert_eq!(engine.remove(plan.instance()).unwrap(), Removed::Removed);
        assert_eq!(question(&resolver), there(53));
    }
}
