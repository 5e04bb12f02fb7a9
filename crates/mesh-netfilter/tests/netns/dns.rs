//! DNS flows: those of proxy and application never meet, and those of before do not stay.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use mesh_netfilter::{Backend, Drain, HostNetwork, Owner, Policy, Removed};

use crate::classes::world;
use crate::traffic::{Over, Reached, Servers, ask, connected, here, question, there};
use crate::world::{
    APP, APP_V4, APP_V6, PEER_V4, PEER_V6, PROXY, World, compile, for_each_backend,
};

fn from_port(world: &World, who: Owner, port: u16, server: IpAddr) -> Reached {
    let source = SocketAddr::new(World::app_address(server), port);
    let to = SocketAddr::new(server, 53);
    world.app.inside(who, || ask(source, to))
}

#[test]
fn proxy_and_application_use_one_source_port_after_the_other() {
    for_each_backend(|backend| {
        let (world, _servers, _plan) = world(backend, &Policy::sidecar());
        for server in [IpAddr::from(PEER_V4), IpAddr::from(PEER_V6)] {
            assert_eq!(from_port(&world, PROXY, 20001, server), there(53));
            assert_eq!(from_port(&world, APP, 20001, server), here(15053));
            assert_eq!(from_port(&world, APP, 20002, server), here(15053));
            assert_eq!(from_port(&world, PROXY, 20002, server), there(53));
            assert_eq!(from_port(&world, APP, 20002, server), here(15053));
        }
    });
}

#[test]
fn without_zones_the_same_test_finds_the_race() {
    let (world, _servers, _plan) = world(Backend::Netlink, &Policy::sidecar());
    world.app.nft("flush chain inet mesh_mesh raw_out");
    let server = IpAddr::from(PEER_V4);
    assert_eq!(from_port(&world, PROXY, 20001, server), there(53));
    assert_eq!(from_port(&world, APP, 20001, server), Reached::Refused);
    assert_eq!(from_port(&world, APP, 20002, server), here(15053));
    assert_eq!(from_port(&world, PROXY, 20002, server), here(15053));
}

#[test]
fn a_silent_server_makes_no_difference() {
    for_each_backend(|backend| {
        let (world, servers, _plan) = world(backend, &Policy::sidecar());
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
    });
}

#[test]
fn a_resolver_that_keeps_its_socket_follows_the_rules() {
    for_each_backend(|backend| {
        let world = World::new();
        let _servers = Servers::start(&world);
        let engine = world.app.engine_of(backend);
        let plan = compile(&Policy::sidecar());
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
            assert_eq!(
                engine.remove(plan.instance(), Drain::Off).unwrap(),
                Removed::Removed
            );
            assert_eq!(question(&resolver), there(53));
        }
    });
}
