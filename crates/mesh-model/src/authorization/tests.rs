//! Istio's order and meaning of policies.

use super::*;
use crate::testing::{map, objects_of};

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {spec}
---"
    )
}

/// A call of `bank/sa/web` to the workload `app=web` of `shop`, at port 80.
fn decide(policies: &[String], change: impl FnOnce(&mut Call<'_>)) -> Decision {
    let request = HttpRequest {
        method: "GET".to_owned(),
        path: "/items/1?x=y".to_owned(),
        authority: "Web.shop.mesh".to_owned(),
        headers: map(&[("x-tier", "gold")]),
        ..HttpRequest::default()
    };
    decide_for(policies, &request, change)
}

/// The same with this request.
fn decide_for(
    policies: &[String],
    request: &HttpRequest,
    change: impl FnOnce(&mut Call<'_>),
) -> Decision {
    let yaml = policies.concat();
    let policies = objects_of!(AuthorizationPolicy, yaml.trim_end_matches('-'));
    let source: SpiffeId = "spiffe://cluster.local/ns/bank/sa/web".parse().unwrap();
    let mut call = Call {
        source: Some(&source),
        source_ip: "10.213.0.9".parse().unwrap(),
        destination_ip: "10.213.0.2".parse().unwrap(),
        destination_port: 80,
        sni: None,
        request: Some(request),
    };
    change(&mut call);
    may(&policies, "shop", &map(&[("app", "web")]), &call)
}

fn allows(spec: &str) -> bool {
    decide(&[policy("a", "shop", spec)], |_| ()).allowed
}

fn allows_plain(spec: &str) -> bool {
    decide(&[policy("a", "shop", spec)], |call| call.source = None).allowed
}

fn allows_tcp(spec: &str) -> bool {
    decide(&[policy("a", "shop", spec)], |call| call.request = None).allowed
}

#[test]
fn without_a_policy_everything_is_allowed() {
    let decision = decide(&[], |_| ());
    assert_eq!(
        decision,
        Decision {
            allowed: true,
            because: Because::NoPolicy
        }
    );
}

#[test]
fn a_policy_without_rules_allows_nothing_and_an_empty_rule_everything() {
    assert!(!allows("{}"));
    assert!(allows("{ rules: [{}] }"));
    assert!(allows_plain("{ rules: [{}] }"));
}

#[test]
fn deny_comes_before_allow_and_the_rule_is_named() {
    let allow = policy("allow", "shop", "{ rules: [{}] }");
    let rules = "{ action: DENY, rules: [{ to: [{ operation: { methods: [POST] } }] }, \
                 { from: [{ source: { namespaces: [bank] } }] }] }";
    let deny = policy("deny", "istio-system", rules);
    let decision = decide(&[allow.clone(), deny], |_| ());
    let reference = |namespace: &str, name: &str| ObjectRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let because = Because::Denied {
        policy: reference("istio-system", "deny"),
        rule: 1,
    };
    assert_eq!(
        decision,
        Decision {
            allowed: false,
            because
        }
    );
    let because = Because::Allowed {
        policy: reference("shop", "allow"),
        rule: 0,
    };
    assert_eq!(
        decide(&[allow], |_| ()),
        Decision {
            allowed: true,
            because
        }
    );
    let nobody = policy("nobody", "shop", "{}");
    let because = Because::NotAllowed {
        policies: vec![reference("shop", "nobody")],
    };
    assert_eq!(
        decide(&[nobody], |_| ()),
        Decision {
            allowed: false,
            because
        }
    );
}

#[test]
fn a_policy_that_only_denies_leaves_the_rest_allowed() {
    let spec = "{ action: DENY, rules: [{ from: [{ source: { namespaces: [other] } }] }] }";
    assert!(allows(spec));
}

#[test]
fn policies_of_others_do_not_count() {
    assert!(decide(&[policy("a", "bank", "{}")], |_| ()).allowed);
    let selecting = "{ selector: { matchLabels: { app: db } } }";
    assert!(allows(selecting));
    assert!(decide(&[policy("a", "istio-system", selecting)], |_| ()).allowed);
    let selecting = "{ selector: { matchLabels: { app: web } } }";
    assert!(!decide(&[policy("a", "istio-system", selecting)], |_| ()).allowed);
}

#[test]
fn a_source_is_known_by_its_identity_and_address() {
    for source in [
        "principals: [cluster.local/ns/bank/sa/web]",
        "principals: ['*']",
        "principals: ['*/sa/web']",
        "principals: ['cluster.local/ns/bank/*']",
        "namespaces: [bank]",
        "namespaces: ['b*k']",
        "serviceAccounts: [bank/web]",
        "ipBlocks: [10.213.0.0/16]",
        "ipBlocks: [10.213.0.9]",
        "notPrincipals: [cluster.local/ns/bank/sa/other]",
        "notNamespaces: [other]",
        "notIpBlocks: ['fd00::/8', 10.0.0.1]",
        "notServiceAccounts: [web]",
    ] {
        assert!(
            allows(&format!(
                "{{ rules: [{{ from: [{{ source: {{ {source} }} }}] }}] }}"
            )),
            "{source}"
        );
    }
    for source in [
        "principals: [spiffe://cluster.local/ns/bank/sa/web]",
        "principals: [cluster.local/ns/bank/sa/we]",
        "principals: [other/ns/bank/sa/web]",
        "namespaces: [shop]",
        "serviceAccounts: [web]",
        "ipBlocks: [10.214.0.0/16]",
        "notPrincipals: ['*']",
        "notNamespaces: [bank]",
        "notIpBlocks: [10.213.0.0/24]",
        "notServiceAccounts: [bank/web]",
        "principals: ['*'], notNamespaces: [bank]",
        "namespaces: [bank], ipBlocks: [10.1.0.0/16]",
    ] {
        assert!(
            !allows(&format!(
                "{{ rules: [{{ from: [{{ source: {{ {source} }} }}] }}] }}"
            )),
            "{source}"
        );
    }
}

#[test]
fn a_caller_without_a_proven_identity_is_nobody() {
    for source in [
        "principals: ['*']",
        "namespaces: ['*']",
        "serviceAccounts: [bank/web]",
    ] {
        assert!(
            !allows_plain(&format!(
                "{{ rules: [{{ from: [{{ source: {{ {source} }} }}] }}] }}"
            )),
            "{source}"
        );
    }
    let not = "{ rules: [{ from: [{ source: { notPrincipals: ['*'] } }] }] }";
    assert!(allows_plain(not) && !allows(not));
}

#[test]
fn an_operation_is_known_by_port_method_path_and_host() {
    for operation in [
        "ports: ['80']",
        "methods: [GET, POST]",
        "paths: ['/items/*']",
        "paths: ['*/1']",
        "paths: ['/items/{*}']",
        "paths: ['/{**}']",
        "hosts: [web.shop.mesh]",
        "hosts: ['*.SHOP.mesh']",
        "notPorts: ['81']",
        "notMethods: [POST]",
        "notPaths: [/items, '/items/1?x=y']",
        "notHosts: [shop.mesh]",
    ] {
        assert!(
            allows(&format!(
                "{{ rules: [{{ to: [{{ operation: {{ {operation} }} }}] }}] }}"
            )),
            "{operation}"
        );
    }
    for operation in [
        "ports: ['8080']",
        "methods: [get]",
        "paths: ['/items']",
        "paths: ['/items/{*}/{*}']",
        "hosts: [shop.mesh]",
        "notPorts: ['80']",
        "notMethods: ['*']",
        "notPaths: ['/items/{**}']",
        "notHosts: [WEB.shop.mesh]",
        "methods: [GET], paths: [/other]",
    ] {
        assert!(
            !allows(&format!(
                "{{ rules: [{{ to: [{{ operation: {{ {operation} }} }}] }}] }}"
            )),
            "{operation}"
        );
    }
}

/// As in Istio: who means a host at any port writes both.
#[test]
fn a_port_in_the_authority_is_part_of_the_host() {
    let with_port = |hosts: &str| {
        let spec = format!("{{ rules: [{{ to: [{{ operation: {{ hosts: [{hosts}] }} }}] }}] }}");
        let request = HttpRequest {
            authority: "web.shop.mesh:8080".to_owned(),
            ..HttpRequest::default()
        };
        decide_for(&[policy("a", "shop", &spec)], &request, |_| ()).allowed
    };
    for hosts in ["'web.shop.mesh:*'", "'web.shop.mesh:8080'", "'web*'"] {
        assert!(with_port(hosts), "{hosts}");
    }
    for hosts in ["web.shop.mesh", "'*.shop.mesh'"] {
        assert!(!with_port(hosts), "{hosts}");
    }
}

#[test]
fn further_conditions_must_all_hold() {
    for when in [
        "{ key: 'request.headers[X-Tier]', values: [silver, gold] }",
        "{ key: 'request.headers[x-tier]', values: ['*'] }",
        "{ key: 'request.headers[x-none]', notValues: ['*'] }",
        "{ key: source.ip, values: [10.0.0.0/8] }",
        "{ key: source.namespace, values: [bank], notValues: [shop] }",
        "{ key: source.principal, values: ['cluster.local/*'] }",
        "{ key: source.serviceAccount, values: [bank/web] }",
        "{ key: destination.ip, values: [10.213.0.2] }",
        "{ key: destination.port, values: ['80'] }",
        "{ key: connection.sni, notValues: [a.example.com] }",
    ] {
        assert!(
            allows(&format!("{{ rules: [{{ when: [{when}] }}] }}")),
            "{when}"
        );
        let other = "{ key: destination.port, notValues: ['80'] }";
        assert!(
            !allows(&format!("{{ rules: [{{ when: [{when}, {other}] }}] }}")),
            "{when}"
        );
    }
}

#[test]
fn at_a_port_of_tcp_rules_for_requests_allow_nothing_and_deny_everything() {
    let asks = "to: [{ operation: { ports: ['80'], methods: [POST] } }]";
    assert!(!allows_tcp(&format!("{{ rules: [{{ {asks} }}] }}")));
    assert!(!allows_tcp(&format!(
        "{{ action: DENY, rules: [{{ {asks} }}] }}"
    )));
    assert!(allows(&format!(
        "{{ action: DENY, rules: [{{ {asks} }}] }}"
    )));
    let other_port = "to: [{ operation: { ports: ['81'], methods: [POST] } }]";
    assert!(allows_tcp(&format!(
        "{{ action: DENY, rules: [{{ {other_port} }}] }}"
    )));
    let by_header = "when: [{ key: 'request.headers[x-tier]', values: [gold] }]";
    assert!(!allows_tcp(&format!("{{ rules: [{{ {by_header} }}] }}")));
    let not_header = "when: [{ key: 'request.headers[x-tier]', notValues: [gold] }]";
    assert!(!allows_tcp(&format!("{{ rules: [{{ {not_header} }}] }}")));
    assert!(!allows_tcp(&format!(
        "{{ action: DENY, rules: [{{ {not_header} }}] }}"
    )));
    // One operation that asks for a request makes the whole rule one that never allows.
    let mixed = "to: [{ operation: { ports: ['80'] } }, { operation: { methods: [GET] } }]";
    assert!(!allows_tcp(&format!("{{ rules: [{{ {mixed} }}] }}")));
    assert!(allows_tcp(
        "{ rules: [{ to: [{ operation: { ports: ['80'] } }] }] }"
    ));
    assert!(allows_tcp(
        "{ rules: [{ from: [{ source: { namespaces: [bank] } }] }] }"
    ));
}
