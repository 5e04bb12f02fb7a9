//! Rules for the kinds of security.

use mesh_model::istio::IstioKind::{AuthorizationPolicy, PeerAuthentication};
use mesh_model::istio::check;
use serde_json::json;

use super::{refuses, takes};
use crate::{checked, object};

#[test]
fn peer_authentications() {
    refuses(
        PeerAuthentication,
        &[
            (
                "{ portLevelMtls: { '80': { mode: STRICT } } }",
                "spec.portLevelMtls",
            ),
            (
                "{ selector: {}, portLevelMtls: { '80': { mode: STRICT } } }",
                "spec.portLevelMtls",
            ),
            (
                "{ selector: { matchLabels: { a: b } }, portLevelMtls: { '0': {} } }",
                "spec.portLevelMtls",
            ),
            (
                "{ selector: { matchLabels: { a: '*' } } }",
                "spec.selector.matchLabels[a]",
            ),
            (
                "{ selector: { matchLabels: { '': b } } }",
                "spec.selector.matchLabels",
            ),
        ],
    );
    takes(
        PeerAuthentication,
        &[
            "{}",
            "{ mtls: { mode: STRICT } }",
            "{ selector: { matchLabels: { a: b } }, mtls: { mode: UNSET }, portLevelMtls: { '8080': { mode: DISABLE } } }",
        ],
    );
}

#[test]
fn a_host_that_no_port_follows_is_warned_of() {
    let spec =
        |hosts: &str| format!("{{ rules: [{{ to: [{{ operation: {{ hosts: [{hosts}] }} }}] }}] }}");
    let warnings = checked(AuthorizationPolicy, &spec("a.example.com")).warnings;
    assert!(
        warnings[0].contains("`a.example.com:*` does"),
        "{warnings:?}"
    );
    for hosts in [
        "a.example.com, 'a.example.com:*'",
        "'a.example.com:80'",
        "'*'",
        "'*.x'",
    ] {
        let warnings = checked(AuthorizationPolicy, &spec(hosts)).warnings;
        assert_eq!(warnings, [""; 0], "{hosts}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn authorization_policies() {
    let from = |text: &str| format!("{{ rules: [{{ from: [{{ source: {{ {text} }} }}] }}] }}");
    let to = |text: &str| format!("{{ rules: [{{ to: [{{ operation: {{ {text} }} }}] }}] }}");
    let when = |text: &str| format!("{{ rules: [{{ when: [{{ {text} }}] }}] }}");
    refuses(
        AuthorizationPolicy,
        &[
            ("{ action: DENY }", "spec.rules"),
            ("{ action: AUDIT, rules: [{}] }", "spec.action"),
            ("{ action: CUSTOM, rules: [{}] }", "spec.action"),
            ("{ provider: { name: x } }", "spec.provider"),
            (
                "{ targetRef: { kind: Service, name: x } }",
                "spec.targetRef",
            ),
            (
                "{ targetRefs: [{ kind: Service, name: x }] }",
                "spec.targetRefs",
            ),
            (
                "{ rules: [{ from: [{}] }] }",
                "spec.rules[0].from[0].source",
            ),
            (
                "{ rules: [{}, { to: [{}] }] }",
                "spec.rules[1].to[0].operation",
            ),
            (
                "{ selector: { matchLabels: { a: '*' } } }",
                "spec.selector.matchLabels[a]",
            ),
        ],
    );
    for (text, path) in [
        ("", ""),
        ("principals: ['']", ".principals[0]"),
        ("ipBlocks: [10.0.0.0/33]", ".ipBlocks[0]"),
        ("notIpBlocks: [a]", ".notIpBlocks[0]"),
        ("serviceAccounts: ['a/b/c']", ".serviceAccounts[0]"),
        ("serviceAccounts: ['a*']", ".serviceAccounts[0]"),
        ("serviceAccounts: [a], namespaces: [b]", ""),
        (
            "principals: [a], requestPrincipals: ['*']",
            ".requestPrincipals",
        ),
        (
            "principals: [a], notRequestPrincipals: ['*']",
            ".notRequestPrincipals",
        ),
        (
            "principals: [a], remoteIpBlocks: [10.0.0.1]",
            ".remoteIpBlocks",
        ),
        (
            "principals: [a], notRemoteIpBlocks: [10.0.0.1]",
            ".notRemoteIpBlocks",
        ),
        ("principals: [a], trustDomains: [a]", ".trustDomains"),
        ("principals: [a], notTrustDomains: [a]", ".notTrustDomains"),
    ] {
        refuses(
            AuthorizationPolicy,
            &[(&from(text), &format!("spec.rules[0].from[0].source{path}"))],
        );
    }
    for (text, path) in [
        ("", ""),
        ("ports: [http]", ".ports[0]"),
        ("ports: ['70000']", ".ports[0]"),
        ("notPorts: ['+1']", ".notPorts[0]"),
        ("methods: ['']", ".methods[0]"),
        ("paths: ['/a/{**}/{*}']", ".paths[0]"),
        ("paths: ['/a{*}']", ".paths[0]"),
        ("notPaths: ['/{a}']", ".notPaths[0]"),
        ("paths: ['/{*}/a*']", ".paths[0]"),
    ] {
        refuses(
            AuthorizationPolicy,
            &[(&to(text), &format!("spec.rules[0].to[0].operation{path}"))],
        );
    }
    for (text, path) in [
        ("values: [a]", "key"),
        ("key: 'request.auth.claims[x]', values: [a]", "key"),
        ("key: 'request.headers[]', values: [a]", "key"),
        ("key: remote.ip, values: [10.0.0.1]", "key"),
        ("key: source.ip, values: [a]", "values[0]"),
        ("key: destination.port, notValues: ['x']", "notValues[0]"),
        ("key: source.namespace, values: ['']", "values[0]"),
    ] {
        refuses(
            AuthorizationPolicy,
            &[(&when(text), &format!("spec.rules[0].when[0].{path}"))],
        );
    }
    refuses(
        AuthorizationPolicy,
        &[(&when("key: source.ip"), "spec.rules[0].when[0]")],
    );
    takes(
        AuthorizationPolicy,
        &[
            "{}",
            "{ rules: [{}] }",
            "{ action: DENY, rules: [{ from: [{ source: { notNamespaces: [a] } }] }] }",
            &from(
                "principals: ['*', 'a/ns/b/sa/c'], notNamespaces: ['a*'], ipBlocks: [10.0.0.1, 'fd00::/8']",
            ),
            &to(
                "methods: [GET], paths: ['/a/*', '/b/{*}/c/{**}'], hosts: ['*.a.b'], ports: ['80']",
            ),
            &when("key: 'request.headers[X-User]', values: ['*'], notValues: [a]"),
        ],
    );
}

#[test]
fn a_dry_run_is_refused_because_it_would_be_enforced() {
    let mut policy = object(AuthorizationPolicy, "{}");
    policy["metadata"]["annotations"] = json!({ "istio.io/dry-run": "true" });
    let found = check(AuthorizationPolicy, &policy).problems;
    assert_eq!(found[0].path, "metadata.annotations[istio.io/dry-run]");
}
