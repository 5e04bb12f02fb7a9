//! Clusters of addresses: asked for by name beside the wildcard, also while Pilot is away.

use mesh_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use prost::Message as _;

use super::*;

const ADDRESS: &str = "direct|24080||10.0.0.5";

fn is_passing(resource: &Resource) -> bool {
    let any = resource.resource.as_ref().unwrap();
    let kind = match any.type_url.as_str() {
        CLUSTER => {
            Cluster::decode(any.value.as_ref())
                .unwrap()
                .cluster_discovery_type
        }
        _ => None,
    };
    kind == Some(ClusterDiscoveryType::Type(
        DiscoveryType::OriginalDst.into(),
    ))
}

/// What Envoy is told of addresses, by the nonces under which it is.
fn passing(outputs: Vec<Output>) -> Vec<(String, String)> {
    let responses = to_envoy(outputs).into_iter();
    responses
        .flat_map(|response| {
            assert!(
                response.removed_resources.is_empty(),
                "Envoy would not ask again"
            );
            let nonce = response.nonce;
            let resources = response.resources.into_iter();
            resources.map(move |resource| (nonce.clone(), resource))
        })
        .filter(|(_, resource)| is_passing(resource))
        .map(|(nonce, resource)| (nonce, resource.name))
        .collect()
}

#[test]
fn an_address_is_asked_for_beside_the_wildcard_on_every_stream() {
    let mut session = with_one_cluster();
    let outputs = session.step(subscribe(CLUSTER, &[ADDRESS]));
    let asked = to_pilot(outputs);
    assert_eq!(asked[0].resource_names_subscribe, [ADDRESS]);
    let told = response(CLUSTER, "p2", vec![resource(ADDRESS, "7")]);
    let nonce = to_envoy(session.step(Input::FromPilot(told)))
        .remove(0)
        .nonce;
    drop(session.step(ack(CLUSTER, &nonce)));

    let lost = session.step(Input::PilotDisconnected);
    assert!(to_envoy(lost).is_empty(), "it is known who is there");
    let asked = to_pilot(session.step(Input::PilotConnected));
    let asked = asked
        .iter()
        .find(|asked| asked.type_url == CLUSTER)
        .unwrap();
    assert_eq!(asked.resource_names_subscribe, ["*", ADDRESS]);
    assert_eq!(asked.initial_resource_versions[ADDRESS], "7");

    // Another Envoy finds it as it was, before it asks.
    drop(session.step(Input::PilotDisconnected));
    drop(session.step(Input::EnvoyDisconnected));
    drop(session.step(Input::EnvoyConnected));
    let found = to_envoy(session.step(subscribe(CLUSTER, &[]))).remove(0);
    assert!(
        found
            .resources
            .iter()
            .any(|resource| resource.name == ADDRESS)
    );
}

#[test]
fn without_pilot_calls_to_an_address_pass_until_it_says_who_is_there() {
    let mut session = with_one_cluster();
    drop(session.step(Input::PilotDisconnected));
    let told = passing(session.step(subscribe(CLUSTER, &[ADDRESS])));
    let [(nonce, name)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(name, ADDRESS);
    assert!(passing(session.step(ack(CLUSTER, nonce))).is_empty());

    let asked = to_pilot(session.step(Input::PilotConnected));
    let asked = asked
        .iter()
        .find(|asked| asked.type_url == CLUSTER)
        .unwrap();
    assert_eq!(asked.resource_names_subscribe, ["*", ADDRESS]);
    let version = &asked.initial_resource_versions[ADDRESS];
    assert!(
        u64::from_str_radix(version, 16).is_err(),
        "no version of Pilot's"
    );
    let told = response(CLUSTER, "p2", vec![resource(ADDRESS, "7")]);
    let told = to_envoy(session.step(Input::FromPilot(told))).remove(0);
    assert_eq!(told.resources[0].version, "7");
}

#[test]
fn a_connection_that_waits_when_pilot_is_lost_waits_no_longer() {
    let mut session = with_one_cluster();
    assert!(passing(session.step(subscribe(CLUSTER, &[ADDRESS]))).is_empty());
    let told = passing(session.step(Input::PilotDisconnected));
    assert_eq!(told.len(), 1);
    // One answer is enough, also while Envoy has not confirmed it.
    assert!(passing(session.step(Input::PilotDisconnected)).is_empty());
}

#[test]
fn a_starting_envoy_is_not_told_that_an_address_is_nowhere() {
    let mut session = session();
    drop(session.step(Input::EnvoyConnected));
    let told = passing(session.step(subscribe(CLUSTER, &["*", ADDRESS])));
    assert_eq!(told.len(), 1);
}

#[test]
fn what_pilot_refused_stays_refused() {
    let mut session = with_one_cluster();
    drop(session.step(subscribe(CLUSTER, &[ADDRESS])));
    let refusal = DeltaDiscoveryResponse {
        removed_resources: vec![ADDRESS.to_owned()],
        ..response(CLUSTER, "p2", Vec::new())
    };
    let nonce = to_envoy(session.step(Input::FromPilot(refusal)))
        .remove(0)
        .nonce;
    drop(session.step(ack(CLUSTER, &nonce)));
    assert!(passing(session.step(Input::PilotDisconnected)).is_empty());
}
