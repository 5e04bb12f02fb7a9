//! What a check finds, on clusters that lack something.

use serde_json::json;

use super::*;
use crate::inject::{ModeChoice, Options};
use crate::install;
use crate::model::agent::Agent;
use crate::model::node::Node;
use crate::sidecar::Mode;

fn job(id: &str, template: Option<&str>) -> Job {
    let templates = template.map(|text| json!([{ "EmbeddedTmpl": text }]));
    serde_json::from_value(json!({
        "ID": id,
        "TaskGroups": [{
            "Name": "front",
            "Networks": [{ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] }],
            "Services": [{ "Name": id, "Provider": "nomad", "PortLabel": "http" }],
            "Tasks": [{
                "Name": "app", "Driver": "docker", "Config": { "image": "app:1" },
                "Templates": templates,
            }],
        }],
    }))
    .unwrap()
}

fn injected(job: &Job, mode: Mode) -> Job {
    let options = Options {
        mode: ModeChoice::Mode(mode),
        image: Some("mesh:1".to_owned()),
        ..Options::default()
    };
    inject::inject(job, &options).unwrap().job
}

fn node(name: &str) -> EligibleNode {
    let node: Node = serde_json::from_value(json!({
        "ID": name, "Name": name, "Datacenter": "dc1", "NodePool": "default",
        "Status": "ready", "SchedulingEligibility": "eligible",
        "Attributes": {
            "plugins.cni.version.mesh-cni": "v0.1.0",
            "plugins.cni.version.bridge": "v1.9.1",
        },
        "NodeResources": { "Networks": [{ "Mode": "bridge" }, { "Mode": "cni/mesh" }] },
        "Drivers": { "docker": { "Detected": true, "Healthy": true } },
    }))
    .unwrap();
    let agent: Agent = serde_json::from_value(json!({
        "config": { "Plugins": [
            { "Name": "docker", "Config": { "allow_caps": ["chown", "CAP_NET_ADMIN", "net_raw"] } },
        ] },
    }))
    .unwrap();
    EligibleNode {
        node,
        agent: Some(agent),
        closed: Vec::new(),
    }
}

/// A cluster that lacks nothing.
fn cluster(nodes: &[EligibleNode]) -> Cluster {
    let registration =
        |tags: &[&str]| serde_json::from_value::<Registration>(json!({ "Tags": tags })).unwrap();
    Cluster {
        nodes: nodes.to_vec(),
        namespace: Some(Namespace::default()),
        jobs: Vec::new(),
        pilots: vec![registration(&[])],
        authorities: vec![registration(&["mesh.root=ab"])],
    }
}

fn without(mut node: EligibleNode, attribute: &str) -> EligibleNode {
    node.node.attributes.or_default().remove(attribute);
    node
}

fn told(findings: &[Finding]) -> Vec<String> {
    let told = findings.iter();
    told.map(|finding| format!("{} {finding}", finding.severity.as_str()))
        .collect()
}

#[test]
fn a_cluster_that_has_everything_lacks_nothing() {
    let cluster = cluster(&[node("c1"), node("c2")]);
    for mode in [Mode::Cni, Mode::Guard, Mode::Explicit] {
        let job = injected(&job("web", None), mode);
        assert_eq!(check(&job, &cluster), [], "{mode}");
    }
}

#[test]
fn a_plugin_that_every_node_lacks_is_a_problem_and_one_that_some_lack_a_warning() {
    let job = injected(&job("web", None), Mode::Cni);
    let lacking = |name: &str| without(node(name), "plugins.cni.version.mesh-cni");
    let all = check(&job, &cluster(&[lacking("c1"), lacking("c2")]));
    assert_eq!(
        told(&all),
        ["problem TaskGroups[front]: every node: no CNI plugin `mesh-cni`"]
    );
    let some = check(&job, &cluster(&[lacking("c1"), node("c2")]));
    assert_eq!(
        told(&some),
        ["warning TaskGroups[front]: 1 of 2 nodes (c1): no CNI plugin `mesh-cni`"]
    );
}

#[test]
fn a_closed_way_to_the_files_of_processes_is_a_warning_for_these_alone() {
    let mut closed = node("c1");
    let line = install::node::closed_directory("/opt/nomad/data".as_ref(), 0o40700);
    closed.closed = install::node::closed_directories(&format!("plugin x\n{line}\n"))
        .map(str::to_owned)
        .collect();
    let drivers = json!({ "raw_exec": { "Detected": true, "Healthy": true } });
    closed.node.drivers = serde_json::from_value(drivers).unwrap();
    let meta = json!({ "mesh.proxy_uid": "1337" });
    closed.node.meta = serde_json::from_value(meta).unwrap();
    let mut process = job("web", None);
    let task = &mut process.task_groups.items_mut()[0].tasks.items_mut()[0];
    task.driver = "raw_exec".into();
    let findings = check(&injected(&process, Mode::Cni), &cluster(&[closed.clone()]));
    let [found] = findings.as_slice() else {
        panic!("{findings:?}");
    };
    assert_eq!(found.severity, Severity::Warning);
    assert!(
        found.reason.contains("/opt/nomad/data has mode 0700"),
        "{found}"
    );

    closed.node = node("c1").node;
    let container = injected(&job("web", None), Mode::Cni);
    assert_eq!(check(&container, &cluster(&[closed])), []);
}

#[test]
fn nodes_that_lack_different_things_leave_no_place() {
    let job = injected(&job("web", None), Mode::Cni);
    let mut broken = node("c2");
    broken.node.drivers = serde_json::from_value(json!({})).unwrap();
    let nodes = [without(node("c1"), "plugins.cni.version.mesh-cni"), broken];
    let findings = check(&job, &cluster(&nodes));
    assert_eq!(
        told(&findings),
        [
            "problem TaskGroups[front]: 1 of 2 nodes (c1): no CNI plugin `mesh-cni`",
            "problem TaskGroups[front]: 1 of 2 nodes (c2): driver `docker` is not there or not healthy",
        ]
    );
}

#[test]
fn standard_plugins_that_nomad_never_has_checked_are_a_warning() {
    let mut old = node("c1");
    let attributes = old.node.attributes.or_default();
    // What Nomad makes of Debian's plugins, which print no version of their own.
    attributes.insert("plugins.cni.version.bridge".into(), "1.0.0".into());
    let findings = check(&injected(&job("web", None), Mode::Cni), &cluster(&[old]));
    let [found] = findings.as_slice() else {
        panic!("{findings:?}");
    };
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.reason.contains("`bridge` is 1.0.0"), "{found}");
}

#[test]
fn capabilities_that_a_driver_may_not_give_are_named() {
    let job = injected(&job("web", None), Mode::Guard);
    let mut strict = node("c1");
    strict.agent = Some(
        serde_json::from_value(json!({ "config": { "Plugins": [
            { "Name": "docker", "Config": { "allow_caps": ["net_admin"] } },
        ] } }))
        .unwrap(),
    );
    assert_eq!(
        told(&check(&job, &cluster(&[strict]))),
        [
            "problem TaskGroups[front]: every node: driver `docker` may not give the capabilities net_raw"
        ]
    );
    let mut unseen = node("c1");
    unseen.agent = None;
    assert_eq!(
        told(&check(&job, &cluster(&[unseen]))),
        [
            "warning TaskGroups[front]: every node: nobody may see which capabilities driver `docker` may give"
        ]
    );
}

#[test]
fn a_namespace_that_forbids_the_network_mode_is_told() {
    let mut cluster = cluster(&[node("c1")]);
    let job = injected(&job("web", None), Mode::Cni);
    cluster.namespace = Some(
        serde_json::from_value(json!({ "Name": "default", "Capabilities": {
            "EnabledNetworkModes": ["bridge"], "DisabledTaskDrivers": ["docker"],
        } }))
        .unwrap(),
    );
    assert_eq!(
        told(&check(&job, &cluster)),
        [
            "problem TaskGroups[front].Networks[0].Mode: namespace `default` forbids the network mode `cni/mesh`",
            "problem TaskGroups[front]: namespace `default` forbids the driver `docker`",
        ]
    );
    cluster.namespace = None;
    assert_eq!(
        told(&check(&job, &cluster)),
        ["problem Namespace: there is no namespace `default`"]
    );
}

#[test]
fn callers_by_the_catalogue_without_a_sidecar_are_told_on_both_sides() {
    const READS: &str = r#"{{ range nomadService "web" }}{{ .Address }}{{ end }}"#;
    let web = injected(&job("web", None), Mode::Cni);
    let plain = job("old", Some(READS));
    let mut cluster = cluster(&[node("c1")]);
    cluster.jobs = vec![plain.clone(), injected(&job("new", Some(READS)), Mode::Cni)];
    let expected = "warning Services[web] of job web: group `front` of job `old` has no sidecar and calls the address that the catalogue has for it: with mutual TLS STRICT it is refused";
    assert_eq!(told(&check(&web, &cluster)), [expected]);
    // The same from the caller's side.
    cluster.jobs = vec![web];
    assert_eq!(told(&check(&plain, &cluster)), [expected]);
    // Nothing brings what it calls to a sidecar in mode `explicit`.
    let apart = injected(&job("old", Some(READS)), Mode::Explicit);
    let expected = expected.replace("no sidecar", "a sidecar in mode `explicit`");
    assert_eq!(told(&check(&apart, &cluster)), [expected]);
    // A job that is dead calls nobody.
    let mut dead = plain;
    dead.status = "dead".into();
    cluster.jobs = vec![dead];
    assert_eq!(
        told(&check(&injected(&job("web", None), Mode::Cni), &cluster)),
        Vec::<String>::new()
    );
}

#[test]
fn a_mesh_that_is_not_there_is_told() {
    let cluster = Cluster {
        pilots: Vec::new(),
        authorities: vec![Registration::default()],
        ..cluster(&[node("c1")])
    };
    let findings = check(&injected(&job("web", None), Mode::Cni), &cluster);
    let paths: Vec<_> = findings
        .iter()
        .map(|finding| finding.path.as_str())
        .collect();
    assert_eq!(paths, ["mesh-pilot", "mesh-ca"]);
}

#[test]
fn a_plan_without_a_place_says_why() {
    let plan: Plan = serde_json::from_value(json!({ "FailedTGAllocs": { "front": {
        "NodesEvaluated": 3,
        "ConstraintFiltered": { "${attr.kernel.name} = windows": 2 },
        "DimensionExhausted": { "memory": 1 },
    } } }))
    .unwrap();
    assert_eq!(
        told(&of_plan(&plan)),
        [
            "problem TaskGroups[front]: no place: of 3 nodes, ${attr.kernel.name} = windows rules out 2, memory is short on 1"
        ]
    );
    assert_eq!(of_plan(&Plan::default()), []);
}

#[test]
fn eligible_are_nodes_that_take_work_in_the_jobs_datacenters_and_pool() {
    let node = node("c1").node;
    let with = |key: &str, value: serde_json::Value| {
        let mut changed = serde_json::to_value(job("web", None)).unwrap();
        changed
            .as_object_mut()
            .unwrap()
            .insert(key.to_owned(), value);
        serde_json::from_value::<Job>(changed).unwrap()
    };
    assert!(is_eligible(&node, &job("web", None)));
    for (datacenter, expected) in [
        ("dc1", true),
        ("d*", true),
        ("*1", true),
        ("*", true),
        ("d*2", false),
        ("dc", false),
    ] {
        let job = with("Datacenters", json!([datacenter]));
        assert_eq!(is_eligible(&node, &job), expected, "{datacenter}");
    }
    assert!(is_eligible(&node, &with("NodePool", json!("all"))));
    assert!(!is_eligible(&node, &with("NodePool", json!("gpu"))));
    let down = Node {
        status: "down".into(),
        ..node.clone()
    };
    assert!(!is_eligible(&down, &job("web", None)));
    let ineligible = Node {
        eligibility: "ineligible".into(),
        ..node
    };
    assert!(!is_eligible(&ineligible, &job("web", None)));
}
