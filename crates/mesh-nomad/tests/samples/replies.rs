//! Every recorded reply, read as the type of its route and written again.

use std::collections::BTreeMap;

use mesh_nomad::client::{Frames, Lines, LogFrame};
use mesh_nomad::identity::{Expectation, Keys, Refusal, Token, identify, verify};
use mesh_nomad::model::acl::{AclToken, Policy, Role};
use mesh_nomad::model::agent::{Agent, AgentHealth, Members, SchedulerReply};
use mesh_nomad::model::allocation::{Allocation, AllocationStats, CheckResult};
use mesh_nomad::model::deployment::{Deployment, DeploymentChanged};
use mesh_nomad::model::evaluation::{Evaluation, EvaluationCount};
use mesh_nomad::model::event::EventBatch;
use mesh_nomad::model::namespace::Namespace;
use mesh_nomad::model::node::{Node, NodePool};
use mesh_nomad::model::registration::{NamespaceServices, Registration};
use mesh_nomad::model::reply::{
    AllocationStopped, Dispatched, JobStub, Plan, Registered, ScaleStatus, Submission, Summary,
    Validation, Versions,
};
use mesh_nomad::model::variable::Variable;
use mesh_nomad::model::volume::{HostVolume, VolumeClaim, VolumeCreated};
use mesh_nomad::model::{Job, Object as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{files, read};

/// That a value comes out as it went in, through a tree and through text.
fn same<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(), String> {
    let text = value.to_string();
    let typed: T = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let again = serde_json::to_string(&typed).unwrap();
    let again: Value = serde_json::from_str(&again).unwrap();
    if again == *value {
        Ok(())
    } else {
        Err(format!("{again}\nis not\n{value}"))
    }
}

/// Reads a body as the type of its route; none if no type of this crate is for that route.
fn check(method: &str, path: &str, body: &Value) -> Option<Result<(), String>> {
    let path = path.split('?').next().unwrap_or_default();
    let segments: Vec<_> = path.trim_start_matches("/v1/").split('/').collect();
    let is_read = method == "GET";
    Some(match segments.as_slice() {
        ["jobs"] if is_read => same::<Vec<JobStub>>(body),
        ["jobs", "parse"] => same::<Job>(body),
        ["validate", "job"] => same::<Validation>(body),
        ["job", .., "plan"] => same::<Plan>(body),
        ["job", .., "scale"] if is_read => same::<ScaleStatus>(body),
        ["job", .., "dispatch"] => same::<Dispatched>(body),
        ["job", .., "versions"] => same::<Versions>(body),
        ["job", .., "summary"] => same::<Summary>(body),
        ["job", .., "submission"] => same::<Submission>(body),
        ["allocations"]
        | ["job", .., "allocations"]
        | ["evaluation" | "node", _, "allocations"]
        | ["deployment", "allocations", _] => same::<Vec<Allocation>>(body),
        ["evaluations"] | ["job", .., "evaluations"] => same::<Vec<Evaluation>>(body),
        ["deployments"] | ["job", .., "deployments"] => same::<Vec<Deployment>>(body),
        ["job", .., "deployment"] => same::<Option<Deployment>>(body),
        ["service", _] | ["job", .., "services"] | ["allocation", _, "services"] => {
            same::<Vec<Registration>>(body)
        }
        ["job", _] | ["job", _, _] if is_read => same::<Job>(body),
        ["jobs"] | ["job", _] | ["job", .., "scale" | "revert" | "evaluate" | "force"] => {
            same::<Registered>(body)
        }
        ["allocation", _] => same::<Allocation>(body),
        ["allocation", _, "stop"] => same::<AllocationStopped>(body),
        ["client", "allocation", _, "checks"] => {
            same::<Option<BTreeMap<String, CheckResult>>>(body)
        }
        ["client", "allocation", _, "stats"] => same::<AllocationStats>(body),
        ["evaluations", "count"] => same::<EvaluationCount>(body),
        ["evaluation", _] => same::<Evaluation>(body),
        ["deployment", _, _] => same::<DeploymentChanged>(body),
        ["deployment", _] => same::<Deployment>(body),
        ["nodes"] => same::<Vec<Node>>(body),
        ["node", "pools"] => same::<Vec<NodePool>>(body),
        ["node", _] => same::<Node>(body),
        ["services"] => same::<Vec<NamespaceServices>>(body),
        ["vars"] => same::<Vec<Variable>>(body),
        ["var", ..] => same::<Variable>(body),
        ["volumes"] => same::<Vec<HostVolume>>(body),
        ["volumes", "claims"] => same::<Vec<VolumeClaim>>(body),
        ["volume", "host", "create"] => same::<VolumeCreated>(body),
        ["volume", "host", _] => same::<HostVolume>(body),
        ["namespaces"] => same::<Vec<Namespace>>(body),
        ["namespace", _] => same::<Namespace>(body),
        ["acl", "policies"] => same::<Vec<Policy>>(body),
        ["acl", "policy", _] => same::<Policy>(body),
        ["acl", "tokens"] => same::<Vec<AclToken>>(body),
        ["acl", "token", ..] => same::<AclToken>(body),
        ["acl", "roles"] => same::<Vec<Role>>(body),
        ["acl", "role", ..] => same::<Role>(body),
        ["agent", "self"] => same::<Agent>(body),
        ["agent", "health"] => same::<AgentHealth>(body),
        ["agent", "members"] => same::<Members>(body),
        ["operator", "scheduler", "configuration"] => same::<SchedulerReply>(body),
        ["status", "leader"] => same::<String>(body),
        ["status", "peers"] | ["regions"] => same::<Vec<String>>(body),
        _ => return None,
    })
}

#[test]
fn every_recorded_reply_comes_out_as_it_went_in() {
    let (mut typed, mut untyped) = (0, Vec::new());
    for path in files("MESH_NOMAD_RECORDINGS", ".json") {
        let recorded = read(&path);
        let text = |pointer| recorded.pointer(pointer).and_then(Value::as_str);
        let is_success = recorded["status"]
            .as_u64()
            .is_some_and(|status| status < 300);
        let body = &recorded["body"];
        if !is_success || !(body.is_object() || body.is_array()) {
            continue;
        }
        let (Some(method), Some(route)) = (text("/request/method"), text("/request/path")) else {
            continue;
        };
        match check(method, route, body) {
            Some(Ok(())) => typed += 1,
            Some(Err(error)) => panic!("{}: {error}", path.display()),
            None => untyped.push(route.to_owned()),
        }
    }
    assert!(
        typed >= 100,
        "only {typed} replies have a type; not {untyped:#?}"
    );
    // Routes that this crate has no use for, by name, so that a new one is noticed.
    untyped.retain(|route| !UNUSED.iter().any(|unused| route.starts_with(unused)));
    assert!(untyped.is_empty(), "{untyped:#?}");
}

const UNUSED: &[&str] = &[
    "/.well-known/",
    "/v1/client/allocation/",
    "/v1/client/fs/",
    "/v1/client/stats",
    "/v1/job/shop-web/versions/good/tag",
    "/v1/jobs/statuses",
    "/v1/operator/",
];

#[test]
fn every_recorded_event_comes_out_as_it_went_in() {
    let (mut heartbeats, mut removed) = (0, 0);
    for path in files("MESH_NOMAD_RECORDINGS", ".ndjson") {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = Lines::default();
        // In pieces that end anywhere.
        let mut pieces = text.as_bytes().chunks(1021);
        let mut expected = text.lines().filter(|line| !line.trim().is_empty());
        loop {
            let Some(batch) = lines.next_batch().unwrap() else {
                match pieces.next() {
                    Some(piece) => lines.push(piece),
                    None => break,
                }
                continue;
            };
            let line: Value = serde_json::from_str(expected.next().unwrap()).unwrap();
            same::<EventBatch>(&line).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            heartbeats += usize::from(batch.is_heartbeat());
            let events = batch.events.items().iter();
            removed += events.filter(|event| event.removes_service()).count();
        }
    }
    assert!(heartbeats > 0 && removed > 0, "{heartbeats} and {removed}");
}

#[test]
fn recorded_log_frames_are_read() {
    let path = files("MESH_NOMAD_RECORDINGS", "client/logs-frames.json").remove(0);
    let mut frames = Frames::default();
    frames.push(read(&path)["body"].to_string().as_bytes());
    let frame: LogFrame = frames.next_frame().unwrap().unwrap();
    assert_eq!(
        (frame.file.as_str(), frame.offset),
        ("alloc/logs/web.stdout.0", 647)
    );
    assert!(frame.bytes().unwrap().ends_with(b"\n"));
}

#[test]
fn no_field_of_a_recorded_reply_is_spelt_otherwise_than_here() {
    for path in files("MESH_NOMAD_RECORDINGS", "allocations/read.json") {
        let allocation: Allocation = serde_json::from_value(read(&path)["body"].clone()).unwrap();
        assert_eq!(allocation.misspelt().count(), 0);
        assert!(allocation.is_live() && !allocation.ports().is_empty());
    }
}

#[test]
fn a_recorded_identity_is_proven_by_its_recorded_allocation() {
    let one = |name| read(&files("MESH_NOMAD_RECORDINGS", name).remove(0));
    let token = one("identity/token-named-mesh.json");
    let segments: Vec<_> = token["segments"].as_array().unwrap().iter().collect();
    let segments: Vec<_> = segments.iter().map(|text| text.as_str().unwrap()).collect();
    let signed = Token::new(&segments.join("."));
    let keys = one("identity/jwks.json")["body"].to_string();
    let keys = Keys::from_json(keys.as_bytes()).unwrap();
    let expected = Expectation::default();
    let issued = token["claims"]["iat"].as_i64().unwrap();
    let claims = verify(&signed, &keys, &expected, issued + 5).unwrap();
    assert_eq!(claims.job, "injected");
    let late = verify(&signed, &keys, &expected, issued + 7200).unwrap_err();
    assert!(matches!(late, Refusal::Expired { .. }), "{late}");
    let mut allocation = one("allocations/read-injected.json")["body"].clone();
    // That job was made by hand, before there was an injection that marks its task.
    let tasks = allocation.pointer_mut("/Job/TaskGroups/0/Tasks").unwrap();
    for task in tasks.as_array_mut().unwrap() {
        if task["Name"] == "mesh-proxy" {
            task["Meta"] = serde_json::json!({ "mesh.role": "proxy" });
        }
    }
    let live: Allocation = serde_json::from_value(allocation).unwrap();
    let proven = identify(&claims, Some(&live)).unwrap();
    assert_eq!(proven.account.service_account().as_str(), "injected");
    // The same signature, one bit away.
    let forged = segments.join(".").replacen(".eyJ", ".eyK", 1);
    assert_ne!(forged, segments.join("."));
    assert!(verify(&Token::new(&forged), &keys, &expected, issued + 5).is_err());
}
