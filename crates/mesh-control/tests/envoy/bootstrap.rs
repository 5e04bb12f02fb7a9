//! A layer as a configuration file: what comes by ADS stands in place, secrets come from files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The resources of a proxy, by type and name.
pub(crate) type Resources = BTreeMap<&'static str, BTreeMap<String, Value>>;

/// The files that stand for the agent's secrets.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    /// The certificate chain, PEM.
    pub(crate) chain: PathBuf,
    /// Its key, PEM.
    pub(crate) key: PathBuf,
    /// The roots, PEM.
    pub(crate) roots: PathBuf,
}

/// Envoy's bootstrap with everything in place.
pub(crate) fn bootstrap(resources: &Resources, secrets: &Secrets, admin: &Path) -> Value {
    let listeners = resources["listeners"].values().map(|listener| {
        let mut listener = listener.clone();
        put_routes(&mut listener, &resources["routes"]);
        listener
    });
    let clusters = resources["clusters"].values().map(|cluster| {
        let mut cluster = cluster.clone();
        put_endpoints(&mut cluster, &resources["endpoints"]);
        cluster
    });
    let mut bootstrap = json!({
        "node": { "id": "test", "cluster": "test" },
        "admin": { "address": { "pipe": { "path": admin } } },
        "static_resources": {
            "listeners": listeners.collect::<Vec<_>>(),
            "clusters": clusters.collect::<Vec<_>>(),
            "secrets": resources["secrets"].values().collect::<Vec<_>>(),
        },
        // As the agent's bootstrap has it: expressions of users are limited by validation.
        "layered_runtime": { "layers": [{
            "name": "limits",
            "static_layer": { "re2.max_program_size.error_level": 32768 },
        }] },
    });
    put_secrets(&mut bootstrap, secrets);
    put_awaited(&mut bootstrap, &resources["secrets"], secrets);
    bootstrap
}

/// Puts in place what a listener waits for: a certificate that nobody has looked at yet.
fn put_awaited(bootstrap: &mut Value, known: &BTreeMap<String, Value>, secrets: &Secrets) {
    let mut awaited = BTreeMap::new();
    each_object(bootstrap, &mut |object| {
        let own = object.get("tls_certificate_sds_secret_configs");
        let names = own.and_then(Value::as_array).into_iter().flatten();
        for name in names.filter_map(|config| config["name"].as_str()) {
            if !known.contains_key(name) {
                let secret = json!({ "name": name, "tls_certificate": {
                    "certificate_chain": { "filename": secrets.chain },
                    "private_key": { "filename": secrets.key },
                } });
                awaited.insert(name.to_owned(), secret);
            }
        }
    });
    let place = bootstrap["static_resources"]["secrets"].as_array_mut();
    place.unwrap().extend(awaited.into_values());
}

fn put_routes(value: &mut Value, routes: &BTreeMap<String, Value>) {
    each_object(value, &mut |object| {
        let by_ads = |rds: &&mut Value| rds["config_source"]["ads"].is_object();
        if let Some(rds) = object.get_mut("rds").filter(by_ads).map(Value::take) {
            object.remove("rds");
            let name = rds["route_config_name"].as_str().unwrap();
            object.insert("route_config".to_owned(), routes[name].clone());
            // A RouteConfiguration in place is refused for unknown clusters; one of RDS is not.
            object["route_config"]["validate_clusters"] = json!(false);
        }
    });
}

/// Lets Envoy read the routes of what comes in from files in `dir`, each anew when it is replaced.
pub(crate) fn watch_inbound_routes(resources: &mut Resources, dir: &Path) {
    for listener in resources.get_mut("listeners").unwrap().values_mut() {
        each_object(listener, &mut |object| {
            let Some(rds) = object.get_mut("rds") else {
                return;
            };
            let name = rds["route_config_name"].as_str().unwrap();
            if name.starts_with("inbound|") {
                let path = dir.join(name);
                rds["config_source"] = json!({ "path_config_source": { "path": path } });
            }
        });
    }
    write_inbound_routes(resources, dir);
}

/// Replaces those files.
pub(crate) fn write_inbound_routes(resources: &Resources, dir: &Path) {
    for (name, routes) in &resources["routes"] {
        if name.starts_with("inbound|") {
            let mut routes = routes.clone();
            routes["@type"] = json!("type.googleapis.com/envoy.config.route.v3.RouteConfiguration");
            let answer = json!({ "resources": [routes] });
            let new = dir.join("new");
            fs::write(&new, answer.to_string()).unwrap();
            fs::rename(&new, dir.join(name)).unwrap();
        }
    }
}

fn put_endpoints(cluster: &mut Value, endpoints: &BTreeMap<String, Value>) {
    let name = cluster["name"].as_str().unwrap().to_owned();
    let object = cluster.as_object_mut().unwrap();
    if object.remove("eds_cluster_config").is_some() {
        object.insert("load_assignment".to_owned(), endpoints[&name].clone());
        object.insert("type".to_owned(), json!("STATIC"));
    }
}

fn put_secrets(value: &mut Value, secrets: &Secrets) {
    each_object(value, &mut |object| {
        // What comes by ADS stands in place, under the same name.
        if object
            .get("sds_config")
            .is_some_and(|config| config["ads"].is_object())
        {
            object.remove("sds_config");
        }
        let is_agents = |config: &Value, name: &str| config["name"] == name;
        if object
            .get("tls_certificate_sds_secret_configs")
            .is_some_and(|own| is_agents(&own[0], "default"))
        {
            object.remove("tls_certificate_sds_secret_configs");
            let own = json!([{
                "certificate_chain": { "filename": secrets.chain },
                "private_key": { "filename": secrets.key },
            }]);
            object.insert("tls_certificates".to_owned(), own);
        }
        if object
            .get("combined_validation_context")
            .is_some_and(|both| is_agents(&both["validation_context_sds_secret_config"], "ROOTCA"))
            && let Some(mut combined) = object.remove("combined_validation_context")
        {
            let mut context = combined["default_validation_context"].take();
            context["trusted_ca"] = json!({ "filename": secrets.roots });
            object.insert("validation_context".to_owned(), context);
        }
    });
}

/// Visits every object, the outer before the inner.
fn each_object(value: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            object
                .values_mut()
                .for_each(|inner| each_object(inner, visit));
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| each_object(inner, visit)),
        _ => {}
    }
}
