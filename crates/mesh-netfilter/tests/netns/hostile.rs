//! Hostile names (T18): whatever is a valid policy is read by the real tools as it was meant, and
//! put into the kernel as it was planned.

use std::fs;

use mesh_netfilter::{Drain, Facts, HostNetwork, InterfaceName, Plan, Policy, VirtualInterface};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{Namespace, backends};

/// Names that look like options, comments, wildcards or syntax of the tools, and any others.
fn name() -> impl Strategy<Value = InterfaceName> {
    let odd = [
        "--", "-j", "-A", "!", "#", ";", "{", "}", "$x", "a,b", "(x)", "&", "|", "<", "=", "%s",
        "@x", "~", "^", "?", "[x]", "lo0", "COMMIT", "*nat", "\"", "'", "a b", "eth+", "eth*",
        "x\n", "drop",
    ];
    let odd = proptest::sample::select(odd.to_vec()).prop_map(ToOwned::to_owned);
    prop_oneof![1 => odd, 2 => "[!-~]{1,15}", 1 => any::<String>()]
        .prop_filter_map("a name", |text| text.parse().ok())
        .prop_filter("not loopback", |name| *name != InterfaceName::loopback())
}

#[test]
fn every_tool_takes_hostile_names_for_what_they_are() {
    let namespace = Namespace::new();
    let folder = std::env::temp_dir();
    let path = folder.join(format!("{}.hostile", namespace.name));
    let file = path.to_str().unwrap();
    let config = Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    };
    let names = (prop::collection::vec(name(), 1..4), name());
    let result = TestRunner::new(config).run(&names, |(excluded, guest)| {
        if excluded.contains(&guest) {
            return Ok(());
        }
        let policy = Policy::sidecar()
            .to_builder()
            .excluded_interfaces(excluded)
            .virtual_interfaces([VirtualInterface::new(guest)])
            .build()
            .unwrap();
        let plan = Plan::compile(&policy, &Facts::default());
        // The text of a policy is as harmless.
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Policy>(&json).unwrap(), &policy);
        // `nft` reads its own syntax and sets exactly what was planned.
        fs::write(&path, plan.to_nft()).unwrap();
        namespace.exec("nft", &["-f", file]);
        namespace.ip("-6 address replace ::6/128 dev lo nodad");
        let report = namespace.engine().verify(&plan).unwrap();
        prop_assert_eq!(&report.drifts, &[]);
        namespace.exec("nft", &["flush", "ruleset"]);
        let rules = plan.to_iptables().unwrap();
        for (program, text) in [
            ("iptables-nft-restore", &rules.v4),
            ("iptables-legacy-restore", &rules.v4),
            ("ip6tables-nft-restore", &rules.v6),
            ("ip6tables-legacy-restore", &rules.v6),
        ] {
            fs::write(&path, text).unwrap();
            namespace.exec(program, &["--test", "--noflush", file]);
        }
        for backend in backends() {
            let engine = namespace.engine_of(*backend);
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
            let report = engine.verify(&plan).unwrap();
            prop_assert_eq!(&report.drifts, &[], "{}", backend);
            engine.remove(policy.instance(), Drain::Off).unwrap();
        }
        Ok(())
    });
    fs::remove_file(path).unwrap();
    result.unwrap();
}
