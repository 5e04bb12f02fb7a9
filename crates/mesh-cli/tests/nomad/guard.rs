//! Mode `guard`: a task of the group sets the rules, watches them, and says how they are.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_nomad::model::Job;
use mesh_nomad::model::allocation::Allocation;
use serde_json::Value;

use crate::application::{bridge, job};
use crate::machine::until;
use crate::node::{Kind, Node, WITNESS, on_a_node};

/// The user of applications, by number.
const NOBODY: &str = "65534";

/// The policy that injection gave the guard.
fn policy_of(job: &Job) -> Value {
    let guard = job.task_groups.items()[0].task("mesh-guard").unwrap();
    let template = &guard.templates.items()[0];
    serde_json::from_str(template.embedded.text()).unwrap()
}

/// Waits until the guard has seen, since `from`, that the rules are as they should be.
pub(crate) async fn intact(node: &Node, allocation: &Allocation, from: u64) -> Value {
    until("the guard says that the rules are intact", || async {
        let verdict = node.verdict(allocation)?;
        let is_new = verdict["at"].as_u64()? >= from;
        (is_new && verdict["state"] == "intact").then_some(verdict)
    })
    .await
}

pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

impl Node {
    /// What the guard of an allocation wrote about the rules, if anything yet.
    pub(crate) fn verdict(&self, allocation: &Allocation) -> Option<Value> {
        let id = allocation.id.text();
        let file = self.machine.task_directory(id, "alloc/tmp/mesh-rules.json");
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// Whether somebody in this network namespace, with this user's number, gets through to the
    /// witness in plaintext. The machine's own namespace without one.
    pub(crate) fn gets_out(&self, netns: Option<&str>, user: &str) -> bool {
        let (address, port) = WITNESS;
        let call = format!("exec 3<>/dev/tcp/{address}/{port} && echo marker >&3");
        let enter = netns.map(|netns| ["nsenter".to_owned(), format!("--net={netns}")]);
        let mut words: Vec<String> = enter.into_iter().flatten().collect();
        let rest = [
            "setpriv",
            "--reuid",
            user,
            "--clear-groups",
            "/bin/bash",
            "-c",
            &call,
        ];
        words.extend(rest.map(str::to_owned));
        self.machine
            .command(&words)
            .output()
            .unwrap()
            .status
            .success()
    }
}

async fn guarded(node: Node, driver: &'static str) {
    let job = node.inject(&job("web", driver, &bridge()), "guard");
    let allocation = node.machine.run(&job).await.remove(0);
    intact(&node, &allocation, 0).await;
    let policy = policy_of(&job);
    assert!(node.has_rules(&allocation, &policy));
    let netns = node.netns(&allocation);
    assert!(!node.gets_out(Some(&netns), NOBODY));
    // The proxy itself gets out.
    assert!(node.gets_out(Some(&netns), "1337"));

    // At the beginning there were none, which nobody did.
    let repairer = |verdict: &Value| verdict["repaired"]["by"].as_array().cloned();
    node.flush(&allocation);
    until("the guard has repaired the rules", || async {
        let verdict = node.verdict(&allocation)?;
        let repairers = repairer(&verdict)?;
        let is_repaired = verdict["state"] == "intact" && !repairers.is_empty();
        is_repaired.then_some(())
    })
    .await;
    assert!(node.has_rules(&allocation, &policy));

    // Rules outlive their guard, and the next one repairs what happened meanwhile.
    let (client, id) = (&node.machine.client, allocation.id.text());
    client
        .signal_task(id, "mesh-guard", "SIGKILL")
        .await
        .unwrap();
    assert!(node.has_rules(&allocation, &policy));
    node.flush(&allocation);
    let begun = now();
    until("the next guard has set the rules", || async {
        node.has_rules(&allocation, &policy).then_some(())
    })
    .await;
    intact(&node, &allocation, begun).await;
    assert!(!node.gets_out(Some(&netns), NOBODY));
    let states = client.allocation(id).await.unwrap().value.task_states;
    assert_eq!(states.get().unwrap()["main"].restarts.value(), 0);
    node.stop("web").await;
}

#[test]
fn a_guard_that_is_a_process_sets_rules_and_repairs_them() {
    on_a_node(Kind::default(), |node| guarded(node, "raw_exec"));
}

#[test]
fn a_guard_that_is_a_container_sets_rules_and_repairs_them() {
    let kind = Kind {
        docker: true,
        ..Kind::default()
    };
    on_a_node(kind, |node| guarded(node, "docker"));
}
