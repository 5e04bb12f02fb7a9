//! Random policies that are valid, about ports and addresses that tests use.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_netfilter::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTarget, DnsTcp, DnsZones, DropInvalid,
    Existing, Guard, IdRange, Identities, IdentityPorts, IdentitySelect, Inbound, InboundMode,
    InterfaceName, Ipv6, Loopback, Mark, NetworkPorts, NetworkSet, Outbound, Policy, Port,
    PortRange, PortSelect, PortSet, Tproxy, Transport, VirtualInterface, parse_network,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// The interface behind which the guests of tests are.
pub(crate) const GUEST_LINK: &str = "v0";

/// Ports where servers of the tests listen.
pub(crate) const PORTS: [u16; 6] = [53, 80, 8080, 9090, 15008, 15021];

fn ports() -> impl Strategy<Value = PortSet> {
    let range = (select(PORTS.to_vec()), 0..3_u16, 0..1200_u16).prop_map(|(port, below, above)| {
        let first = Port::new(port - below).unwrap();
        let last = Port::new(port.saturating_add(if above < 1000 { 0 } else { above })).unwrap();
        PortRange::new(first, last).unwrap()
    });
    let edge = select(vec![
        (1, 1),
        (1, 52),
        (65535, 65535),
        (60000, 65535),
        (1024, 2048),
    ])
    .prop_map(|(first, last)| {
        PortRange::new(Port::new(first).unwrap(), Port::new(last).unwrap()).unwrap()
    });
    prop::collection::vec(prop_oneof![4 => range, 1 => edge], 1..4)
        .prop_map(|ranges| ranges.into_iter().collect())
}

fn networks() -> impl Strategy<Value = NetworkSet> {
    let pool = [
        "10.77.0.0/24",
        "10.77.0.2",
        "10.88.0.0/16",
        "10.88.1.1",
        "10.64.0.0/10",
        "10.88.0.0/15",
        "0.0.0.0/0",
        "0.0.0.0/1",
        "192.0.2.0/31",
        "255.255.255.255",
        "fd77::/64",
        "fd77::2",
        "fd88::/16",
        "fc00::/7",
        "::/0",
        "8000::/1",
        "2001:db8::/33",
    ];
    subsequence(pool.to_vec(), 1..5).prop_map(|networks| {
        networks
            .into_iter()
            .map(|network| parse_network(network).unwrap())
            .collect()
    })
}

fn destinations() -> impl Strategy<Value = Destinations> {
    let pair = (networks(), ports()).prop_map(|(networks, ports)| NetworkPorts { networks, ports });
    (
        prop::option::of(ports()),
        prop::option::of(networks()),
        prop::collection::vec(pair, 0..3),
    )
        .prop_map(|(ports, networks, network_ports)| Destinations {
            ports: ports.unwrap_or_default(),
            networks: networks.unwrap_or_default(),
            network_ports,
        })
}

fn identities() -> impl Strategy<Value = Identities> {
    let range = |(first, last)| IdRange::new(first, last).unwrap();
    let users = [
        (0, 0),
        (1000, 1000),
        (1001, 1001),
        (70000, 80000),
        (900, 1000),
        (5, u32::MAX - 1),
    ];
    (
        subsequence(users.map(range).to_vec(), 0..3),
        subsequence([(0, 0), (1000, 1000), (4, 999)].map(range).to_vec(), 0..2),
        subsequence(vec![(0x7539, 0xffff), (7, u32::MAX)], 0..2),
    )
        .prop_map(|(users, groups, marks)| {
            let marks = marks
                .into_iter()
                .map(|(value, mask)| Mark::new(value, mask).unwrap());
            Identities::users(users).and_groups(groups).and_marks(marks)
        })
}

fn per_identity() -> impl Strategy<Value = Vec<IdentityPorts>> {
    let transport = select(vec![Transport::Tcp, Transport::Udp, Transport::TcpOrUdp]);
    let one = (identities(), transport, ports()).prop_map(|(identities, transport, ports)| {
        IdentityPorts {
            identities,
            transport,
            ports,
        }
    });
    prop::collection::vec(one, 0..3)
}

fn proxy() -> impl Strategy<Value = Identities> {
    (
        subsequence(vec![1337, 1338], 0..=2),
        subsequence(vec![1337], 0..=1),
        prop::option::of(Just((0x111, 0xfff))),
    )
        .prop_map(|(users, groups, mark)| {
            let mark = mark.map(|(value, mask)| Mark::new(value, mask).unwrap());
            Identities::users(users).and_groups(groups).and_marks(mark)
        })
}

fn inbound() -> impl Strategy<Value = Inbound> {
    let select = prop_oneof![
        Just(PortSelect::All),
        ports().prop_map(PortSelect::AllExcept),
        ports().prop_map(PortSelect::Only),
    ];
    let tunnel = prop::option::of(Just(Port::of::<15008>()));
    let mode = prop_oneof![
        3 => Just(InboundMode::Redirect),
        2 => Just(InboundMode::Tproxy(Tproxy::default())),
    ];
    (mode, select, tunnel, prop::option::of(networks())).prop_map(
        |(mode, ports, tunnel, sources)| Inbound {
            mode,
            ports,
            tunnel,
            excluded_sources: sources.unwrap_or_default(),
            ..Inbound::to(Port::of::<15006>())
        },
    )
}

fn outbound() -> impl Strategy<Value = Outbound> {
    let select = prop_oneof![
        Just(DestinationSelect::All),
        destinations().prop_map(DestinationSelect::AllExcept),
        destinations().prop_map(DestinationSelect::Only),
    ];
    let pool = vec!["10.77.0.1", "127.0.0.0/8", "fd77::1", "::1", "0.0.0.0/0"];
    let captured = subsequence(pool, 1..3).prop_map(|networks| {
        let networks = networks
            .into_iter()
            .map(|network| parse_network(network).unwrap());
        Loopback::Capture(networks.collect())
    });
    let loopback = prop_oneof![3 => Just(Loopback::Direct), 1 => captured];
    (select, loopback).prop_map(|(destinations, loopback)| Outbound {
        destinations,
        loopback,
        ..Outbound::to(Port::of::<15001>())
    })
}

fn dns() -> impl Strategy<Value = Dns> {
    let pool: Vec<IpAddr> = vec![
        Ipv4Addr::new(10, 77, 0, 2).into(),
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2).into(),
        Ipv4Addr::new(10, 88, 1, 1).into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let servers = prop_oneof![
        2 => Just(DnsServers::All),
        1 => Just(DnsServers::ResolvConf),
        2 => subsequence(pool, 1..4).prop_map(|list| DnsServers::List(list.into_iter().collect())),
    ];
    let forward = [
        "10.77.0.2:9090",
        "[fd77::2]:9090",
        "127.0.0.1:9090",
        "[::1]:9090",
        "10.88.1.1:53",
    ];
    let forward = forward.map(|text| DnsTarget::Forward(text.parse().unwrap()));
    let to = prop_oneof![
        3 => Just(DnsTarget::Port(Port::of::<15053>())),
        1 => select(forward.to_vec()),
    ];
    let tcp = select(vec![DnsTcp::Capture, DnsTcp::Ordinary]);
    let zones = select(vec![DnsZones::Split, DnsZones::Split, DnsZones::Shared]);
    (to, servers, tcp, zones).prop_map(|(to, servers, tcp, zones)| Dns {
        to,
        servers,
        tcp,
        zones,
    })
}

fn guests() -> impl Strategy<Value = Vec<VirtualInterface>> {
    let direct = prop::option::of(networks());
    let one = direct.prop_map(|direct| VirtualInterface {
        name: GUEST_LINK.parse().unwrap(),
        direct: direct.unwrap_or_default(),
    });
    prop_oneof![
        3 => Just(Vec::new()),
        2 => one.prop_map(|one| vec![one, VirtualInterface::new("zz9".parse().unwrap())]),
    ]
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let identities = prop_oneof![
        2 => Just(IdentitySelect::Everyone),
        1 => identities().prop_map(IdentitySelect::Except),
        1 => identities().prop_map(IdentitySelect::Only),
    ];
    let interfaces = subsequence(vec!["a0", "zz0", "zz1"], 0..=2);
    (
        (proxy(), identities, interfaces),
        (
            prop::option::weighted(0.8, inbound()),
            prop::option::weighted(0.8, outbound()),
            prop::option::weighted(0.7, dns()),
        ),
        select(vec![
            Ipv6::Redirect,
            Ipv6::Redirect,
            Ipv6::Block,
            Ipv6::Bypass,
        ]),
        select(vec![
            Guard::Reject,
            Guard::Reject,
            Guard::Reject,
            Guard::Off,
            Guard::Off,
            Guard::Drop,
        ]),
        (
            select(vec![Existing::Keep, Existing::Keep, Existing::Break]),
            select(vec![DropInvalid::No, DropInvalid::Yes]),
            per_identity(),
            guests(),
        ),
    )
        .prop_filter_map(
            "invalid",
            |(who, (inbound, outbound, dns), ipv6, guard, more)| {
                let (existing, drop_invalid, per_identity, guests) = more;
                let (proxy, identities, interfaces) = who;
                let interfaces: BTreeSet<InterfaceName> = interfaces
                    .iter()
                    .map(|name| name.parse().unwrap())
                    .collect();
                Policy::builder(proxy)
                    .identities(identities)
                    .inbound(inbound)
                    .outbound(outbound)
                    .dns(dns)
                    .ipv6(ipv6)
                    .guard(guard)
                    .excluded_interfaces(interfaces)
                    .existing(existing)
                    .drop_invalid(drop_invalid)
                    .per_identity(per_identity)
                    .virtual_interfaces(guests)
                    .build()
                    .ok()
            },
        )
}
