//! Istio's rules: what each of them refuses, and where it says so.

mod gateway;
mod networking;
mod security;
mod virtual_service;

use mesh_model::istio::IstioKind;

use crate::checked;

/// Each specification has a problem at exactly one path.
fn refuses(kind: IstioKind, cases: &[(&str, &str)]) {
    for (spec, path) in cases {
        let found = checked(kind, spec).problems;
        let paths: Vec<_> = found.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, [*path], "{spec}: {found:?}");
    }
}

/// Each specification is right; so are its fields.
fn takes(kind: IstioKind, cases: &[&str]) {
    for spec in cases {
        let checked = checked(kind, spec);
        assert_eq!(checked.problems, [], "{spec}");
        assert_eq!(checked.unknown_fields, [""; 0], "{spec}");
        assert!(checked.object.is_some(), "{spec}");
    }
}
