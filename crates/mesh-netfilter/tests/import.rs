//! An imported policy does to packets what the tool is documented to do.
//!
//! Each tool has a model here: its rules in their order, written down from its documented
//! semantics as a chain of questions about a packet. Random command lines and packets must come
//! out the same by the model and by the imported policy. Where the tool has a defect, the model is
//! the mended tool, and a comment says what was mended.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use mesh_netfilter::import::{istio_iptables, prepare_proxy};
use mesh_netfilter::{
    Content, Decision, Direction, Facts, Guard, InterfaceName, Owner, Packet, Plan, Policy, Port,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const PORTS: [u16; 9] = [22, 53, 80, 443, 8080, 9090, 15006, 15008, 15020];
/// Addresses of the workload itself, reached over loopback.
const OWN: [&str; 6] = [
    "10.1.0.2",
    "127.0.0.1",
    "127.0.0.2",
    "fd00:1::2",
    "::1",
    "127.1.2.3",
];
const OTHERS: [&str; 7] = [
    "10.1.0.9",
    "10.65.0.1",
    "192.168.7.7",
    "10.0.0.53",
    "fd00:2::9",
    "fd00::53",
    "203.0.113.5",
];
const RESOLV_CONF: &str = "nameserver 10.0.0.53\nnameserver fd00::53\n";

fn facts() -> Facts {
    Facts::default().resolv_conf(RESOLV_CONF)
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

// === Packets ===

fn any_packet() -> impl Strategy<Value = Packet> {
    prop_oneof![2 => sent(), 1 => arrived()]
}

fn content() -> impl Strategy<Value = Content> {
    select(vec![Content::TcpFirst, Content::TcpFirst, Content::Udp])
}

fn sent() -> impl Strategy<Value = Packet> {
    let owners = [
        (1000, 1000),
        (1337, 1337),
        (1338, 100),
        (1000, 2000),
        (500, 202),
    ];
    let destination = select([OWN.as_slice(), &OTHERS].concat());
    let source = select(vec!["own", "own", "own", "delivery"]);
    (
        content(),
        destination,
        select(&PORTS),
        select(owners.to_vec()),
        source,
    )
        .prop_map(|(content, destination, port, (user, group), source)| {
            let is_own = OWN.contains(&destination);
            let destination: IpAddr = destination.parse().unwrap();
            let source = match (destination.is_ipv4(), source) {
                (true, "delivery") if is_own => "127.0.0.6",
                (false, "delivery") if is_own => "::6",
                (true, _) if destination.is_loopback() => "127.0.0.1",
                (false, _) if destination.is_loopback() => "::1",
                (true, _) => "10.1.0.2",
                (false, _) => "fd00:1::2",
            };
            Packet::outgoing(
                content,
                SocketAddr::new(source.parse().unwrap(), 40_000),
                SocketAddr::new(destination, port),
                interface(if is_own { "lo" } else { "eth0" }),
                Owner { user, group },
            )
        })
}

fn arrived() -> impl Strategy<Value = Packet> {
    let destination = select(vec!["10.1.0.2", "fd00:1::2"]);
    let name = select(vec!["eth0", "eth1"]);
    (content(), destination, select(&PORTS), name).prop_map(|(content, destination, port, name)| {
        let destination: IpAddr = destination.parse().unwrap();
        let source = if destination.is_ipv4() {
            "10.9.9.9"
        } else {
            "fd00:9::9"
        };
        Packet::incoming(
            content,
            SocketAddr::new(source.parse().unwrap(), 40_000),
            SocketAddr::new(destination, port),
            interface(name),
        )
    })
}

fn interface(name: &str) -> InterfaceName {
    name.parse().unwrap()
}

fn is_tcp(packet: &Packet) -> bool {
    packet.content == Content::TcpFirst
}

fn is_on_loopback(packet: &Packet) -> bool {
    packet.interface == InterfaceName::loopback()
}

fn is_delivery(packet: &Packet) -> bool {
    ["127.0.0.6", "::6"]
        .map(|text| text.parse().unwrap())
        .contains(&packet.source.ip())
}

fn within(networks: &[&str], address: IpAddr) -> bool {
    networks
        .iter()
        .any(|network| network.parse::<IpNet>().unwrap().contains(&address))
}

/// The tools have no guard, which refuses also who calls the proxy's own ports from outside.
fn decided(policy: &Policy, packet: &Packet) -> Option<u16> {
    let policy = policy.to_builder().guard(Guard::Off).build().unwrap();
    match Plan::compile(&policy, &facts()).evaluate(packet).decision {
        Decision::Pass => None,
        Decision::Redirect(port) => Some(port.get()),
        other => panic!("{other:?}"),
    }
}

// === prepare_proxy.sh ===

/// The script's rules. Mended: IPv6 is treated like IPv4; what the proxy hands to the application
/// from 127.0.0.6 or `::6` is not taken again; to the proxy all of 127.0.0.0/8 is loopback. With
/// networks, a call of the application to an own address beyond them stays in the workload.
fn script(port: u16, user: u32, networks: &[&str], packet: &Packet) -> Option<u16> {
    if !is_tcp(packet) {
        return None;
    }
    if packet.direction == Direction::In {
        return Some(port);
    }
    let address = packet.destination.ip();
    let is_proxy = packet.owner.is_some_and(|owner| owner.user == user);
    let is_localhost = address == IpAddr::from(Ipv4Addr::LOCALHOST)
        || (address.is_loopback() && (is_proxy || address.is_ipv6()));
    if is_delivery(packet) {
        return None;
    }
    if is_on_loopback(packet) && !is_localhost && (is_proxy || networks.is_empty()) {
        return Some(port);
    }
    if is_proxy || is_localhost {
        return None;
    }
    (networks.is_empty() || within(networks, address)).then_some(port)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_policy_of_the_script_does_what_the_script_did(
        networks in subsequence(vec!["10.0.0.0/9", "192.168.0.0/16", "fd00:2::/32"], 0..=3),
        packet in any_packet(),
    ) {
        let list = networks.join(",");
        let mut line = vec!["-p", "15001", "-u", "1337"];
        if !networks.is_empty() {
            line.extend(["-i", &list]);
        }
        let imported = prepare_proxy(&line).unwrap();
        let policy = imported.policy().unwrap();
        prop_assert_eq!(
            decided(policy, &packet),
            script(15001, 1337, &networks, &packet),
            "{:?} {:?}", line, packet
        );
    }
}

// === istio-iptables ===

/// What a random command line says.
#[derive(Clone, Debug)]
struct Line {
    users: Vec<u32>,
    groups: Vec<u32>,
    inbound: Option<Vec<u16>>,
    excluded_inbound: Vec<u16>,
    outbound: Option<Vec<&'static str>>,
    outbound_ports: Vec<u16>,
    excluded_networks: Vec<&'static str>,
    excluded_ports: Vec<u16>,
    owner_groups: Option<Vec<u32>>,
    excluded_groups: Vec<u32>,
    excluded_interfaces: Vec<&'static str>,
    dns: Option<&'static str>,
}

fn ports(most: usize) -> impl Strategy<Value = Vec<u16>> {
    subsequence(PORTS.to_vec(), 0..=most)
}

fn line() -> impl Strategy<Value = Line> {
    let included = [
        "10.0.0.0/9",
        "192.168.7.0/24",
        "fd00:2::/32",
        "127.1.0.0/16",
    ];
    let excluded = ["10.64.0.0/10", "192.168.0.0/16", "fd00::/24"];
    let who = (
        subsequence(vec![1337, 1338], 1..=2),
        subsequence(vec![2000, 100], 0..=1),
        proptest::option::of(subsequence(vec![202, 1000], 1..=2)),
        subsequence(vec![202, 1000], 0..=1),
    );
    let inbound = (proptest::option::of(ports(3)), ports(2));
    let outbound = (
        proptest::option::of(subsequence(included.to_vec(), 0..=3)),
        ports(2),
        subsequence(excluded.to_vec(), 0..=2),
        ports(2),
    );
    let rest = (
        subsequence(vec!["eth1"], 0..=1),
        proptest::option::of(select(vec!["all", "servers"])),
    );
    (who, inbound, outbound, rest).prop_map(|(who, inbound, outbound, rest)| Line {
        users: who.0,
        groups: who.1,
        owner_groups: who.2,
        excluded_groups: who.3,
        inbound: inbound.0,
        excluded_inbound: inbound.1,
        outbound: outbound.0,
        outbound_ports: outbound.1,
        excluded_networks: outbound.2,
        excluded_ports: outbound.3,
        excluded_interfaces: rest.0,
        dns: rest.1,
    })
}

fn list<T: ToString>(values: &[T]) -> String {
    values
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

impl Line {
    fn arguments(&self) -> Vec<String> {
        let all = |values: Option<String>| values.unwrap_or_else(|| "*".to_owned());
        let mut line = vec![
            "-u".to_owned(),
            list(&self.users),
            format!(
                "--istio-inbound-ports={}",
                all(self.inbound.as_deref().map(list))
            ),
            format!("-d={}", list(&self.excluded_inbound)),
            format!("-i={}", all(self.outbound.as_deref().map(list))),
            "-q".to_owned(),
            list(&self.outbound_ports),
            format!("-x{}", list(&self.excluded_networks)),
            format!(
                "--istio-local-outbound-ports-exclude={}",
                list(&self.excluded_ports)
            ),
            format!("-c={}", list(&self.excluded_interfaces)),
        ];
        // An empty value directly behind its letter takes the next word.
        line.retain(|word| word != "-x");
        if !self.groups.is_empty() {
            line.extend(["-g".to_owned(), list(&self.groups)]);
        }
        match self.dns {
            Some("all") => line.extend(
                words("--redirect-dns --capture-all-dns")
                    .iter()
                    .map(ToString::to_string),
            ),
            Some(_) => line.push("--redirect-dns=true".to_owned()),
            None => {}
        }
        line
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![(
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
            list(&self.excluded_groups),
        )];
        if let Some(groups) = &self.owner_groups {
            environment.push(("ISTIO_OUTBOUND_OWNER_GROUPS", list(groups)));
        }
        environment
    }

    fn is_proxy(&self, packet: &Packet) -> bool {
        // The tool's groups of the proxy are its users unless they are said. Mended: users and
        // groups, however many, are one set.
        let groups = if self.groups.is_empty() {
            &self.users
        } else {
            &self.groups
        };
        packet
            .owner
            .is_some_and(|owner| self.users.contains(&owner.user) || groups.contains(&owner.group))
    }

    fn captures_inbound(&self, port: u16) -> bool {
        port != 15008
            && match &self.inbound {
                None => !self.excluded_inbound.contains(&port),
                Some(only) => only.contains(&port),
            }
    }

    fn captures_queries(&self) -> bool {
        self.dns.is_some() && !self.excluded_ports.contains(&53)
    }

    fn is_excluded_owner(&self, packet: &Packet) -> bool {
        let group = packet.owner.map(|owner| owner.group);
        match &self.owner_groups {
            Some(only) => !group.is_some_and(|group| only.contains(&group)),
            None => group.is_some_and(|group| self.excluded_groups.contains(&group)),
        }
    }

    /// The tool's rules in their order.
    fn model(&self, packet: &Packet) -> Option<u16> {
        let port = packet.destination.port();
        let address = packet.destination.ip();
        if self
            .excluded_interfaces
            .contains(&packet.interface.as_str())
        {
            return None;
        }
        if packet.direction == Direction::In {
            return (is_tcp(packet) && self.captures_inbound(port)).then_some(15006);
        }
        let is_dns = port == 53 && self.captures_queries();
        let is_local = is_on_loopback(packet);
        // Mended: where no inbound is captured, the proxy delivers nothing.
        if is_local && is_delivery(packet) && self.inbound != Some(Vec::new()) {
            return None;
        }
        // Mended: a call of the proxy to its own workload is judged by the ports of inbound, and
        // all of 127.0.0.0/8 is loopback to it.
        let is_self_call = is_local && !address.is_loopback() && is_tcp(packet) && !is_dns;
        if self.is_proxy(packet) {
            return (is_self_call && self.captures_inbound(port)).then_some(15006);
        }
        if self.excluded_ports.contains(&port) {
            return None;
        }
        let includes_loopback = self
            .outbound
            .iter()
            .flatten()
            .any(|network| network.parse::<IpNet>().unwrap().addr().is_loopback());
        if is_local && !includes_loopback && !is_dns {
            return None;
        }
        if self.is_excluded_owner(packet) {
            return None;
        }
        let is_server = ["10.0.0.53", "fd00::53"]
            .map(|text| text.parse().unwrap())
            .contains(&address);
        if is_dns && (self.dns == Some("all") || is_server) {
            return Some(15053);
        }
        // Mended: a query of the application to itself that is not captured stays with it.
        if is_local && !includes_loopback {
            return None;
        }
        let is_localhost =
            [IpAddr::from(Ipv4Addr::LOCALHOST), "::1".parse().unwrap()].contains(&address);
        if is_localhost || within(&self.excluded_networks, address) || !is_tcp(packet) {
            return None;
        }
        let is_included = match &self.outbound {
            None => true,
            Some(networks) => within(networks, address) || self.outbound_ports.contains(&port),
        };
        is_included.then_some(15001)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_policy_of_istio_iptables_does_what_istio_iptables_does(
        line in line(),
        packets in proptest::collection::vec(any_packet(), 8),
    ) {
        let arguments = line.arguments();
        let imported = match istio_iptables(&arguments, line.environment()) {
            Ok(imported) => imported,
            // A line that captures nothing makes no policy.
            Err(problems) => {
                let captures = packets.iter().any(|packet| line.model(packet).is_some());
                prop_assert!(!captures, "{arguments:?}: {problems}");
                return Ok(());
            }
        };
        let policy = imported.policy().unwrap();
        for packet in packets {
            // Mended: whoever is both the proxy's user and in an excluded group is excluded.
            if line.is_proxy(&packet) && line.is_excluded_owner(&packet) {
                continue;
            }
            prop_assert_eq!(
                decided(policy, &packet),
                line.model(&packet),
                "{:?} {:?} {:?}", arguments, line.environment(), packet
            );
        }
    }
}

#[test]
fn guests_behind_an_interface_are_outbound_traffic() {
    let line = words("-b * -i 10.0.0.0/9 -k docker0");
    let imported = istio_iptables(&line, [("", ""); 0]).unwrap();
    let packet = |destination: &str, name| {
        Packet::incoming(
            Content::TcpFirst,
            "172.17.0.2:40000".parse().unwrap(),
            destination.parse().unwrap(),
            interface(name),
        )
    };
    let decided =
        |destination, name| decided(imported.policy().unwrap(), &packet(destination, name));
    assert_eq!(decided("10.1.2.3:80", "docker0"), Some(15001));
    assert_eq!(decided("203.0.113.5:80", "docker0"), None);
    assert_eq!(decided("10.1.0.2:80", "eth0"), Some(15006));
}

#[test]
fn a_second_user_of_the_proxy_goes_through_the_inbound_listener_too() {
    let imported = istio_iptables(&words("-b * -i * -u 1337,1338"), [("", ""); 0]).unwrap();
    for user in [1337, 1338] {
        let packet = Packet::outgoing(
            Content::TcpFirst,
            "10.1.0.2:40000".parse().unwrap(),
            "10.1.0.2:8080".parse().unwrap(),
            InterfaceName::loopback(),
            Owner { user, group: 0 },
        );
        let trace = Plan::compile(imported.policy().unwrap(), &facts()).evaluate(&packet);
        assert_eq!(
            trace.decision,
            Decision::Redirect(Port::of::<15006>()),
            "{user}"
        );
    }
}
