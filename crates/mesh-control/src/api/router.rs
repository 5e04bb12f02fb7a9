//! One request from its line to its answer: who, may they, what, how it is told.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::authentication::{Peer, User, authenticate};
use super::authorization::{Attributes, Decision, Object};
use super::cache::Cache;
use super::clock::Clock;
use super::objects::Objects;
use super::openapi::Documents;
use super::request::{Call, Place, Target};
use super::status::Failure;
use super::token::Tokens;
use super::{body, discovery, reviews};

mod resource;

/// Everything that answers need.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) objects: Objects,
    pub(super) cache: Arc<Cache>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) clock: Clock,
    pub(super) documents: Documents,
    /// Requests that may be worked on at once, watches aside.
    pub(super) places: Semaphore,
    pub(super) shutdown: CancellationToken,
}

/// Answers a request; whatever happens, it is answered.
pub(super) async fn respond(api: Arc<Api>, peer: Peer, request: Request<Body>) -> Response<Body> {
    let method = request.method().clone();
    let answered = AssertUnwindSafe(api.answer(&peer, request))
        .catch_unwind()
        .await;
    match answered {
        Ok(Ok(response)) => response,
        Ok(Err(failure)) => {
            tracing::debug!(%method, code = failure.code.as_u16(), message = failure.message, "refused");
            failure.into_response()
        }
        Err(_) => {
            // The panic hook has told where; the caller learns that it is our fault.
            tracing::error!(%method, "a request panicked; this is a bug, please report it");
            Failure::internal("the server failed on this request; this is a bug").into_response()
        }
    }
}

// === impl Api ===

impl Api {
    async fn answer(&self, peer: &Peer, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let call = Call::parse(request.method(), request.uri())?;
        if call.verb.is_empty() {
            return Err(Failure::method_not_allowed());
        }
        if let Target::Path(path) = &call.target
            && is_public(path)
        {
            return self.public(path, request.method()).await;
        }
        let user = authenticate(peer, request.headers(), &self.tokens).await?;
        let user = user.ok_or_else(Failure::unauthorized)?;
        self.authorize(&user, &call)?;
        if call.verb == "watch" {
            return self.dispatch(&user, &call, request).await;
        }
        let _place = self
            .places
            .try_acquire()
            .ok()
            .ok_or_else(Failure::too_many_requests)?;
        let is_write = !matches!(call.verb, "get" | "list");
        let answer = self.dispatch(&user, &call, request).await;
        if is_write && let Target::Objects(place) = &call.target {
            let code = match &answer {
                Ok(response) => response.status(),
                Err(failure) => failure.code,
            };
            audit(&user, call.verb, place, code);
        }
        answer
    }

    fn authorize(&self, user: &User, call: &Call) -> Result<(), Failure> {
        let object = match &call.target {
            Target::Path(path) => Object::Path(path),
            Target::Objects(place) => place.as_object(),
        };
        let policy = self.cache.policy();
        let decision = policy.decide(&Attributes {
            user,
            verb: call.verb,
            object,
        });
        match decision {
            Decision::Allowed { by } => {
                tracing::trace!(user = user.name, verb = call.verb, by, "allowed");
                Ok(())
            }
            Decision::Denied => Err(refusal(user, call)),
        }
    }

    async fn dispatch(
        &self,
        user: &User,
        call: &Call,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        match &call.target {
            Target::Path(path) => self.path(path, call, &request),
            Target::Objects(place) if reviews::is_review(place) => {
                if call.verb != "create" {
                    return Err(Failure::method_not_allowed());
                }
                let (parts, content) = request.into_parts();
                let content = body::collect(content).await?;
                let value = reviews::answer(self, user, place, &parts.headers, &content).await?;
                Ok(json_response(StatusCode::CREATED, &value))
            }
            Target::Objects(place) => self.resource(user, call, place, request).await,
        }
    }

    /// Paths for everybody.
    async fn public(&self, path: &str, method: &Method) -> Result<Response<Body>, Failure> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        match path {
            "/version" => Ok(json_response(StatusCode::OK, &discovery::version())),
            "/livez" => Ok(text_response("ok")),
            _ => {
                if !self.cache.position().borrow().is_ready {
                    return Err(Failure::unavailable("the store has not been read yet"));
                }
                self.objects.store().revision().await?;
                Ok(text_response("ok"))
            }
        }
    }

    /// Discovery and schemas.
    fn path(
        &self,
        path: &str,
        call: &Call,
        request: &Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let known = discovery::answer(path, request.headers())
            .or_else(|| self.documents.answer(path, &call.query));
        let Some(response) = known else {
            return Err(Failure::no_such_path());
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        Ok(response)
    }
}

// === impl Place ===

impl Place {
    /// As the authorizer sees it.
    pub(super) fn as_object(&self) -> Object<'_> {
        let is_namespace = self.group.is_empty() && self.resource == "namespaces";
        Object::Resource {
            group: &self.group,
            resource: &self.resource,
            subresource: self.subresource.as_deref().unwrap_or_default(),
            namespace: match &self.namespace {
                Some(namespace) => namespace,
                // As Kubernetes: a role in a namespace may give rights on the namespace itself.
                None if is_namespace => self.name.as_deref().unwrap_or_default(),
                None => "",
            },
            name: self.name.as_deref().unwrap_or_default(),
        }
    }
}

fn refusal(user: &User, call: &Call) -> Failure {
    let name = &user.name;
    let verb = call.verb;
    let place = match &call.target {
        Target::Path(path) => {
            return Failure::forbidden(format!(
                "forbidden: User \"{name}\" cannot {verb} path \"{path}\""
            ));
        }
        Target::Objects(place) => place,
    };
    let qualified = if place.group.is_empty() {
        place.resource.clone()
    } else {
        format!("{}.{}", place.resource, place.group)
    };
    let resource = match &place.subresource {
        Some(subresource) => format!("{}/{subresource}", place.resource),
        None => place.resource.clone(),
    };
    let object = match &place.name {
        Some(object) => format!(" \"{object}\""),
        None => String::new(),
    };
    let scope = match &place.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    Failure::forbidden(format!(
        "{qualified}{object} is forbidden: User \"{name}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {scope}",
        place.group
    ))
}

fn audit(user: &User, verb: &str, place: &Place, code: StatusCode) {
    tracing::info!(
        user = user.name,
        verb,
        resource = place.resource,
        subresource = place.subresource.as_deref().unwrap_or_default(),
        namespace = place.namespace.as_deref().unwrap_or_default(),
        name = place.name.as_deref().unwrap_or_default(),
        code = code.as_u16(),
        "api write"
    );
}

fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/version")
}

/// A JSON answer.
pub(super) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn text_response(text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// What Kubernetes answers to a deletion that is done.
pub(super) fn success(details: &Value) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}
