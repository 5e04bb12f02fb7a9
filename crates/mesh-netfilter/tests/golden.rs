//! What each feature of a policy becomes, frozen: `tests/golden/<case>/` with
//! `policy.json`, `rules.nft`, and `rules.v4` and `rules.v6` for iptables.
//!
//! `UPDATE_EXPECT=1 cargo test -p mesh-netfilter --all-features --test golden` writes the files
//! anew. Ring `netns` proves that they are true.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use mesh_netfilter::{Facts, Plan, Policy};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|case| case.unwrap().path())
        .collect();
    cases.sort();
    cases
}

fn policy(case: &Path) -> Policy {
    let text = fs::read_to_string(case.join("policy.json")).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", case.display()))
}

#[test]
fn each_policy_becomes_the_rules_beside_it() {
    let is_update = std::env::var_os("UPDATE_EXPECT").is_some();
    for case in cases() {
        let rules = Plan::compile(&policy(&case), &Facts::default()).to_nft();
        let file = case.join("rules.nft");
        if is_update {
            fs::write(&file, &rules).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap();
        assert_eq!(rules, expected, "{}", file.display());
        assert!(rules.contains("redirect to"), "{}", file.display());
    }
}

#[test]
fn each_policy_becomes_the_lines_of_iptables_beside_it() {
    let is_update = std::env::var_os("UPDATE_EXPECT").is_some();
    for case in cases() {
        let rules = Plan::compile(&policy(&case), &Facts::default())
            .to_iptables()
            .unwrap();
        for (name, text) in [("rules.v4", rules.v4), ("rules.v6", rules.v6)] {
            let file = case.join(name);
            if is_update {
                fs::write(&file, &text).unwrap();
            }
            let expected = fs::read_to_string(&file).unwrap();
            assert_eq!(text, expected, "{}", file.display());
        }
        let v4 = fs::read_to_string(case.join("rules.v4")).unwrap();
        assert!(v4.contains("-j REDIRECT --to-ports"), "{}", case.display());
    }
}

#[test]
fn each_policy_survives_being_written_and_read() {
    for case in cases() {
        let policy = policy(&case);
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            serde_json::from_str::<Policy>(&text).unwrap(),
            policy,
            "{}",
            case.display()
        );
    }
}

#[test]
fn the_sidecar_case_is_the_sidecar_policy() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sidecar");
    assert_eq!(policy(&case), Policy::sidecar());
}

#[test]
fn no_two_cases_have_the_same_fingerprint() {
    let mut fingerprints: Vec<String> = cases()
        .iter()
        .map(|case| {
            Plan::compile(&policy(case), &Facts::default())
                .fingerprint()
                .to_string()
        })
        .collect();
    let all = fingerprints.len();
    fingerprints.sort();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), all);
}

#[test]
fn the_policy_in_the_readme_is_valid() {
    let readme = include_str!("../README.md");
    let json = readme.split("```json").nth(1).unwrap();
    let json = json.split("```").next().unwrap();
    let policy: Policy = serde_json::from_str(json).unwrap();
    assert!(policy.inbound().is_some() && policy.outbound().is_some() && policy.dns().is_some());
}
