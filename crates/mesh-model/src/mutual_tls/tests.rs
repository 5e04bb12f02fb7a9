//! The width of policies.

use super::*;
use crate::testing::{map, objects_of};

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{ name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{}T00:00:00Z' }}
spec: {spec}
---",
        name.len()
    )
}

/// Mode and policy for the workload `app=web` of `shop` at port 80.
fn decide(policies: &[String]) -> String {
    let yaml = policies.concat();
    let policies = objects_of!(PeerAuthentication, yaml.trim_end_matches('-'));
    let decision = mode(&policies, "shop", &map(&[("app", "web")]), 80);
    format!("{:?} by {:?}", decision.mode, decision.because).replace("ObjectRef ", "")
}

#[test]
fn without_a_policy_both_are_taken() {
    assert_eq!(decide(&[]), "Permissive by Default");
    assert_eq!(
        decide(&[policy("a", "istio-system", "{}")]),
        "Permissive by Default"
    );
}

#[test]
fn the_narrowest_policy_decides_and_unset_asks_the_wider_one() {
    let mesh = policy("mesh", "istio-system", "{ mtls: { mode: STRICT } }");
    let namespace = policy("ns", "shop", "{ mtls: { mode: DISABLE } }");
    let workload = "selector: { matchLabels: { app: web } }";
    let port = policy(
        "w",
        "shop",
        &format!(
            "{{ {workload}, mtls: {{ mode: UNSET }}, portLevelMtls: {{ '80': {{ mode: PERMISSIVE }} }} }}"
        ),
    );
    let unset_port = policy(
        "w",
        "shop",
        &format!("{{ {workload}, mtls: {{ mode: PERMISSIVE }}, portLevelMtls: {{ '80': {{}} }} }}"),
    );
    assert!(decide(std::slice::from_ref(&mesh)).starts_with("Strict by Mesh"));
    assert!(decide(&[mesh.clone(), namespace.clone()]).starts_with("Disable by Namespace"));
    let all = [mesh.clone(), namespace.clone(), port];
    assert!(decide(&all).starts_with("Permissive by Port"));
    assert!(decide(&[mesh.clone(), namespace, unset_port]).starts_with("Permissive by Workload"));
    let unset = policy("ns", "shop", "{ mtls: { mode: UNSET } }");
    assert!(decide(&[mesh, unset]).starts_with("Strict by Mesh"));
}

#[test]
fn of_two_policies_of_one_width_the_oldest_decides() {
    let newer = policy("newer", "shop", "{ mtls: { mode: STRICT } }");
    let older = policy("old", "shop", "{ mtls: { mode: DISABLE } }");
    assert!(decide(&[newer.clone(), older.clone()]).starts_with("Disable"));
    assert!(decide(&[older, newer]).starts_with("Disable"));
}

#[test]
fn policies_for_others_do_not_count() {
    for other in [
        policy("a", "bank", "{ mtls: { mode: STRICT } }"),
        policy(
            "a",
            "shop",
            "{ selector: { matchLabels: { app: db } }, mtls: { mode: STRICT } }",
        ),
        policy(
            "a",
            "bank",
            "{ selector: { matchLabels: { app: web } }, mtls: { mode: STRICT } }",
        ),
        // Istio's rule: in the root namespace a selector has no effect.
        policy(
            "a",
            "istio-system",
            "{ selector: { matchLabels: { app: web } }, mtls: { mode: STRICT } }",
        ),
    ] {
        assert_eq!(decide(&[other]), "Permissive by Default");
    }
}
