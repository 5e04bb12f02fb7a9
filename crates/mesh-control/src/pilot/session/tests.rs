//! Any interleaving of snapshots, requests, verdicts and reconnects against a client like Envoy.

mod client;
mod direct;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mesh_proto::mesh::agent::v1::Name;
use proptest::prelude::*;

use self::client::Client;
use super::{Request, Response, Session, State};
use crate::pilot::resource::{Layer, Resource, ResourceType, Snapshot};

/// What stands behind a snapshot of the model.
#[derive(Clone, Debug, Default)]
struct Picture {
    /// By kind and number of the resource: its salt.
    salts: [[Option<u8>; POOL]; ResourceType::ALL.len()],
    /// Which numbers of resources are in the own layer.
    own: u8,
    /// Clusters that listeners and routes send to, by bit.
    uses: u8,
    /// Whether clusters are so large that two do not fit into a response.
    large: bool,
    /// Whether a quarter of the resources is bad.
    bad: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Picture),
    /// The server gets the client's next message.
    Deliver,
    /// The client gets the server's next message; of a bad one it applies so many resources.
    Take(usize),
    Subscribe(ResourceType, usize),
    Unsubscribe(ResourceType, usize),
    /// Unsubscribes and subscribes on a message that judges a response of long ago.
    Stale(ResourceType, usize),
    Reconnect,
    Expire,
}

#[derive(Debug)]
struct Run {
    session: Session,
    streams: u64,
    client: Client,
    inbox: VecDeque<Response>,
    picture: Picture,
    snapshot: Option<Snapshot>,
    /// Responses of this stream that no verdict of the client reached the server for.
    unjudged: BTreeMap<String, String>,
    /// Entries sent on this stream.
    entries: usize,
    /// Whether new streams are those of a server that has just started.
    young: bool,
}

const POOL: usize = 5;

fn name(kind: ResourceType, number: usize) -> String {
    match kind {
        ResourceType::Cluster | ResourceType::Endpoint => format!("cluster-{number}"),
        ResourceType::Listener => format!("listener-{number}"),
        ResourceType::Route => format!("route-{number}"),
        ResourceType::Name => format!("name-{number}"),
        ResourceType::Secret => format!("secret-{number}"),
    }
}

impl Picture {
    fn is_bad(&self, kind: ResourceType, salt: u8) -> bool {
        self.bad && salt % 4 == 3 && kind != ResourceType::Endpoint
    }

    fn layer(&self, own: bool) -> Layer {
        let mut layer = Layer::default();
        for kind in ResourceType::ALL {
            let salts = &self.salts[kind.index()];
            let resources = (0..POOL)
                .filter(|number| (self.own >> number & 1 == 1) == own)
                .filter_map(|number| Some((number, salts[number]?)))
                .map(|(number, salt)| self.resource(kind, number, salt));
            layer.set(kind, resources.collect()).expect("unique names");
        }
        layer
    }

    fn resource(&self, kind: ResourceType, number: usize, salt: u8) -> Resource {
        let mut addresses = vec![salt.to_string()];
        if self.is_bad(kind, salt) {
            addresses.push("bad".to_owned());
        }
        if matches!(kind, ResourceType::Listener | ResourceType::Route) {
            let used = (0..POOL).filter(|cluster| self.uses >> cluster & 1 == 1);
            let there = used.filter(|cluster| self.salts[0][*cluster].is_some());
            addresses.extend(there.map(|cluster| format!("uses cluster-{cluster}")));
        }
        if self.large && kind == ResourceType::Cluster {
            addresses.push("x".repeat(40_000));
        }
        let host = name(kind, number);
        Resource::encode(&host.clone(), &Name { host, addresses })
    }

    /// Versions by name.
    fn resources(&self, kind: ResourceType) -> BTreeMap<String, (String, bool)> {
        let all = self.salts[kind.index()].iter().enumerate();
        let there = all.filter_map(|(number, salt)| Some((number, (*salt)?)));
        there
            .map(|(number, salt)| {
                let resource = self.resource(kind, number, salt);
                let version = format!("{:016x}", resource.version);
                (name(kind, number), (version, self.is_bad(kind, salt)))
            })
            .collect()
    }
}

impl Run {
    fn new() -> Self {
        let mut client = Client::default();
        for kind in [
            ResourceType::Cluster,
            ResourceType::Listener,
            ResourceType::Name,
        ] {
            client.types[kind.index()].wildcard = true;
        }
        client.types[ResourceType::Route.index()]
            .names
            .insert("route-0".to_owned());
        let mut run = Self {
            session: Session::new(0, true),
            streams: 0,
            client,
            inbox: VecDeque::new(),
            picture: Picture::default(),
            snapshot: None,
            unjudged: BTreeMap::new(),
            entries: 0,
            young: false,
        };
        run.reconnect();
        run
    }

    fn reconnect(&mut self) {
        self.streams += 1;
        self.session = Session::new(self.streams, !self.young);
        self.inbox.clear();
        self.unjudged.clear();
        self.entries = 0;
        self.client.connect();
        if let Some(snapshot) = self.snapshot.clone() {
            let responses = self.session.publish(snapshot);
            self.queue(responses);
        }
    }

    fn queue(&mut self, responses: Vec<Response>) {
        for response in responses {
            assert!(
                response.entries.len() < 2
                    || response.type_url == ResourceType::Listener.url()
                    || response
                        .entries
                        .iter()
                        .map(bytes::Bytes::len)
                        .sum::<usize>()
                        < 128 * 1024,
                "a response is larger than needed"
            );
            self.entries += response.entries.len();
            self.unjudged
                .insert(response.nonce.clone(), response.type_url.to_string());
            self.inbox.push_back(response);
        }
    }

    fn publish(&mut self, picture: Picture) {
        let mut shared = picture.layer(false);
        let mut own = picture.layer(true);
        if let Some(old) = &self.snapshot {
            shared.share_with(&old.shared);
            own.share_with(&old.own);
        }
        let snapshot = Snapshot {
            shared: Arc::new(shared),
            own: Arc::new(own),
        };
        self.snapshot = Some(snapshot.clone());
        self.picture = picture;
        let responses = self.session.publish(snapshot);
        self.queue(responses);
    }

    fn deliver(&mut self) {
        let Some(request) = self.client.outbox.pop_front() else {
            return;
        };
        self.unjudged.remove(&request.nonce);
        let responses = self.session.receive(request).expect("few names");
        self.queue(responses);
        for status in self.session.status() {
            let open = self.unjudged.values().any(|url| url == status.kind.url());
            assert!(
                status.state != State::Synced || !open,
                "{:?} is taken for accepted before the client said so",
                status.kind
            );
        }
    }

    fn take(&mut self, applied: usize) {
        if let Some(response) = self.inbox.pop_front() {
            self.client.take(&response, applied);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(picture) => self.publish(picture),
            Step::Deliver => self.deliver(),
            Step::Take(applied) => self.take(applied),
            Step::Subscribe(kind, number) => {
                self.client.subscribe(kind, &choice(kind, number), "");
            }
            Step::Unsubscribe(kind, number) => {
                self.client.unsubscribe(kind, &choice(kind, number), "");
            }
            Step::Stale(kind, number) => {
                self.client.unsubscribe(kind, &choice(kind, number), "0.1");
                self.client.subscribe(kind, &choice(kind, number), "0.1");
            }
            Step::Reconnect => self.reconnect(),
            Step::Expire => {
                let responses = self.session.expire();
                self.queue(responses);
            }
        }
    }

    /// Everything under way arrives.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.inbox.is_empty() && self.client.outbox.is_empty() {
                return;
            }
            self.take(1);
            self.deliver();
        }
        panic!("client and server talk for ever");
    }

    /// The client has exactly what it is to have, but for what it refuses.
    fn assert_converged(&self) {
        for kind in ResourceType::ALL {
            let state = self.client.of(kind);
            let mut wanted = self.picture.resources(kind);
            wanted.retain(|name, _| state.wildcard || state.names.contains(name));
            for (name, (version, bad)) in &wanted {
                let has = state.have.get(name).map(|content| &content.version);
                assert!(
                    *bad || has == Some(version),
                    "{name}: {has:?}, not {version}"
                );
            }
            if !self.picture.bad {
                let names: Vec<_> = state.have.keys().collect();
                assert_eq!(names, wanted.keys().collect::<Vec<_>>(), "{kind:?}");
            }
        }
    }

    /// Nothing that the client uses is missing.
    fn assert_whole(&self) {
        for kind in [ResourceType::Listener, ResourceType::Route] {
            for (name, content) in &self.client.of(kind).have {
                for cluster in &content.uses {
                    assert!(self.client.is_warm(cluster), "`{name}` uses `{cluster}`");
                }
            }
        }
    }
}

/// Names that tests subscribe to: those of the pool, the wildcard, one that never exists.
fn choice(kind: ResourceType, number: usize) -> String {
    match (kind, number) {
        (ResourceType::Name, 0) => "*".to_owned(),
        (_, POOL) => "nowhere".to_owned(),
        _ => name(kind, number),
    }
}

fn picture(bad: bool) -> impl Strategy<Value = Picture> {
    let salt = || proptest::option::weighted(0.7, 0..12_u8);
    let salts = || proptest::array::uniform5(salt());
    let all = proptest::array::uniform6(salts());
    (all, any::<u8>(), any::<u8>(), any::<bool>()).prop_map(move |(mut salts, own, uses, large)| {
        // Every cluster has endpoints, as Pilot makes them.
        let [clusters, endpoints, ..] = &mut salts;
        for (cluster, endpoints) in clusters.iter().zip(endpoints) {
            *endpoints = cluster.map(|_| endpoints.unwrap_or(0));
        }
        Picture {
            salts,
            own,
            uses,
            large,
            bad,
        }
    })
}

/// Types whose names a test changes at will; the client does the others as Envoy does.
fn free_type() -> impl Strategy<Value = ResourceType> {
    prop_oneof![
        Just(ResourceType::Route),
        Just(ResourceType::Name),
        Just(ResourceType::Secret)
    ]
}

fn steps(bad: bool, expire: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => picture(bad).prop_map(Step::Publish),
        12 => Just(Step::Deliver),
        12 => (0..4_usize).prop_map(Step::Take),
        3 => (free_type(), 0..=POOL).prop_map(|(kind, number)| Step::Subscribe(kind, number)),
        3 => (free_type(), 0..=POOL).prop_map(|(kind, number)| Step::Unsubscribe(kind, number)),
        2 => (free_type(), 0..=POOL).prop_map(|(kind, number)| Step::Stale(kind, number)),
        1 => Just(Step::Reconnect),
        expire => Just(Step::Expire),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn any_interleaving_ends_in_the_last_snapshot(steps in steps(false, 1), last in picture(false)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.publish(last);
        run.settle();
        run.step(Step::Expire);
        run.settle();
        run.assert_converged();
    }

    #[test]
    fn nothing_a_client_uses_is_ever_missing(steps in steps(false, 0), last in picture(false)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.assert_whole();
        }
        run.publish(last);
        run.settle();
        run.assert_whole();
        prop_assert!(!run.session.is_waiting(), "all is acknowledged, but {:#?} waits", run.session);
        run.assert_converged();
    }

    #[test]
    fn bad_resources_keep_nothing_but_themselves_back(
        steps in steps(true, 1),
        last in picture(true),
        good in picture(false),
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.publish(last);
        run.settle();
        run.step(Step::Expire);
        run.settle();
        run.assert_converged();
        run.publish(good);
        run.settle();
        run.step(Step::Expire);
        run.settle();
        run.assert_converged();
        for status in run.session.status() {
            prop_assert_eq!(status.state, State::Synced, "{:?}", status);
        }
    }

    #[test]
    fn a_client_that_returns_unchanged_is_sent_nothing(steps in steps(false, 1), last in picture(false)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.publish(last);
        run.settle();
        run.step(Step::Expire);
        run.settle();
        run.reconnect();
        run.settle();
        run.assert_converged();
        prop_assert_eq!(run.entries, 0);
        prop_assert!(run.session.status().iter().all(|status| status.sent == 0));
    }
}

proptest! {
    #[test]
    fn a_young_server_that_knows_less_takes_nothing_away(
        steps in steps(false, 1),
        full in picture(false),
        missing in 0..POOL,
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.publish(full.clone());
        run.settle();
        run.step(Step::Expire);
        run.settle();

        let mut less = full.clone();
        less.salts[0][missing] = None;
        less.salts[1][missing] = None;
        run.young = true;
        run.publish(less.clone());
        run.inbox.clear();
        run.reconnect();
        run.settle();
        let expired = run.session.expire();
        run.queue(expired);
        run.settle();
        for kind in [ResourceType::Cluster, ResourceType::Endpoint] {
            let has: Vec<_> = run.client.of(kind).have.keys().cloned().collect();
            prop_assert_eq!(has, full.resources(kind).into_keys().collect::<Vec<_>>());
        }

        run.publish(full);
        run.settle();
        run.assert_converged();
        if less.salts != run.picture.salts {
            prop_assert_eq!(run.entries, 0, "all is as it was");
        }
        let responses = run.session.trust();
        run.queue(responses);
        run.publish(less);
        run.settle();
        run.step(Step::Expire);
        run.settle();
        run.assert_converged();
    }
}

fn two_clusters() -> Picture {
    let mut picture = Picture::default();
    picture.salts[0] = [Some(1), Some(1), None, None, None];
    picture.salts[1] = [Some(1), Some(1), None, None, None];
    picture
}

fn request(kind: ResourceType) -> Request {
    Request {
        type_url: kind.url().to_owned(),
        ..Request::default()
    }
}

/// A session with a snapshot.
fn session(picture: &Picture) -> Session {
    let mut session = Session::new(1, true);
    let sent = session.publish(Snapshot {
        shared: Arc::new(picture.layer(false)),
        own: Arc::new(picture.layer(true)),
    });
    assert!(sent.is_empty(), "nobody asked");
    session
}

#[test]
fn nothing_is_answered_before_the_first_snapshot() {
    let mut session = Session::new(1, true);
    let sent = session.receive(request(ResourceType::Cluster)).unwrap();
    assert!(sent.is_empty());
    let sent = session.publish(Snapshot::default());
    let [empty] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert!(empty.entries.is_empty() && empty.removed.is_empty());
}

#[test]
fn endpoints_follow_a_changed_cluster_unasked() {
    let mut session = session(&two_clusters());
    let clusters = session.receive(request(ResourceType::Cluster)).unwrap();
    assert_eq!(clusters.len(), 1);
    let endpoints = Request {
        subscribe: vec!["cluster-0".to_owned(), "cluster-1".to_owned()],
        ..request(ResourceType::Endpoint)
    };
    assert_eq!(session.receive(endpoints).unwrap().len(), 1);

    let mut changed = two_clusters();
    changed.salts[0][1] = Some(2);
    let sent = session.publish(Snapshot {
        shared: Arc::new(changed.layer(false)),
        own: Arc::new(changed.layer(true)),
    });
    let kinds: Vec<_> = sent.iter().map(|response| &*response.type_url).collect();
    assert_eq!(
        kinds,
        [ResourceType::Cluster.url(), ResourceType::Endpoint.url()]
    );
    assert!(sent.iter().all(|response| response.entries.len() == 1));
}

#[test]
fn endpoints_follow_a_cluster_that_changed_while_the_client_was_away() {
    let old = two_clusters();
    let mut new = two_clusters();
    new.salts[0][1] = Some(2);
    let mut session = session(&new);
    let versions = |kind| -> BTreeMap<String, String> {
        let resources = old.resources(kind).into_iter();
        resources
            .map(|(name, (version, _))| (name, version))
            .collect()
    };
    let clusters = Request {
        versions: versions(ResourceType::Cluster),
        ..request(ResourceType::Cluster)
    };
    let sent = session.receive(clusters).unwrap();
    assert_eq!(sent.iter().map(|sent| sent.entries.len()).sum::<usize>(), 1);
    let endpoints = Request {
        subscribe: versions(ResourceType::Endpoint).into_keys().collect(),
        versions: versions(ResourceType::Endpoint),
        ..request(ResourceType::Endpoint)
    };
    let sent = session.receive(endpoints).unwrap();
    assert_eq!(sent.iter().map(|sent| sent.entries.len()).sum::<usize>(), 1);
}

#[test]
fn a_name_asked_for_again_is_answered_although_it_is_current() {
    let mut session = session(&two_clusters());
    let ask = Request {
        subscribe: vec!["cluster-0".to_owned(), "nowhere".to_owned()],
        ..request(ResourceType::Endpoint)
    };
    for _ in 0..2 {
        let sent = session.receive(ask.clone()).unwrap();
        let [answer] = sent.as_slice() else {
            panic!("{sent:?}")
        };
        assert_eq!(answer.entries.len(), 1);
        assert_eq!(answer.removed, ["nowhere".into()]);
    }
}

#[test]
fn a_type_that_is_not_served_is_empty() {
    let mut session = session(&two_clusters());
    let ask = Request {
        type_url: "type.googleapis.com/x.Y".to_owned(),
        subscribe: vec!["a".to_owned(), "a".to_owned()],
        ..Request::default()
    };
    let sent = session.receive(ask.clone()).unwrap();
    let [answer] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert_eq!(answer.type_url, ask.type_url);
    assert_eq!(answer.removed, ["a".into()]);
    let acknowledge = Request {
        nonce: answer.nonce.clone(),
        subscribe: Vec::new(),
        ..ask
    };
    assert!(session.receive(acknowledge).unwrap().is_empty());
}

#[test]
fn a_stream_asks_for_so_many_names_and_no_more() {
    let mut session = session(&two_clusters());
    let ask = Request {
        subscribe: (0..100_001).map(|number| number.to_string()).collect(),
        ..request(ResourceType::Endpoint)
    };
    let refused = session.receive(ask).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "more than 100000 names asked for on one stream"
    );
}

#[test]
fn what_was_refused_is_told_in_the_words_of_the_client() {
    let mut session = session(&two_clusters());
    let sent = session.receive(request(ResourceType::Cluster)).unwrap();
    let refuse = |nonce: &str| Request {
        nonce: nonce.to_owned(),
        error: Some("no such thing".to_owned()),
        ..request(ResourceType::Cluster)
    };
    let again = session.receive(refuse(&sent[0].nonce)).unwrap();
    assert_eq!(again.len(), 2, "each alone: {again:?}");
    let accept = Request {
        nonce: again[0].nonce.clone(),
        ..request(ResourceType::Cluster)
    };
    assert!(session.receive(accept).unwrap().is_empty());
    assert!(session.receive(refuse(&again[1].nonce)).unwrap().is_empty());
    let status = session.status();
    assert_eq!(status[0].state, State::Rejected);
    assert_eq!(status[0].error, "no such thing");
}

fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("*".to_owned()),
        Just("cluster-0".to_owned()),
        Just("1.1".to_owned()),
        "\\PC{0,40}",
    ]
}

/// What no client should say: foreign types and nonces, names that are not, refusals of nothing.
fn hostile_request() -> impl Strategy<Value = Request> {
    let type_url = prop_oneof![
        3 => (0..ResourceType::ALL.len()).prop_map(|index| ResourceType::ALL[index].url().to_owned()),
        1 => hostile_text(),
    ];
    let names = || prop::collection::vec(hostile_text(), 0..5);
    let versions = prop::collection::btree_map(hostile_text(), hostile_text(), 0..5);
    let error = prop::option::of(hostile_text());
    (type_url, hostile_text(), names(), names(), versions, error).prop_map(
        |(type_url, nonce, subscribe, unsubscribe, versions, error)| Request {
            type_url,
            nonce,
            subscribe,
            unsubscribe,
            versions,
            error,
        },
    )
}

proptest! {
    #[test]
    fn hostile_requests_are_no_panic_and_acknowledge_nothing(
        requests in prop::collection::vec(hostile_request(), 0..20),
        trusted: bool,
    ) {
        let mut session = Session::new(7, trusted);
        session.publish(Snapshot {
            shared: Arc::new(two_clusters().layer(false)),
            own: Arc::new(two_clusters().layer(true)),
        });
        let mut nonces = BTreeSet::new();
        for request in requests {
            // This stream's nonces begin with its number, which no message here does.
            let answers = session.receive(request).unwrap();
            let sent = nonces.len() + answers.len();
            nonces.extend(answers.into_iter().map(|answer| answer.nonce));
            prop_assert_eq!(nonces.len(), sent, "a nonce was given twice");
        }
        for status in session.status() {
            let synced = status.state == State::Synced;
            prop_assert!(!synced || status.sent == 0, "{status:?}");
        }
        // A client that behaves is served all the same.
        let asks = Request { subscribe: vec!["*".to_owned()], ..request(ResourceType::Cluster) };
        session.receive(asks).unwrap();
        let clusters = session.status().into_iter().find(|it| it.kind == ResourceType::Cluster);
        prop_assert!(clusters.is_some());
    }
}
