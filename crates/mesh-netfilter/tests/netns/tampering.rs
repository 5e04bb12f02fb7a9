//! Whatever somebody does to the rules, verifying notices.

use mesh_netfilter::{Applied, Facts, HostNetwork, Plan, Policy, RuleState};

use crate::world::Namespace;

fn sidecar() -> Plan {
    Plan::compile(&Policy::sidecar(), &Facts::default())
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
fn each_rule_that_is_deleted_is_noticed_and_named() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = sidecar();
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    let mut deleted = 0;
    for table in plan.tables() {
        for chain in table.chains() {
            for (index, rule) in chain.rules().iter().enumerate() {
                let handles = handles(&namespace, table.name(), chain.name());
                assert_eq!(handles.len(), chain.rules().len());
                namespace.nft(&format!(
                    "delete rule inet {} {} handle {}",
                    table.name(),
                    chain.name(),
                    handles[index]
                ));
                let report = engine.verify(&plan).unwrap();
                assert_eq!(report.state, RuleState::Drifted);
                let words: Vec<String> = report.drifts.iter().map(ToString::to_string).collect();
                assert_eq!(words.len(), 1, "{words:?}");
                assert!(words[0].contains(rule.why.as_str()), "{words:?}");
                assert!(words[0].contains("missing"), "{words:?}");
                let repaired = engine.apply(&plan, HostNetwork::Refuse).unwrap();
                assert_eq!(repaired, Applied::Replaced);
                assert_eq!(engine.verify(&plan).unwrap().drifts, []);
                deleted += 1;
            }
        }
    }
    assert!(deleted > 30, "{deleted}");
}

#[test]
fn every_kind_of_tampering_is_noticed() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = sidecar();
    for (command, expected) in [
        ("flush ruleset", "is missing"),
        ("flush table inet mesh_mesh", "is missing"),
        (
            "delete table inet mesh_mesh.guard",
            "table `inet mesh_mesh.guard` is missing",
        ),
        (
            "insert rule inet mesh_mesh nat_out accept",
            "has a rule at 0 that is not in the plan",
        ),
        (
            "add rule inet mesh_mesh nat_out accept",
            "that is not in the plan",
        ),
        (
            "insert rule inet mesh_mesh nat_out meta skuid 1000 return",
            "has a rule at 0",
        ),
        (
            "add chain inet mesh_mesh extra",
            "chain `inet mesh_mesh extra` is not in the plan",
        ),
        (
            "add table inet mesh_mesh { flags dormant; }",
            "was put to sleep",
        ),
        (
            "chain inet mesh_mesh nat_out { policy drop; }",
            "has another hook, priority or policy",
        ),
        ("flush chain inet mesh_mesh about", "does not tell its plan"),
    ] {
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        assert_eq!(engine.verify(&plan).unwrap().drifts, [], "before {command}");
        namespace.nft(command);
        let report = engine.verify(&plan).unwrap();
        assert_ne!(report.state, RuleState::Intact, "{command}");
        let words = report.verdict(None, 0).drifts.join("; ");
        assert!(words.contains(expected), "{command}: {words}");
    }
}

#[test]
fn rules_in_another_order_are_noticed() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = sidecar();
    engine.apply(&plan, HostNetwork::Refuse).unwrap();
    // The same rules, the first two swapped, as somebody would load them from an edited file.
    let text = plan.to_nft();
    let mut lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|line| line.contains("excluded port"))
        .unwrap();
    lines.swap(first, first + 1);
    namespace.nft(&lines.join("\n"));
    let words = engine.verify(&plan).unwrap().verdict(None, 0).drifts;
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(words[0].contains("was moved to"), "{words:?}");
}

#[test]
fn a_changed_value_in_a_rule_or_a_set_is_noticed() {
    let namespace = Namespace::new();
    let engine = namespace.engine();
    let plan = sidecar();
    let text = plan.to_nft();
    for (from, to) in [
        ("redirect to :15006", "redirect to :15007"),
        ("15020-15021, 15090", "15020-15021, 15091"),
        ("15020-15021, 15090", "15019-15021, 15090"),
        ("skuid 1337", "skuid 1338"),
        ("skgid 1337", "skuid 1337"),
        ("127.0.0.0/8", "127.0.0.0/9"),
        ("ip saddr 127.0.0.6", "ip daddr 127.0.0.6"),
        ("(fin|syn|rst|ack) == syn", "(fin|syn|ack) == syn"),
        ("zone set 1", "zone set 2"),
        ("ct original zone", "ct zone"),
        ("oifname \"lo\"", "oifname \"lo0\""),
        ("reject with tcp reset", "accept"),
        ("type port-unreachable", "type admin-prohibited"),
        ("hook output priority -105", "hook output priority -95"),
        ("ct direction reply", "ct direction original"),
        ("ct status dnat", "ct status snat"),
        (
            "udp dport 53 counter redirect",
            "udp sport 53 counter redirect",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let changed = text.replacen(from, to, 1);
        namespace.nft(&changed);
        let report = engine.verify(&plan).unwrap();
        assert_eq!(report.state, RuleState::Drifted, "{from} -> {to}");
    }
}
