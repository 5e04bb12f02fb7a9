//! Which rules hold for a host, and what they say together.

use super::*;
use crate::istio::destination_rule::{SimpleLoadBalancer, TlsMode};
use crate::testing::{map, objects_of};

fn rule(name: &str, namespace: &str, host: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{}T00:00:00Z' }}
spec: {{ host: '{host}' {rest} }}
---",
        name.len()
    )
}

/// The names of the rules that hold for `reviews.shop.mesh`.
fn names(rules: &[String], caller: &str) -> Vec<String> {
    let yaml = rules.concat();
    let objects = objects_of!(DestinationRule, yaml.trim_end_matches('-'));
    let objects: Vec<_> = objects.into_iter().map(|object| *object).collect();
    let rules = rules_for("reviews.shop.mesh", "shop", caller, &objects);
    rules.objects().iter().map(ToString::to_string).collect()
}

#[test]
fn the_callers_namespace_comes_first_then_the_services_then_the_root() {
    let rules = [
        rule("a", "bank", "reviews.shop.svc.cluster.local", ""),
        rule("b", "shop", "reviews", ""),
        rule("c", "istio-system", "*.local", ""),
        rule("d", "other", "reviews.shop.mesh", ""),
    ];
    assert_eq!(names(&rules, "bank"), ["bank/a"]);
    assert_eq!(names(&rules, "shop"), ["shop/b"]);
    assert_eq!(names(&rules, "third"), ["shop/b"]);
    assert_eq!(names(&rules, "istio-system"), ["shop/b"]);
    assert_eq!(
        names(&[rules[0].clone(), rules[2].clone()], "third"),
        ["istio-system/c"]
    );
    assert!(names(&rules[3..], "bank").is_empty());
}

#[test]
fn the_most_exact_host_wins_within_a_namespace() {
    let rules = [
        rule("a", "shop", "*.mesh", ""),
        rule("bb", "shop", "*.shop.mesh", ""),
    ];
    assert_eq!(names(&rules, "bank"), ["shop/bb"]);
}

#[test]
fn rules_that_are_not_exported_or_not_supported_do_not_hold() {
    let private = rule("a", "shop", "reviews", ", exportTo: ['.']");
    assert_eq!(names(std::slice::from_ref(&private), "shop"), ["shop/a"]);
    assert!(names(&[private], "bank").is_empty());
    let selecting = rule(
        "a",
        "shop",
        "reviews",
        ", workloadSelector: { matchLabels: { x: z } }",
    );
    assert!(names(&[selecting], "shop").is_empty());
}

#[test]
fn a_rule_of_the_root_namespace_for_itself_comes_first_there() {
    let rules = [
        rule("a", "shop", "reviews", ""),
        rule("b", "istio-system", "*.local", ", exportTo: ['.']"),
    ];
    assert_eq!(names(&rules, "istio-system"), ["istio-system/b"]);
    assert_eq!(names(&rules, "bank"), ["shop/a"]);
}

#[test]
fn rules_of_one_host_are_taken_together_the_oldest_policy_wins() {
    let yaml = [
        rule(
            "newer",
            "shop",
            "reviews",
            ", subsets: [{ name: v1, labels: { version: x } }, \
              { name: v2, labels: { version: v2 } }], trafficPolicy: { tls: { mode: SIMPLE } }",
        ),
        rule(
            "old",
            "shop",
            "reviews.shop.mesh",
            ", subsets: [{ name: v1, labels: { version: v1 } }], \
              trafficPolicy: { tls: { mode: DISABLE } }",
        ),
    ]
    .concat();
    let objects = objects_of!(DestinationRule, yaml.trim_end_matches('-'));
    let objects: Vec<_> = objects.into_iter().map(|object| *object).collect();
    let rules = rules_for("reviews.shop.mesh", "shop", "shop", &objects);
    assert_eq!(rules.policy(80, "").tls.unwrap().mode, TlsMode::Disable);
    let names: Vec<_> = rules
        .subsets()
        .iter()
        .map(|subset| subset.name.as_str())
        .collect();
    assert_eq!(names, ["v1", "v2"]);
    assert!(
        rules
            .subset("v1")
            .unwrap()
            .selects(&map(&[("version", "v1"), ("x", "y")]))
    );
    assert!(
        !rules
            .subset("v2")
            .unwrap()
            .selects(&map(&[("version", "v1")]))
    );
    assert!(rules.subset("v3").is_none());
}

#[test]
fn a_subset_replaces_field_by_field_and_a_port_replaces_all() {
    let yaml = rule(
        "a",
        "shop",
        "reviews",
        ", trafficPolicy: { loadBalancer: { simple: RANDOM }, tls: { mode: DISABLE },
             portLevelSettings: [{ port: { number: 80 }, tls: { mode: SIMPLE } }] },
           subsets: [{ name: v1, trafficPolicy: { loadBalancer: { simple: ROUND_ROBIN } } }]",
    );
    let objects = objects_of!(DestinationRule, yaml.trim_end_matches('-'));
    let objects: Vec<_> = objects.into_iter().map(|object| *object).collect();
    let rules = rules_for("reviews.shop.mesh", "shop", "shop", &objects);
    let simple = |port, subset| {
        rules
            .policy(port, subset)
            .load_balancer
            .and_then(|lb| lb.simple)
    };
    let mode = |port, subset| rules.policy(port, subset).tls.map(|tls| tls.mode);
    assert_eq!(simple(90, ""), Some(SimpleLoadBalancer::Random));
    assert_eq!(simple(90, "v1"), Some(SimpleLoadBalancer::RoundRobin));
    assert_eq!(simple(90, "none"), Some(SimpleLoadBalancer::Random));
    assert_eq!(
        (mode(90, ""), mode(90, "v1")),
        (Some(TlsMode::Disable), Some(TlsMode::Disable))
    );
    assert_eq!(
        (simple(80, ""), mode(80, "")),
        (None, Some(TlsMode::Simple))
    );
    assert_eq!(simple(80, "v1"), Some(SimpleLoadBalancer::RoundRobin));
}
