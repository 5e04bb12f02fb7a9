//! Random policies: what the kernel reads back is what was planned, and what it does with packets
//! is what the evaluator says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_netfilter::{Applied, HostNetwork, Owner, Plan, Removed, RuleState};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use crate::arbitrary::{PORTS, policy};
use crate::traffic::{Attempt, From, Over, Servers};
use crate::world::{
    APP, APP_V4, APP_V6, FAR_V4, FAR_V6, Namespace, PEER_V4, PEER_V6, PROXY, PROXY_2, PROXY_GROUP,
    ROOT, World,
};

fn config(cases: u32) -> Config {
    Config {
        cases,
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
    ]
}

// === Properties ===

#[test]
fn what_the_kernel_reads_back_is_what_was_planned() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let mut runner = TestRunner::new(config(150));
    let result = runner.run(&policy(), |policy| {
        // What a case that failed has left.
        engine.remove(policy.instance()).unwrap();
        let plan = Plan::compile(&policy);
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
        prop_assert_eq!(engine.remove(plan.instance()).unwrap(), Removed::Removed);
        prop_assert_eq!(namespace.ruleset(), "");
        Ok(())
    });
    result.unwrap();
}

#[test]
fn the_kernel_does_with_packets_what_the_evaluator_says() {
    let world = World::new();
    let _servers = Servers::start(&world);
    let engine = world.app.engine();
    let mut runner = TestRunner::new(config(120));
    let strategy = (policy(), prop::collection::vec(attempt(), 12));
    runner
        .run(&strategy, |(policy, attempts)| {
            engine.remove(policy.instance()).unwrap();
            let plan = Plan::compile(&policy);
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
            for attempt in &attempts {
                let trace = plan.evaluate(&attempt.packet());
                let expected = attempt.expected(trace.decision);
                prop_assert_eq!(attempt.make(&world), expected, "{:?}: {:?}", attempt, trace);
            }
            prop_assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
            world.app.nft("delete table inet mesh_mesh");
            for attempt in &attempts {
                // A flow that was redirected before keeps its translation for a while; only new
                // ones are judged anew.
                if attempt.over == Over::Udp {
                    world.app.exec("conntrack", &["-F"]);
                }
                let trace = plan.evaluate_guard(&attempt.packet());
                let expected = attempt.expected(trace.decision);
                prop_assert_eq!(attempt.make(&world), expected, "{:?}: {:?}", attempt, trace);
            }
            engine.remove(plan.instance()).unwrap();
            Ok(())
        })
        .unwrap();
}
