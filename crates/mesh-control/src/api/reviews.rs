//! Questions that are posted and answered, nothing stored: whose is this token, may they do that, who am I,
//! and the order of a token for a service account.

use http::HeaderMap;
use mesh_model::{Problem, Problems};
use serde::Deserialize;
use serde_json::{Value, json};

use super::authentication::User;
use super::authorization::{Attributes, Decision, Object};
use super::body;
use super::clock;
use super::discovery;
use super::json::text;
use super::kind::Kind;
use super::request::Place;
use super::router::Api;
use super::status::Failure;
use super::token::{API_AUDIENCE, JOIN_AUDIENCE, MAX_SECONDS, MIN_SECONDS, Order};

/// A question of either form; each kind uses its part.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Question {
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    token: String,
    audiences: Option<Vec<String>>,
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<PathAttributes>,
    user: String,
    groups: Option<Vec<String>>,
    uid: String,
    namespace: String,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PathAttributes {
    path: String,
    verb: String,
}

/// Whether a place is one that is only posted to.
pub(super) fn is_review(place: &Place) -> bool {
    discovery::is_review(&place.group, &place.version, &place.resource)
        && place.namespace.is_none()
        && place.name.is_none()
}

/// Answers a review.
pub(super) async fn answer(
    api: &Api,
    user: &User,
    place: &Place,
    headers: &HeaderMap,
    content: &[u8],
) -> Result<Value, Failure> {
    let mut review = body::object(headers, content)?;
    let question: Question = serde_json::from_value(review.clone())
        .map_err(|error| Failure::bad_request(format!("the review: {error}")))?;
    let spec = question.spec;
    let (kind, status) = match place.resource.as_str() {
        "tokenreviews" => ("TokenReview", token_review(api, &spec).await?),
        "selfsubjectreviews" => (
            "SelfSubjectReview",
            json!({"userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups}}),
        ),
        "selfsubjectaccessreviews" => ("SelfSubjectAccessReview", access(api, user, &spec)?),
        "selfsubjectrulesreviews" => ("SelfSubjectRulesReview", rules(api, user, &spec)),
        "subjectaccessreviews" => {
            if spec.user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
                return Err(Failure::bad_request(
                    "spec.user: at least one of user and groups must be given",
                ));
            }
            let asked = User {
                name: spec.user.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone().unwrap_or_default(),
            };
            ("SubjectAccessReview", access(api, &asked, &spec)?)
        }
        _ => return Err(Failure::no_such_path()),
    };
    let Some(map) = review.as_object_mut() else {
        return Err(Failure::bad_request("the review is not an object"));
    };
    if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) {
        // Whoever reads the answer in a log must not become the bearer.
        spec.remove("token");
    }
    map.insert("kind".to_owned(), kind.into());
    let version = format!("{}/{}", place.group, place.version);
    map.insert("apiVersion".to_owned(), version.into());
    map.entry("metadata")
        .or_insert_with(|| json!({"creationTimestamp": null}));
    map.insert("status".to_owned(), status);
    Ok(review)
}

/// Answers the order of a token.
pub(super) async fn token_request(
    api: &Api,
    place: &Place,
    headers: &HeaderMap,
    content: &[u8],
) -> Result<Value, Failure> {
    let (Some(namespace), Some(name)) = (place.namespace.as_deref(), place.name.as_deref()) else {
        return Err(Failure::no_such_path());
    };
    let kind = Kind::find("", "v1", "serviceaccounts").ok_or_else(Failure::no_such_path)?;
    let account = api.objects.get(kind, "v1", Some(namespace), name).await?;
    let value = if content.is_empty() {
        json!({})
    } else {
        body::object(headers, content)?
    };
    let question: Question = serde_json::from_value(value)
        .map_err(|error| Failure::bad_request(format!("TokenRequest: {error}")))?;
    let spec = question.spec;
    let seconds = spec.expiration_seconds.unwrap_or(MAX_SECONDS);
    let audiences = match spec.audiences {
        Some(audiences) if !audiences.is_empty() => audiences,
        _ => vec![JOIN_AUDIENCE.to_owned()],
    };
    let mut problems = Problems::default();
    if seconds < MIN_SECONDS {
        problems.push(Problem::new(
            "spec.expirationSeconds",
            seconds.to_string(),
            format!("at least {MIN_SECONDS}"),
        ));
    }
    for (index, audience) in audiences.iter().enumerate() {
        if audience != JOIN_AUDIENCE && audience != API_AUDIENCE {
            problems.push(Problem::new(
                format!("spec.audiences[{index}]"),
                audience,
                format!("`{JOIN_AUDIENCE}` or `{API_AUDIENCE}`"),
            ));
        }
    }
    if spec.bound_object_ref.is_some_and(|bound| !bound.is_null()) {
        problems.push(Problem::new(
            "spec.boundObjectRef",
            "given",
            "absent; tokens are bound to the account only",
        ));
    }
    if !problems.0.is_empty() {
        return Err(Failure::invalid(kind, name, &problems));
    }
    // As Kubernetes: a longer life is cut, and the answer says until when.
    let seconds = seconds.min(MAX_SECONDS);
    let issued = api.tokens.issue(&Order {
        namespace,
        name,
        uid: text(&account, "metadata.uid"),
        audiences: &audiences,
        seconds,
    })?;
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": api.clock.now_text(),
        },
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": null},
        "status": {
            "token": issued.token,
            "expirationTimestamp": clock::text(issued.expires),
        },
    }))
}

async fn token_review(api: &Api, spec: &Spec) -> Result<Value, Failure> {
    if spec.token.is_empty() {
        return Err(Failure::bad_request("spec.token: required value"));
    }
    let audiences: Vec<&str> = match &spec.audiences {
        Some(audiences) if !audiences.is_empty() => audiences.iter().map(String::as_str).collect(),
        _ => vec![API_AUDIENCE],
    };
    Ok(match api.tokens.review(&spec.token, &audiences).await? {
        Ok(reviewed) => json!({
            "authenticated": true,
            "user": {
                "username": reviewed.user.name,
                "uid": reviewed.user.uid,
                "groups": reviewed.user.groups,
            },
            "audiences": reviewed.audiences,
        }),
        Err(error) => json!({"authenticated": false, "user": {}, "error": error.to_string()}),
    })
}

fn access(api: &Api, user: &User, spec: &Spec) -> Result<Value, Failure> {
    let (verb, object) = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(resource), None) => (
            &resource.verb,
            Object::Resource {
                group: &resource.group,
                resource: &resource.resource,
                subresource: &resource.subresource,
                namespace: &resource.namespace,
                name: &resource.name,
            },
        ),
        (None, Some(path)) => (&path.verb, Object::Path(&path.path)),
        _ => {
            return Err(Failure::bad_request(
                "spec: exactly one of resourceAttributes and nonResourceAttributes must be given",
            ));
        }
    };
    let policy = api.cache.policy();
    Ok(match policy.decide(&Attributes { user, verb, object }) {
        Decision::Allowed { by } => json!({"allowed": true, "reason": by}),
        Decision::Denied => json!({"allowed": false}),
    })
}

fn rules(api: &Api, user: &User, spec: &Spec) -> Value {
    let policy = api.cache.policy();
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if user.is_in(super::authorization::Policy::MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in policy.rules(user, &spec.namespace) {
        if !rule.resources.is_empty() {
            resources.push(json!({
                "verbs": rule.verbs,
                "apiGroups": rule.api_groups,
                "resources": rule.resources,
                "resourceNames": rule.resource_names,
            }));
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
