//! Status, differences, hazards: what is told about rules without touching them.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use mesh_netfilter::{
    Backend, Engine, Facts, Family, Hazard, HostNetwork, Note, Plan, Policy, Port, RuleState, Side,
};

use crate::backends::IPTABLES;
use crate::traffic::{Attempt, From, Servers, here};
use crate::world::{APP, Namespace, PEER_V4, ROOT, World};

fn sidecar() -> Plan {
    Plan::compile(&Policy::sidecar(), &Facts::default())
}

#[test]
fn each_rule_tells_why_it_is_there_and_how_much_it_decided() {
    for backend in Backend::ALL {
        let world = World::new();
        let _servers = Servers::start(&world);
        let engine = Engine::detect(&world.app.netns(), Some(backend)).unwrap();
        let plan = sidecar();
        assert!(engine.status(plan.instance()).unwrap().is_none());
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        assert_eq!(
            Attempt::tcp(From::App(APP), (PEER_V4, 80)).make(&world),
            here(15001)
        );
        let status = engine.status(plan.instance()).unwrap().unwrap();
        assert!(status.is_intact, "{backend}");
        assert_eq!(status.planned, Some(plan.fingerprint()), "{backend}");
        let outbound: u64 = status
            .rules
            .iter()
            .filter(|rule| {
                rule.text.contains("15001") && rule.why.as_deref() == Some("outbound connection")
            })
            .filter_map(|rule| rule.counter)
            .map(|counter| counter.packets)
            .sum();
        assert_eq!(outbound, 1, "{backend}: {:#?}", status.rules);
        assert_eq!(
            engine.list().unwrap(),
            [plan.instance().clone()],
            "{backend}"
        );
    }
}

#[test]
fn a_difference_is_shown_as_lines_of_both_sides() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = sidecar();
    let all = engine.diff(&plan).unwrap();
    assert!(
        all.changes
            .iter()
            .all(|change| change.side == Side::Planned)
    );
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    assert_eq!(engine.diff(&plan).unwrap().to_string(), "");
    namespace.nft("insert rule inet mesh_mesh nat_out ip saddr 10.0.0.0/8 tcp dport 22 accept");
    assert_eq!(
        engine.diff(&plan).unwrap().to_string(),
        "@ inet mesh_mesh nat_out\n- meta nfproto ipv4 ip saddr 10.0.0.0/8 meta l4proto tcp th dport 22 accept\n"
    );
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    namespace.nft("flush chain inet mesh_mesh nat_pre");
    let text = engine.diff(&plan).unwrap().to_string();
    assert!(
        text.contains("redirect to :15006 # inbound connection"),
        "{text}"
    );
    assert!(
        text.lines().skip(1).all(|line| line.starts_with("+ ")),
        "{text}"
    );
    for (backend, variant) in IPTABLES {
        let namespace = Namespace::new();
        let engine = Engine::detect(&namespace.netns(), Some(backend)).unwrap();
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        assert_eq!(engine.diff(&plan).unwrap().to_string(), "", "{backend}");
        namespace.exec(
            &format!("iptables-{variant}"),
            &["-t", "nat", "-D", "OUTPUT", "1"],
        );
        let diff = engine.diff(&plan).unwrap();
        let is_planned = |side: Side| side == Side::Planned;
        assert!(
            diff.changes.iter().all(|change| is_planned(change.side)),
            "{backend}: {diff}"
        );
        assert!(
            diff.to_string().contains("\n+ -j MESH_"),
            "{backend}: {diff}"
        );
    }
}

/// Listens where somebody has just listened: that socket lives on for a moment in whatever program
/// another test is about to start.
fn rebind(address: &str) -> TcpListener {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                assert!(began.elapsed() < Duration::from_secs(30), "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
            listener => return listener.unwrap(),
        }
    }
}

#[test]
fn what_keeps_traffic_from_the_proxy_is_a_hazard() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = sidecar();
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    let port = Port::of::<15006>();
    let report = engine.verify(&plan).unwrap();
    assert_eq!(report.state, RuleState::Intact);
    for family in [Family::V4, Family::V6] {
        assert!(
            report.hazards.contains(&Hazard::NoRoute { family }),
            "{:?}",
            report.hazards
        );
    }
    assert_eq!(report.notes, [Note::NobodyListens { port }]);
    let loopback = namespace.inside(ROOT, || TcpListener::bind("127.0.0.1:15006").unwrap());
    let report = engine.verify(&plan).unwrap();
    let v4 = Hazard::LoopbackOnly {
        port,
        family: Family::V4,
    };
    assert!(report.hazards.contains(&v4), "{:?}", report.hazards);
    assert_eq!(report.notes, []);
    drop(loopback);
    let _wildcard = namespace.inside(ROOT, || rebind("[::]:15006"));
    namespace.ip("link add d0 type veth peer name d1");
    namespace.ip("link set d0 up");
    namespace.ip("link set d1 up");
    namespace.ip("addr add 10.9.0.1/24 dev d0");
    namespace.ip("route add default via 10.9.0.2");
    let report = engine.verify(&plan).unwrap();
    let family = Family::V6;
    assert_eq!(report.hazards, [Hazard::NoRoute { family }]);
    assert_eq!(report.notes, []);
}
