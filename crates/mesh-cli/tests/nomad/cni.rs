//! `mesh-cni` as the last plugin of a chain that Nomad runs.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_netfilter::Policy;
use mesh_nomad::client::Register;
use mesh_nomad::cni::{encode, from_consul};
use mesh_nomad::model::Job;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::application::{bridge, job};
use crate::machine::until;
use crate::node::{Kind, Node, on_a_node, prepare};

/// The policy that injection wrote into a job.
fn policy_of(job: &Job) -> Value {
    let args = job.task_groups.items()[0].networks.items()[0].cni.get();
    let args = args.unwrap().args.get().unwrap();
    let text = URL_SAFE_NO_PAD.decode(&args["MESH_CONFIG"]).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// A job in the network `cni/mesh` that nobody injected, with arguments of its own.
fn bare(id: &str, args: &Value) -> Job {
    let network = json!({
        "Mode": "cni/mesh", "DynamicPorts": [{ "Label": "http", "To": 8080 }],
        "CNI": { "Args": args },
    });
    serde_json::from_value(job(id, "raw_exec", &network)["Job"].take()).unwrap()
}

/// Registers a job whose network cannot be made; what Nomad says about its only allocation.
async fn refusal(node: &Node, job: &Job) -> String {
    let client = &node.machine.client;
    client
        .register_job(job, &Register::default())
        .await
        .unwrap();
    until("the allocation has failed", || async {
        let all = client
            .job_allocations("default", job.id.text())
            .await
            .ok()?
            .value;
        let failed = all
            .into_iter()
            .find(|found| found.client_status.text() == "failed")?;
        let states = failed.task_states.get().cloned().unwrap_or_default();
        let events = states.values().flat_map(|state| state.events.items());
        let said: Vec<_> = events.map(|event| event.display_message.text()).collect();
        Some(said.join("\n"))
    })
    .await
}

/// The control of every test about plaintext: the same application without a mesh is heard.
async fn without_a_mesh(node: &Node, driver: &str) {
    let mut network = bridge();
    network["Mode"] = json!("cni/mesh");
    let plain = serde_json::from_value(job("plain", driver, &network)["Job"].take()).unwrap();
    let allocation = node.machine.run(&plain).await.remove(0);
    assert_eq!(node.attempts(&allocation, 1).await, ["connected"]);
    let packets = until("the witness heard it", || async {
        let (heard, packets) = node.plaintext();
        (heard == 1).then_some(packets)
    });
    assert_ne!(packets.await, 0);
    let netns = format!("--net={}", node.netns(&allocation));
    let rules = node.run(&["nsenter", &netns, "nft", "list", "ruleset"]);
    assert!(!rules.contains("redirect"), "{rules}");
    node.stop("plain").await;
}

async fn captured_from_the_first_instruction(node: Node, driver: &'static str) {
    without_a_mesh(&node, driver).await;
    let before = node.plaintext();
    let job = node.inject(&job("web", driver, &bridge()), "cni");
    let allocation = node.machine.run(&job).await.remove(0);
    assert_eq!(node.attempts(&allocation, 1).await, ["refused"]);
    assert_eq!(node.plaintext(), before);
    assert!(node.has_rules(&allocation, &policy_of(&job)));

    let rules = node.run(&["iptables-save"]);
    assert!(rules.contains(allocation.id.text()), "{rules}");
    let netns = node.netns(&allocation);
    node.stop("web").await;
    until("the namespace is gone", || async {
        let inside = node.machine.inside()?;
        let gone = fs::metadata(format!("/proc/{inside}/root{netns}")).is_err();
        gone.then_some(())
    })
    .await;
    let links = node.run(&["ip", "-o", "link", "show", "type", "veth"]);
    assert_eq!(
        links.lines().filter(|line| line.contains("mesh0")).count(),
        0,
        "{links}"
    );
    let given = node.run(&["find", "/run/cni/mesh", "-name", "172.*"]);
    assert_eq!(given, "");
    let rules = node.run(&["iptables-save"]);
    assert!(!rules.contains(allocation.id.text()), "{rules}");
}

#[test]
fn a_process_is_captured_from_its_first_instruction_and_leaves_nothing() {
    on_a_node(Kind::default(), |node| {
        captured_from_the_first_instruction(node, "raw_exec")
    });
}

#[test]
fn a_container_is_captured_from_its_first_instruction_and_leaves_nothing() {
    let kind = Kind {
        docker: true,
        ..Kind::default()
    };
    on_a_node(kind, |node| {
        captured_from_the_first_instruction(node, "docker")
    });
}

#[test]
fn a_restart_of_the_agent_leaves_rules_and_tasks_alone() {
    on_a_node(Kind::default(), |mut node| async move {
        let job = node.inject(&job("web", "raw_exec", &bridge()), "cni");
        let before = node.machine.run(&job).await.remove(0);
        node.attempts(&before, 1).await;
        let netns = format!("--net={}", node.netns(&before));
        let words = ["nsenter", &netns, "nft", "list", "ruleset"];
        let rules = node.run(&words);
        node.restart_agent();
        node.machine.ready().await;
        let after = node.machine.running("web", 1).await.remove(0);
        assert_eq!(after.id, before.id);
        assert_eq!(node.run(&words), rules);
        assert_eq!(node.attempts(&after, 1).await, ["refused"]);
    });
}

#[test]
fn after_a_reboot_nothing_goes_out_in_plaintext() {
    on_a_node(Kind::default(), |mut node| async move {
        let job = node.inject(&job("web", "raw_exec", &bridge()), "cni");
        let before = node.machine.run(&job).await.remove(0);
        node.attempts(&before, 1).await;
        node.reboot();
        // The application runs again, in the same allocation and a new namespace.
        let attempts = node.attempts(&before, 2).await;
        assert_eq!(attempts, ["refused", "refused"]);
        assert_eq!(node.plaintext(), (0, 0));
        assert!(node.has_rules(&before, &policy_of(&job)));
        node.machine.ready().await;
        without_a_mesh(&node, "raw_exec").await;
    });
}

#[test]
fn arguments_of_others_change_nothing_about_the_rules() {
    on_a_node(Kind::default(), |node| async move {
        let policy = encode(&Policy::sidecar());
        let job = bare(
            "odd",
            &json!({
                "mesh_config": policy, "IP": "172.27.70.9", "K8S_POD_NAME": "x",
                "NOMAD_ALLOC_ID": "other", "MESH_CONFIG_2": "%%%", "KEY": "a b\"c'd\\e,f:g",
            }),
        );
        let allocation = node.machine.run(&job).await.remove(0);
        assert_eq!(node.attempts(&allocation, 1).await, ["refused"]);
        assert!(node.has_rules(&allocation, &json!(Policy::sidecar())));
        assert_eq!(node.plaintext(), (0, 0));
    });
}

#[test]
fn arguments_that_cannot_be_believed_keep_the_group_from_starting() {
    on_a_node(Kind::default(), |node| async move {
        let policy = encode(&Policy::sidecar());
        for (id, args, expected) in [
            (
                "garbage",
                json!({ "MESH_CONFIG": "%%%" }),
                "is no redirect policy",
            ),
            (
                "twice",
                json!({ "MESH_CONFIG": policy, "mesh_config": policy }),
                "is there twice",
            ),
            (
                "unknown",
                json!({ "MESH_CONFIG": policy, "IgnoreUnknown": "false" }),
                "unknown args",
            ),
        ] {
            let said = refusal(&node, &bare(id, &args)).await;
            assert!(said.contains(expected), "{id}: {said}");
        }
        assert_eq!(node.plaintext(), (0, 0));
        let given = node.run(&["find", "/run/cni/mesh", "-name", "172.*"]);
        assert_eq!(given, "", "an allocation that failed keeps its address");
    });
}

#[test]
fn the_argument_of_transparent_proxy_gets_rules_that_work() {
    on_a_node(Kind::default(), |node| async move {
        let consul = json!({
            "ConsulDNSIP": "", "ConsulDNSPort": 0, "ProxyUserID": "101",
            "ProxyInboundPort": 20000, "ProxyOutboundPort": 15001,
            "ExcludeInboundPorts": ["8081"], "ExcludeOutboundPorts": ["9"],
            "ExcludeOutboundCIDRs": ["10.99.0.0/16"], "ExcludeUIDs": ["1"], "NetNS": "",
        });
        let job = bare(
            "tproxy",
            &json!({ "CONSUL_IPTABLES_CONFIG": consul.to_string() }),
        );
        let allocation = node.machine.run(&job).await.remove(0);
        assert_eq!(node.attempts(&allocation, 1).await, ["refused"]);
        let policy = from_consul(&consul.to_string()).unwrap();
        assert!(node.has_rules(&allocation, &serde_json::to_value(policy).unwrap()));
        assert_eq!(node.plaintext(), (0, 0));
        // Whom the argument leaves out is left out: the proxy itself.
        let netns = node.netns(&allocation);
        for (user, expected) in [("101", true), ("1", true), ("102", false)] {
            assert_eq!(node.gets_out(Some(&netns), user), expected, "{user}");
        }
    });
}

#[test]
fn a_node_that_is_prepared_later_takes_jobs_after_a_hangup() {
    let kind = Kind {
        unprepared: true,
        ..Kind::default()
    };
    on_a_node(kind, |node| async move {
        let attribute = "plugins.cni.version.mesh-cni";
        let found = async || {
            let client = &node.machine.client;
            let nodes = client.nodes().await.ok()?.value;
            let whole = client.node(nodes[0].id.text()).await.ok()?.value;
            whole.attributes.get()?.get(attribute).cloned()
        };
        assert_eq!(found().await, None);
        let job = node.inject(&job("web", "raw_exec", &bridge()), "cni");
        let client = &node.machine.client;
        let registered = client
            .register_job(&job, &Register::default())
            .await
            .unwrap();
        let evaluation = registered.eval_id.text();
        let evaluation = client.wait_for_evaluation(evaluation).await.unwrap();
        let groups = evaluation.failed_groups.get().unwrap();
        assert_eq!(groups["app"].nodes_filtered.value(), 1, "{groups:?}");

        prepare(&node.machine.path(""));
        node.machine.signal_agent(Signal::HUP);
        let version = until("the plugin is seen", found).await;
        assert_eq!(version, concat!("v", env!("CARGO_PKG_VERSION")));
        let allocation = node.machine.running("web", 1).await.remove(0);
        assert_eq!(node.attempts(&allocation, 1).await, ["refused"]);
        assert!(node.has_rules(&allocation, &policy_of(&job)));
    });
}
