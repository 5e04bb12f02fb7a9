//! The schemas of the kinds in the plain form that Kubernetes' clients read, taken from the types themselves.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_model::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, IstioKind, PeerAuthentication, ServiceEntry,
    VirtualService, WorkloadEntry,
};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::api::kind::Kind;

/// Every schema by its name; they refer to each other as `#/components/schemas/NAME`.
#[derive(Clone, Debug)]
pub(crate) struct Schemas(BTreeMap<String, Value>);

// === impl Schemas ===

impl Schemas {
    /// Makes them.
    pub(crate) fn generate() -> Self {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = PREFIX.trim_start_matches('#').into());
        let mut generator = SchemaGenerator::new(settings);
        let metadata = generator.subschema_for::<ObjectMeta>().to_value();
        let mut whole = BTreeMap::new();
        for kind in Kind::all() {
            let schema = match kind.istio() {
                None => {
                    add_kubernetes(&mut generator, kind);
                    continue;
                }
                Some(istio) => json!({
                    "type": "object",
                    "description": istio_description(istio),
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string", "description": API_VERSION},
                        "kind": {"type": "string", "description": KIND},
                        "metadata": described(metadata.clone(), "Name, labels and annotations of the object."),
                        "spec": described(istio_spec(&mut generator, istio), "What is wanted."),
                        "status": {
                            "type": "object",
                            "description": "What the mesh says about the object.",
                            "x-kubernetes-preserve-unknown-fields": true,
                        },
                    },
                }),
            };
            for version in kind.versions {
                whole.insert(name_of(kind, version), schema.clone());
            }
        }
        let mut all: BTreeMap<String, Value> =
            generator.take_definitions(true).into_iter().collect();
        all.append(&mut whole);
        for (name, schema) in &mut all {
            plain(schema);
            // What Kubernetes' types leave open is open.
            let last = name.rsplit('.').next();
            if matches!(last, Some("JSON" | "RawExtension")) {
                *schema = json!({"x-kubernetes-preserve-unknown-fields": true});
            }
        }
        for kind in Kind::all() {
            for version in kind.versions {
                if let Some(schema) = all.get_mut(&name_of(kind, version)) {
                    schema["x-kubernetes-group-version-kind"] =
                        json!([{"group": kind.group, "version": version, "kind": kind.kind}]);
                }
            }
        }
        Self(all)
    }

    /// The schema of a kind in a version.
    pub(crate) fn of(&self, kind: Kind, version: &str) -> Option<&Value> {
        self.0.get(&name_of(kind, version))
    }

    /// The schema that a schema stands for: itself, or the one that it refers to.
    pub(crate) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        reference(schema)
            .and_then(|name| self.0.get(name))
            .unwrap_or(schema)
    }

    /// The named schema and every one that it leads to.
    pub(crate) fn reachable(
        &self,
        names: impl IntoIterator<Item = String>,
    ) -> BTreeMap<&str, &Value> {
        let mut found = BTreeMap::new();
        let mut open: Vec<String> = names.into_iter().collect();
        while let Some(name) = open.pop() {
            if let Some((name, schema)) = self.0.get_key_value(&name)
                && found.insert(name.as_str(), schema).is_none()
            {
                references(schema, &mut open);
            }
        }
        found
    }
}

/// The name of the schema of a kind in a version.
pub(super) fn name_of(kind: Kind, version: &str) -> String {
    match kind.group {
        "" => format!("io.k8s.api.core.{version}.{}", kind.kind),
        crate::api::kind::RBAC_GROUP => format!("io.k8s.api.rbac.{version}.{}", kind.kind),
        group => {
            let group = group.strip_suffix(".istio.io").unwrap_or(group);
            format!("io.istio.{group}.{version}.{}", kind.kind)
        }
    }
}

/// The name that a schema refers to, if it only refers.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref");
    let wrapped = schema
        .get("allOf")
        .and_then(Value::as_array)
        .filter(|all| all.len() == 1)
        .and_then(|all| all.first()?.get("$ref"));
    direct
        .or(wrapped)
        .and_then(Value::as_str)
        .and_then(|text| text.strip_prefix(PREFIX)?.strip_prefix('/'))
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = reference(schema) {
                found.push(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn add_kubernetes(generator: &mut SchemaGenerator, kind: Kind) {
    match kind.kind {
        "Namespace" => drop(generator.subschema_for::<Namespace>()),
        "ConfigMap" => drop(generator.subschema_for::<ConfigMap>()),
        "Secret" => drop(generator.subschema_for::<Secret>()),
        "ServiceAccount" => drop(generator.subschema_for::<ServiceAccount>()),
        "Event" => drop(generator.subschema_for::<Event>()),
        "Role" => drop(generator.subschema_for::<Role>()),
        "RoleBinding" => drop(generator.subschema_for::<RoleBinding>()),
        "ClusterRole" => drop(generator.subschema_for::<ClusterRole>()),
        "ClusterRoleBinding" => drop(generator.subschema_for::<ClusterRoleBinding>()),
        _ => {}
    }
}

fn istio_spec(generator: &mut SchemaGenerator, kind: IstioKind) -> Value {
    match kind {
        IstioKind::VirtualService => generator.subschema_for::<VirtualService>(),
        IstioKind::DestinationRule => generator.subschema_for::<DestinationRule>(),
        IstioKind::Gateway => generator.subschema_for::<Gateway>(),
        IstioKind::ServiceEntry => generator.subschema_for::<ServiceEntry>(),
        IstioKind::WorkloadEntry => generator.subschema_for::<WorkloadEntry>(),
        IstioKind::PeerAuthentication => generator.subschema_for::<PeerAuthentication>(),
        IstioKind::AuthorizationPolicy => generator.subschema_for::<AuthorizationPolicy>(),
        // A kind whose schema is not here yet is open rather than wrong.
        _ => return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    }
    .to_value()
}

fn istio_description(kind: IstioKind) -> &'static str {
    match kind {
        IstioKind::VirtualService => "VirtualService says how requests to hosts are routed.",
        IstioKind::DestinationRule => {
            "DestinationRule says what holds for traffic to a host after routing: subsets, load balancing, TLS."
        }
        IstioKind::Gateway => "Gateway says what is served to callers outside the mesh.",
        IstioKind::ServiceEntry => "ServiceEntry adds a service to the mesh by its hosts.",
        IstioKind::WorkloadEntry => "WorkloadEntry describes one workload of a service.",
        IstioKind::PeerAuthentication => {
            "PeerAuthentication says whether workloads accept mutual TLS only."
        }
        IstioKind::AuthorizationPolicy => "AuthorizationPolicy says who may call which workloads.",
        _ => "",
    }
}

fn described(mut schema: Value, description: &str) -> Value {
    if let Some(map) = schema.as_object_mut() {
        map.insert("description".to_owned(), description.into());
    }
    schema
}

/// Brings a schema into the structural form of Kubernetes: one type each, no alternatives with null, a reference
/// with a description as `allOf` of one.
fn plain(schema: &mut Value) {
    if let Value::Bool(open) = *schema {
        *schema = json!({});
        if open {
            schema["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
        return;
    }
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    for gone in ["$schema", "title", "default", "examples", "$defs"] {
        map.remove(gone);
    }
    if let Some(Value::Array(types)) = map.get("type") {
        let one = types.iter().find(|found| *found != "null").cloned();
        map.insert("type".to_owned(), one.unwrap_or_default());
    }
    unite(map);
    if let Some(value) = map.remove("const") {
        map.insert("enum".to_owned(), json!([value]));
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let known = [
        "int32",
        "int64",
        "double",
        "byte",
        "date-time",
        "int-or-string",
    ];
    let format = map.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| !known.contains(&format)) {
        map.remove("format");
    }
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(plain),
            ("items" | "additionalProperties", value) if value.is_object() => plain(value),
            ("items" | "additionalProperties", value) if *value == true => plain(value),
            ("allOf", Value::Array(all)) => all.iter_mut().for_each(plain),
            _ => {}
        }
    }
    if map.len() > 1
        && let Some(reference) = map.remove("$ref")
    {
        map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
}

/// Replaces alternatives by the one that remains without null, or by an enumeration.
fn unite(map: &mut Map<String, Value>) {
    for word in ["anyOf", "oneOf"] {
        let Some(Value::Array(mut parts)) = map.remove(word) else {
            continue;
        };
        parts.retain(|part| part.get("type").is_none_or(|found| found != "null"));
        let constants: Option<Vec<Value>> = parts
            .iter()
            .map(|part| match (part.get("const"), part.get("enum")) {
                (Some(value), _) => Some(vec![value.clone()]),
                (None, Some(Value::Array(values))) => Some(values.clone()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(|values| values.concat());
        match (parts.as_slice(), constants) {
            (_, Some(values)) if !values.is_empty() => {
                map.insert("type".to_owned(), "string".into());
                map.insert("enum".to_owned(), values.into());
            }
            ([Value::Object(one)], _) => {
                for (key, value) in one {
                    map.entry(key).or_insert_with(|| value.clone());
                }
            }
            _ => {
                // Several shapes: whoever validates knows them, a reader of the schema need not.
                let types: Vec<_> = parts.iter().filter_map(|part| part.get("type")).collect();
                let is_int_or_string =
                    types.len() == parts.len() && types.iter().all(|found| *found != "object");
                if is_int_or_string && types.iter().any(|found| *found == "string") {
                    map.insert("x-kubernetes-int-or-string".to_owned(), true.into());
                } else {
                    map.insert(
                        "x-kubernetes-preserve-unknown-fields".to_owned(),
                        true.into(),
                    );
                }
            }
        }
    }
}

const PREFIX: &str = "#/components/schemas";

const API_VERSION: &str = "Group and version of the object's kind.";
const KIND: &str = "The object's kind.";
