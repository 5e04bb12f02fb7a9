//! Objects for tests, written as users write them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::istio::{IstioKind, IstioObject, check};

/// The objects of a stream of YAML documents, which must be right.
pub(crate) fn objects(yaml: &str) -> Vec<IstioObject> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let read = |document: Value| {
        let name = document["kind"].as_str().unwrap();
        let kind = IstioKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .unwrap();
        let checked = check(kind, &document);
        assert_eq!(checked.problems, [], "{document}");
        checked.object.unwrap()
    };
    documents.into_iter().map(read).collect()
}

/// The objects of one kind.
macro_rules! objects_of {
    ($kind:ident, $yaml:expr) => {
        $crate::testing::objects($yaml)
            .into_iter()
            .map(|object| match object {
                $crate::istio::IstioObject::$kind(object) => object,
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
}

pub(crate) use objects_of;

/// Labels or headers.
pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
