//! Watching: whatever somebody does to the rules is noticed, attributed and mended in time.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mesh_netfilter::{
    Backend, Drain, Engine, Facts, HostNetwork, Mended, Plan, Policy, Repair, RuleState,
    WatchOptions,
};

use crate::backends::IPTABLES;
use crate::traffic::{Attempt, From, Reached, Servers, here, there};
use crate::world::{APP, Namespace, PEER_V4, World};

/// What a watcher said about one look.
#[derive(Debug)]
struct Said {
    state: RuleState,
    words: String,
    makers: Vec<String>,
    is_mended: bool,
}

/// Watches while `work` is done, with all that is said.
fn watching(
    namespace: &Namespace,
    backend: Backend,
    plan: &Plan,
    repair: Repair,
    work: impl FnOnce(&Receiver<Said>),
) {
    let engine = Engine::detect(&namespace.netns(), Some(backend)).unwrap();
    let options = WatchOptions {
        interval: Duration::from_millis(200),
        repair,
        ..WatchOptions::default()
    };
    let (said, saying) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let watched = engine.watch(plan, &options, |look| {
                let report = look.report.as_ref().unwrap();
                let words: Vec<String> = report.drifts.iter().map(ToString::to_string).collect();
                let sent = said.send(Said {
                    state: report.state,
                    words: words.join("; "),
                    makers: look.makers.iter().map(|maker| maker.name.clone()).collect(),
                    is_mended: matches!(look.repair, Some(Mended::Repaired)),
                });
                // Nobody listens any more: the test is over.
                if sent.is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            watched.unwrap();
        });
        work(&saying);
        drop(saying);
    });
}

/// Waits for a look that is as wanted.
fn until(saying: &Receiver<Said>, wanted: impl Fn(&Said) -> bool) -> Said {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let said = saying.recv_timeout(left).unwrap();
        if wanted(&said) {
            return said;
        }
    }
}

#[test]
fn every_kind_of_tampering_is_mended_within_a_second() {
    for tampering in [
        "nft delete chain",
        "swap",
        "accept",
        "flush table",
        "flush ruleset",
        "address",
        "guard",
    ] {
        let namespace = Namespace::new();
        let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
        namespace
            .engine()
            .apply(&plan, HostNetwork::Refuse)
            .unwrap();
        watching(&namespace, Backend::Netlink, &plan, Repair::On, |saying| {
            until(saying, |said| said.state == RuleState::Intact);
            let began = Instant::now();
            match tampering {
                "nft delete chain" => drop(namespace.nft("flush chain inet mesh_mesh nat_out")),
                "swap" => {
                    let text = plan.to_nft();
                    let mut lines: Vec<&str> = text.lines().collect();
                    let first = lines
                        .iter()
                        .position(|line| line.contains("excluded port"))
                        .unwrap();
                    lines.swap(first, first + 1);
                    namespace.nft(&lines.join("\n"));
                }
                "accept" => drop(namespace.nft("insert rule inet mesh_mesh nat_out accept")),
                "flush table" => drop(namespace.nft("flush table inet mesh_mesh")),
                "flush ruleset" => drop(namespace.nft("flush ruleset")),
                "address" => drop(namespace.ip("-6 address del ::6/128 dev lo")),
                _ => drop(namespace.nft("delete table inet mesh_mesh.guard")),
            }
            let said = until(saying, |said| said.is_mended);
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{tampering}: {:?}",
                began.elapsed()
            );
            assert_ne!(said.words, "", "{tampering}");
            if tampering != "address" {
                assert!(
                    said.makers.contains(&"nft".to_owned()),
                    "{tampering}: {said:?}"
                );
            }
            until(saying, |said| said.state == RuleState::Intact);
        });
        assert_eq!(
            namespace.engine().verify(&plan).unwrap().drifts,
            [],
            "{tampering}"
        );
    }
}

#[test]
fn without_repair_a_difference_is_told_and_stays() {
    let namespace = Namespace::new();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    namespace
        .engine()
        .apply(&plan, HostNetwork::Refuse)
        .unwrap();
    watching(&namespace, Backend::Netlink, &plan, Repair::Off, |saying| {
        until(saying, |said| said.state == RuleState::Intact);
        namespace.nft("flush chain inet mesh_mesh nat_pre");
        let said = until(saying, |said| said.state == RuleState::Drifted);
        assert!(said.words.contains("nat_pre"), "{said:?}");
        // The next look, an interval later, says the same and knows of nobody new.
        let said = until(saying, |_| true);
        assert_eq!(
            (said.state, said.makers.len()),
            (RuleState::Drifted, 0),
            "{said:?}"
        );
    });
}

#[test]
fn somebody_who_keeps_fighting_is_answered_more_and_more_seldom() {
    let namespace = Namespace::new();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    watching(&namespace, Backend::Netlink, &plan, Repair::On, |saying| {
        let mut mended = 0;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2500) {
            if until(saying, |_| true).is_mended {
                mended += 1;
                namespace.nft("flush ruleset");
            }
        }
        // Four at once, one a second later; the next takes two.
        assert!((4..=6).contains(&mended), "{mended}");
    });
    namespace
        .engine()
        .remove(plan.instance(), Drain::Off)
        .unwrap();
}

#[test]
fn tampering_with_iptables_is_mended_within_a_second_too() {
    for (backend, variant) in IPTABLES {
        for tampering in [
            "iptables -t nat -F OUTPUT",
            "iptables -t nat -F PREROUTING",
            "iptables -t nat -I OUTPUT -p tcp -j ACCEPT",
            "ip6tables -t nat -F",
            "ip6tables -t nat -D OUTPUT 1",
            "iptables -t filter -F",
        ] {
            let namespace = Namespace::new();
            let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
            let engine = Engine::detect(&namespace.netns(), Some(backend)).unwrap();
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
            watching(&namespace, backend, &plan, Repair::On, |saying| {
                until(saying, |said| said.state == RuleState::Intact);
                let began = Instant::now();
                let (program, arguments) = tampering.split_once(' ').unwrap();
                let program = format!("{program}-{variant}");
                let arguments: Vec<&str> = arguments.split(' ').collect();
                namespace.exec(&program, &arguments);
                let said = until(saying, |said| said.is_mended);
                let took = began.elapsed();
                assert!(
                    took < Duration::from_secs(1),
                    "{backend} {tampering}: {took:?}"
                );
                assert_ne!(said.words, "", "{backend} {tampering}");
                until(saying, |said| said.state == RuleState::Intact);
            });
            assert_eq!(
                engine.verify(&plan).unwrap().drifts,
                [],
                "{backend} {tampering}"
            );
        }
    }
}

#[test]
fn nothing_leaves_uncaptured_between_tampering_and_repair() {
    let world = World::new();
    let _servers = Servers::start(&world);
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    let engine = world.app.engine();
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    let tamperings = [
        "flush chain inet mesh_mesh nat_out",
        "delete table inet mesh_mesh",
        "flush table inet mesh_mesh",
    ];
    let (mut captured, mut refused) = (0, 0);
    watching(&world.app, Backend::Netlink, &plan, Repair::On, |saying| {
        for tampering in tamperings {
            until(saying, |said| said.state == RuleState::Intact);
            world.app.nft(tampering);
            let mut is_mended = false;
            while !is_mended {
                match Attempt::tcp(From::App(APP), (PEER_V4, 80)).make(&world) {
                    Reached::Refused => refused += 1,
                    reached => {
                        assert_eq!(reached, here(15001), "{tampering}");
                        captured += 1;
                    }
                }
                is_mended = saying.try_iter().any(|said| said.is_mended);
            }
        }
    });
    assert!(captured + refused >= tamperings.len());
    // The control: without the guard the same call does leave.
    world.app.nft("flush ruleset");
    assert_eq!(
        Attempt::tcp(From::App(APP), (PEER_V4, 80)).make(&world),
        there(80)
    );
}
