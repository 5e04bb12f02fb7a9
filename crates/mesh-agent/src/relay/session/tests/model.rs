//! A model Envoy and a model Pilot, joined by a session, under any interleaving of events.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::relay::session::conversation::UNCERTAIN;

/// What may happen next.
#[derive(Clone, Debug)]
enum Event {
    /// The oldest message of a queue arrives.
    Deliver(Queue),
    /// Pilot's resource changes; a version of 3 is one that Envoy refuses, 0 removes it.
    Change {
        endpoint: bool,
        name: u8,
        version: u8,
    },
    PilotConnects,
    PilotGoes,
    /// Envoy's process is replaced.
    EnvoyRestarts,
    /// Only Envoy's stream breaks.
    EnvoyReconnects,
    /// The agent is replaced and, with it, Envoy: only the file remains.
    AgentRestarts,
}

#[derive(Clone, Copy, Debug)]
enum Queue {
    EnvoyToRelay,
    RelayToEnvoy,
    RelayToPilot,
    PilotToRelay,
}

type Versions = BTreeMap<String, String>;

#[derive(Default)]
struct World {
    session: Option<Session>,
    envoy: Envoy,
    pilot: Pilot,
    pilot_open: bool,
    envoy_to_relay: VecDeque<DeltaDiscoveryRequest>,
    relay_to_envoy: VecDeque<DeltaDiscoveryResponse>,
    relay_to_pilot: VecDeque<DeltaDiscoveryRequest>,
    pilot_to_relay: VecDeque<DeltaDiscoveryResponse>,
}

/// Wants all clusters, and the endpoints of each.
#[derive(Default)]
struct Envoy {
    clusters: Versions,
    endpoints: Versions,
    wanted: BTreeSet<String>,
    asked_endpoints: bool,
    /// Everything that any Envoy ever acknowledged or said to have, as (type, name, version).
    acknowledged: BTreeSet<(String, String, String)>,
}

#[derive(Default)]
struct Pilot {
    resources: BTreeMap<String, Versions>,
    stream: BTreeMap<String, PilotType>,
    nonces: u64,
}

#[derive(Default)]
struct PilotType {
    wildcard: bool,
    names: BTreeSet<String>,
    last: Versions,
    told_absent: BTreeSet<String>,
    /// To be sent again, each alone, because they were refused together.
    again: Vec<String>,
    pending: BTreeMap<String, DeltaDiscoveryResponse>,
}

impl Envoy {
    fn first_requests(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.wanted = self.clusters.keys().cloned().collect();
        self.asked_endpoints = !self.wanted.is_empty();
        // To say that one has a version is to say that one accepted it.
        for (type_url, versions) in [(CLUSTER, &self.clusters), (ENDPOINT, &self.endpoints)] {
            self.acknowledged.extend(
                versions
                    .iter()
                    .map(|(name, version)| (type_url.to_owned(), name.clone(), version.clone())),
            );
        }
        let clusters = DeltaDiscoveryRequest {
            initial_resource_versions: self.clusters.clone(),
            ..request(CLUSTER)
        };
        let endpoints = self.asked_endpoints.then(|| DeltaDiscoveryRequest {
            resource_names_subscribe: self.wanted.iter().cloned().collect(),
            initial_resource_versions: self.endpoints.clone(),
            ..request(ENDPOINT)
        });
        std::iter::once(clusters).chain(endpoints).collect()
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let mut names = BTreeSet::new();
        for name in response.resources.iter().map(|one| &one.name) {
            assert!(names.insert(name), "`{name}` twice in one response");
        }
        let of_clusters = response.type_url == CLUSTER;
        let state = if of_clusters {
            &mut self.clusters
        } else {
            &mut self.endpoints
        };
        let mut bad = false;
        for resource in &response.resources {
            if resource.version == "3" {
                bad = true;
            } else {
                state.insert(resource.name.clone(), resource.version.clone());
            }
        }
        for name in &response.removed_resources {
            state.remove(name);
        }
        let mut requests = Vec::new();
        if bad {
            requests.push(DeltaDiscoveryRequest {
                response_nonce: response.nonce.clone(),
                error_detail: Some(Status::default()),
                ..request(&response.type_url)
            });
        } else {
            for one in &response.resources {
                self.acknowledged.insert((
                    response.type_url.clone(),
                    one.name.clone(),
                    one.version.clone(),
                ));
            }
            requests.push(DeltaDiscoveryRequest {
                response_nonce: response.nonce.clone(),
                ..request(&response.type_url)
            });
        }
        requests.extend(self.follow_clusters());
        requests
    }

    /// Subscribes to the endpoints of new clusters, and gives up those of lost ones.
    fn follow_clusters(&mut self) -> Option<DeltaDiscoveryRequest> {
        let wanted: BTreeSet<_> = self.clusters.keys().cloned().collect();
        let new: Vec<_> = wanted.difference(&self.wanted).cloned().collect();
        let old: Vec<_> = self.wanted.difference(&wanted).cloned().collect();
        self.wanted = wanted;
        self.endpoints.retain(|name, _| self.wanted.contains(name));
        if new.is_empty() && old.is_empty() {
            return None;
        }
        self.asked_endpoints = true;
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: new,
            resource_names_unsubscribe: old,
            ..request(ENDPOINT)
        })
    }
}

impl Pilot {
    fn take(
        &mut self,
        request: DeltaDiscoveryRequest,
        acknowledged: &BTreeSet<(String, String, String)>,
    ) -> Vec<DeltaDiscoveryResponse> {
        if request.type_url == Name::type_url() {
            return Vec::new();
        }
        let first = !self.stream.contains_key(&request.type_url);
        let state = self.stream.entry(request.type_url.clone()).or_default();
        if first {
            state.wildcard = request.resource_names_subscribe.is_empty();
            for (name, version) in request.initial_resource_versions {
                let claim = (request.type_url.clone(), name.clone(), version.clone());
                assert!(
                    version == UNCERTAIN || acknowledged.contains(&claim),
                    "claimed and never acknowledged: {claim:?}"
                );
                state.last.insert(name, version);
            }
        } else {
            assert_eq!(request.initial_resource_versions, BTreeMap::new());
        }
        if !request.response_nonce.is_empty() {
            let answered = state
                .pending
                .remove(&request.response_nonce)
                .expect("only what was sent on this stream is answered, and once");
            let alone = answered.resources.len() + answered.removed_resources.len() <= 1;
            for one in answered.resources {
                if request.error_detail.is_some()
                    && !alone
                    && state.last.get(&one.name) == Some(&one.version)
                {
                    state.again.push(one.name.clone());
                }
                let claim = (request.type_url.clone(), one.name, one.version);
                assert!(
                    request.error_detail.is_some() || acknowledged.contains(&claim),
                    "acknowledged by the relay and not by Envoy: {claim:?}"
                );
            }
        }
        for name in request.resource_names_subscribe {
            if !first {
                state.last.remove(&name);
            }
            state.told_absent.remove(&name);
            state.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            state.names.remove(&name);
            state.last.remove(&name);
        }
        self.push()
    }

    fn push(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        for (type_url, state) in &mut self.stream {
            let nothing = Versions::new();
            let all = self.resources.get(type_url).unwrap_or(&nothing);
            let in_view = |name: &String| state.wildcard || state.names.contains(name);
            let changed: Vec<_> = all
                .iter()
                .filter(|(name, version)| in_view(name) && state.last.get(*name) != Some(version))
                .map(|(name, version)| resource(name, version))
                .collect();
            let mut removed: BTreeSet<String> = state
                .last
                .keys()
                .filter(|name| !all.contains_key(*name))
                .cloned()
                .collect();
            for name in &state.names {
                if !all.contains_key(name) && state.told_absent.insert(name.clone()) {
                    removed.insert(name.clone());
                }
            }
            state.last.retain(|name, _| !removed.contains(name));
            for one in &changed {
                state.last.insert(one.name.clone(), one.version.clone());
                state.told_absent.remove(&one.name);
            }
            let mut parts = Vec::new();
            for name in std::mem::take(&mut state.again) {
                let is_changed = changed.iter().any(|one| one.name == name);
                if let Some(version) = all.get(&name).filter(|_| !is_changed) {
                    parts.push((vec![resource(&name, version)], BTreeSet::new()));
                }
            }
            if !changed.is_empty() || !removed.is_empty() {
                parts.push((changed, removed));
            }
            for (changed, removed) in parts {
                self.nonces += 1;
                let response = DeltaDiscoveryResponse {
                    removed_resources: removed.into_iter().collect(),
                    ..response(type_url, &format!("p{}", self.nonces), changed)
                };
                state
                    .pending
                    .insert(response.nonce.clone(), response.clone());
                responses.push(response);
            }
        }
        responses
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            session: Some(session()),
            ..Self::default()
        };
        world.connect_envoy();
        world
    }

    fn step(&mut self, input: Input) {
        let outputs = self.session.as_mut().unwrap().step(input);
        for output in outputs {
            match output {
                Output::ToEnvoy(response) => self.relay_to_envoy.push_back(response),
                Output::ToPilot(request) => {
                    assert!(self.pilot_open, "nothing is sent where there is no stream");
                    self.relay_to_pilot.push_back(request);
                }
                Output::RestartPilot => self.close_pilot(),
                _ => {}
            }
        }
        for kept in self.session.as_ref().unwrap().accepted().0.values() {
            assert!(kept.resources.values().all(|one| one.version != "3"));
        }
    }

    fn close_pilot(&mut self) {
        self.pilot_open = false;
        self.relay_to_pilot.clear();
        self.pilot_to_relay.clear();
        self.pilot.stream.clear();
    }

    fn connect_envoy(&mut self) {
        self.envoy_to_relay.clear();
        self.relay_to_envoy.clear();
        self.step(Input::EnvoyConnected);
        self.envoy_to_relay.extend(self.envoy.first_requests());
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Deliver(queue) => self.deliver(*queue),
            Event::Change {
                endpoint,
                name,
                version,
            } => {
                let type_url = if *endpoint { ENDPOINT } else { CLUSTER };
                let resources = self.pilot.resources.entry(type_url.to_owned()).or_default();
                let name = format!("r{name}");
                if *version == 0 {
                    resources.remove(&name);
                } else {
                    resources.insert(name, version.to_string());
                }
                if self.pilot_open {
                    self.pilot_to_relay.extend(self.pilot.push());
                }
            }
            Event::PilotConnects => {
                if !self.pilot_open {
                    self.pilot_open = true;
                    self.step(Input::PilotConnected);
                }
            }
            Event::PilotGoes => {
                self.close_pilot();
                self.step(Input::PilotDisconnected);
            }
            Event::EnvoyRestarts => {
                self.envoy.clusters.clear();
                self.envoy.endpoints.clear();
                self.step(Input::EnvoyDisconnected);
                self.connect_envoy();
            }
            Event::EnvoyReconnects => self.connect_envoy(),
            Event::AgentRestarts => {
                let file = self.session.take().unwrap().accepted().encode("x");
                let accepted = Accepted::decode("x", &file).unwrap();
                self.session = Some(Session::new(Node::default(), accepted));
                self.close_pilot();
                self.envoy.clusters.clear();
                self.envoy.endpoints.clear();
                self.connect_envoy();
            }
        }
    }

    fn deliver(&mut self, queue: Queue) {
        match queue {
            Queue::EnvoyToRelay => {
                if let Some(message) = self.envoy_to_relay.pop_front() {
                    self.step(Input::FromEnvoy(message));
                }
            }
            Queue::RelayToEnvoy => {
                if let Some(message) = self.relay_to_envoy.pop_front() {
                    self.envoy_to_relay.extend(self.envoy.take(&message));
                }
            }
            Queue::RelayToPilot => {
                if let Some(message) = self.relay_to_pilot.pop_front() {
                    let responses = self.pilot.take(message, &self.envoy.acknowledged);
                    self.pilot_to_relay.extend(responses);
                }
            }
            Queue::PilotToRelay => {
                if let Some(message) = self.pilot_to_relay.pop_front() {
                    self.step(Input::FromPilot(message));
                }
            }
        }
    }

    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "it never comes to rest");
            self.happen(&Event::PilotConnects);
            if self.envoy_to_relay.is_empty()
                && self.relay_to_envoy.is_empty()
                && self.relay_to_pilot.is_empty()
                && self.pilot_to_relay.is_empty()
            {
                return;
            }
            for queue in QUEUES {
                self.deliver(queue);
            }
        }
    }

    /// Envoy has what Pilot has, but for what Envoy refuses; so has the relay.
    fn check(&self) {
        let nothing = Versions::new();
        let of = |type_url: &str| self.pilot.resources.get(type_url).unwrap_or(&nothing);
        let clusters = of(CLUSTER);
        compare(&self.envoy.clusters, clusters);
        let wanted: Versions = of(ENDPOINT)
            .iter()
            .filter(|(name, _)| self.envoy.clusters.contains_key(*name))
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect();
        compare(&self.envoy.endpoints, &wanted);
        let session = self.session.as_ref().unwrap();
        for (type_url, state) in [
            (CLUSTER, &self.envoy.clusters),
            (ENDPOINT, &self.envoy.endpoints),
        ] {
            if of(type_url).values().any(|version| version == "3") {
                continue;
            }
            let kept: Versions = session
                .accepted()
                .resources(type_url)
                .map(|one| (one.name.clone(), one.version.clone()))
                .filter(|(name, _)| type_url == CLUSTER || self.envoy.wanted.contains(name))
                .collect();
            assert_eq!(&kept, state, "the relay keeps what Envoy has: {type_url}");
        }
    }
}

fn compare(envoy: &Versions, pilot: &Versions) {
    for (name, version) in pilot {
        if version != "3" {
            assert_eq!(envoy.get(name), Some(version), "`{name}`");
        }
    }
    for name in envoy.keys() {
        assert!(pilot.contains_key(name), "`{name}` is gone from Pilot");
    }
}

const QUEUES: [Queue; 4] = [
    Queue::EnvoyToRelay,
    Queue::RelayToEnvoy,
    Queue::RelayToPilot,
    Queue::PilotToRelay,
];

fn event() -> impl Strategy<Value = Event> {
    let change =
        (any::<bool>(), 0_u8..3, 0_u8..5).prop_map(|(endpoint, name, version)| Event::Change {
            endpoint,
            name,
            version,
        });
    prop_oneof![
        12 => prop::sample::select(QUEUES.to_vec()).prop_map(Event::Deliver),
        4 => change,
        2 => Just(Event::PilotConnects),
        1 => Just(Event::PilotGoes),
        1 => Just(Event::EnvoyRestarts),
        1 => Just(Event::EnvoyReconnects),
        1 => Just(Event::AgentRestarts),
    ]
}

proptest! {
    #[test]
    fn envoy_and_pilot_agree_after_any_interleaving(
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.settle();
        world.check();
    }

    /// What settled with Pilot is enough for a new Envoy without Pilot.
    #[test]
    fn a_new_envoy_gets_the_same_without_pilot(
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        // Nothing is refused, so that what Envoy has is what the relay keeps.
        for type_url in [CLUSTER, ENDPOINT] {
            if let Some(all) = world.pilot.resources.get_mut(type_url) {
                all.values_mut().filter(|version| *version == "3").for_each(|version| {
                    "4".clone_into(version);
                });
            }
        }
        world.happen(&Event::PilotGoes);
        world.settle();
        let before = (world.envoy.clusters.clone(), world.envoy.endpoints.clone());
        world.happen(&Event::PilotGoes);
        world.happen(&Event::EnvoyRestarts);
        for _ in 0..20 {
            world.deliver(Queue::EnvoyToRelay);
            world.deliver(Queue::RelayToEnvoy);
        }
        prop_assert_eq!((world.envoy.clusters, world.envoy.endpoints), before);
    }

    /// A resume after nothing changed moves no resource.
    #[test]
    fn a_resume_moves_no_unchanged_resource(
        names in prop::collection::btree_set(0_u8..3, 0..3),
    ) {
        let mut world = World::new();
        for &name in &names {
            for endpoint in [false, true] {
                world.happen(&Event::Change { endpoint, name, version: 1 });
            }
        }
        world.settle();
        world.happen(&Event::PilotGoes);
        world.happen(&Event::PilotConnects);
        while !world.relay_to_pilot.is_empty() {
            world.deliver(Queue::RelayToPilot);
        }
        prop_assert_eq!(world.pilot_to_relay, VecDeque::new());
    }
}
