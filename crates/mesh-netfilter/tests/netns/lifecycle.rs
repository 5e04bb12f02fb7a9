//! Apply, apply again, change, remove; what others have stays as it is.

use std::io::Write as _;
use std::net::Ipv4Addr;

use mesh_netfilter::{
    Applied, DestinationSelect, Destinations, Drain, Drift, Engine, EngineError, Facts, Hazard,
    HostNetwork, InstanceName, Netns, NetworkSet, Outbound, Plan, Policy, Port, Removed, RuleState,
};

use crate::traffic::{Attempt, From, Servers, here, there};
use crate::world::{APP, Namespace, PEER_V6, World, run};

fn sidecar() -> Plan {
    Plan::compile(&Policy::sidecar(), &Facts::default())
}

/// A plan that differs from the sidecar's in something.
fn other() -> Plan {
    let policy = Policy::sidecar()
        .to_builder()
        .outbound(
            Outbound::to(Port::of::<15001>()).destinations(DestinationSelect::AllExcept(
                Destinations {
                    ports: [Port::of::<9090>()].into(),
                    ..Destinations::default()
                },
            )),
        )
        .guard(mesh_netfilter::Guard::Off)
        .build();
    Plan::compile(&policy.unwrap(), &Facts::default())
}

/// Rules of other people, with everything that a careless removal would take.
const FOREIGN: &str = "table inet mesh_other {
        set s { type inet_service; elements = { 1, 2 }; }
        chain nat_out { type nat hook output priority 5; tcp dport @s redirect to :2; }
    }
    table ip mesh { chain about { return; }; }
    table inet mesh_ { chain x { accept; }; }
    table inet mesh_mesh2 { chain x { accept; }; }
    table ip6 mesh_mesh { chain x { accept; }; }";

#[test]
fn applying_twice_touches_nothing() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    assert_eq!(
        engine.apply(&sidecar(), HostNetwork::Refuse).unwrap(),
        Applied::Created
    );
    // Handles are new for every rule that the kernel is given.
    let before = namespace.exec("nft", &["-a", "list", "ruleset"]);
    for _ in 0..10 {
        assert_eq!(
            engine.apply(&sidecar(), HostNetwork::Refuse).unwrap(),
            Applied::Unchanged
        );
    }
    assert_eq!(namespace.exec("nft", &["-a", "list", "ruleset"]), before);
}

#[test]
fn what_was_there_before_makes_no_difference() {
    let (first, second) = (Namespace::new(), Namespace::new());
    let (one, two) = (first.engine(), second.engine());
    assert_eq!(
        one.apply(&sidecar(), HostNetwork::Refuse).unwrap(),
        Applied::Created
    );
    assert_eq!(
        one.apply(&other(), HostNetwork::Refuse).unwrap(),
        Applied::Replaced
    );
    assert_eq!(
        two.apply(&other(), HostNetwork::Refuse).unwrap(),
        Applied::Created
    );
    assert_eq!(first.ruleset(), second.ruleset());
    assert_eq!(one.verify(&other()).unwrap().state, RuleState::Intact);
    let back = one.apply(&sidecar(), HostNetwork::Refuse).unwrap();
    assert_eq!(back, Applied::Replaced);
    assert_eq!(one.verify(&sidecar()).unwrap().state, RuleState::Intact);
}

#[test]
fn removing_leaves_the_namespace_as_it_was() {
    let namespace = Namespace::new();
    namespace.nft(FOREIGN);
    let before = namespace.ruleset();
    let engine = namespace.engine();
    for plan in [sidecar(), other()] {
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        assert_ne!(namespace.ruleset(), before);
        assert_eq!(
            engine.remove(&InstanceName::default(), Drain::Off).unwrap(),
            Removed::Removed
        );
        assert_eq!(namespace.ruleset(), before);
    }
    assert_eq!(
        engine.remove(&InstanceName::default(), Drain::Off).unwrap(),
        Removed::Absent
    );
}

#[test]
fn half_of_the_rules_is_removed_and_replaced_as_well_as_all() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    for table in ["mesh_mesh", "mesh_mesh.guard"] {
        engine.apply(&sidecar(), HostNetwork::Refuse).unwrap();
        namespace.nft(&format!("delete table inet {table}"));
        assert_eq!(
            engine.apply(&sidecar(), HostNetwork::Refuse).unwrap(),
            Applied::Replaced
        );
        namespace.nft(&format!("delete table inet {table}"));
        assert_eq!(
            engine.remove(&InstanceName::default(), Drain::Off).unwrap(),
            Removed::Removed
        );
        assert_eq!(namespace.ruleset(), "");
    }
}

#[test]
fn two_instances_do_not_know_each_other() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let blue = Policy::sidecar()
        .to_builder()
        .instance("blue".parse().unwrap())
        .build();
    let blue = Plan::compile(&blue.unwrap(), &Facts::default());
    assert_eq!(
        engine.apply(&blue, HostNetwork::Refuse).unwrap(),
        Applied::Created
    );
    let before = namespace.ruleset();
    assert_eq!(
        engine.apply(&sidecar(), HostNetwork::Refuse).unwrap(),
        Applied::Created
    );
    assert_eq!(engine.verify(&blue).unwrap().drifts, []);
    assert_eq!(
        engine.remove(sidecar().instance(), Drain::Off).unwrap(),
        Removed::Removed
    );
    assert_eq!(namespace.ruleset(), before);
}

#[test]
fn the_tables_tell_their_plan_to_whoever_knows_the_instance() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let instance = InstanceName::default();
    assert_eq!(engine.installed(&instance).unwrap(), None);
    engine.apply(&sidecar(), HostNetwork::Refuse).unwrap();
    let installed = engine.installed(&instance).unwrap().unwrap();
    assert!(installed.is_intact());
    assert_eq!(installed.planned, Some(sidecar().fingerprint()));
    namespace.nft("flush chain inet mesh_mesh nat_out");
    assert!(!engine.installed(&instance).unwrap().unwrap().is_intact());
}

#[test]
fn ten_thousand_networks_are_applied_and_read_back() {
    let world = World::new();
    let _servers = Servers::start(&world);
    let excluded: NetworkSet = (0..10_000_u32)
        .map(|number| {
            // Every other /24, so that nothing can be merged.
            let address = Ipv4Addr::from_bits(0x0b00_0000 + (number << 9));
            mesh_netfilter::parse_network(&format!("{address}/24")).unwrap()
        })
        .chain(
            ["fd99::/16", "10.88.0.0/16"].map(|text| mesh_netfilter::parse_network(text).unwrap()),
        )
        .collect();
    let policy = Policy::sidecar()
        .to_builder()
        .outbound(
            Outbound::to(Port::of::<15001>()).destinations(DestinationSelect::AllExcept(
                Destinations {
                    networks: excluded,
                    ..Destinations::default()
                },
            )),
        )
        .build();
    let plan = Plan::compile(&policy.unwrap(), &Facts::default());
    let engine = world.app.engine();
    assert_eq!(
        engine.apply(&plan, HostNetwork::Refuse).unwrap(),
        Applied::Created
    );
    assert_eq!(engine.verify(&plan).unwrap().drifts, []);
    assert_eq!(
        engine.apply(&plan, HostNetwork::Refuse).unwrap(),
        Applied::Unchanged
    );
    let far = Attempt::tcp(From::App(APP), (crate::world::FAR_V4, 80));
    assert_eq!(far.make(&world), there(80));
    let near = Attempt::tcp(From::App(APP), (PEER_V6, 80));
    assert_eq!(near.make(&world), here(15001));
}

#[test]
fn appliers_at_the_same_time_leave_one_whole_plan() {
    let namespace = Namespace::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let engine = namespace.engine();
            scope.spawn(move || {
                for round in 0..10 {
                    let plan = if (number + round) % 2 == 0 {
                        sidecar()
                    } else {
                        other()
                    };
                    // Somebody else may keep changing them; then nothing was touched.
                    match engine.apply(&plan, HostNetwork::Refuse) {
                        Ok(_) | Err(EngineError::Busy) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let engine = namespace.engine();
    let states = [sidecar(), other()].map(|plan| engine.verify(&plan).unwrap().state);
    assert!(states.contains(&RuleState::Intact), "{states:?}");
}

#[test]
fn the_host_s_own_namespace_is_refused() {
    let plan = sidecar();
    for netns in [
        Netns::Current,
        Netns::Path("/proc/self/ns/net".into()),
        Netns::Pid(std::process::id()),
    ] {
        let engine = Engine::netlink(&netns).unwrap();
        let error = engine.apply(&plan, HostNetwork::Refuse).unwrap_err();
        assert!(matches!(error, EngineError::HostNetwork { .. }), "{error}");
        assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Absent);
    }
}

#[test]
fn a_namespace_is_found_by_name_path_and_process() {
    let namespace = Namespace::new();
    let plan = sidecar();
    namespace
        .engine()
        .apply(&plan, HostNetwork::Refuse)
        .unwrap();
    let mut child = std::process::Command::new("ip")
        .args(["netns", "exec", &namespace.name, "sleep", "60"])
        .spawn()
        .unwrap();
    // `ip` enters the namespace and then becomes `sleep`.
    while run("ip", &["netns", "identify", &child.id().to_string()]).trim() != namespace.name {
        std::thread::yield_now();
    }
    for netns in [
        Netns::Path(format!("/run/netns/{}", namespace.name).into()),
        Netns::Pid(child.id()),
    ] {
        let engine = Engine::netlink(&netns).unwrap();
        assert_eq!(
            engine.verify(&plan).unwrap().state,
            RuleState::Intact,
            "{netns}"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_user_without_capabilities_is_told_so() {
    let namespace = Namespace::new();
    let error = namespace.inside(APP, || {
        let engine = Engine::netlink(&Netns::Current).unwrap();
        engine
            .apply(&sidecar(), HostNetwork::DangerouslyAllow)
            .unwrap_err()
    });
    assert!(error.is_not_permitted(), "{error:?}");
    assert!(error.hint().unwrap().contains("CAP_NET_ADMIN"));
}

#[test]
fn chains_that_may_defeat_the_rules_are_named() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    engine.apply(&sidecar(), HostNetwork::Refuse).unwrap();
    namespace.nft(
        "table ip early { chain out { type nat hook output priority -110; }; }
         table inet same { chain pre { type nat hook prerouting priority -105; }; }
         table ip6 late { chain out { type nat hook output priority -100; }; }
         table inet other { chain out { type filter hook output priority -200; }; }",
    );
    let report = engine.verify(&sidecar()).unwrap();
    assert_eq!(report.state, RuleState::Intact);
    let mut chains: Vec<String> = report
        .hazards
        .iter()
        .filter(|hazard| !matches!(hazard, Hazard::NoRoute { .. }))
        .map(|hazard| match hazard {
            Hazard::NatBefore {
                family,
                table,
                chain,
                priority,
            } => {
                format!("{family} {table} {chain} {priority}")
            }
            other => format!("{other:?}"),
        })
        .collect();
    chains.sort();
    assert_eq!(chains, ["inet same pre -105", "ip early out -110"]);
    let rule = "-w -t nat -A OUTPUT -p tcp --dport 1 -j ACCEPT";
    namespace.exec("iptables-legacy", &rule.split(' ').collect::<Vec<_>>());
    let report = engine.verify(&sidecar()).unwrap();
    assert!(
        report.hazards.contains(&Hazard::LegacyNat {
            family: "ip".to_owned()
        }),
        "{:?}",
        report.hazards
    );
}

#[test]
fn an_error_names_the_object_and_changes_nothing() {
    let namespace = Namespace::new();
    // A table that only its owner may change: the kernel refuses every message about it.
    let owner = std::process::Command::new("ip")
        .args(["netns", "exec", &namespace.name, "nft", "-i"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut owner = owner.unwrap();
    let stdin = owner.stdin.as_mut().unwrap();
    stdin
        .write_all(b"add table inet mesh_mesh { flags owner; }\n")
        .unwrap();
    let engine = namespace.engine();
    while engine
        .installed(&InstanceName::default())
        .unwrap()
        .is_none()
    {
        std::thread::yield_now();
    }
    let before = namespace.ruleset();
    let error = engine.apply(&sidecar(), HostNetwork::Refuse).unwrap_err();
    let EngineError::Rejected { rejections } = &error else {
        panic!("{error}");
    };
    assert!(
        rejections[0].object.contains("table `inet mesh_mesh`"),
        "{error}"
    );
    assert_eq!(namespace.ruleset(), before);
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

#[test]
fn a_plan_with_other_rules_is_drift() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    engine.apply(&other(), HostNetwork::Refuse).unwrap();
    let report = engine.verify(&sidecar()).unwrap();
    assert_eq!(report.state, RuleState::Drifted);
    let is_other = |drift: &Drift| matches!(drift, Drift::OtherPlan { .. });
    assert!(report.drifts.iter().any(is_other), "{:?}", report.drifts);
}
