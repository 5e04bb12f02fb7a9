//! What plans do with packets, without a kernel: promises that hold for every policy.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::{IpAddr, SocketAddr};

use mesh_netfilter::{
    Content, Decision, Direction, DnsTarget, Existing, Facts, Guard, InterfaceName, Ipv6, Owner,
    Packet, Plan, Policy, Port, Why,
};
use proptest::prelude::*;
use proptest::sample::select;

use self::arbitrary::{PORTS, policy};

#[path = "netns/arbitrary.rs"]
mod arbitrary;

fn packet() -> impl Strategy<Value = Packet> {
    let addresses = [
        "10.77.0.1",
        "10.77.0.2",
        "10.88.1.1",
        "127.0.0.1",
        "127.0.0.6",
        "192.0.2.1",
        "fd77::1",
        "fd77::2",
        "fd88::1",
        "::1",
        "::6",
        "2001:db8::1",
    ]
    .map(|text| text.parse::<IpAddr>().unwrap());
    let ports: Vec<u16> = PORTS
        .into_iter()
        .chain([1, 22, 15001, 15006, 15053, 65535])
        .collect();
    let ids = || select(vec![0, 4, 1000, 1001, 1337, 1338, 70000]);
    let owner = (ids(), ids()).prop_map(|(user, group)| Owner { user, group });
    (
        select(vec![Direction::Out, Direction::In, Direction::Through]),
        select(vec![
            Content::TcpFirst,
            Content::TcpLater,
            Content::TcpInvalid,
            Content::Udp,
            Content::UdpReply,
        ]),
        (select(addresses.to_vec()), select(addresses.to_vec())),
        (select(ports.clone()), select(ports)),
        select(vec!["lo", "a0", "eth0", "v0"]),
        prop::option::weighted(0.9, owner),
        select(vec![0, 7, 0x111, 0x539, 0xf539]),
    )
        .prop_filter_map("one family", |packet| {
            let (direction, content, (from, to), (from_port, to_port), interface, owner, mark) =
                packet;
            (from.is_ipv4() == to.is_ipv4()).then(|| Packet {
                direction,
                content,
                source: SocketAddr::new(from, from_port),
                destination: SocketAddr::new(to, to_port),
                interface: interface.parse().unwrap(),
                owner: owner.filter(|_| direction == Direction::Out),
                // What arrives bears no mark.
                mark: if direction == Direction::Out { mark } else { 0 },
                connection_mark: 0,
            })
        })
}

/// Whether what is captured of such packets is guarded: loopback was judged on its way out, and
/// what belongs to no connection is not captured. What passes through from elsewhere than guests
/// is on its way to an address that is not the application's.
fn is_guarded(policy: &Policy, packet: &Packet) -> bool {
    let guests = policy.virtual_interfaces().iter();
    let is_guest = guests
        .into_iter()
        .any(|guest| guest.name == packet.interface);
    let arrives = match packet.direction {
        Direction::Out => true,
        Direction::In => packet.interface != InterfaceName::loopback(),
        _ => is_guest,
    };
    arrives && packet.content != Content::TcpInvalid
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        max_global_rejects: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn traffic_of_the_proxy_that_leaves_the_namespace_is_never_touched(
        policy in policy(),
        packet in packet(),
    ) {
        let is_proxy = policy.proxy().include(packet.owner, packet.mark);
        let leaves = packet.direction == Direction::Out
            && packet.interface != InterfaceName::loopback();
        prop_assume!(is_proxy && leaves);
        let plan = Plan::compile(&policy, &Facts::default());
        prop_assert_eq!(plan.evaluate(&packet).decision, Decision::Pass);
        prop_assert_eq!(plan.evaluate_guard(&packet).decision, Decision::Pass);
    }

    #[test]
    fn the_guard_refuses_what_would_be_captured_and_nothing_else(
        policy in policy(),
        packet in packet(),
    ) {
        let plan = Plan::compile(&policy, &Facts::default());
        prop_assume!(is_guarded(&policy, &packet));
        let whole = plan.evaluate(&packet);
        let guard = plan.evaluate_guard(&packet).decision;
        let expected = match whole.decision {
            Decision::Pass => Decision::Pass,
            // What cannot be captured is the guard's.
            Decision::Refuse | Decision::Drop => whole.decision,
            _ if policy.guard() == Guard::Off => Decision::Pass,
            _ if policy.guard() == Guard::Drop => Decision::Drop,
            _ => Decision::Refuse,
        };
        prop_assert_eq!(guard, expected, "{:?}", whole);
    }

    #[test]
    fn open_connections_and_answers_are_never_touched(policy in policy(), packet in packet()) {
        let is_open = packet.content == Content::TcpLater && policy.existing() == Existing::Keep;
        prop_assume!(is_open || packet.content == Content::UdpReply);
        let plan = Plan::compile(&policy, &Facts::default());
        prop_assert_eq!(plan.evaluate(&packet).decision, Decision::Pass);
        prop_assert_eq!(plan.evaluate_guard(&packet).decision, Decision::Pass);
    }

    #[test]
    fn blocked_ipv6_is_refused_exactly_where_it_would_be_redirected(
        policy in policy(),
        packet in packet(),
    ) {
        prop_assume!(packet.destination.is_ipv6() && is_guarded(&policy, &packet));
        // One server answers one family, and the other's queries are refused where IPv6 is blocked.
        prop_assume!(!policy.dns().is_some_and(|dns| matches!(dns.to, DnsTarget::Forward(_))));
        let with = |ipv6| {
            let policy = policy.to_builder().ipv6(ipv6).guard(Guard::Off).build().unwrap();
            Plan::compile(&policy, &Facts::default()).evaluate(&packet).decision
        };
        let blocked = with(Ipv6::Block);
        match with(Ipv6::Redirect) {
            Decision::Redirect(_) | Decision::Tproxy(_) => {
                prop_assert_eq!(blocked, Decision::Refuse);
            }
            other => prop_assert_eq!(blocked, other),
        }
        prop_assert_eq!(with(Ipv6::Bypass), Decision::Pass);
    }

    #[test]
    fn a_policy_that_was_written_and_read_has_the_same_plan(policy in policy()) {
        let text = serde_json::to_string(&policy).unwrap();
        let read: Policy = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(Plan::compile(&read, &Facts::default()), Plan::compile(&policy, &Facts::default()));
    }
}

#[test]
fn a_trace_tells_each_rule_that_matched_and_why() {
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    let packet = Packet::outgoing(
        Content::Udp,
        "10.0.0.1:40000".parse().unwrap(),
        "10.0.0.2:53".parse().unwrap(),
        "eth0".parse().unwrap(),
        Owner {
            user: 1337,
            group: 1337,
        },
    );
    let trace = plan.evaluate(&packet);
    let steps: Vec<(&str, Why)> = trace.matched().map(|step| (step.chain, step.why)).collect();
    assert_eq!(trace.decision, Decision::Pass);
    assert_eq!(
        steps,
        [
            ("raw_out", Why::ProxyDns),
            ("raw_out", Why::ProxyDns),
            ("nat_out", Why::Proxy),
            ("guard_out", Why::Proxy),
        ]
    );
    let of_application = Packet {
        owner: Some(Owner {
            user: 1000,
            group: 1000,
        }),
        ..packet
    };
    let trace = plan.evaluate(&of_application);
    assert_eq!(trace.decision, Decision::Redirect(Port::of::<15053>()));
    let steps: Vec<(&str, Why)> = trace.matched().map(|step| (step.chain, step.why)).collect();
    assert_eq!(
        steps,
        [
            ("nat_out", Why::Dns),
            ("guard_out", Why::Captured),
            ("guard_in", Why::LoopbackArrival),
        ]
    );
    // Those that did not match are told too, with the condition that failed.
    let text = trace.to_string();
    for line in [
        "mesh_mesh raw_out 0: no, it is not `meta skuid 1337`",
        "mesh_mesh nat_out 0: no, it is not `oifname \"lo\"`",
        "mesh_mesh nat_out 8: yes, `redirect to :15053` (DNS query)",
        "the packet is redirected to port 15053: rule 8 of chain `nat_out` (DNS query)",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
