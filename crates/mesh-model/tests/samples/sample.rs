//! Istio's own sample files, unchanged: what is of a kind that is served must be understood whole.

use std::path::PathBuf;

use mesh_model::Kind;
use mesh_model::istio::{IstioKind, check};
use serde_json::Value;

/// Every document of every file, with the name of its file.
fn documents() -> Vec<(String, Value)> {
    let directory = std::env::var_os("MESH_ISTIO_SAMPLES")
        .expect("MESH_ISTIO_SAMPLES must name a directory with Istio's samples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the directory that MESH_ISTIO_SAMPLES names must be readable")
        .map(|entry| entry.expect("a readable entry of the directory").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("a file of YAML");
        let name = path.display().to_string();
        documents
            .into_iter()
            .filter(|value| !value.is_null())
            .map(move |value| (name.clone(), value))
    };
    files.into_iter().flat_map(read).collect()
}

fn kind_of(document: &Value) -> Option<IstioKind> {
    let text = |name| {
        document
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    IstioKind::of(Kind::of_object(text("apiVersion"), text("kind"))?)
}

#[test]
fn every_document_of_a_served_kind_is_right_and_fully_known() {
    let documents = documents();
    let served: Vec<_> = documents
        .iter()
        .filter_map(|(file, doc)| Some((file, kind_of(doc)?, doc)))
        .collect();
    let others = documents.len() - served.len();
    println!(
        "{} documents of kinds that are served, {others} of others",
        served.len()
    );
    assert!(!served.is_empty(), "no document of a kind that is served");
    for (file, kind, document) in served {
        let checked = check(kind, document);
        assert_eq!(checked.problems, [], "{file}");
        assert_eq!(checked.unknown_fields, [""; 0], "{file}");
        // What was read says all that was written: read again it is the same.
        let object = checked.object.expect("an object without problems");
        let written = serde_json::to_value(&object).expect("JSON");
        assert_eq!(check(kind, &written).object, Some(object), "{file}");
        assert_eq!(
            as_floats(&written["spec"]),
            as_floats(&document["spec"]),
            "{file}"
        );
    }
}

/// The same with every number as a float, so that `100` and `100.0` are equal.
fn as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_f64()),
        Value::Array(list) => list.iter().map(as_floats).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), as_floats(v))).collect(),
        other => other.clone(),
    }
}
