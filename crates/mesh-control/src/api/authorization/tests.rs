//! Roles and bindings decide; every refusal has a control that is allowed.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..User::default()
    }
}

fn policy(objects: &[serde_json::Value]) -> Policy {
    let bytes: Vec<_> = objects
        .iter()
        .map(|object| serde_json::to_vec(object).unwrap())
        .collect();
    Policy::new(bytes.iter().map(Vec::as_slice))
}

fn object<'a>(resource: &'a str, namespace: &'a str, name: &'a str) -> Object<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Object::Resource {
        group: "",
        resource,
        subresource,
        namespace,
        name,
    }
}

fn is_allowed(policy: &Policy, user: &User, verb: &str, object: Object<'_>) -> bool {
    let decision = policy.decide(&Attributes { user, verb, object });
    decision != Decision::Denied
}

fn reader() -> Policy {
    policy(&[
        json!({"metadata": {"name": "reader", "namespace": "shop"},
            "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"]}]}),
        json!({"metadata": {"name": "bob", "namespace": "shop"},
            "roleRef": {"kind": "Role", "name": "reader"},
            "subjects": [{"kind": "User", "name": "bob"}]}),
    ])
}

#[test]
fn nothing_is_allowed_without_a_rule() {
    let bob = user("bob", &["system:authenticated"]);
    assert!(!is_allowed(
        &Policy::default(),
        &bob,
        "get",
        object("configmaps", "shop", "a")
    ));
}

#[test]
fn masters_pass_without_a_rule() {
    let root = user("root", &[Policy::MASTERS]);
    assert!(is_allowed(
        &Policy::default(),
        &root,
        "delete",
        object("secrets", "shop", "a")
    ));
}

#[test]
fn a_role_holds_in_its_namespace_for_its_verbs_and_kinds_only() {
    let (policy, bob) = (reader(), user("bob", &[]));
    assert!(is_allowed(
        &policy,
        &bob,
        "get",
        object("configmaps", "shop", "a")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "get",
        object("configmaps", "bank", "a")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "list",
        object("configmaps", "", "")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "update",
        object("configmaps", "shop", "a")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "get",
        object("secrets", "shop", "a")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "get",
        object("configmaps/status", "shop", "a")
    ));
    assert!(!is_allowed(
        &policy,
        &user("eve", &[]),
        "get",
        object("configmaps", "shop", "a")
    ));
}

#[test]
fn a_binding_cannot_give_a_role_of_another_namespace() {
    let policy = policy(&[
        json!({"metadata": {"name": "admin", "namespace": "bank"},
            "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}),
        json!({"metadata": {"name": "bob", "namespace": "shop"},
            "roleRef": {"kind": "Role", "name": "admin"},
            "subjects": [{"kind": "User", "name": "bob"}]}),
    ]);
    let bob = user("bob", &[]);
    assert!(!is_allowed(
        &policy,
        &bob,
        "get",
        object("secrets", "shop", "a")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "get",
        object("secrets", "bank", "a")
    ));
}

#[test]
fn a_rule_by_name_allows_neither_lists_nor_creation() {
    let policy = policy(&[
        json!({"metadata": {"name": "one"},
            "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mesh"]}]}),
        json!({"metadata": {"name": "one"},
            "roleRef": {"kind": "ClusterRole", "name": "one"},
            "subjects": [{"kind": "Group", "name": "team"}]}),
    ]);
    let bob = user("bob", &["team"]);
    assert!(is_allowed(
        &policy,
        &bob,
        "get",
        object("configmaps", "shop", "mesh")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "get",
        object("configmaps", "shop", "other")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "list",
        object("configmaps", "shop", "")
    ));
    assert!(!is_allowed(
        &policy,
        &bob,
        "create",
        object("configmaps", "shop", "")
    ));
}

#[test]
fn service_accounts_are_bound_by_namespace_and_name() {
    let policy = policy(&[
        json!({"metadata": {"name": "get"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]}),
        json!({"metadata": {"name": "get", "namespace": "shop"},
            "roleRef": {"kind": "ClusterRole", "name": "get"},
            "subjects": [{"kind": "ServiceAccount", "name": "ci", "namespace": "tools"}]}),
    ]);
    let ci = user("system:serviceaccount:tools:ci", &[]);
    let other = user("system:serviceaccount:shop:ci", &[]);
    assert!(is_allowed(
        &policy,
        &ci,
        "get",
        object("secrets", "shop", "a")
    ));
    assert!(!is_allowed(
        &policy,
        &other,
        "get",
        object("secrets", "shop", "a")
    ));
}

#[test]
fn paths_match_exactly_or_by_prefix() {
    let policy = policy(&[
        json!({"metadata": {"name": "d"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/api", "/apis/*"]}]}),
        json!({"metadata": {"name": "d"}, "roleRef": {"kind": "ClusterRole", "name": "d"},
            "subjects": [{"kind": "User", "name": "bob"}]}),
    ]);
    let bob = user("bob", &[]);
    assert!(is_allowed(&policy, &bob, "get", Object::Path("/api")));
    assert!(is_allowed(&policy, &bob, "get", Object::Path("/apis/a/b")));
    assert!(!is_allowed(&policy, &bob, "get", Object::Path("/api/v1")));
    assert!(!is_allowed(&policy, &bob, "post", Object::Path("/api")));
}

#[test]
fn nobody_hands_on_more_than_they_hold() {
    let (policy, bob) = (reader(), user("bob", &[]));
    let rule = |verbs: &[&str], names: &[&str]| Rule {
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        api_groups: vec![String::new()],
        resources: vec!["configmaps".to_owned()],
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Rule::default()
    };
    assert_eq!(policy.missing(&bob, "shop", &[rule(&["get"], &[])]), []);
    assert_eq!(policy.missing(&bob, "shop", &[rule(&["get"], &["a"])]), []);
    assert_eq!(
        policy.missing(&bob, "shop", &[rule(&["get", "update"], &[])]),
        [rule(&["update"], &[])]
    );
    assert_eq!(
        policy.missing(&bob, "shop", &[rule(&["*"], &[])]),
        [rule(&["*"], &[])]
    );
    assert_eq!(
        policy.missing(&bob, "bank", &[rule(&["get"], &[])]).len(),
        1
    );
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let pick = |words: &'static [&'static str]| {
        proptest::sample::subsequence(words, 0..=words.len()).prop_map(|words| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        })
    };
    (
        pick(&["get", "list", "*"]),
        pick(&["", "g", "*"]),
        pick(&["a", "b", "a/s", "*/s", "*"]),
        pick(&["x", "y"]),
    )
        .prop_map(|(verbs, api_groups, resources, resource_names)| Rule {
            verbs,
            api_groups,
            resources,
            resource_names,
            non_resource_urls: Vec::new(),
        })
}

proptest! {
    /// If nothing is missing to hand on a rule, the rule allows nothing that the giver may not do.
    #[test]
    fn a_rule_that_may_be_handed_on_allows_nothing_new(
        held in any_rule(),
        wanted in any_rule(),
        verb in proptest::sample::select(vec!["get", "list", "watch"]),
        group in proptest::sample::select(vec!["", "g", "h"]),
        resource in proptest::sample::select(vec!["a", "b", "c"]),
        subresource in proptest::sample::select(vec!["", "s"]),
        name in proptest::sample::select(vec!["", "x", "z"]),
    ) {
        let is_covered = wanted.split().iter().all(|part| held.covers(part));
        let object = Object::Resource { group, resource, subresource, namespace: "n", name };
        prop_assert!(!is_covered || !wanted.allows(verb, object) || held.allows(verb, object));
    }
}
