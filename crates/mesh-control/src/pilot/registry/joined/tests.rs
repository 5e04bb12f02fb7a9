//! A catalogue that a test writes, beside agents that register.

use std::collections::BTreeMap;

use mesh_nomad::catalogue::Status;
use mesh_nomad::sidecar::Mode;
use serde_json::json;

use super::super::Registered;
use super::super::allocation::{Placed, Placing, place, snapshot};
use super::*;

/// A catalogue that a test writes, and the agents beside it.
struct World {
    joined: Arc<JoinedRegistry>,
    agents: AgentRegistry,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Sender<Status>,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    fn new() -> Self {
        let (snapshots, snapshot) = watch::channel(Arc::default());
        let (status, current) = watch::channel(Status::default());
        let nomad = NomadRegistry::of(snapshot, current);
        let agents = AgentRegistry::beside(Some(nomad.clone()));
        let joined = Arc::new(JoinedRegistry::new(agents.clone(), nomad));
        let stop = CancellationToken::new();
        let running = Arc::clone(&joined);
        let token = stop.clone();
        tokio::spawn(async move { running.run(token).await });
        Self {
            joined,
            agents,
            snapshots,
            status,
            _stop: stop.drop_guard(),
        }
    }

    fn list(&self, placed: &[Placed]) {
        self.snapshots.send_replace(snapshot(placed));
    }
}

fn placed() -> Vec<Placed> {
    place(&[Placing {
        job: json!({
            "ID": "web", "Type": "service",
            "TaskGroups": [{
                "Name": "front", "Count": 1,
                "Networks": [{ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] }],
                "Services": [{ "Name": "web", "Provider": "nomad", "PortLabel": "http" }],
                "Tasks": [{ "Name": "app", "Driver": "docker", "User": "1000", "Config": { "image": "web:1" } }],
            }],
        }),
        mode: Some(Mode::Cni),
        is_away: false,
        allocation: BTreeMap::new(),
        tags: Vec::new(),
    }])
}

fn registered(placed: &Placed, account: &str) -> Registered {
    let mut workload = placed.agent.clone().unwrap();
    workload.service_account = account.parse().unwrap();
    Registered {
        identity: workload.identity(&mesh_model::TrustDomain::default()),
        workload,
        health: Health::Healthy,
        agent_version: "0".to_owned(),
    }
}

#[tokio::test]
async fn the_catalogue_and_the_agents_both_tell_of_changes() {
    let world = World::new();
    let mut changes = world.joined.changes();
    let placed = placed();
    assert!(!world.joined.is_whole());
    world.status.send_modify(|status| status.is_whole = true);
    while !world.joined.is_whole() {
        changes.changed().await.unwrap();
    }
    assert_eq!(world.joined.workloads(), []);
    world.list(&placed);
    while world.joined.workloads().is_empty() {
        changes.changed().await.unwrap();
    }
    assert_eq!(world.joined.workloads()[0].1, Health::Starting);
    let registered = registered(&placed[0], "web");
    let (_registration, _inbox) = world.agents.register(registered).unwrap();
    while world.joined.workloads()[0].1 != Health::Healthy {
        changes.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_this_pilot_is_called_until_its_agent_has_been_here() {
    let world = World::new();
    let placed = placed();
    world.list(&placed);
    world.status.send_modify(|status| status.is_whole = true);
    assert_eq!(world.joined.workloads()[0].1, Health::Healthy);
    let registered = registered(&placed[0], "web");
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(world.agents.clone().expire(stop));
    let (registration, _inbox) = world.agents.register(registered).unwrap();
    assert_eq!(world.joined.workloads()[0].1, Health::Healthy);
    drop(registration);
    sleep(super::super::agents::GRACE * 2).await;
    assert_eq!(world.joined.workloads()[0].1, Health::Starting);
}

#[tokio::test]
async fn an_allocation_that_ends_is_not_called_while_its_agent_stays() {
    let world = World::new();
    let placed = placed();
    world.list(&placed);
    let registered = registered(&placed[0], "web");
    let (registration, _inbox) = world.agents.register(registered).unwrap();
    let there = world.joined.workloads();
    world.list(&[]);
    let ending = world.joined.workloads();
    assert_eq!(
        (&ending[0].0, ending[0].1),
        (&there[0].0, Health::Unhealthy)
    );
    // As in `alloc restart`, which lists again what it took away before the tasks end.
    world.list(&placed);
    assert_eq!(world.joined.workloads(), ending);
    registration.set_health(Health::Unhealthy);
    assert_eq!(world.joined.workloads(), ending);
    registration.set_health(Health::Healthy);
    assert_eq!(world.joined.workloads(), there);
}

#[tokio::test]
async fn a_restarted_allocation_is_not_called_before_all_its_tasks_are_new() {
    let world = World::new();
    let placed = placed();
    world.list(&placed);
    let registered = registered(&placed[0], "web");
    let (registration, _inbox) = world.agents.register(registered).unwrap();
    let there = world.joined.workloads();
    world.list(&[]);
    let ending = world.joined.workloads();
    let list = |events: &[&str]| {
        let mut placed = placed.clone();
        let events: Vec<_> = events.iter().map(|kind| json!({ "Type": kind })).collect();
        placed[0].allocation["TaskStates"] = json!({
            "app": { "State": "running", "Events": events },
            "mesh-ready": { "State": "dead", "Events": [{ "Type": "Terminated" }] },
        });
        world.list(&placed);
    };
    list(&["Started"]);
    assert_eq!(world.joined.workloads(), ending);
    registration.set_health(Health::Unhealthy);
    assert_eq!(world.joined.workloads(), ending);
    // The agent is back before the application that it finds has ended.
    list(&["Started", "Restart Signaled"]);
    registration.set_health(Health::Healthy);
    assert_eq!(world.joined.workloads(), ending);
    list(&["Started", "Restart Signaled", "Terminated", "Restarting"]);
    assert_eq!(world.joined.workloads(), ending);
    list(&["Restart Signaled", "Terminated", "Restarting", "Started"]);
    assert_eq!(world.joined.workloads(), there);
    // A crash alone is for the agent to tell.
    list(&["Started", "Terminated", "Restarting"]);
    assert_eq!(world.joined.workloads(), there);
}

#[tokio::test]
async fn an_allocations_id_is_for_its_own_agent() {
    let world = World::new();
    let placed = placed();
    // Before the catalogue has it, whoever comes first has the id.
    let (_squatter, mut told) = world
        .agents
        .register(registered(&placed[0], "other"))
        .unwrap();
    world.list(&placed);
    let refused = world
        .agents
        .register(registered(&placed[0], "third"))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "workload `00000000-0000-0000-0000-000000000001/front` is an allocation of job `web`, and \
         `spiffe://cluster.local/ns/default/sa/third` is not the account of a sidecar there"
    );
    let (_registration, _inbox) = world
        .agents
        .register(registered(&placed[0], "web"))
        .unwrap();
    assert!(told.recv().await.is_some(), "its welcome");
    assert!(told.recv().await.is_none(), "the squatter is told to end");
    assert_eq!(world.joined.workloads()[0].1, Health::Healthy);
}
