//! Scenarios one by one, and a model Envoy and a model Pilot under any interleaving.

use mesh_proto::google::protobuf::{Any, Duration};

use super::*;
use crate::relay::session::conversation::UNCERTAIN;

mod direct;
mod model;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

fn session() -> Session {
    Session::new(Node::default(), Accepted::default())
}

fn resource(name: &str, version: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any {
            type_url: "opaque".to_owned(),
            value: version.to_owned().into(),
        }),
        ..Default::default()
    }
}

fn request(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        ..Default::default()
    }
}

fn subscribe(type_url: &str, names: &[&str]) -> Input {
    Input::FromEnvoy(DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
        ..request(type_url)
    })
}

fn ack(type_url: &str, nonce: &str) -> Input {
    Input::FromEnvoy(DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        ..request(type_url)
    })
}

fn nack(type_url: &str, nonce: &str) -> Input {
    Input::FromEnvoy(DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        error_detail: Some(Status {
            code: 13,
            message: "bad".to_owned(),
            ..Default::default()
        }),
        ..request(type_url)
    })
}

fn response(type_url: &str, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..Default::default()
    }
}

fn to_envoy(outputs: Vec<Output>) -> Vec<DeltaDiscoveryResponse> {
    let responses = outputs.into_iter().filter_map(|output| match output {
        Output::ToEnvoy(response) => Some(response),
        _ => None,
    });
    responses.collect()
}

fn to_pilot(outputs: Vec<Output>) -> Vec<DeltaDiscoveryRequest> {
    let requests = outputs.into_iter().filter_map(|output| match output {
        Output::ToPilot(request) => Some(request),
        _ => None,
    });
    requests.collect()
}

/// A session whose Envoy accepted cluster `a` in version `1` from Pilot's nonce `p1`.
fn with_one_cluster() -> Session {
    let mut session = session();
    drop(session.step(Input::PilotConnected));
    drop(session.step(Input::EnvoyConnected));
    drop(session.step(subscribe(CLUSTER, &[])));
    let outputs = session.step(Input::FromPilot(response(
        CLUSTER,
        "p1",
        vec![resource("a", "1")],
    )));
    let nonce = to_envoy(outputs).remove(0).nonce;
    let outputs = session.step(ack(CLUSTER, &nonce));
    assert!(outputs.contains(&Output::AcceptedChanged));
    session
}

#[test]
fn an_answer_of_envoys_reaches_pilot_under_pilots_nonce() {
    let mut session = with_one_cluster();
    for (answer, refused) in [(ack as fn(&str, &str) -> Input, false), (nack, true)] {
        let outputs = session.step(Input::FromPilot(response(
            CLUSTER,
            "p2",
            vec![resource("a", "2")],
        )));
        let nonce = to_envoy(outputs).remove(0).nonce;
        assert_ne!(nonce, "p2");
        let requests = to_pilot(session.step(answer(CLUSTER, &nonce)));
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].response_nonce, "p2");
        assert_eq!(requests[0].error_detail.is_some(), refused);
    }
}

#[test]
fn a_refused_resource_is_not_kept() {
    let mut session = with_one_cluster();
    let outputs = session.step(Input::FromPilot(response(
        CLUSTER,
        "p2",
        vec![resource("a", "2")],
    )));
    let nonce = to_envoy(outputs).remove(0).nonce;
    drop(session.step(nack(CLUSTER, &nonce)));
    let kept: Vec<_> = session.accepted().resources(CLUSTER).collect();
    assert_eq!(kept, [&resource("a", "1")]);
    // A new stream says that it is not certain what Envoy holds, so that Pilot sends it again.
    let requests = to_pilot(session.step(Input::PilotConnected));
    let versions = &requests[1].initial_resource_versions;
    assert_eq!(versions.get("a").map(String::as_str), Some(UNCERTAIN));
}

#[test]
fn a_new_stream_to_pilot_names_every_accepted_version() {
    let mut session = with_one_cluster();
    drop(session.step(Input::PilotDisconnected));
    let requests = to_pilot(session.step(Input::PilotConnected));
    assert_eq!(requests[0].type_url, Name::type_url());
    assert_eq!(requests[1].type_url, CLUSTER);
    assert!(requests[1].resource_names_subscribe.is_empty());
    let versions = &requests[1].initial_resource_versions;
    assert_eq!(versions.get("a").map(String::as_str), Some("1"));
}

#[test]
fn a_restarted_envoy_is_served_while_pilot_is_away() {
    let mut session = with_one_cluster();
    drop(session.step(Input::PilotDisconnected));
    drop(session.step(Input::EnvoyDisconnected));
    drop(session.step(Input::EnvoyConnected));
    let answers = to_envoy(session.step(subscribe(CLUSTER, &[])));
    assert_eq!(answers[0].resources, [resource("a", "1")]);
    // Its endpoints were never accepted: they are said to be absent, or Envoy would wait for ever.
    let answers = to_envoy(session.step(subscribe(ENDPOINT, &["a"])));
    assert_eq!(answers[0].removed_resources, ["a"]);
}

#[test]
fn a_running_envoy_is_never_told_that_something_is_absent_for_want_of_pilot() {
    let mut session = with_one_cluster();
    drop(session.step(Input::PilotDisconnected));
    assert_eq!(to_envoy(session.step(subscribe(ENDPOINT, &["a"]))), []);
}

#[test]
fn an_envoy_without_accepted_configuration_waits() {
    let mut session = session();
    drop(session.step(Input::EnvoyConnected));
    assert_eq!(session.step(subscribe(CLUSTER, &[])), []);
}

#[test]
fn an_accepted_empty_answer_is_an_answer() {
    let mut session = session();
    drop(session.step(Input::PilotConnected));
    drop(session.step(Input::EnvoyConnected));
    drop(session.step(subscribe(CLUSTER, &[])));
    let outputs = session.step(Input::FromPilot(response(CLUSTER, "p1", vec![])));
    let nonce = to_envoy(outputs).remove(0).nonce;
    drop(session.step(ack(CLUSTER, &nonce)));
    drop(session.step(Input::PilotDisconnected));
    drop(session.step(Input::EnvoyConnected));
    let answers = to_envoy(session.step(subscribe(CLUSTER, &[])));
    assert_eq!(answers.len(), 1);
}

#[test]
fn an_answer_to_a_lost_stream_of_pilots_is_kept_and_not_passed_on() {
    let mut session = with_one_cluster();
    let outputs = session.step(Input::FromPilot(response(
        CLUSTER,
        "p2",
        vec![resource("a", "2")],
    )));
    let nonce = to_envoy(outputs).remove(0).nonce;
    drop(session.step(Input::PilotDisconnected));
    let requests = to_pilot(session.step(Input::PilotConnected));
    let versions = &requests[1].initial_resource_versions;
    assert_eq!(versions.get("a").map(String::as_str), Some(UNCERTAIN));
    assert_eq!(to_pilot(session.step(ack(CLUSTER, &nonce))), []);
    let kept: Vec<_> = session.accepted().resources(CLUSTER).collect();
    assert_eq!(kept, [&resource("a", "2")]);
}

#[test]
fn a_surviving_envoy_confirms_by_its_versions_what_it_never_acknowledged() {
    let mut session = with_one_cluster();
    drop(session.step(Input::FromPilot(response(
        CLUSTER,
        "p2",
        vec![resource("a", "2")],
    ))));
    let outputs = session.step(Input::EnvoyDisconnected);
    assert_eq!(outputs, [Output::RestartPilot]);
    drop(session.step(Input::EnvoyConnected));
    let outputs = session.step(Input::FromEnvoy(DeltaDiscoveryRequest {
        initial_resource_versions: BTreeMap::from([("a".to_owned(), "2".to_owned())]),
        ..request(CLUSTER)
    }));
    assert_eq!(outputs, [Output::AcceptedChanged]);
    let kept: Vec<_> = session.accepted().resources(CLUSTER).collect();
    assert_eq!(kept, [&resource("a", "2")]);
}

#[test]
fn a_surviving_envoy_is_not_set_back() {
    let mut session = with_one_cluster();
    drop(session.step(Input::EnvoyConnected));
    let outputs = session.step(Input::FromEnvoy(DeltaDiscoveryRequest {
        initial_resource_versions: BTreeMap::from([("a".to_owned(), "9".to_owned())]),
        ..request(CLUSTER)
    }));
    assert_eq!(to_envoy(outputs), []);
}

#[test]
fn what_ends_with_pilot_is_not_kept() {
    let mut session = with_one_cluster();
    let passing = Resource {
        ttl: Some(Duration {
            seconds: 5,
            nanos: 0,
        }),
        ..resource("b", "1")
    };
    let outputs = session.step(Input::FromPilot(response(CLUSTER, "p2", vec![passing])));
    let nonce = to_envoy(outputs).remove(0).nonce;
    drop(session.step(ack(CLUSTER, &nonce)));
    let kept: Vec<_> = session.accepted().resources(CLUSTER).collect();
    assert_eq!(kept, [&resource("a", "1")]);
}

#[test]
fn names_are_not_relayed() {
    let mut session = with_one_cluster();
    let outputs = session.step(subscribe(&Name::type_url(), &["default"]));
    assert_eq!(outputs, [Output::NotRelayed(Name::type_url())]);
}

#[test]
fn a_malformed_name_is_refused_and_the_table_stays() {
    let mut session = session();
    drop(session.step(Input::PilotConnected));
    let name = |host: &str, address: &str| {
        let message = Name {
            host: host.to_owned(),
            addresses: vec![address.to_owned()],
        };
        Resource {
            name: host.to_owned(),
            version: "1".to_owned(),
            resource: Some(Any {
                type_url: Name::type_url(),
                value: message.encode_to_vec().into(),
            }),
            ..Default::default()
        }
    };
    let good = response(
        &Name::type_url(),
        "n1",
        vec![name("a.b.mesh", "240.240.0.1")],
    );
    let outputs = session.step(Input::FromPilot(good));
    assert!(outputs.contains(&Output::NamesChanged));
    assert_eq!(to_pilot(outputs)[0].error_detail, None);
    let bad = response(&Name::type_url(), "n2", vec![name("a.b.mesh", "nonsense")]);
    let requests = to_pilot(session.step(Input::FromPilot(bad)));
    assert_eq!(requests[0].response_nonce, "n2");
    assert!(requests[0].error_detail.is_some());
    let names = session.accepted().resources(&Name::type_url());
    assert_eq!(names.count(), 1);
}
