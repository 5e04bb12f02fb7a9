//! Reads and validates one object of Istio's.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::read::read;
use super::{IstioKind, IstioObject, unsupported};
use crate::{Kind, Object, ObjectMeta, Problem, Problems};

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// The object, unless there are problems.
    pub object: Option<IstioObject>,
    /// Everything that is wrong; such an object must not be stored.
    pub problems: Vec<Problem>,
    /// What works differently from what a reader may think, such as fields without effect.
    pub warnings: Vec<String>,
    /// Paths of fields that Istio does not have either: an error under `fieldValidation=Strict`,
    /// else a warning.
    pub unknown_fields: Vec<String>,
}

/// Reads and validates one object, and says everything that is wrong with it at once.
///
/// ```
/// # use mesh_model::istio::{IstioKind, check};
/// let object = serde_json::json!({
///     "apiVersion": "networking.istio.io/v1",
///     "kind": "VirtualService",
///     "metadata": { "name": "reviews", "namespace": "shop" },
///     "spec": {
///         "hosts": ["reviews"],
///         "http": [{ "route": [{ "destination": { "host": "reviews" }, "weight": "all" }] }],
///     },
/// });
/// let checked = check(IstioKind::VirtualService, &object);
/// assert_eq!(
///     checked.problems[0].to_string(),
///     "spec.http[0].route[0].weight: `all` is not a whole number from 0 to 4294967295",
/// );
/// ```
pub fn check(kind: IstioKind, object: &Value) -> Checked {
    match kind {
        IstioKind::VirtualService => checked(kind, object, IstioObject::VirtualService),
        IstioKind::DestinationRule => checked(kind, object, IstioObject::DestinationRule),
        IstioKind::ServiceEntry => checked(kind, object, IstioObject::ServiceEntry),
        IstioKind::WorkloadEntry => checked(kind, object, IstioObject::WorkloadEntry),
        IstioKind::PeerAuthentication => checked(kind, object, IstioObject::PeerAuthentication),
        IstioKind::AuthorizationPolicy => checked(kind, object, IstioObject::AuthorizationPolicy),
    }
}

fn checked<S>(kind: IstioKind, object: &Value, wrap: fn(Object<S>) -> IstioObject) -> Checked
where
    S: Default + DeserializeOwned,
{
    let spec = read::<S>(object.get("spec").unwrap_or(&Value::Null), "spec");
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    let object = Object {
        api_version: String::new(),
        kind: kind.as_str().to_owned(),
        metadata: serde_json::from_value::<ObjectMeta>(metadata).unwrap_or_default(),
        spec: spec.value,
    };
    Checked {
        object: spec.problems.is_empty().then(|| wrap(object)),
        problems: spec.problems,
        warnings: Vec::new(),
        unknown_fields: spec.unknown.into_iter().collect(),
    }
}
