//! The crate as its users see it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod properties;
mod reading;
mod validation;

use mesh_model::istio::{Checked, IstioKind, check};
use serde_json::{Value, json};

/// An object of a kind in `shop` with a specification in YAML.
fn object(kind: IstioKind, spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    json!({
        "apiVersion": format!("{}/v1", kind.group()),
        "kind": kind.as_str(),
        "metadata": { "name": "x", "namespace": "shop" },
        "spec": spec,
    })
}

/// What is found in such an object.
fn checked(kind: IstioKind, spec: &str) -> Checked {
    check(kind, &object(kind, spec))
}

/// Its problems as text.
fn problems(kind: IstioKind, spec: &str) -> Vec<String> {
    checked(kind, spec)
        .problems
        .iter()
        .map(ToString::to_string)
        .collect()
}
