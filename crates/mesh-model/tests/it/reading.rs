//! What does not fit into Istio's types is found at once, with its path.

use mesh_model::istio::{IstioKind, IstioObject, check};
use serde_json::{Value, json};

use crate::{checked, object, problems};

#[test]
fn every_value_of_a_wrong_type_is_named() {
    let spec = "
hosts: reviews
http:
- match:
  - uri: /a
    headers: { x: { exact: 1 } }
    port: 70000
    sourceLabels: [a]
  timeout: soon
  route:
  - destination: { host: reviews, port: 80 }
    weight: many
  - destination: { host: [] }
    weight: -1
- just text
exportTo: [1]
";
    let mut found = problems(IstioKind::VirtualService, spec);
    found.sort();
    let mut expected = [
        "spec.exportTo[0]: `1` is not a string",
        "spec.hosts: `reviews` is not a list",
        "spec.http[0].match[0].headers[x].exact: `1` is not a string",
        "spec.http[0].match[0].port: `70000` is not a whole number from 0 to 65535",
        "spec.http[0].match[0].sourceLabels: `a list` is not an object",
        "spec.http[0].match[0].uri: `/a` is not an object",
        "spec.http[0].route[0].destination.port: `80` is not an object",
        "spec.http[0].route[0].weight: `many` is not a whole number from 0 to 4294967295",
        "spec.http[0].route[1].destination.host: `a list` is not a string",
        "spec.http[0].route[1].weight: `-1` is not a whole number from 0 to 4294967295",
        "spec.http[0].timeout: `soon` is not a duration such as `7s`, `0.5s` or `1m30s`",
        "spec.http[1]: `just text` is not an object",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_wrong_choice_names_the_right_ones() {
    let found = problems(IstioKind::PeerAuthentication, "{ mtls: { mode: strict } }");
    let expected = "spec.mtls.mode: `strict` is not one of \
                    `UNSET`, `DISABLE`, `PERMISSIVE`, `STRICT`";
    assert_eq!(found, [expected]);
    let found = problems(IstioKind::PeerAuthentication, "{ mtls: { mode: 1 } }");
    assert_eq!(found, [expected.replace("`strict`", "`1`")]);
}

#[test]
fn a_wrong_port_as_a_key_is_named() {
    let spec = "{ selector: { matchLabels: { a: b } }, portLevelMtls: { http: {}, '70000': {}, '80': {} } }";
    let found = problems(IstioKind::PeerAuthentication, spec);
    assert_eq!(
        found,
        [
            "spec.portLevelMtls[70000]: `70000` is not a whole number from 0 to 65535",
            "spec.portLevelMtls[http]: `http` is not a whole number from 0 to 65535",
        ]
    );
}

#[test]
fn misfits_and_broken_rules_are_found_together() {
    let spec =
        "{ hosts: [reviews], http: [{ timeout: soon }, { retries: { attempts: 0, retryOn: x } }] }";
    let found = problems(IstioKind::VirtualService, spec);
    assert_eq!(
        found[0],
        "spec.http[0].timeout: `soon` is not a duration such as `7s`, `0.5s` or `1m30s`"
    );
    assert!(
        found
            .iter()
            .any(|problem| problem.starts_with("spec.http[1].retries.retryOn"))
    );
    // Its parent was read without it, so what is wrong with the parent is not sure.
    assert!(
        !found
            .iter()
            .any(|problem| problem.starts_with("spec.http[0]:")),
        "{found:?}"
    );
}

#[test]
fn unknown_fields_are_listed_and_nothing_else_suffers() {
    let spec = "{ hosts: [reviews], colour: red, http: [{ timeouts: 1s, route: [{ destination: { host: a, Port: 1 } }] }] }";
    let mut value = object(IstioKind::VirtualService, spec);
    value["extra"] = json!(1);
    value["status"] = json!({ "anything": true });
    let checked = check(IstioKind::VirtualService, &value);
    assert_eq!(checked.problems, []);
    assert_eq!(
        checked.unknown_fields,
        [
            "extra",
            "spec.colour",
            "spec.http[0].route[0].destination.Port",
            "spec.http[0].timeouts"
        ]
    );
    assert!(checked.object.is_some());
}

#[test]
fn null_is_the_same_as_absent() {
    let spec = "{ hosts: [reviews], gateways: null, http: [{ name: null, timeout: null, route: [{ destination: { host: a, subset: null } }] }] }";
    let checked = checked(IstioKind::VirtualService, spec);
    assert_eq!(checked.problems, []);
    let Some(IstioObject::VirtualService(object)) = checked.object else {
        panic!("{checked:?}")
    };
    assert_eq!(object.spec.http[0].timeout, None);
}

#[test]
fn kind_version_and_metadata_are_looked_at() {
    let wrong = json!({
        "apiVersion": "networking.istio.io/v9",
        "kind": "DestinationRule",
        "metadata": {
            "name": "A b",
            "namespace": 7,
            "labels": { "x": "a b" },
            "generation": "one",
            "managedFields": [],
        },
        "spec": { "hosts": ["a"], "tcp": [{ "route": [{ "destination": { "host": "a" } }] }] },
    });
    let checked = check(IstioKind::VirtualService, &wrong);
    let paths: Vec<_> = checked
        .problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "kind",
            "apiVersion",
            "metadata.namespace",
            "metadata.generation",
            "metadata.name",
            "metadata.labels[x]",
        ]
    );
    for value in [
        json!(null),
        json!([]),
        json!("x"),
        json!({ "spec": [] }),
        json!({ "metadata": 1 }),
    ] {
        let checked = check(IstioKind::ServiceEntry, &value);
        assert!(
            checked.object.is_none() && !checked.problems.is_empty(),
            "{value}"
        );
    }
}

#[test]
fn metadata_that_is_not_ours_is_kept() {
    let mut value = object(IstioKind::WorkloadEntry, "{ address: 10.0.0.1 }");
    value["metadata"]["finalizers"] = json!(["a"]);
    value["metadata"]["creationTimestamp"] = Value::Null;
    let checked = check(IstioKind::WorkloadEntry, &value);
    let object = serde_json::to_value(checked.object.unwrap()).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["a"]));
    assert_eq!(object["metadata"].get("creationTimestamp"), None);
}

#[test]
fn the_number_of_problems_of_types_is_limited() {
    let list = vec![json!("x"); 10_000];
    let mut value = object(IstioKind::VirtualService, "{}");
    value["spec"]["http"] = json!(list);
    let problems = check(IstioKind::VirtualService, &value).problems;
    assert!((10..100).contains(&problems.len()), "{}", problems.len());
}
