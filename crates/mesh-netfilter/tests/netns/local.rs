//! What rules depend on besides themselves: set, seen, mended, and taken away.

use mesh_netfilter::{
    Applied, Backend, Drain, Drift, Engine, Facts, HostNetwork, Inbound, InboundMode, InstanceName,
    Plan, Policy, Port, RuleState, Tproxy,
};

use crate::world::Namespace;

fn state(namespace: &Namespace) -> String {
    [
        "address show",
        "route show table all",
        "rule show",
        "-6 rule show",
    ]
    .map(|list| namespace.ip(list))
    .join("\n")
}

#[test]
fn the_delivery_address_comes_with_the_rules_and_goes_with_them() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let before = state(&namespace);
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    for _ in 0..2 {
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        assert_eq!(
            namespace
                .ip("-6 address show dev lo")
                .matches("::6/128")
                .count(),
            1
        );
    }
    assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
    engine.remove(plan.instance(), Drain::Off).unwrap();
    assert_eq!(state(&namespace), before);
}

#[test]
fn what_was_there_before_stays() {
    let namespace = Namespace::new();
    namespace.ip("-6 address add ::6/128 dev lo nodad");
    let engine = namespace.engine();
    let before = state(&namespace);
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    assert_eq!(state(&namespace), before);
    engine.remove(plan.instance(), Drain::Off).unwrap();
    assert_eq!(state(&namespace), before);
}

#[test]
fn what_is_missing_is_named_and_mended() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    namespace.ip("-6 address del ::6/128 dev lo");
    let report = engine.verify(&plan).unwrap();
    assert_eq!(report.state, RuleState::Drifted);
    let is_named =
        |drift: &Drift| matches!(drift, Drift::LocalMissing { what } if what.contains("::6/128"));
    assert!(report.drifts.iter().any(is_named), "{:?}", report.drifts);
    let diff = engine.diff(&plan).unwrap().to_string();
    assert_eq!(diff, "+ ip address ::6/128 dev lo\n");
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
    assert!(engine.diff(&plan).unwrap().is_empty());
}

#[test]
fn the_last_instance_takes_what_all_depended_on() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let before = state(&namespace);
    let blue = Policy::sidecar()
        .to_builder()
        .instance("blue".parse().unwrap())
        .build();
    let (one, two) = (
        Plan::compile(&Policy::sidecar(), &Facts::default()),
        Plan::compile(&blue.unwrap(), &Facts::default()),
    );
    engine.apply(&one, HostNetwork::Refuse).unwrap();
    assert_eq!(
        engine.apply(&two, HostNetwork::Refuse).unwrap(),
        Applied::Created
    );
    let names: Vec<String> = engine
        .list()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["blue", "mesh"]);
    engine.remove(one.instance(), Drain::Off).unwrap();
    assert_eq!(engine.verify(&two).unwrap().state, RuleState::Intact);
    engine.remove(two.instance(), Drain::Off).unwrap();
    assert_eq!(state(&namespace), before);
    assert_eq!(engine.list().unwrap(), Vec::<InstanceName>::new());
}

#[test]
fn tproxy_brings_rules_and_routes_and_each_instance_takes_its_own() {
    for backend in Backend::ALL {
        let namespace = Namespace::new();
        let engine = Engine::detect(&namespace.netns(), Some(backend)).unwrap();
        let before = state(&namespace);
        let tproxy = |name: &str, table| {
            let mode = InboundMode::Tproxy(Tproxy {
                mark: 1000 + table,
                table,
                priority: 100 + table,
            });
            let inbound = Inbound::to(Port::of::<15006>()).mode(mode);
            let policy = Policy::sidecar().to_builder().inbound(inbound);
            let policy = policy.instance(name.parse().unwrap()).build().unwrap();
            Plan::compile(&policy, &Facts::default())
        };
        let (one, two) = (tproxy("one", 133), tproxy("two", 134));
        for plan in [&one, &two] {
            for _ in 0..2 {
                engine.apply(plan, HostNetwork::Refuse).unwrap();
            }
            assert_eq!(engine.verify(plan).unwrap().drifts, [], "{backend}");
        }
        let rules = |list: &str| namespace.ip(list).matches("lookup 13").count();
        assert_eq!(
            (rules("-4 rule show"), rules("-6 rule show")),
            (2, 2),
            "{backend}"
        );
        namespace.ip("-4 route del local default dev lo table 134");
        let named = engine.verify(&two).unwrap().drifts;
        assert!(
            named
                .iter()
                .any(|drift| drift.to_string().contains("table 134")),
            "{named:?}"
        );
        engine.apply(&two, HostNetwork::Refuse).unwrap();
        engine.remove(one.instance(), Drain::Off).unwrap();
        assert_eq!(
            (rules("-4 rule show"), rules("-6 rule show")),
            (1, 1),
            "{backend}"
        );
        assert_eq!(engine.verify(&two).unwrap().drifts, [], "{backend}");
        engine.remove(two.instance(), Drain::Off).unwrap();
        assert_eq!(state(&namespace), before, "{backend}");
    }
}

#[test]
fn without_ipv6_there_is_no_address_of_it_and_none_is_missed() {
    let namespace = Namespace::new();
    namespace.exec("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let engine = namespace.engine();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
    // As soon as there is IPv6, it is missed.
    namespace.exec("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=0"]);
    assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Drifted);
}
