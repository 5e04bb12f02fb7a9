//! What the plugin does at a CHECK: it repairs in place, and the allocation lives on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_nomad::model::Job;
use serde_json::Value;

use crate::application::{bridge, job};
use crate::machine::until;
use crate::node::{Kind, Node, on_a_node};

fn policy_of(job: &Job) -> Value {
    let args = job.task_groups.items()[0].networks.items()[0].cni.get();
    let args = args.unwrap().args.get().unwrap();
    let text = URL_SAFE_NO_PAD.decode(&args["MESH_CONFIG"]).unwrap();
    serde_json::from_slice(&text).unwrap()
}

async fn repaired_in_place(mut node: Node, driver: &'static str) {
    let nodes = node.machine.client.nodes().await.unwrap().value;
    let whole = node
        .machine
        .client
        .node(nodes[0].id.text())
        .await
        .unwrap()
        .value;
    let version = &whole.attributes.get().unwrap()["plugins.cni.version.bridge"];
    assert!(
        !version.starts_with("v1.0.") && version != "1.0.0",
        "MESH_CNI_PLUGINS must name plugins of 1.3.0 or later, found {version}"
    );
    let job = node.inject(&job("web", driver, &bridge()), "cni");
    let policy = policy_of(&job);
    let before = node.machine.run(&job).await.remove(0);
    node.attempts(&before, 1).await;
    node.flush(&before);
    assert!(!node.has_rules(&before, &policy));
    node.restart_agent();
    until("the rules are there again", || async {
        node.has_rules(&before, &policy).then_some(())
    })
    .await;
    node.machine.ready().await;
    let after = node.machine.running("web", 1).await.remove(0);
    assert_eq!(after.id, before.id);
    let states = after.task_states.get().unwrap();
    assert_eq!(states["main"].restarts.value(), 0);
    assert_eq!(node.attempts(&after, 1).await, ["refused"]);
    node.stop("web").await;
}

#[test]
fn a_process_lives_on_after_its_rules_were_taken_away() {
    on_a_node(Kind::default(), |node| repaired_in_place(node, "raw_exec"));
}

#[test]
fn a_container_lives_on_after_its_rules_were_taken_away() {
    let kind = Kind {
        docker: true,
        ..Kind::default()
    };
    on_a_node(kind, |node| repaired_in_place(node, "docker"));
}

#[test]
fn after_a_reboot_a_container_is_captured_before_it_runs() {
    let kind = Kind {
        docker: true,
        ..Kind::default()
    };
    on_a_node(kind, |mut node| async move {
        let job = node.inject(&job("web", "docker", &bridge()), "cni");
        let before = node.machine.run(&job).await.remove(0);
        node.attempts(&before, 1).await;
        node.reboot();
        let attempts = node.attempts(&before, 2).await;
        assert!(
            attempts.iter().all(|attempt| attempt == "refused"),
            "{attempts:?}"
        );
        assert_eq!(node.plaintext(), (0, 0));
        assert!(node.has_rules(&before, &policy_of(&job)));
    });
}
