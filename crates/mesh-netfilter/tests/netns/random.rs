//! Random policies: what the kernel reads back is what was planned, and what it does with packets
//! is what the evaluator says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use mesh_netfilter::{
    Applied, Backend, Decision, DestinationSelect, Destinations, Drain, Facts, HostNetwork,
    InstanceName, NetworkSet, Outbound, Owner, Packet, Plan, Policy, Port, Removed, RuleState,
    Trace,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::arbitrary::{PORTS, policy};
use crate::traffic::{Attempt, From, Over, Servers};
use crate::world::{
    APP, APP_V4, APP_V6, FAR_V4, FAR_V6, Namespace, PEER_V4, PEER_V6, PROXY, PROXY_2, PROXY_GROUP,
    ROOT, World, compile, for_each_backend,
};

fn config(cases: u32) -> Config {
    Config {
        cases,
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    }
}

// === Packets ===

fn attempt() -> impl Strategy<Value = Attempt> {
    let who = select(vec![ROOT, APP, PROXY, PROXY_2, PROXY_GROUP]);
    let remote: Vec<IpAddr> = vec![PEER_V4.into(), PEER_V6.into(), FAR_V4.into(), FAR_V6.into()];
    let own: Vec<IpAddr> = vec![
        APP_V4.into(),
        APP_V6.into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let port = || select(PORTS.to_vec());
    let tcp = |from, to, port| Attempt::tcp(from, SocketAddr::new(to, port));
    let udp = |from, to, port| Attempt::udp(from, SocketAddr::new(to, port));
    let app = |who: Owner| From::App(who);
    let delivery = (
        who.clone(),
        select(vec![APP_V4.into(), APP_V6.into()]),
        port(),
    )
        .prop_map(move |(who, to, port): (Owner, IpAddr, u16)| {
            let source: IpAddr = match to {
                IpAddr::V4(_) => Ipv4Addr::new(127, 0, 0, 6).into(),
                IpAddr::V6(_) => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
            };
            tcp(app(who), to, port).bound(source)
        });
    let all: Vec<IpAddr> = remote.iter().chain(&own).copied().collect();
    let beyond = all.iter().copied().filter(|to| !to.is_loopback());
    let beyond: Vec<IpAddr> = beyond.collect();
    prop_oneof![
        3 => (who.clone(), select(remote), port())
            .prop_map(move |(who, to, port)| tcp(app(who), to, port)),
        2 => (who.clone(), select(own), port())
            .prop_map(move |(who, to, port)| tcp(app(who), to, port)),
        1 => delivery,
        2 => (who, select(all), select(vec![53, 9090]))
            .prop_map(move |(who, to, port)| udp(app(who), to, port)),
        2 => (select(vec![APP_V4.into(), APP_V6.into()]), port())
            .prop_map(move |(to, port)| tcp(From::Peer, to, port)),
        1 => (select(beyond.clone()), port())
            .prop_map(move |(to, port)| tcp(From::Guest, to, port)),
        1 => (select(beyond), select(vec![53, 9090]))
            .prop_map(move |(to, port)| udp(From::Guest, to, port)),
    ]
}

/// What is known about the machine of the tests.
fn facts() -> impl Strategy<Value = Facts> {
    select(vec![
        "",
        "nameserver 10.77.0.2",
        "nameserver 10.88.1.1\nnameserver fd77::2",
        "nameserver 127.0.0.1",
    ])
    .prop_map(|text| Facts::default().resolv_conf(text))
}

// === Properties ===

#[test]
fn what_the_kernel_reads_back_is_what_was_planned() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let mut runner = TestRunner::new(config(150));
    let result = runner.run(&policy(), |policy| {
        // What a case that failed has left.
        engine.remove(policy.instance(), Drain::Off).unwrap();
        let plan = Plan::compile(&policy, &Facts::default());
        prop_assert_eq!(
            engine.apply(&plan, HostNetwork::Refuse).unwrap(),
            Applied::Created
        );
        prop_assert_eq!(engine.verify(&plan).unwrap().drifts, vec![]);
        prop_assert_eq!(
            engine.apply(&plan, HostNetwork::Refuse).unwrap(),
            Applied::Unchanged
        );
        let installed = engine.installed(plan.instance()).unwrap().unwrap();
        prop_assert!(installed.is_intact());
        let by_netlink = namespace.ruleset();
        // The same by text: `nft` replaces the tables, and its code is the same to the last bit.
        namespace.nft(&plan.to_nft());
        prop_assert_eq!(engine.verify(&plan).unwrap().drifts, vec![], "by text");
        prop_assert_eq!(namespace.ruleset(), by_netlink);
        prop_assert_eq!(
            engine.remove(plan.instance(), Drain::Off).unwrap(),
            Removed::Removed
        );
        prop_assert_eq!(namespace.ruleset(), "");
        Ok(())
    });
    result.unwrap();
}

/// Makes each attempt, and compares with what the evaluator says of it.
fn agree(
    world: &World,
    attempts: &[Attempt],
    evaluate: impl Fn(&Packet) -> Trace,
) -> Result<(), TestCaseError> {
    for attempt in attempts {
        // A flow that was translated before keeps its translation for a while; only new ones are
        // judged anew.
        if attempt.over == Over::Udp {
            world.app.exec("conntrack", &["-F"]);
        }
        let trace = evaluate(&attempt.packet());
        let expected = attempt.expected(trace.decision);
        prop_assert_eq!(attempt.make(world), expected, "{:?}:\n{}", attempt, trace);
    }
    Ok(())
}

fn the_kernel_agrees(backend: Backend, cases: u32) {
    let world = World::with_guest();
    let _servers = Servers::start(&world);
    let engine = world.app.engine_of(backend);
    let mut runner = TestRunner::new(config(cases));
    let strategy = (policy(), facts(), prop::collection::vec(attempt(), 12));
    runner
        .run(&strategy, |(policy, facts, mut attempts)| {
            engine.remove(policy.instance(), Drain::Off).unwrap();
            let plan = Plan::compile(&policy, &facts);
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
            // Nobody answers to ::6, which only a delivery within the namespace may use.
            attempts.retain(|attempt| {
                let decision = plan.evaluate(&attempt.packet()).decision;
                attempt.source.is_none() || !matches!(decision, Decision::Forward(_))
            });
            agree(&world, &attempts, |packet| plan.evaluate(packet))?;
            prop_assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
            if backend == Backend::Netlink {
                world.app.nft("delete table inet mesh_mesh");
                agree(&world, &attempts, |packet| plan.evaluate_guard(packet))?;
            }
            engine.remove(plan.instance(), Drain::Off).unwrap();
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_kernel_does_with_packets_what_the_evaluator_says() {
    for_each_backend(|backend| the_kernel_agrees(backend, 25));
}

/// The sidecar's policy, but for these destinations.
fn excluding(networks: NetworkSet) -> Plan {
    let destinations = Destinations {
        networks,
        ..Destinations::default()
    };
    let select = DestinationSelect::AllExcept(destinations);
    let outbound = Outbound::to(Port::of::<15001>()).destinations(select);
    let policy = Policy::sidecar().to_builder().outbound(outbound);
    compile(&policy.build().unwrap())
}

/// Rules with their handles, but for the one that tells the plan.
fn handles(namespace: &Namespace) -> Vec<String> {
    let text = namespace.exec("nft", &["-a", "list", "ruleset"]);
    let rules = text.lines().filter(|line| line.contains(" counter "));
    rules.map(str::to_owned).collect()
}

#[test]
fn a_change_of_lists_touches_elements_only() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let mut runner = TestRunner::new(config(60));
    let networks = || {
        prop::collection::btree_set((0..40_u32, 20..=32_u8), 1..30).prop_map(|networks| {
            let network = |(number, length): (u32, u8)| {
                let address = Ipv4Addr::from_bits(0x0a00_0000_u32 | (number << 10));
                IpNet::new(address.into(), length).unwrap().trunc()
            };
            networks.into_iter().map(network).collect::<NetworkSet>()
        })
    };
    let strategy = (networks(), networks(), networks());
    runner
        .run(&strategy, |(first, second, third)| {
            engine.remove(&InstanceName::default(), Drain::Off).unwrap();
            let plan = excluding(first.clone());
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
            let rules = handles(&namespace);
            let mut before = first.clone();
            for networks in [second, third, first] {
                let plan = excluding(networks.clone());
                let applied = engine.apply(&plan, HostNetwork::Refuse).unwrap();
                let expected = if networks == before {
                    Applied::Unchanged
                } else {
                    Applied::Updated
                };
                prop_assert_eq!(applied, expected);
                prop_assert_eq!(engine.verify(&plan).unwrap().drifts, vec![]);
                prop_assert_eq!(&handles(&namespace), &rules);
                before = networks;
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn ten_thousand_networks_are_one_transaction() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = |count: u32| {
        let network = |number: u32| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 | (number << 9));
            IpNet::new(address.into(), 24).unwrap()
        };
        excluding((0..count).map(network).collect())
    };
    let (many, more) = (plan(10_000), plan(10_001));
    let apply = |plan: &Plan| engine.apply(plan, HostNetwork::Refuse).unwrap();
    assert_eq!(apply(&many), Applied::Created);
    assert_eq!(engine.verify(&many).unwrap().drifts, vec![]);
    assert_eq!(apply(&many), Applied::Unchanged);
    assert_eq!(apply(&more), Applied::Updated);
    assert_eq!(engine.verify(&more).unwrap().drifts, vec![]);
}
