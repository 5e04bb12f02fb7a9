//! The schemas of the kinds, as `OpenAPI` documents of version 3 (JSON) and 2 (gnostic's binary form).

use std::collections::BTreeMap;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::discovery::group_versions;
use super::json::set;
use super::kind::Kind;
use super::request::Query;
use super::router::json_response;

mod operation;
mod schema;
mod v2;

use operation::{PARAMETERS, Route, routes};
pub use schema::Schemas;
use schema::name_of;

/// Every document, made once.
#[derive(Debug)]
pub struct Documents {
    /// By path below `/openapi/v3/`.
    version_3: BTreeMap<String, Document>,
    version_2: Bytes,
}

#[derive(Debug)]
struct Document {
    body: Bytes,
    hash: String,
}

// === impl Documents ===

impl Documents {
    /// Makes them of the schemas.
    pub fn new(schemas: &Schemas) -> Self {
        let version_3 = group_versions()
            .into_iter()
            .map(|(group, version)| {
                let path = match group {
                    "" => format!("api/{version}"),
                    group => format!("apis/{group}/{version}"),
                };
                let body = Bytes::from(document(schemas, group, version).to_string());
                let hash = format!("{:016X}", xxh3_64(&body));
                (path, Document { body, hash })
            })
            .collect();
        Self {
            version_3,
            version_2: v2::encode(schemas).into(),
        }
    }

    /// The answer to a path, if it is one of a document.
    pub(super) fn answer(&self, path: &str, query: &Query) -> Option<Response<Body>> {
        if path == "/openapi/v2" {
            return Some(answer(self.version_2.clone(), V2_MEDIA_TYPE));
        }
        let rest = path.strip_prefix("/openapi/v3")?;
        if rest.is_empty() {
            let paths: BTreeMap<&String, Value> = self
                .version_3
                .iter()
                .map(|(path, document)| {
                    let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                    (path, json!({"serverRelativeURL": url}))
                })
                .collect();
            return Some(json_response(StatusCode::OK, &json!({"paths": paths})));
        }
        let document = self.version_3.get(rest.strip_prefix('/')?)?;
        let mut response = answer(document.body.clone(), "application/json");
        if query.get("hash") == Some(&document.hash) {
            // The address names the content: it never changes.
            response.headers_mut().insert(
                header::CACHE_CONTROL,
                HeaderValue::from_static("public, immutable"),
            );
        }
        Some(response)
    }
}

/// The document of version 3 of one group and version.
fn document(schemas: &Schemas, group: &str, version: &'static str) -> Value {
    let kinds: Vec<Kind> = Kind::all()
        .filter(|kind| kind.group == group && kind.versions.contains(&version))
        .collect();
    let paths: BTreeMap<String, Value> = kinds
        .iter()
        .flat_map(|kind| routes(*kind, version))
        .map(|route| {
            let item = path_item(&route, version);
            (route.path, item)
        })
        .collect();
    let names = kinds.iter().map(|kind| name_of(*kind, version));
    json!({
        "openapi": "3.0.0",
        "info": {"title": "mesh", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas.reachable(names)},
    })
}

fn path_item(route: &Route, version: &str) -> Value {
    let schema =
        json!({"$ref": format!("#/components/schemas/{}", name_of(route.kind(), version))});
    let mut item = json!({});
    for (method, action) in route.methods {
        let parameters: Vec<Value> = PARAMETERS
            .iter()
            .filter(|parameter| parameter.methods.contains(method))
            .map(|parameter| {
                json!({
                    "name": parameter.name,
                    "in": "query",
                    "description": parameter.description,
                    "schema": {"type": parameter.r#type, "uniqueItems": true},
                })
            })
            .collect();
        let mut operation = json!({
            "operationId": route.operation_id(method),
            "parameters": parameters,
            "responses": {"200": {
                "description": "OK",
                "content": {"application/json": {"schema": schema}},
            }},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": route.group_version_kind(),
        });
        let content: &[&str] = match *method {
            "post" | "put" => &["application/json", "application/yaml"],
            "patch" if route.kind().istio().is_some() => &[
                "application/json-patch+json",
                "application/merge-patch+json",
            ],
            "patch" => &[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ],
            _ => &[],
        };
        if !content.is_empty() {
            let content: BTreeMap<&str, Value> = content
                .iter()
                .map(|media_type| (*media_type, json!({"schema": schema})))
                .collect();
            set(&mut operation, "requestBody", json!({"content": content}));
        }
        set(&mut item, method, operation);
    }
    let path_parameters: Vec<Value> = route
        .path_parameters()
        .into_iter()
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
        })
        .collect();
    set(&mut item, "parameters", path_parameters);
    item
}

fn answer(body: Bytes, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Without the `@` of the type that clients ask for: Go's parser refuses it in an answer.
const V2_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
