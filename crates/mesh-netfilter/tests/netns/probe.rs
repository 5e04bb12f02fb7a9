//! Probing: real packets find what is wrong with rules, and pass where nothing is.

use std::time::Duration;

use mesh_netfilter::{
    Backend, Engine, Facts, Family, HostNetwork, Ipv6, Outcome, Plan, Policy, ProbeOptions,
    ProbeReport,
};

use crate::backends::IPTABLES;
use crate::world::{Namespace, World};

/// Long enough for the kernel to answer itself, short enough for a probe of fifty packets of which
/// some are lost.
fn options() -> ProbeOptions {
    ProbeOptions {
        patience: Duration::from_millis(700),
        ..ProbeOptions::default()
    }
}

fn words(report: &ProbeReport) -> String {
    let lines: Vec<String> = report.checks.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn failures(report: &ProbeReport) -> Vec<String> {
    let failed = report
        .checks
        .iter()
        .filter(|check| matches!(check.outcome, Outcome::Failed { .. }));
    failed.map(ToString::to_string).collect()
}

fn passed(report: &ProbeReport, family: Family) -> usize {
    let is_passed = |outcome: &Outcome| matches!(outcome, Outcome::Passed { .. });
    let checks = report.checks.iter();
    checks
        .filter(|check| check.family == family && is_passed(&check.outcome))
        .count()
}

fn applied(namespace: &Namespace, plan: &Plan) -> Engine {
    let engine = namespace.engine();
    engine.apply(plan, HostNetwork::Refuse).unwrap();
    engine
}

#[test]
fn intact_rules_pass_in_both_families_and_nothing_is_left() {
    let world = World::new();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    let engine = applied(&world.app, &plan);
    let before = world.app.settled();
    let report = engine.probe(&plan, &options()).unwrap();
    assert_eq!(failures(&report), [""; 0], "{}", words(&report));
    for family in [Family::V4, Family::V6] {
        assert!(passed(&report, family) >= 12, "{}", words(&report));
    }
    assert_eq!(world.app.settled(), before);
}

#[test]
fn rules_of_iptables_pass_and_fail_alike() {
    for (backend, variant) in IPTABLES {
        let namespace = Namespace::new();
        let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
        let engine = Engine::detect(&namespace.netns(), Some(backend)).unwrap();
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        let report = engine.probe(&plan, &options()).unwrap();
        assert_eq!(failures(&report), [""; 0], "{backend}: {}", words(&report));
        assert!(passed(&report, Family::V6) >= 12, "{}", words(&report));
        namespace.exec(
            &format!("ip6tables-{variant}"),
            &["-t", "nat", "-F", "OUTPUT"],
        );
        let report = engine.probe(&plan, &options()).unwrap();
        let failed = failures(&report);
        assert!(!failed.is_empty(), "{backend}");
        assert!(
            failed.iter().all(|it| it.starts_with("IPv6")),
            "{backend}: {failed:#?}"
        );
    }
    assert_eq!(Backend::ALL.len(), IPTABLES.len() + 1);
}

#[test]
fn without_a_route_the_rules_are_probed_all_the_same() {
    let namespace = Namespace::new();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    let engine = applied(&namespace, &plan);
    let report = engine.probe(&plan, &options()).unwrap();
    assert_eq!(failures(&report), [""; 0], "{}", words(&report));
    assert!(passed(&report, Family::V4) >= 12, "{}", words(&report));
}

#[test]
fn no_rules_fail_and_are_never_called_passed() {
    let namespace = Namespace::new();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    let report = namespace.engine().probe(&plan, &options()).unwrap();
    for family in ["IPv4", "IPv6"] {
        for check in [
            "call of the application",
            "DNS query over UDP",
            "call from outside",
        ] {
            let failed = failures(&report);
            let named = format!("{family} {check}: failed");
            assert!(
                failed.iter().any(|it| it.starts_with(&named)),
                "{named}: {failed:#?}"
            );
        }
    }
}

#[test]
fn blocked_ipv6_is_probed_as_refused_and_missing_ipv6_not_at_all() {
    let policy = Policy::sidecar().to_builder().ipv6(Ipv6::Block).build();
    let plan = Plan::compile(&policy.unwrap(), &Facts::default());
    let namespace = Namespace::new();
    let engine = applied(&namespace, &plan);
    let report = engine.probe(&plan, &options()).unwrap();
    assert_eq!(failures(&report), [""; 0], "{}", words(&report));
    assert!(words(&report).contains("IPv6 call of the application: passed (refused)"));
    namespace.exec("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let report = engine.probe(&plan, &options()).unwrap();
    assert_eq!(failures(&report), [""; 0], "{}", words(&report));
    assert_eq!(passed(&report, Family::V6), 0, "{}", words(&report));
    assert!(
        words(&report).contains("IPv6 everything: not probed"),
        "{}",
        words(&report)
    );
}

/// The handles of the rules of a chain, in order.
fn handles(namespace: &Namespace, table: &str, chain: &str) -> Vec<String> {
    let listed = namespace.exec("nft", &["-a", "list", "chain", "inet", table, chain]);
    let rules = listed
        .lines()
        .filter(|line| line.starts_with("\t\t") && !line.contains("type "));
    rules
        .filter_map(|line| line.rsplit_once("# handle "))
        .map(|(_, handle)| handle.to_owned())
        .collect()
}

#[test]
fn each_rule_that_captures_or_spares_is_missed_when_it_is_gone() {
    let namespace = Namespace::new();
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    let engine = namespace.engine();
    let mut probed = 0;
    for chain in plan.tables()[0].chains() {
        for (index, rule) in chain.rules().iter().enumerate() {
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
            let handles = handles(&namespace, "mesh_mesh", chain.name());
            namespace.nft(&format!(
                "delete rule inet mesh_mesh {} handle {}",
                chain.name(),
                handles[index]
            ));
            let report = engine.probe(&plan, &options()).unwrap();
            assert!(
                report.has_failed(),
                "{} {index} {:?}: {}",
                chain.name(),
                rule.why,
                words(&report)
            );
            probed += 1;
        }
    }
    assert!(probed > 10, "{probed}");
}
