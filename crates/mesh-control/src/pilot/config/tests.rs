//! What becomes of lists and changes, right ones and wrong ones.

use serde_json::json;

use super::*;

fn object(kind: IstioKind, name: &str, spec: &serde_json::Value) -> DynamicObject {
    let object = json!({
        "apiVersion": format!("{}/v1", kind.group()),
        "kind": kind.as_str(),
        "metadata": { "name": name, "namespace": "shop" },
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn route(name: &str, host: &str) -> DynamicObject {
    let spec = json!({
        "hosts": [host],
        "http": [{ "route": [{ "destination": { "host": host } }] }],
    });
    object(IstioKind::VirtualService, name, &spec)
}

fn config_map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let data = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let mut map = ConfigMap {
        data: Some(data.collect()),
        ..ConfigMap::default()
    };
    map.metadata.name = Some(name.to_owned());
    map
}

/// A reader that has read an API with these routes and nothing else.
fn reader(routes: &[DynamicObject]) -> Reader {
    let mut reader = Reader::default();
    for kind in IstioKind::ALL {
        reader.take(Change::Istio(kind, Event::Init));
        assert!(reader.config().is_none(), "not every kind is known");
        if kind == IstioKind::VirtualService {
            for route in routes {
                reader.take(Change::Istio(kind, Event::InitApply(route.clone())));
            }
        }
        reader.take(Change::Istio(kind, Event::InitDone));
    }
    reader.take(Change::ConfigMap(Event::Init));
    reader.take(Change::ConfigMap(Event::InitDone));
    assert!(reader.config().is_none(), "the trust domain is not known");
    let data = [
        ("trustDomain", "example.org"),
        ("mixer.addresses", "10.0.0.1:15011, [fd00::1]:15011,x"),
    ];
    reader.take(Change::ConfigMap(Event::Apply(config_map("mesh", &data))));
    reader
}

fn routes(reader: &Reader) -> Vec<(String, Vec<String>)> {
    let config = reader.config().unwrap();
    let routes = config.virtual_services.iter();
    routes
        .map(|route| (route.metadata.name.clone(), route.spec.hosts.clone()))
        .collect()
}

#[test]
fn the_whole_is_known_when_every_part_is() {
    let reader = reader(&[route("reviews", "reviews")]);
    let config = reader.config().unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!(config.mixer.len(), 2);
    assert_eq!(
        routes(&reader),
        [("reviews".into(), vec!["reviews".into()])]
    );
}

#[test]
fn an_object_that_becomes_wrong_stays_as_it_was_and_hurts_no_other() {
    let mut reader = reader(&[route("a", "a"), route("b", "b")]);
    let wrong = object(
        IstioKind::VirtualService,
        "a",
        &json!({ "hosts": ["a"], "http": [{ "route": [{ "destination": { "host": "a" }, "weight": "all" }] }] }),
    );
    let mut change = |route| {
        reader.take(Change::Istio(
            IstioKind::VirtualService,
            Event::Apply(route),
        ));
        routes(&reader)
    };
    let after = change(wrong);
    assert_eq!(after[0], ("a".into(), vec!["a".into()]));
    let after = change(route("b", "c"));
    assert_eq!(after[1], ("b".into(), vec!["c".into()]));
}

#[test]
fn what_a_new_list_does_not_have_is_gone() {
    let mut reader = reader(&[route("a", "a"), route("b", "b")]);
    let kind = IstioKind::VirtualService;
    assert!(!reader.take(Change::Istio(kind, Event::Init)));
    assert!(!reader.take(Change::Istio(kind, Event::InitApply(route("b", "b")))));
    assert_eq!(routes(&reader).len(), 2, "the list is not complete yet");
    assert!(reader.take(Change::Istio(kind, Event::InitDone)));
    assert_eq!(routes(&reader), [("b".into(), vec!["b".into()])]);
}

#[test]
fn a_deleted_object_is_gone() {
    let mut reader = reader(&[route("a", "a")]);
    let deleted = Event::Delete(route("a", "a"));
    assert!(reader.take(Change::Istio(IstioKind::VirtualService, deleted)));
    assert!(routes(&reader).is_empty());
}
