//! What becomes of jobs that the real injection changed and the real catalogue read.

use mesh_nomad::sidecar::Mode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::allocation::{Placed, Placing, place, snapshot};
use super::*;

/// A web server in a network of its own.
fn web(meta: &Value) -> Value {
    json!({
        "ID": "web", "Type": "service", "Meta": meta,
        "TaskGroups": [{
            "Name": "front", "Count": 1,
            "Networks": [{ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] }],
            "Services": [{ "Name": "web", "Provider": "nomad", "PortLabel": "http" }],
            "Tasks": [{ "Name": "app", "Driver": "docker", "User": "1000", "Config": { "image": "web:1" } }],
        }],
    })
}

fn placing(mode: Option<Mode>) -> Placing {
    Placing {
        job: web(&json!({})),
        mode,
        is_away: false,
        allocation: BTreeMap::new(),
        tags: Vec::new(),
    }
}

fn agents(placed: &[Placed]) -> Vec<(Workload, Health)> {
    let agents = placed.iter().filter_map(|one| one.agent.clone());
    agents.map(|agent| (agent, Health::Healthy)).collect()
}

/// What is made of jobs with these agents.
fn merged(placed: &[Placed], agents: Vec<(Workload, Health)>) -> Vec<(Workload, Health)> {
    let catalogue = Catalogue {
        listed: &snapshot(placed).instances,
        departed: &Instances::new(),
        inherited: &BTreeSet::new(),
        restarting: &BTreeSet::new(),
    };
    merge(agents, catalogue)
}

fn only(all: Vec<(Workload, Health)>) -> (Workload, Health) {
    let [only] = <[_; 1]>::try_from(all).unwrap();
    only
}

/// Service port, the port that callers dial, and the application's own.
fn ports(workload: &Workload) -> Vec<(u16, u16, u16)> {
    let ports = workload.services.iter().flat_map(|service| &service.ports);
    ports
        .map(|port| (port.number, port.target, port.own()))
        .collect()
}

#[test]
fn an_allocation_is_called_at_its_host_and_trusted_as_its_agent() {
    let placed = place(&[placing(Some(Mode::Cni))]);
    let (workload, health) = only(merged(&placed, agents(&placed)));
    assert_eq!(
        workload.addresses,
        ["10.20.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(ports(&workload), [(8080, 24101, 8080)]);
    assert_eq!(workload.service_account.as_str(), "web");
    assert_eq!(health, Health::Healthy);
}

#[test]
fn what_the_proxy_listens_at_is_known_in_mode_explicit() {
    let placed = place(&[placing(Some(Mode::Explicit))]);
    let (workload, _) = only(merged(&placed, agents(&placed)));
    // The catalogue has the proxy's port of the host; behind the proxy is the application's own.
    assert_eq!(ports(&workload), [(8080, 24103, 8080)]);
    assert_eq!(workload.taken_at(8080), Some(15100));
    assert_eq!(workload.called_at(8080), Some(24103));
}

#[test]
fn a_sidecar_without_its_agent_is_not_ready() {
    let placed = place(&[placing(Some(Mode::Cni))]);
    let (workload, health) = only(merged(&placed, Vec::new()));
    assert_eq!(health, Health::Starting);
    assert!(workload.sidecar.is_present());
    assert!(
        !workload.addresses.is_empty(),
        "Nomad vouches for the job's own account"
    );
}

#[test]
fn without_a_sidecar_nomads_word_on_health_counts() {
    let mut jobs = [placing(None)];
    let (workload, health) = only(merged(&place(&jobs), Vec::new()));
    assert_eq!(
        (workload.sidecar, health),
        (mesh_model::Sidecar::Absent, Health::Healthy)
    );
    jobs[0].allocation = [("DesiredStatus".to_owned(), json!("stop"))].into();
    assert_eq!(only(merged(&place(&jobs), Vec::new())).1, Health::Unhealthy);
}

#[test]
fn a_job_without_a_sidecar_may_have_any_id() {
    let mut job = placing(None);
    job.job["ID"] = "Legacy_Web".into();
    assert_eq!(merged(&place(&[job]), Vec::new()).len(), 1);
}

#[test]
fn an_account_that_a_job_asks_for_counts_only_once_it_is_proven() {
    let mut job = placing(Some(Mode::Cni));
    job.job = web(&json!({ "mesh.service_account": "admin" }));
    let placed = place(&[job]);
    let (alone, _) = only(merged(&placed, Vec::new()));
    assert!(alone.addresses.is_empty(), "nobody may be told to trust it");
    assert_eq!(alone.services.len(), 1, "the service is there all the same");
    let (proven, health) = only(merged(&placed, agents(&placed)));
    assert_eq!(proven.service_account.as_str(), "admin");
    assert_eq!((proven.addresses.len(), health), (1, Health::Healthy));
}

#[test]
fn nobody_speaks_for_anothers_allocation() {
    let placed = place(&[placing(Some(Mode::Cni)), placing(None)]);
    let right = agents(&placed);
    let change: [fn(&mut Workload); 3] = [
        |agent| agent.service_account = "other".parse().unwrap(),
        |agent| agent.namespace = "other".parse().unwrap(),
        // An allocation without a sidecar has no agent.
        |agent| {
            let other = "00000000-0000-0000-0000-000000000002/front";
            agent.id = other.parse().unwrap();
        },
    ];
    let alone = merged(&placed, Vec::new());
    for change in change {
        let mut agents = right.clone();
        change(&mut agents[0].0);
        assert_eq!(merged(&placed, agents), alone);
    }
}

#[test]
fn an_agent_that_the_catalogue_does_not_know_is_as_it_says() {
    let placed = place(&[placing(Some(Mode::Cni))]);
    let agents = agents(&placed);
    assert_eq!(merged(&[], agents.clone()), agents);
}

#[test]
fn what_the_catalogue_has_dropped_is_called_no_more() {
    let placed = place(&[placing(Some(Mode::Cni))]);
    let catalogue = Catalogue {
        listed: &Instances::new(),
        departed: &snapshot(&placed).instances,
        inherited: &BTreeSet::new(),
        restarting: &BTreeSet::new(),
    };
    let (workload, health) = only(merge(agents(&placed), catalogue));
    assert_eq!(health, Health::Unhealthy);
    // Its proxy goes on as it was, for those who call it still.
    assert_eq!(ports(&workload), [(8080, 24101, 8080)]);
    assert!(merge(Vec::new(), catalogue).is_empty());
}

#[test]
fn what_nomad_ends_is_called_no_more_whatever_its_agent_says() {
    let mut job = placing(Some(Mode::Cni));
    job.allocation = [("DesiredStatus".to_owned(), json!("stop"))].into();
    let placed = place(&[job]);
    assert_eq!(only(merged(&placed, agents(&placed))).1, Health::Unhealthy);
}

#[test]
fn a_sidecar_of_another_release_says_itself_what_the_catalogue_cannot_read() {
    let mut placed = place(&[placing(Some(Mode::Explicit))]);
    let agents = agents(&placed);
    let job = placed[0].allocation["Job"].to_string();
    let job = job.replace(r#"\"mode\""#, r#"\"manner\""#);
    placed[0].allocation["Job"] = serde_json::from_str(&job).unwrap();
    let (alone, _) = only(merged(&placed, Vec::new()));
    assert_eq!(ports(&alone), [(15100, 24103, 15100)], "it was read");
    let (workload, _) = only(merged(&placed, agents));
    assert_eq!(ports(&workload), [(8080, 24103, 8080)]);
    assert_eq!(workload.taken_at(8080), Some(15100));
}

#[test]
fn tags_and_what_the_sidecar_is_told_are_labels() {
    let mut job = placing(Some(Mode::Cni));
    job.job["TaskGroups"][0]["Services"][0]["Meta"] = json!({ "version": "v2" });
    job.tags = vec!["version=v1".into(), "stage=canary".into(), "plain".into()];
    let placed = place(&[job]);
    let expected = [("stage", "canary"), ("version", "v2")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    for agents in [Vec::new(), agents(&placed)] {
        assert_eq!(
            only(merged(&placed, agents)).0.labels,
            expected.clone().into()
        );
    }
}

#[test]
fn agents_change_nothing_of_what_a_service_is() {
    for mode in [Mode::Cni, Mode::Guard, Mode::Explicit] {
        let placed = place(&[placing(Some(mode))]);
        let (alone, _) = only(merged(&placed, Vec::new()));
        let (both, _) = only(merged(&placed, agents(&placed)));
        assert_eq!(alone.services, both.services, "{mode}");
        assert_eq!(alone.addresses, both.addresses, "{mode}");
    }
}

proptest! {
    #[test]
    fn the_order_of_agents_means_nothing_and_every_id_is_once(
        modes in prop::collection::vec(prop::option::of(prop::sample::select(&Mode::ALL[..3])), 1..5),
        known in prop::collection::vec(any::<bool>(), 5),
        order in any::<prop::sample::Index>(),
    ) {
        let jobs: Vec<_> = modes.iter().map(|mode| placing(*mode)).collect();
        let placed = place(&jobs);
        // Some the catalogue does not have yet.
        let listed = placed.iter().zip(&known).filter(|(_, known)| **known);
        let listed: Vec<_> = listed.map(|(one, _)| one.clone()).collect();
        let mut agents = agents(&placed);
        let first = merged(&listed, agents.clone());
        let by = order.index(agents.len().max(1));
        agents.rotate_left(by);
        let second = merged(&listed, agents.clone());
        agents.reverse();
        prop_assert_eq!(&merged(&listed, agents), &first);
        prop_assert_eq!(&second, &first);
        prop_assert!(first.windows(2).all(|pair| pair[0].0.id < pair[1].0.id));
        // Plaintext goes only where nobody was injected.
        for (workload, health) in &first {
            let is_it = |one: &Placed| {
                let id = one.allocation["ID"].as_str().unwrap();
                workload.id.as_str().starts_with(id)
            };
            let is_listed = listed.iter().any(is_it);
            let has_agent = workload.sidecar.is_present();
            prop_assert!(has_agent || is_listed);
            prop_assert_eq!(*health, Health::Healthy);
        }
    }
}

#[test]
fn what_was_there_before_pilot_is_called_while_its_agent_is_on_its_way_back() {
    let placed = place(&[placing(Some(Mode::Cni))]);
    let listed = &snapshot(&placed).instances;
    let ids: BTreeSet<_> = listed.keys().cloned().collect();
    let catalogue = Catalogue {
        listed,
        departed: &Instances::new(),
        inherited: &ids,
        restarting: &BTreeSet::new(),
    };
    assert_eq!(only(merge(Vec::new(), catalogue)).1, Health::Healthy);
    // An allocation that Pilot has seen come waits for its agent.
    let come = Catalogue {
        inherited: &BTreeSet::new(),
        ..catalogue
    };
    assert_eq!(only(merge(Vec::new(), come)).1, Health::Starting);
}

#[test]
fn what_restarts_is_not_called_whatever_its_leaving_agent_says() {
    let placed = place(&[placing(Some(Mode::Cni))]);
    let listed = &snapshot(&placed).instances;
    let ids: BTreeSet<_> = listed.keys().cloned().collect();
    let catalogue = Catalogue {
        listed,
        departed: &Instances::new(),
        inherited: &BTreeSet::new(),
        restarting: &ids,
    };
    let (_, health) = only(merge(agents(&placed), catalogue));
    assert_eq!(health, Health::Unhealthy);
}
