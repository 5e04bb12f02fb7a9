//! Clusters of addresses: told to who asks for them, kept current, and bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::{Health, Mode, Workload, virtual_address};
use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message as _;
use serde_json::json;

use crate::pilot::mesh::{Config, Mesh};
use crate::pilot::resource::{ResourceType, Snapshot};
use crate::pilot::session::dialed::{KEPT, MAX_DIALED};
use crate::pilot::session::{Request, Response, Session};
use crate::pilot::snapshot;

const API: &str = "direct|24080||10.0.0.5";
const NOBODY: &str = "direct|5432||10.0.0.5";

/// A mesh in which an account is called at 10.0.0.5:24080, and in any case somebody at
/// 10.0.0.5:24090.
fn with(account: Option<&str>) -> Snapshot {
    let mut workloads = vec![(24090, "other")];
    workloads.extend(account.map(|account| (24080, account)));
    mesh(&workloads)
}

/// A mesh in which these accounts are called at these ports of 10.0.0.5.
fn mesh(accounts: &[(usize, &str)]) -> Snapshot {
    let at = |(port, account): &(usize, &str)| -> (Workload, Health) {
        let workload = json!({
            "id": format!("shop/{port}"),
            "namespace": "shop",
            "service_account": account,
            "addresses": ["10.0.0.5"],
            "services": [{ "name": account, "ports": [{
                "name": "tcp", "number": 80, "target": port, "inside": 80, "protocol": "tcp",
            }] }],
        });
        (serde_json::from_value(workload).unwrap(), Health::Healthy)
    };
    let workloads: Vec<_> = accounts.iter().map(at).collect();
    let mut config = Config::default();
    let hosts = Mesh::assemble(&config, &workloads).unaddressed;
    config.virtual_addresses = virtual_address::allocate(&BTreeMap::new(), &hosts).addresses;
    let mesh = Mesh::assemble(&config, &workloads);
    let shared = snapshot::shared(&mesh, &"shop".parse().unwrap(), Mode::Transparent);
    Snapshot {
        shared: Arc::new(shared),
        own: Arc::default(),
    }
}

fn request(subscribe: &[&str]) -> Request {
    Request {
        type_url: ResourceType::Cluster.url().to_owned(),
        subscribe: subscribe.iter().map(ToString::to_string).collect(),
        ..Request::default()
    }
}

/// What responses say of clusters of addresses: names, and whether each is under mutual TLS.
fn told(responses: &[Response]) -> Vec<(String, bool)> {
    resources(responses)
        .map(|(name, text)| (name, text.contains("spiffe://")))
        .collect()
}

fn resources(responses: &[Response]) -> impl Iterator<Item = (String, String)> {
    let entries = responses.iter().flat_map(|response| &response.entries);
    entries
        .map(|entry| {
            let response = DeltaDiscoveryResponse::decode(&entry[..]).unwrap();
            let resource = &response.resources[0];
            (resource.name.clone(), format!("{resource:?}"))
        })
        .filter(|(name, _)| name.starts_with("direct|"))
}

fn removed(responses: &[Response]) -> Vec<&str> {
    let removed = responses.iter().flat_map(|response| &response.removed);
    removed.map(|name| &**name).collect()
}

/// A client that has everything of a wildcard.
fn synced(snapshot: Snapshot) -> Session {
    let mut session = Session::new(0, true);
    session.publish(snapshot);
    let first = session.receive(request(&[])).unwrap();
    assert!(told(&first).is_empty(), "nobody asked for an address");
    acknowledge(&mut session, &first);
    session
}

fn acknowledge(session: &mut Session, responses: &[Response]) {
    for response in responses {
        let verdict = Request {
            type_url: response.type_url.clone().into_owned(),
            nonce: response.nonce.clone(),
            ..Request::default()
        };
        let more = session.receive(verdict).unwrap();
        assert!(told(&more).is_empty());
    }
}

#[test]
fn an_address_is_answered_by_its_name_and_by_no_wildcard() {
    let mut session = synced(with(Some("api")));
    let answer = session.receive(request(&[API, NOBODY])).unwrap();
    assert_eq!(
        told(&answer),
        [(API.to_owned(), true), (NOBODY.to_owned(), false)]
    );
    assert!(removed(&answer).is_empty());
    // Asked again, it is answered again: Envoy waits for it.
    let again = session.receive(request(&[API])).unwrap();
    assert_eq!(told(&again), [(API.to_owned(), true)]);
}

#[test]
fn who_asked_is_told_of_every_change_there_and_of_no_other() {
    let mut session = synced(with(Some("api")));
    let answer = session.receive(request(&[API])).unwrap();
    acknowledge(&mut session, &answer);

    let changed = session.publish(with(Some("web")));
    let (_, text) = resources(&changed).next().unwrap();
    assert!(
        text.contains("/sa/web") && !text.contains("/sa/api"),
        "{text}"
    );
    acknowledge(&mut session, &changed);

    let gone = session.publish(with(None));
    assert_eq!(told(&gone), [(API.to_owned(), false)]);
    assert!(!removed(&gone).contains(&API), "Envoy would not ask again");
    acknowledge(&mut session, &gone);

    let back = session.publish(with(Some("web")));
    assert_eq!(told(&back), [(API.to_owned(), true)]);

    let mut other = synced(with(Some("api")));
    assert!(told(&other.publish(with(Some("web")))).is_empty());
}

#[test]
fn a_client_that_comes_back_is_told_what_differs() {
    let mut session = synced(with(Some("api")));
    let answer = session.receive(request(&[API, NOBODY])).unwrap();
    let versions = answer.iter().flat_map(|response| &response.entries);
    let versions = versions.map(|entry| {
        let response = DeltaDiscoveryResponse::decode(&entry[..]).unwrap();
        let resource = &response.resources[0];
        (resource.name.clone(), resource.version.clone())
    });
    let back = Request {
        versions: versions.collect(),
        ..request(&["*", API, NOBODY])
    };
    for (account, differs) in [("api", false), ("web", true)] {
        let mut session = Session::new(1, true);
        session.publish(with(Some(account)));
        let answer = session.receive(back.clone()).unwrap();
        let told = told(&answer);
        assert_eq!(told.iter().any(|(name, _)| name == API), differs);
        assert!(told.iter().all(|(name, _)| name != NOBODY));
    }

    // A Pilot that does not know everything again takes nobody's identity from an address.
    let mut young = Session::new(2, false);
    young.publish(with(None));
    assert!(told(&young.receive(back).unwrap()).is_empty());
    assert!(told(&young.publish(with(Some("api")))).is_empty());
    assert_eq!(told(&young.trust()), []);
    assert_eq!(told(&young.publish(with(None))), [(API.to_owned(), false)]);
}

#[test]
fn a_name_that_is_given_up_is_gone() {
    let mut session = synced(with(Some("api")));
    let answer = session.receive(request(&[API])).unwrap();
    acknowledge(&mut session, &answer);
    let up = Request {
        unsubscribe: vec![API.to_owned()],
        ..request(&[])
    };
    assert_eq!(removed(&session.receive(up).unwrap()), [API]);
    assert!(told(&session.publish(with(Some("web")))).is_empty());
}

/// The names of the addresses of a port range of one node.
fn ports(ports: std::ops::RangeInclusive<usize>, node: &str) -> Vec<String> {
    let name = |port| format!("direct|{port}||{node}");
    ports.map(name).collect()
}

fn ask(session: &mut Session, names: &[String]) -> Vec<Response> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    session.receive(request(&names)).unwrap()
}

#[test]
fn so_many_addresses_are_answered_and_no_more() {
    let mut session = synced(with(Some("api")));
    for names in ports(1..=MAX_DIALED, "10.0.0.5").chunks(512) {
        let answer = ask(&mut session, names);
        assert_eq!(told(&answer).len(), names.len());
        acknowledge(&mut session, &answer);
    }
    let refused = session.receive(request(&[API])).unwrap();
    assert!(told(&refused).is_empty());
    assert_eq!(removed(&refused), [API]);
    // One that is known is not one more.
    let known = session.receive(request(&["direct|7||10.0.0.5"])).unwrap();
    assert_eq!(told(&known).len(), 1);

    let mut all = ports(1..=65_535, "10.0.0.5");
    all.push("*".to_owned());
    let mut session = Session::new(1, true);
    session.publish(with(Some("api")));
    assert_eq!(told(&ask(&mut session, &all)).len(), MAX_DIALED);
}

/// A mesh in which somebody is called at these ports of 10.0.0.5.
fn at(ports: impl Iterator<Item = usize>) -> Snapshot {
    let ports: Vec<_> = ports.map(|port| (20_000 + port, "api")).collect();
    mesh(&ports)
}

fn nth(number: usize) -> String {
    format!("direct|{}||10.0.0.5", 20_000 + number)
}

/// What a client that takes everything has, by name.
fn keep(has: &mut BTreeMap<String, String>, responses: &[Response]) {
    for entry in responses.iter().flat_map(|response| &response.entries) {
        let response = DeltaDiscoveryResponse::decode(&entry[..]).unwrap();
        let resource = &response.resources[0];
        has.insert(resource.name.clone(), resource.version.clone());
    }
    for name in removed(responses) {
        has.remove(name);
    }
}

#[test]
fn an_address_that_somebody_left_goes_when_there_are_many_and_comes_back_unasked() {
    const MANY: usize = KEPT + 8;
    let mut session = synced(at(0..MANY));
    session.expire();
    let mut has = BTreeMap::new();
    let names: Vec<_> = (0..MANY).map(nth).collect();
    let answer = ask(&mut session, &[NOBODY.to_owned()]);
    keep(&mut has, &answer);
    acknowledge(&mut session, &answer);
    let answer = ask(&mut session, &names);
    keep(&mut has, &answer);
    acknowledge(&mut session, &answer);
    assert_eq!(has.len(), MANY + 1, "whoever is there is called");

    // Who left first goes first; at the address of nobody there may always have been something.
    for there in [MANY - 2, 2] {
        let left = session.publish(at(0..there));
        keep(&mut has, &left);
        acknowledge(&mut session, &left);
    }
    assert_eq!(has.len(), KEPT);
    for gone in [MANY - 2, MANY - 1, 2, 3, 8] {
        assert!(!has.contains_key(&nth(gone)), "{gone}");
    }
    for kept in [nth(0), nth(9), nth(MANY - 3), NOBODY.to_owned()] {
        assert!(has.contains_key(&kept), "{kept}");
    }

    // Who comes from another Pilot is not given what was taken away there.
    let mut back = request(&["*", NOBODY]);
    back.subscribe.extend(names);
    back.versions.extend(has.clone());
    let mut other = Session::new(1, true);
    other.expire();
    other.publish(at(0..2));
    let told_there = other.receive(back).unwrap();
    assert!(told(&told_there).is_empty());
    assert!(removed(&told_there).contains(&nth(3).as_str()));

    for session in [&mut session, &mut other] {
        let back = session.publish(at(0..4));
        let back = told(&back);
        for again in [2, 3] {
            assert!(back.contains(&(nth(again), true)), "{again}");
        }
    }
    // Asked for again, it is given again.
    let asked = ask(&mut session, &[nth(MANY - 1)]);
    assert_eq!(told(&asked), [(nth(MANY - 1), false)]);
}

#[test]
fn who_comes_back_and_asks_before_anything_is_known_is_answered() {
    let mut session = Session::new(1, true);
    let mut back = request(&["*", NOBODY]);
    back.versions.insert("other".to_owned(), "7".to_owned());
    assert!(session.receive(back).unwrap().is_empty());
    assert!(ask(&mut session, &[API.to_owned(), nth(1)]).is_empty());
    let answer = session.publish(with(Some("api")));
    assert_eq!(told(&answer), [(nth(1), false), (API.to_owned(), true)]);
    assert!(
        removed(&answer).contains(&NOBODY),
        "it was taken away before"
    );
}

#[test]
fn what_was_taken_away_makes_room_for_others() {
    let mut session = synced(at(0..MAX_DIALED));
    let names: Vec<_> = (0..MAX_DIALED).map(nth).collect();
    let answer = ask(&mut session, &names);
    acknowledge(&mut session, &answer);
    assert!(told(&ask(&mut session, &[NOBODY.to_owned()])).is_empty());
    let left = session.publish(at(0..1));
    acknowledge(&mut session, &left);
    let answer = ask(&mut session, &[NOBODY.to_owned()]);
    assert_eq!(told(&answer), [(NOBODY.to_owned(), false)]);
}
