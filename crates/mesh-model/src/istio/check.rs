//! Reads and validates one object of Istio's.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::read::{read, shown};
use super::report::Report;
use super::unsupported;
use super::{
    AuthorizationPolicy, DestinationRule, Gateway, IstioKind, IstioObject, PeerAuthentication,
    ServiceEntry, VirtualService, WorkloadEntry,
};
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

/// A specification that can be validated.
trait Spec: DeserializeOwned {
    /// Adds what is wrong with it and what may surprise.
    fn validate(&self, metadata: &ObjectMeta, report: &mut Report);
}

/// Reads and validates one object, and says everything that is wrong with it at once.
///
/// The name and the namespace may be absent, as in a file that is about to be sent: the request
/// has them as well.
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
        IstioKind::DestinationRule => checked(kind, object, |object| {
            IstioObject::DestinationRule(Box::new(object))
        }),
        IstioKind::Gateway => checked(kind, object, IstioObject::Gateway),
        IstioKind::ServiceEntry => checked(kind, object, IstioObject::ServiceEntry),
        IstioKind::WorkloadEntry => checked(kind, object, IstioObject::WorkloadEntry),
        IstioKind::PeerAuthentication => checked(kind, object, IstioObject::PeerAuthentication),
        IstioKind::AuthorizationPolicy => checked(kind, object, IstioObject::AuthorizationPolicy),
    }
}

fn checked<S: Spec>(kind: IstioKind, value: &Value, wrap: fn(Object<S>) -> IstioObject) -> Checked {
    let Value::Object(fields) = value else {
        let problem = Problem::new("", shown(value), "an object");
        return Checked {
            problems: vec![problem],
            ..Checked::default()
        };
    };
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let unknown = fields
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
        .cloned();

    let (api_version, mut misfits) = type_of(kind, value);
    let metadata = read_metadata(value, &mut misfits);
    let read_spec = match value.get("spec") {
        None | Some(Value::Null) => read(&Value::Object(serde_json::Map::new()), "spec"),
        Some(spec) => read(spec, "spec"),
    };
    misfits.0.extend(read_spec.problems);
    let mut report = Report::default();
    metadata.validate("metadata", &mut report.problems);
    if let Some(spec) = &read_spec.value {
        S::validate(spec, &metadata, &mut report);
    }
    unsupported::report(kind, value.get("spec").unwrap_or(&Value::Null), &mut report);

    // Where a value did not fit, what was concluded from its absence is not the user's mistake.
    let concluded = report.problems.0.into_iter().filter(|problem| {
        !misfits
            .0
            .iter()
            .any(|misfit| is_related(&misfit.path, &problem.path))
    });
    let mut problems = misfits.0.clone();
    problems.extend(concluded);
    let kind = kind.as_str().to_owned();
    let fitting = read_spec.value.filter(|_| problems.is_empty());
    Checked {
        object: fitting.map(|spec| {
            wrap(Object {
                api_version,
                kind,
                metadata,
                spec,
            })
        }),
        problems,
        warnings: report.warnings,
        unknown_fields: unknown.chain(read_spec.unknown).collect(),
    }
}

/// Whether one of the paths leads through the other.
fn is_related(one: &str, other: &str) -> bool {
    let leads = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    leads(one, other) || leads(other, one)
}

/// The object's `apiVersion`, and what is wrong with it and with `kind`.
fn type_of(kind: IstioKind, value: &Value) -> (String, Problems) {
    let text = |name| value.get(name).map(shown).unwrap_or_default();
    let (api_version, found_kind) = (text("apiVersion"), text("kind"));
    let mut problems = Problems::default();
    if found_kind != kind.as_str() {
        problems.add("kind", &found_kind, format!("`{}`", kind.as_str()));
    }
    if let Some(served) = Kind::named(kind.group(), kind.as_str())
        && Kind::of_object(&api_version, kind.as_str()) != Some(served)
    {
        let versions: Vec<_> = served
            .versions
            .iter()
            .map(|version| format!("`{}/{version}`", served.group))
            .collect();
        problems.add("apiVersion", &api_version, versions.join(" or "));
    }
    (api_version, problems)
}

/// The metadata, as far as it fits.
fn read_metadata(value: &Value, problems: &mut Problems) -> ObjectMeta {
    let mut rest = match value.get("metadata") {
        Some(Value::Object(fields)) => fields.clone(),
        None | Some(Value::Null) => serde_json::Map::new(),
        Some(other) => {
            problems.add("metadata", shown(other), "an object");
            serde_json::Map::new()
        }
    };
    let mut take = Take {
        rest: &mut rest,
        problems,
    };
    ObjectMeta {
        name: take.field("name"),
        namespace: take.field("namespace"),
        uid: take.field("uid"),
        resource_version: take.field("resourceVersion"),
        generation: take.field("generation"),
        creation_timestamp: take.field("creationTimestamp"),
        labels: take.field("labels"),
        annotations: take.field("annotations"),
        rest,
    }
}

/// Takes fields out of an object.
struct Take<'a> {
    rest: &'a mut serde_json::Map<String, Value>,
    problems: &'a mut Problems,
}

impl Take<'_> {
    fn field<T: Default + DeserializeOwned>(&mut self, name: &str) -> T {
        match self.rest.remove(name) {
            None | Some(Value::Null) => T::default(),
            Some(value) => {
                let read = read(&value, &format!("metadata.{name}"));
                self.problems.0.extend(read.problems);
                read.value.unwrap_or_default()
            }
        }
    }
}

macro_rules! specs {
    ($($kind:ident),*) => { $(
        impl Spec for $kind {
            fn validate(&self, metadata: &ObjectMeta, report: &mut Report) {
                Self::validate(self, metadata, report);
            }
        }
    )* };
}

specs!(
    VirtualService,
    DestinationRule,
    Gateway,
    ServiceEntry,
    WorkloadEntry,
    PeerAuthentication,
    AuthorizationPolicy
);
