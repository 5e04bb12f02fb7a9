//! What holds of injection for any job that can be injected.

use std::collections::BTreeMap;

use mesh_nomad::inject::{ModeChoice, Options, inject, uninject};
use mesh_nomad::model::Job;
use mesh_nomad::sidecar::Mode;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::generate::any_value;

proptest! {
    #[test]
    fn injecting_twice_is_injecting_once(job in sensible_job(), mode in any_mode()) {
        let options = options(mode);
        let once = inject(&job, &options).unwrap();
        let twice = inject(&once.job, &options).unwrap();
        prop_assert_eq!(&twice, &once);
        prop_assert_eq!(inject(&job, &options).unwrap(), once);
    }

    #[test]
    fn uninjecting_gives_the_job_back(job in sensible_job(), mode in any_mode()) {
        let injected = inject(&job, &options(mode)).unwrap().job;
        prop_assert_ne!(&injected, &job);
        prop_assert_eq!(uninject(&injected).unwrap(), job);
    }

    #[test]
    fn a_change_of_mode_leaves_nothing_of_the_one_before(
        job in sensible_job(), first in any_mode(), second in any_mode(),
    ) {
        let through = inject(&inject(&job, &options(first)).unwrap().job, &options(second)).unwrap();
        prop_assert_eq!(through, inject(&job, &options(second)).unwrap());
    }

    #[test]
    fn what_nobody_knows_survives(job in sensible_job(), mode in any_mode()) {
        let injected = inject(&job, &options(mode)).unwrap().job;
        let (before, after) = (unknown(&job), unknown(&injected));
        for (path, value) in before {
            prop_assert_eq!(after.get(&path), Some(&value), "{}", path);
        }
    }

    #[test]
    fn a_server_that_fills_in_defaults_does_not_bar_the_way_back(
        job in sensible_job(), mode in any_mode(),
    ) {
        let injected = inject(&job, &options(mode)).unwrap().job;
        let stored: Job = serde_json::from_value(filled(serde_json::to_value(&injected).unwrap())).unwrap();
        let back = uninject(&stored).unwrap();
        let text = serde_json::to_string(&back).unwrap();
        for ours in ["mesh-proxy", "mesh_health", "MESH_CONFIG", "mesh.injected", "app-health"] {
            prop_assert!(!text.contains(ours), "{} is left in {}", ours, text);
        }
    }
}

/// The modes that take the generated jobs, which have a bridge and user numbers.
fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Cni), Just(Mode::Guard), Just(Mode::Explicit)]
}

fn options(mode: Mode) -> Options {
    Options {
        mode: ModeChoice::Mode(mode),
        image: Some("mesh:1".into()),
        ..Options::default()
    }
}

/// Every `xUnknown` of the job by its path; positions do not change, for additions come last.
fn unknown(job: &Job) -> BTreeMap<String, Value> {
    fn walk(value: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = format!("{path}/{key}");
                    if key == "xUnknown" {
                        found.insert(path, value.clone());
                    } else {
                        walk(value, &path, found);
                    }
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    walk(value, &format!("{path}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    walk(&serde_json::to_value(job).unwrap(), "", &mut found);
    found
}

/// As a server stores it: implied constraints, and nothing said becomes a default.
fn filled(mut job: Value) -> Value {
    for group in job["TaskGroups"].as_array_mut().unwrap() {
        let implied = json!({ "LTarget": "${attr.nomad.service_discovery}", "RTarget": "true", "Operand": "=" });
        match group["Constraints"].as_array_mut() {
            Some(list) => list.push(implied),
            None => group["Constraints"] = json!([implied]),
        }
        for port in group["Networks"][0]["DynamicPorts"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            port["Value"] = json!(0);
            port["HostNetwork"] = json!("default");
        }
        for service in group["Services"].as_array_mut().into_iter().flatten() {
            for check in service["Checks"].as_array_mut().into_iter().flatten() {
                for key in ["Method", "Protocol", "Body", "GRPCService", "AddressMode"] {
                    if check.get(key).is_none() {
                        check[key] = json!("");
                    }
                }
                if check.get("Header").is_none() {
                    check["Header"] = Value::Null;
                }
            }
        }
        for task in group["Tasks"].as_array_mut().unwrap() {
            task["Leader"] = json!(false);
        }
    }
    job
}

/// A job that injection takes: one to three groups in a bridge, with services, checks, and lists
/// that are absent, null or empty.
fn sensible_job() -> impl Strategy<Value = Job> {
    (vec(group(), 1..3), loose("Meta", texts()), any_value()).prop_map(|(groups, meta, unknown)| {
        let mut groups = groups;
        for (index, group) in groups.iter_mut().enumerate() {
            group["Name"] = json!(format!("g{index}"));
        }
        let mut job = json!({ "ID": "web", "TaskGroups": groups, "xUnknown": unknown });
        add(&mut job, meta);
        serde_json::from_value(job).unwrap()
    })
}

fn group() -> impl Strategy<Value = Value> {
    (
        vec(task(), 1..3),
        loose("Services", vec(service(), 0..3).prop_map(Value::from).boxed()),
        loose("Meta", texts()),
        loose("Constraints", constraints()),
        loose("CNI", cni()),
        any_value(),
    )
        .prop_map(|(mut tasks, services, meta, constraints, cni, unknown)| {
            for (index, task) in tasks.iter_mut().enumerate() {
                task["Name"] = json!(format!("app{index}"));
            }
            let mut network = json!({
                "Mode": "bridge",
                "DynamicPorts": [{ "Label": "http", "To": 8080, "xUnknown": 1 }, { "Label": "same" }],
                "xUnknown": unknown.clone(),
            });
            add(&mut network, cni);
            let mut group = json!({ "Networks": [network], "Tasks": tasks, "xUnknown": unknown });
            add(&mut group, services);
            add(&mut group, meta);
            add(&mut group, constraints);
            group
        })
}

fn task() -> impl Strategy<Value = Value> {
    let driver = prop_oneof!["docker", "podman", "exec", "raw_exec"];
    (
        driver,
        loose("Env", texts()),
        loose("Meta", texts()),
        any_value(),
    )
        .prop_map(|(driver, env, meta, unknown)| {
            let mut task = json!({ "Driver": driver, "User": "1000", "xUnknown": unknown });
            add(&mut task, env);
            add(&mut task, meta);
            task
        })
}

fn service() -> impl Strategy<Value = Value> {
    let label = prop_oneof!["http", "same", "9090"];
    let checks = vec(check(), 0..3).prop_map(Value::from).boxed();
    ("[a-z]{1,8}", label, loose("Checks", checks), any_value()).prop_map(
        |(name, label, checks, unknown)| {
            let mut service = json!({
                "Name": name, "Provider": "nomad", "PortLabel": label, "xUnknown": unknown,
            });
            add(&mut service, checks);
            service
        },
    )
}

fn check() -> impl Strategy<Value = Value> {
    let kind = prop_oneof!["http", "tcp", "grpc", "script"];
    let header = loose("Header", Just(json!({ "A": ["b"] })).boxed());
    let text = || {
        prop_oneof![Just(String::new()), "[A-Z]{3}"]
            .prop_map(Value::from)
            .boxed()
    };
    (
        kind,
        header,
        loose("Method", text()),
        loose("AddressMode", text()),
        loose("TLSSkipVerify", any::<bool>().prop_map(Value::from).boxed()),
        any_value(),
    )
        .prop_map(|(kind, header, method, address, tls, unknown)| {
            let mut check =
                json!({ "Type": kind, "Path": "/h", "Interval": 1, "xUnknown": unknown });
            for field in [header, method, address, tls] {
                add(&mut check, field);
            }
            check
        })
}

fn constraints() -> BoxedStrategy<Value> {
    let targets = prop_oneof![
        Just("${attr.kernel.name}"),
        Just("${attr.nomad.version}"),
        Just("${meta.rack}"),
    ];
    vec(targets, 0..3)
        .prop_map(|targets| {
            let constraint =
                |target: &str| json!({ "LTarget": target, "RTarget": "x", "Operand": "=" });
            targets.into_iter().map(constraint).collect()
        })
        .boxed()
}

fn cni() -> BoxedStrategy<Value> {
    loose("Args", texts())
        .prop_map(|args| {
            let mut cni = json!({});
            add(&mut cni, args);
            cni
        })
        .boxed()
}

fn texts() -> BoxedStrategy<Value> {
    proptest::collection::btree_map("[a-z]{1,4}", "[a-z${}]{0,6}", 0..3)
        .prop_map(|map| json!(map))
        .boxed()
}

/// A field that is absent, null or set.
fn loose(
    key: &'static str,
    value: BoxedStrategy<Value>,
) -> impl Strategy<Value = Map<String, Value>> {
    let field = |value: Value| Map::from_iter([(key.to_owned(), value)]);
    prop_oneof![
        Just(Map::new()),
        Just(field(Value::Null)),
        value.prop_map(field),
    ]
}

fn add(object: &mut Value, fields: Map<String, Value>) {
    object.as_object_mut().unwrap().extend(fields);
}
