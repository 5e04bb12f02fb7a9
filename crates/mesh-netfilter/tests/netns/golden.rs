//! The golden files are true: `nft` takes them, and what it makes of them is what the engine makes.

use std::fs;
use std::path::Path;

use mesh_netfilter::{Drift, Facts, HostNetwork, Plan, Policy};

use crate::world::Namespace;

#[test]
fn nft_accepts_each_golden_file_and_makes_the_same_rules_of_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for case in fs::read_dir(folder).unwrap() {
        let case = case.unwrap().path();
        let file = case.join("rules.nft");
        let file = file.to_str().unwrap();
        let policy = fs::read_to_string(case.join("policy.json")).unwrap();
        let policy: Policy = serde_json::from_str(&policy).unwrap();
        let plan = Plan::compile(&policy, &Facts::default());
        let (by_nft, by_netlink) = (Namespace::new(), Namespace::new());
        by_nft.exec("nft", &["-c", "-f", file]);
        assert_eq!(by_nft.ruleset(), "", "checking only checks");
        by_nft.exec("nft", &["-f", file]);
        // What rules depend on is nothing that `nft` could bring.
        let mut drifts = by_nft.engine().verify(&plan).unwrap().drifts;
        drifts.retain(|drift| !matches!(drift, Drift::LocalMissing { .. }));
        assert_eq!(drifts, [], "{}", case.display());
        by_netlink
            .engine()
            .apply(&plan, HostNetwork::Refuse)
            .unwrap();
        let listed = by_nft.ruleset();
        assert_eq!(by_netlink.ruleset(), listed, "{}", case.display());
        let rules: usize = plan
            .tables()
            .iter()
            .flat_map(mesh_netfilter::Table::chains)
            .map(|chain| chain.rules().len())
            .sum();
        let comments = listed.matches("comment \"").count();
        assert_eq!(comments, rules + plan.tables().len(), "{}", case.display());
        cases += 1;
    }
    assert!(cases >= 10, "{cases}");
}
