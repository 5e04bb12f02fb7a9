//! Our kinds against Istio's own definitions: nothing is missing, nothing is invented.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mesh_model::istio::IstioKind;
use mesh_model::istio::schema::schema;
use mesh_model::{Cell, Kind};
use serde_json::Value;

/// Istio's definitions, by kind.
fn definitions() -> BTreeMap<String, Value> {
    let directory = std::env::var_os("MESH_ISTIO_CRDS")
        .expect("MESH_ISTIO_CRDS must name the directory of Istio's crds.yaml");
    let text = std::fs::read_to_string(Path::new(&directory).join("crds.yaml"))
        .expect("crds.yaml in the directory that MESH_ISTIO_CRDS names");
    // One by one: all of them are more than the reader takes in one go.
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).expect("a document of YAML"))
        .filter(|document| !document.is_null())
        .map(|definition| {
            (
                text_at(&definition, "/spec/names/kind").to_owned(),
                definition,
            )
        })
        .collect()
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list_at<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn every_field_of_istio_is_ours_and_every_field_of_ours_is_istios() {
    let definitions = definitions();
    let mut differences = Vec::new();
    let mut fields = 0;
    for kind in IstioKind::ALL {
        let ours = schema(kind);
        let versions = definitions[kind.as_str()].pointer("/spec/versions");
        for version in versions.and_then(Value::as_array).expect("versions") {
            let theirs = version
                .pointer("/schema/openAPIV3Schema/properties/spec")
                .expect("spec");
            let path = format!("{} {}: spec", kind.as_str(), text_at(version, "/name"));
            let spec = ours.pointer("/properties/spec").expect("spec");
            fields += compare(spec, theirs, &path, &mut differences);
        }
    }
    println!("{fields} fields compared");
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(fields > 1500, "only {fields} fields were compared");
}

/// Adds the differences of two schemas; says how many fields were compared.
fn compare(ours: &Value, theirs: &Value, path: &str, differences: &mut Vec<String>) -> usize {
    let kind = |schema| text_at(schema, "/type").to_owned();
    if kind(ours) != kind(theirs) {
        differences.push(format!(
            "{path}: type {} and Istio's {}",
            kind(ours),
            kind(theirs)
        ));
    }
    let texts = |schema| -> BTreeSet<_> {
        list_at(schema, "/enum")
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    if texts(ours) != texts(theirs) {
        differences.push(format!(
            "{path}: enum {:?} and Istio's {:?}",
            texts(ours),
            texts(theirs)
        ));
    }
    let required = |schema| -> BTreeSet<_> {
        list_at(schema, "/required")
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    if required(ours) != required(theirs) {
        let (ours, theirs) = (required(ours), required(theirs));
        differences.push(format!("{path}: required {ours:?} and Istio's {theirs:?}"));
    }
    let empty = serde_json::Map::new();
    let fields = |schema: &'_ Value| {
        schema
            .get("properties")
            .and_then(Value::as_object)
            .unwrap_or(&empty)
            .clone()
    };
    let (our_fields, their_fields) = (fields(ours), fields(theirs));
    let names: BTreeSet<_> = our_fields.keys().chain(their_fields.keys()).collect();
    let mut count = names.len();
    for name in names {
        let path = format!("{path}.{name}");
        match (our_fields.get(name), their_fields.get(name)) {
            (Some(ours), Some(theirs)) => count += compare(ours, theirs, &path, differences),
            (Some(_), None) => differences.push(format!("{path}: not a field of Istio")),
            (None, Some(_)) => differences.push(format!("{path}: missing")),
            (None, None) => {}
        }
    }
    for (name, end) in [("items", "[]"), ("additionalProperties", "[key]")] {
        let path = format!("{path}{end}");
        match (ours.get(name), theirs.get(name)) {
            (Some(ours), Some(theirs)) => count += compare(ours, theirs, &path, differences),
            (None, None) => {}
            _ => differences.push(format!("{path}: only one has `{name}`")),
        }
    }
    count
}

#[test]
fn the_table_of_kinds_is_istios() {
    let definitions = definitions();
    for istio in IstioKind::ALL {
        let definition = &definitions[istio.as_str()];
        let kind = Kind::named(istio.group(), istio.as_str()).expect("a kind of the table");
        let name = kind.kind;
        assert_eq!(kind.group, text_at(definition, "/spec/group"), "{name}");
        assert_eq!(
            kind.plural,
            text_at(definition, "/spec/names/plural"),
            "{name}"
        );
        assert_eq!(
            kind.singular,
            text_at(definition, "/spec/names/singular"),
            "{name}"
        );
        assert_eq!(
            kind.short_names,
            list_at(definition, "/spec/names/shortNames"),
            "{name}"
        );
        assert_eq!(
            kind.categories,
            list_at(definition, "/spec/names/categories"),
            "{name}"
        );
        let namespaced = text_at(definition, "/spec/scope") == "Namespaced";
        assert_eq!(kind.namespaced, namespaced, "{name}");
        let versions = definition
            .pointer("/spec/versions")
            .and_then(Value::as_array);
        let versions = versions.expect("versions");
        let served: BTreeSet<_> = versions
            .iter()
            .map(|version| text_at(version, "/name"))
            .collect();
        assert_eq!(
            kind.versions.iter().copied().collect::<BTreeSet<_>>(),
            served,
            "{name}"
        );
        let stored = versions.iter().find(|version| version["storage"] == true);
        assert_eq!(
            kind.version(),
            text_at(stored.expect("a stored version"), "/name"),
            "{name}"
        );
        for version in versions {
            assert_eq!(columns(kind), istios_columns(version), "{name}");
        }
    }
}

fn columns(kind: &Kind) -> Vec<(String, String)> {
    let path = |cell| match cell {
        Cell::Path(path) => format!(".{}", path.join(".")),
        Cell::Age => ".metadata.creationTimestamp".to_owned(),
        other => format!("{other:?}"),
    };
    kind.columns
        .iter()
        .map(|column| (column.name.to_owned(), path(column.cell)))
        .collect()
}

fn istios_columns(version: &Value) -> Vec<(String, String)> {
    let columns = version
        .pointer("/additionalPrinterColumns")
        .and_then(Value::as_array);
    // What Kubernetes prints of a kind whose definition has none.
    let Some(columns) = columns else {
        return vec![("Age".to_owned(), ".metadata.creationTimestamp".to_owned())];
    };
    columns
        .iter()
        .map(|c| {
            (
                text_at(c, "/name").to_owned(),
                text_at(c, "/jsonPath").to_owned(),
            )
        })
        .collect()
}
