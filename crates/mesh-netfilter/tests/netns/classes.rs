//! The classes of traffic that rules must tell apart, each with real packets, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_netfilter::{
    Backend, DestinationSelect, Destinations, Dns, Identities, IdentitySelect, Inbound, Ipv6,
    Loopback, Mark, NetworkPorts, Outbound, Plan, Policy, PolicyBuilder, Port, PortSelect, PortSet,
    parse_network,
};

use crate::traffic::{Attempt, From, Reached, Servers, here, there};
use crate::world::{
    APP, APP_V4, APP_V6, FAR_V4, FAR_V6, PEER_V4, PEER_V6, PROXY, PROXY_2, PROXY_GROUP, ROOT,
    World, compile, for_each_backend,
};

const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;
const DNS: u16 = 15053;

/// Puts the rules of `policy` into a new world.
pub(crate) fn world(backend: Backend, policy: &Policy) -> (World, Servers, Plan) {
    let world = World::new();
    let servers = Servers::start(&world);
    let plan = compile(policy);
    world.app.create(backend, &plan);
    (world, servers, plan)
}

/// Makes each attempt with each backend, and asks the evaluator about it.
pub(crate) fn check(policy: &Policy, attempts: &[(Attempt, Reached)]) {
    for_each_backend(|backend| {
        let (world, _servers, plan) = world(backend, policy);
        check_in(&world, &plan, attempts);
    });
}

/// Makes each attempt in a world that has the rules of a plan.
pub(crate) fn check_in(world: &World, plan: &Plan, attempts: &[(Attempt, Reached)]) {
    for (attempt, expected) in attempts {
        let trace = plan.evaluate(&attempt.packet());
        assert_eq!(
            attempt.expected(trace.decision),
            *expected,
            "the evaluator about {attempt:?}: {trace:?}"
        );
        assert_eq!(
            attempt.make(world),
            *expected,
            "the kernel about {attempt:?}"
        );
    }
}

fn sidecar() -> PolicyBuilder {
    Policy::sidecar()
        .to_builder()
        .proxy(Identities::users([1337, 1338]).and_groups([1337]))
}

pub(crate) fn app(owner: mesh_netfilter::Owner, to: impl Into<IpAddr>, port: u16) -> Attempt {
    Attempt::tcp(From::App(owner), (to.into(), port))
}

pub(crate) fn peer(to: impl Into<IpAddr>, port: u16) -> Attempt {
    Attempt::tcp(From::Peer, (to.into(), port))
}

pub(crate) fn query(owner: mesh_netfilter::Owner, to: impl Into<IpAddr>) -> Attempt {
    Attempt::udp(From::App(owner), (to.into(), 53))
}

#[test]
fn class_a_the_application_to_anything_remote_goes_to_the_outbound_listener() {
    check(
        &sidecar().build().unwrap(),
        &[
            (app(APP, PEER_V4, 80), here(OUTBOUND)),
            (app(APP, PEER_V6, 80), here(OUTBOUND)),
            (app(ROOT, FAR_V4, 8080), here(OUTBOUND)),
            (app(ROOT, FAR_V6, 8080), here(OUTBOUND)),
        ],
    );
}

#[test]
fn class_b_the_proxy_to_anything_remote_is_never_redirected() {
    check(
        &sidecar().build().unwrap(),
        &[
            (app(PROXY, PEER_V4, 80), there(80)),
            (app(PROXY_2, PEER_V4, 80), there(80)),
            (app(PROXY_GROUP, PEER_V4, 80), there(80)),
            (app(PROXY, FAR_V6, 8080), there(8080)),
            (app(PROXY_2, PEER_V6, 80), there(80)),
            (app(PROXY_GROUP, PEER_V6, 80), there(80)),
        ],
    );
}

#[test]
fn class_c_the_application_to_itself_is_left_alone() {
    check(
        &sidecar().build().unwrap(),
        &[
            (app(APP, Ipv4Addr::LOCALHOST, 8080), here(8080)),
            (app(APP, Ipv6Addr::LOCALHOST, 8080), here(8080)),
            (app(APP, APP_V4, 8080), here(8080)),
            (app(APP, APP_V6, 8080), here(8080)),
            (app(PROXY, Ipv4Addr::LOCALHOST, 8080), here(8080)),
            (app(PROXY, Ipv6Addr::LOCALHOST, 8080), here(8080)),
        ],
    );
}

#[test]
fn class_d_the_proxy_to_its_own_workload_goes_to_the_inbound_listener() {
    check(
        &sidecar().build().unwrap(),
        &[
            (app(PROXY, APP_V4, 8080), here(INBOUND)),
            (app(PROXY_2, APP_V4, 8080), here(INBOUND)),
            (app(PROXY_GROUP, APP_V4, 8080), here(INBOUND)),
            (app(PROXY, APP_V6, 8080), here(INBOUND)),
            (app(PROXY_2, APP_V6, 8080), here(INBOUND)),
            (app(PROXY_GROUP, APP_V6, 8080), here(INBOUND)),
            // What inbound leaves alone, it leaves alone.
            (app(PROXY, APP_V4, 15021), here(15021)),
            (app(PROXY, APP_V6, 15021), here(15021)),
        ],
    );
}

#[test]
fn class_e_the_proxy_hands_inbound_connections_to_the_application() {
    let v4 = Ipv4Addr::new(127, 0, 0, 6);
    let v6 = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
    check(
        &sidecar().build().unwrap(),
        &[
            (app(PROXY, APP_V4, 8080).bound(v4), here(8080)),
            (app(PROXY_2, APP_V4, 8080).bound(v4), here(8080)),
            (app(PROXY, APP_V6, 8080).bound(v6), here(8080)),
            (app(PROXY_2, APP_V6, 8080).bound(v6), here(8080)),
        ],
    );
}

#[test]
fn class_f_dns_of_the_application_goes_to_the_dns_listener() {
    check(
        &sidecar().build().unwrap(),
        &[
            (query(APP, PEER_V4), here(DNS)),
            (query(APP, PEER_V6), here(DNS)),
            (query(APP, Ipv4Addr::LOCALHOST), here(DNS)),
            (query(APP, Ipv6Addr::LOCALHOST), here(DNS)),
            (app(APP, PEER_V4, 53), here(DNS)),
            (app(APP, PEER_V6, 53), here(DNS)),
            (app(APP, Ipv4Addr::LOCALHOST, 53), here(DNS)),
            // UDP to other ports is nobody's business.
            (Attempt::udp(From::App(APP), (PEER_V4, 9090)), there(9090)),
        ],
    );
}

#[test]
fn class_g_dns_of_the_proxy_reaches_the_server() {
    check(
        &sidecar().build().unwrap(),
        &[
            (query(PROXY, PEER_V4), there(53)),
            (query(PROXY_2, PEER_V6), there(53)),
            (query(PROXY_GROUP, PEER_V4), there(53)),
            (query(PROXY, Ipv4Addr::LOCALHOST), here(53)),
            (app(PROXY, PEER_V4, 53), there(53)),
            (app(PROXY, APP_V4, 53), here(53)),
        ],
    );
}

#[test]
fn inbound_goes_to_the_inbound_listener_but_for_the_excluded_ports() {
    check(
        &sidecar().build().unwrap(),
        &[
            (peer(APP_V4, 8080), here(INBOUND)),
            (peer(APP_V6, 8080), here(INBOUND)),
            (peer(APP_V4, OUTBOUND), here(INBOUND)),
            (peer(APP_V4, 15021), here(15021)),
            (peer(APP_V6, 15021), here(15021)),
        ],
    );
}

#[test]
fn a_direct_call_of_the_inbound_listener_is_refused_by_the_guard() {
    check(
        &sidecar().build().unwrap(),
        &[
            (peer(APP_V4, INBOUND), Reached::Refused),
            (peer(APP_V6, INBOUND), Reached::Refused),
        ],
    );
}

#[test]
fn inbound_selects_by_port_source_and_tunnel() {
    let policy = sidecar()
        .inbound(Inbound {
            tunnel: Port::new(15008),
            excluded_sources: [parse_network("fd77::/64").unwrap()].into_iter().collect(),
            ..Inbound::to(Port::of::<15006>()).ports(PortSelect::Only(PortSet::from([
                Port::of::<80>(),
                Port::of::<15008>(),
            ])))
        })
        .build()
        .unwrap();
    check(
        &policy,
        &[
            (peer(APP_V4, 80), here(INBOUND)),
            (peer(APP_V4, 8080), here(8080)),
            (peer(APP_V4, 15008), here(15008)),
            (peer(APP_V6, 80), here(80)),
            (app(PROXY, APP_V4, 80), here(INBOUND)),
            (app(PROXY, APP_V4, 8080), here(8080)),
            (app(PROXY, APP_V4, 15008), here(15008)),
        ],
    );
}

#[test]
fn outbound_leaves_excluded_destinations_alone() {
    let excluded = Destinations {
        ports: PortSet::from([Port::of::<9090>()]),
        networks: ["10.88.0.0/16", "fd88::/16"]
            .iter()
            .map(|text| parse_network(text).unwrap())
            .collect(),
        network_ports: vec![NetworkPorts {
            networks: ["10.77.0.2", "fd77::2"]
                .iter()
                .map(|text| parse_network(text).unwrap())
                .collect(),
            ports: ["80-90"]
                .iter()
                .map(|text| text.parse::<mesh_netfilter::PortRange>().unwrap())
                .collect(),
        }],
    };
    let policy = sidecar()
        .outbound(
            Outbound::to(Port::of::<15001>()).destinations(DestinationSelect::AllExcept(excluded)),
        )
        .build()
        .unwrap();
    check(
        &policy,
        &[
            (app(APP, PEER_V4, 9090), there(9090)),
            (app(APP, PEER_V6, 9090), there(9090)),
            (app(APP, FAR_V4, 8080), there(8080)),
            (app(APP, FAR_V6, 8080), there(8080)),
            (app(APP, PEER_V4, 80), there(80)),
            (app(APP, PEER_V6, 80), there(80)),
            (app(APP, PEER_V4, 8080), here(OUTBOUND)),
            (app(APP, PEER_V6, 8080), here(OUTBOUND)),
            // DNS is its own matter.
            (query(APP, FAR_V4), here(DNS)),
        ],
    );
}

#[test]
fn outbound_captures_only_what_is_listed() {
    let only = Destinations {
        ports: PortSet::from([Port::of::<9090>()]),
        networks: ["10.88.0.0/16"]
            .iter()
            .map(|text| parse_network(text).unwrap())
            .collect(),
        network_ports: Vec::new(),
    };
    let policy = sidecar()
        .outbound(Outbound::to(Port::of::<15001>()).destinations(DestinationSelect::Only(only)))
        .build()
        .unwrap();
    check(
        &policy,
        &[
            (app(APP, PEER_V4, 9090), here(OUTBOUND)),
            (app(APP, PEER_V6, 9090), here(OUTBOUND)),
            (app(APP, FAR_V4, 80), here(OUTBOUND)),
            (app(APP, FAR_V6, 80), there(80)),
            (app(APP, PEER_V4, 80), there(80)),
        ],
    );
}

#[test]
fn only_the_included_and_never_the_excluded_are_captured() {
    let only = sidecar()
        .identities(IdentitySelect::Only(Identities::users([1000])))
        .build()
        .unwrap();
    check(
        &only,
        &[
            (app(APP, PEER_V4, 80), here(OUTBOUND)),
            (query(APP, PEER_V6), here(DNS)),
            (app(ROOT, PEER_V4, 80), there(80)),
            (query(ROOT, PEER_V4), there(53)),
            (app(PROXY, APP_V6, 8080), here(INBOUND)),
        ],
    );
    let except = sidecar()
        .identities(IdentitySelect::Except(
            Identities::users([0]).and_groups([7]),
        ))
        .build()
        .unwrap();
    check(
        &except,
        &[
            (app(APP, PEER_V4, 80), here(OUTBOUND)),
            (app(ROOT, PEER_V4, 80), there(80)),
            (query(ROOT, PEER_V6), there(53)),
        ],
    );
}

#[test]
fn loopback_networks_are_captured_when_asked_for() {
    let policy = sidecar()
        .outbound(Outbound {
            loopback: Loopback::Capture(
                [parse_network("10.77.0.1").unwrap()].into_iter().collect(),
            ),
            ..Outbound::to(Port::of::<15001>())
        })
        .build()
        .unwrap();
    check(
        &policy,
        &[
            (app(APP, APP_V4, 8080), here(OUTBOUND)),
            (app(APP, Ipv4Addr::LOCALHOST, 8080), here(8080)),
            (app(APP, APP_V6, 8080), here(8080)),
            (app(PROXY, APP_V4, 8080), here(INBOUND)),
        ],
    );
}

#[test]
fn dns_is_captured_for_the_listed_servers() {
    let policy = sidecar()
        .dns(Dns {
            servers: mesh_netfilter::DnsServers::List([PEER_V4.into(), FAR_V6.into()].into()),
            tcp: mesh_netfilter::DnsTcp::Ordinary,
            ..Dns::to(Port::of::<15053>())
        })
        .build()
        .unwrap();
    check(
        &policy,
        &[
            (query(APP, PEER_V4), here(DNS)),
            (query(APP, FAR_V6), here(DNS)),
            (query(APP, FAR_V4), there(53)),
            (query(APP, PEER_V6), there(53)),
            (app(APP, PEER_V4, 53), here(OUTBOUND)),
        ],
    );
}

#[test]
fn blocked_ipv6_is_refused_where_it_would_be_captured() {
    for guard in [mesh_netfilter::Guard::Reject, mesh_netfilter::Guard::Off] {
        let policy = sidecar().ipv6(Ipv6::Block).guard(guard).build().unwrap();
        check(
            &policy,
            &[
                (app(APP, PEER_V6, 80), Reached::Refused),
                (query(APP, PEER_V6), Reached::Refused),
                (peer(APP_V6, 8080), Reached::Refused),
                (peer(APP_V6, 15021), here(15021)),
                (app(PROXY, PEER_V6, 80), there(80)),
                (app(APP, Ipv6Addr::LOCALHOST, 8080), here(8080)),
                (app(PROXY, APP_V6, 8080), Reached::Refused),
                (app(APP, PEER_V4, 80), here(OUTBOUND)),
                (peer(APP_V4, 8080), here(INBOUND)),
            ],
        );
    }
}

#[test]
fn bypassed_ipv6_is_not_touched() {
    check(
        &sidecar().ipv6(Ipv6::Bypass).build().unwrap(),
        &[
            (app(APP, PEER_V6, 80), there(80)),
            (query(APP, PEER_V6), there(53)),
            (peer(APP_V6, 8080), here(8080)),
            (app(APP, PEER_V4, 80), here(OUTBOUND)),
        ],
    );
}

#[test]
fn excluded_interfaces_are_left_alone_both_ways() {
    let policy = sidecar()
        .excluded_interfaces(["a0".parse().unwrap(), "zz0".parse().unwrap()])
        .build()
        .unwrap();
    check(
        &policy,
        &[
            (app(APP, PEER_V4, 80), there(80)),
            (peer(APP_V6, 8080), here(8080)),
            (query(APP, PEER_V4), there(53)),
            // Loopback is another interface.
            (app(PROXY, APP_V4, 8080), here(INBOUND)),
            (query(APP, Ipv4Addr::LOCALHOST), here(DNS)),
        ],
    );
}

#[test]
fn one_direction_alone_is_captured_alone() {
    check(
        &sidecar().outbound(None).dns(None).build().unwrap(),
        &[
            (app(APP, PEER_V4, 80), there(80)),
            (query(APP, PEER_V4), there(53)),
            (peer(APP_V4, 8080), here(INBOUND)),
            (app(PROXY, APP_V6, 8080), here(INBOUND)),
        ],
    );
    check(
        &sidecar().inbound(None).build().unwrap(),
        &[
            (app(APP, PEER_V4, 80), here(OUTBOUND)),
            (peer(APP_V4, 8080), here(8080)),
            (app(PROXY, APP_V4, 8080), here(8080)),
        ],
    );
    check(
        &sidecar().inbound(None).outbound(None).build().unwrap(),
        &[
            (app(APP, PEER_V4, 80), there(80)),
            (query(APP, PEER_V6), here(DNS)),
            (peer(APP_V6, 8080), here(8080)),
        ],
    );
}

#[test]
fn a_mark_makes_its_bearer_the_proxy() {
    let mark = Mark::new(0x111, 0xfff).unwrap();
    let policy = sidecar().proxy(Identities::marks([mark])).build().unwrap();
    for_each_backend(|backend| bear_a_mark(backend, &policy));
}

fn bear_a_mark(backend: Backend, policy: &Policy) {
    let (world, _servers, plan) = world(backend, policy);
    // The socket of user 1001 could mark its packets itself; here a rule of somebody else does.
    world.app.nft(
        "table inet marks { chain out { type route hook output priority -150; \
         meta skuid 1001 meta mark set 0x5111; }; }",
    );
    for (attempt, expected) in [
        (app(PROXY_GROUP, PEER_V4, 80), there(80)),
        (app(PROXY_GROUP, PEER_V6, 80), there(80)),
        (app(PROXY_GROUP, APP_V4, 8080), here(INBOUND)),
        (app(PROXY_GROUP, APP_V6, 8080), here(INBOUND)),
        (app(APP, PEER_V4, 80), here(OUTBOUND)),
        (app(PROXY, PEER_V4, 80), here(OUTBOUND)),
    ] {
        let mut packet = attempt.packet();
        if matches!(attempt.from, From::App(PROXY_GROUP)) {
            packet.mark = 0x5111;
        }
        let decision = plan.evaluate(&packet).decision;
        assert_eq!(attempt.expected(decision), expected, "{attempt:?}");
        assert_eq!(attempt.make(&world), expected, "{attempt:?}");
    }
}

#[test]
fn with_tproxy_every_class_keeps_its_meaning() {
    let inbound = Inbound {
        tunnel: Port::new(15008),
        ..Policy::sidecar().inbound().unwrap().clone()
    };
    let tproxy = mesh_netfilter::InboundMode::Tproxy(mesh_netfilter::Tproxy::default());
    let v4 = Ipv4Addr::new(127, 0, 0, 6);
    let v6 = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
    check(
        &sidecar().inbound(inbound.mode(tproxy)).build().unwrap(),
        &[
            // A
            (app(APP, PEER_V4, 80), here(OUTBOUND)),
            (app(APP, FAR_V6, 80), here(OUTBOUND)),
            // B
            (app(PROXY, PEER_V4, 80), there(80)),
            (app(PROXY_2, PEER_V6, 80), there(80)),
            // C
            (app(APP, Ipv4Addr::LOCALHOST, 8080), here(8080)),
            (app(APP, Ipv6Addr::LOCALHOST, 8080), here(8080)),
            (app(APP, APP_V4, 8080), here(8080)),
            (app(APP, APP_V6, 8080), here(8080)),
            // D
            (app(PROXY, APP_V4, 8080), here(INBOUND)),
            (app(PROXY_2, APP_V6, 8080), here(INBOUND)),
            (app(PROXY_GROUP, APP_V4, 8080), here(INBOUND)),
            (app(PROXY, APP_V6, 15021), here(15021)),
            // E
            (app(PROXY, APP_V4, 8080).bound(v4), here(8080)),
            (app(PROXY_2, APP_V6, 8080).bound(v6), here(8080)),
            // F
            (query(APP, PEER_V4), here(DNS)),
            (query(APP, PEER_V6), here(DNS)),
            // G
            (query(PROXY, PEER_V4), there(53)),
            (query(PROXY_2, PEER_V6), there(53)),
            // What arrives.
            (peer(APP_V4, 8080), here(INBOUND)),
            (peer(APP_V6, 8080), here(INBOUND)),
            (peer(APP_V4, 15021), here(15021)),
            (peer(APP_V6, 15008), here(15008)),
        ],
    );
}
