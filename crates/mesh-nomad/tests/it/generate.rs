//! Generated jobs: any of Nomad's fields, absent, null or set, and fields that nobody knows.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Any JSON value, with all kinds of numbers.
pub(crate) fn any_value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map("\\PC{0,5}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}

/// Any job in Nomad's JSON, sensible or not.
pub(crate) fn any_job() -> BoxedStrategy<Value> {
    object(vec![
        ("ID", text()),
        ("Name", text()),
        ("Namespace", text()),
        ("Type", text()),
        ("Datacenters", list(text())),
        ("Constraints", list(constraint())),
        ("TaskGroups", list(group())),
        ("Update", update()),
        ("Meta", texts()),
        ("Periodic", any_value()),
        ("Stop", any::<bool>().prop_map(Value::from).boxed()),
        ("JobModifyIndex", any::<u64>().prop_map(Value::from).boxed()),
    ])
}

fn group() -> BoxedStrategy<Value> {
    object(vec![
        ("Name", text()),
        ("Count", number()),
        ("Tasks", list(task())),
        ("Networks", list(network())),
        ("Services", list(service())),
        ("Meta", texts()),
        ("Update", update()),
        ("ShutdownDelay", number()),
    ])
}

fn task() -> BoxedStrategy<Value> {
    object(vec![
        ("Name", text()),
        ("Driver", text()),
        ("User", text()),
        ("Config", texts()),
        ("Env", texts()),
        ("Services", list(service())),
        (
            "Lifecycle",
            object(vec![("Hook", text()), ("Sidecar", flag())]),
        ),
        (
            "Identities",
            list(object(vec![
                ("Name", text()),
                ("Audience", list(text())),
                ("TTL", number()),
            ])),
        ),
        (
            "Templates",
            list(object(vec![
                ("EmbeddedTmpl", text()),
                ("Perms", text()),
                ("Uid", number()),
            ])),
        ),
        (
            "Resources",
            object(vec![("CPU", number()), ("NUMA", any_value())]),
        ),
        ("KillTimeout", number()),
        ("Leader", flag()),
    ])
}

fn service() -> BoxedStrategy<Value> {
    let check = object(vec![
        ("Type", text()),
        ("Path", text()),
        ("Interval", number()),
        ("TLSSkipVerify", flag()),
        ("CheckRestart", any_value()),
    ]);
    object(vec![
        ("Name", text()),
        ("PortLabel", text()),
        ("Tags", list(text())),
        ("Checks", list(check)),
        ("Connect", any_value()),
    ])
}

fn network() -> BoxedStrategy<Value> {
    let port = || {
        list(object(vec![
            ("Label", text()),
            ("To", number()),
            ("Value", number()),
        ]))
    };
    object(vec![
        ("Mode", text()),
        ("DynamicPorts", port()),
        ("ReservedPorts", port()),
        ("CNI", object(vec![("Args", texts())])),
    ])
}

fn update() -> BoxedStrategy<Value> {
    object(vec![("MaxParallel", number()), ("HealthCheck", text())])
}

fn constraint() -> BoxedStrategy<Value> {
    object(vec![("LTarget", text()), ("Operand", text())])
}

fn text() -> BoxedStrategy<Value> {
    "\\PC{0,8}".prop_map(Value::from).boxed()
}

fn number() -> BoxedStrategy<Value> {
    any::<i64>().prop_map(Value::from).boxed()
}

fn flag() -> BoxedStrategy<Value> {
    any::<bool>().prop_map(Value::from).boxed()
}

fn texts() -> BoxedStrategy<Value> {
    btree_map("[a-z._]{1,6}", "\\PC{0,6}", 0..3)
        .prop_map(|map| json!(map))
        .boxed()
}

fn list(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    vec(item, 0..3).prop_map(Value::from).boxed()
}

/// An object with each of these keys absent, null or set, and up to two that nobody knows.
fn object(keys: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let known: Vec<_> = keys
        .into_iter()
        .map(|(key, value)| {
            prop_oneof![
                1 => Just(None),
                1 => Just(Some((key.to_owned(), Value::Null))),
                3 => value.prop_map(move |value| Some((key.to_owned(), value))),
            ]
            .boxed()
        })
        .collect();
    let unknown = btree_map("x[A-Za-z]{1,4}", any_value(), 0..2);
    (known, unknown)
        .prop_map(|(known, unknown)| {
            let fields: Map<_, _> = known.into_iter().flatten().chain(unknown).collect();
            Value::Object(fields)
        })
        .boxed()
}
