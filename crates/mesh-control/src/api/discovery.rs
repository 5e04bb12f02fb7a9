//! What is served: groups, versions and kinds, in the old lists and in the aggregated form.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::json::set;
use super::kind::Kind;
use super::router::json_response;

/// A resource that is no stored object: something is posted, an answer comes back.
struct Review {
    group: &'static str,
    name: &'static str,
    plural: &'static str,
    is_namespaced: bool,
}

/// The answer to a path of discovery, if it is one.
pub(super) fn answer(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let value = match parts.as_slice() {
        ["api"] => {
            if let Some(version) = aggregated(headers) {
                return Some(aggregate(version, &[""]));
            }
            json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            })
        }
        ["apis"] => {
            if let Some(version) = aggregated(headers) {
                return Some(aggregate(version, &groups()));
            }
            json!({
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": groups().iter().map(|group| describe_group(group)).collect::<Vec<_>>(),
            })
        }
        ["apis", group] if groups().contains(group) => {
            let mut value = describe_group(group);
            set(&mut value, "kind", "APIGroup");
            set(&mut value, "apiVersion", "v1");
            value
        }
        ["api", "v1"] => resources("", "v1"),
        ["apis", group, version] if versions(group).contains(version) => resources(group, version),
        [""] => json!({"paths": paths()}),
        _ => return None,
    };
    Some(json_response(StatusCode::OK, &value))
}

/// The version that is told to clients: of the API of Kubernetes that this follows, with ours after it.
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "32",
        "gitVersion": concat!("v1.32.0+mesh.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Every group with its versions, the core group first.
pub(super) fn group_versions() -> Vec<(&'static str, &'static str)> {
    std::iter::once("")
        .chain(groups())
        .flat_map(|group| {
            versions(group)
                .into_iter()
                .map(move |version| (group, version))
        })
        .collect()
}

/// Whether a resource is one that is only posted to.
pub(super) fn is_review(group: &str, version: &str, plural: &str) -> bool {
    version == "v1"
        && REVIEWS
            .iter()
            .any(|review| review.group == group && review.plural == plural)
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = Vec::new();
    let named = Kind::all()
        .map(|kind| kind.group)
        .chain(REVIEWS.iter().map(|review| review.group));
    for group in named {
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

fn versions(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = Vec::new();
    for kind in Kind::all().filter(|kind| kind.group == group) {
        for version in kind.versions {
            if !versions.contains(version) {
                versions.push(version);
            }
        }
    }
    if versions.is_empty() && REVIEWS.iter().any(|review| review.group == group) {
        versions.push("v1");
    }
    versions
}

fn paths() -> Vec<String> {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis", "/healthz", "/livez"]
        .map(str::to_owned)
        .to_vec();
    for (group, version) in group_versions() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    paths.extend(["/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    paths
}

fn describe_group(group: &str) -> Value {
    let versions: Vec<Value> = versions(group)
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({
        "name": group,
        "preferredVersion": versions.first(),
        "versions": versions,
    })
}

fn resources(group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for kind in Kind::all().filter(|kind| kind.group == group && kind.versions.contains(&version)) {
        list.push(json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": Kind::VERBS,
            "shortNames": kind.short_names,
            "categories": kind.categories,
        }));
        for subresource in kind.subresources() {
            let (of, name, verbs) = subresource_of(kind, subresource);
            let mut entry = json!({
                "name": format!("{}/{subresource}", kind.plural),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": name,
                "verbs": verbs,
            });
            if of != kind.group {
                set(&mut entry, "group", of);
                set(&mut entry, "version", "v1");
            }
            list.push(entry);
        }
    }
    for review in REVIEWS.iter().filter(|review| review.group == group) {
        list.push(json!({
            "name": review.plural,
            "singularName": review.name.to_lowercase(),
            "namespaced": review.is_namespaced,
            "kind": review.name,
            "verbs": ["create"],
        }));
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": list,
    })
}

/// Group and name of what a subresource answers with, and its verbs.
fn subresource_of(kind: Kind, name: &str) -> (&'static str, &'static str, &'static [&'static str]) {
    match name {
        "token" => ("authentication.k8s.io", "TokenRequest", &["create"]),
        _ => (kind.group, kind.kind, &["get", "patch", "update"]),
    }
}

/// The version of the aggregated form, if the client takes one.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|value| {
            let has = |part: &str| value.split(';').any(|found| found.trim() == part);
            let is_ours = has("application/json")
                && has("g=apidiscovery.k8s.io")
                && has("as=APIGroupDiscoveryList");
            match () {
                () if is_ours && has("v=v2") => Some("v2"),
                () if is_ours && has("v=v2beta1") => Some("v2beta1"),
                () => None,
            }
        })
}

fn aggregate(version: &str, groups: &[&str]) -> Response<Body> {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .iter()
                .map(|version| {
                    json!({
                        "version": version,
                        "freshness": "Current",
                        "resources": aggregate_resources(group, version),
                    })
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let mut response = json_response(
        StatusCode::OK,
        &json!({
            "kind": "APIGroupDiscoveryList",
            "apiVersion": format!("apidiscovery.k8s.io/{version}"),
            "metadata": {},
            "items": items,
        }),
    );
    let media_type =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(value) = HeaderValue::from_str(&media_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

fn aggregate_resources(group: &str, version: &str) -> Vec<Value> {
    let scope = |is_namespaced| {
        if is_namespaced {
            "Namespaced"
        } else {
            "Cluster"
        }
    };
    let kinds = Kind::all()
        .filter(|kind| kind.group == group && kind.versions.contains(&version))
        .map(|kind| {
            let subresources: Vec<Value> = kind
                .subresources()
                .iter()
                .map(|subresource| {
                    let (of, name, verbs) = subresource_of(kind, subresource);
                    let version = if of == kind.group { version } else { "v1" };
                    json!({
                        "subresource": subresource,
                        "responseKind": {"group": of, "version": version, "kind": name},
                        "verbs": verbs,
                    })
                })
                .collect();
            json!({
                "resource": kind.plural,
                "responseKind": {"group": group, "version": version, "kind": kind.kind},
                "scope": scope(kind.namespaced),
                "singularResource": kind.singular,
                "verbs": Kind::VERBS,
                "shortNames": kind.short_names,
                "categories": kind.categories,
                "subresources": subresources,
            })
        });
    let reviews = REVIEWS
        .iter()
        .filter(|review| review.group == group)
        .map(|review| {
            json!({
                "resource": review.plural,
                "responseKind": {"group": group, "version": version, "kind": review.name},
                "scope": scope(review.is_namespaced),
                "singularResource": review.name.to_lowercase(),
                "verbs": ["create"],
            })
        });
    kinds.chain(reviews).collect()
}

const REVIEWS: &[Review] = &[
    Review {
        group: "authentication.k8s.io",
        name: "TokenReview",
        plural: "tokenreviews",
        is_namespaced: false,
    },
    Review {
        group: "authentication.k8s.io",
        name: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        is_namespaced: false,
    },
    Review {
        group: "authorization.k8s.io",
        name: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        is_namespaced: false,
    },
    Review {
        group: "authorization.k8s.io",
        name: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        is_namespaced: false,
    },
    Review {
        group: "authorization.k8s.io",
        name: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        is_namespaced: false,
    },
];
