//! Calls on objects: from the URL's words to the operations of [`Objects`](crate::api::objects::Objects).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Api, json_response, success};
use crate::api::admission::Addressed;
use crate::api::authentication::User;
use crate::api::body;
use crate::api::json::{at, has};
use crate::api::kind::Kind;
use crate::api::objects::{Deletion, Wanted, Write, Written, check_replacement, name_of};
use crate::api::patch::Patch;
use crate::api::request::{Call, Place, Query};
use crate::api::reviews;
use crate::api::selector::Selector;
use crate::api::status::Failure;
use crate::api::table::Form;
use crate::api::validation::FieldValidation;
use crate::api::watch::{self, Subscription};
use crate::store::Revision;

impl Api {
    /// Answers a call on objects.
    pub(super) async fn resource(
        &self,
        user: &User,
        call: &Call,
        place: &Place,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let kind = Kind::find(&place.group, &place.version, &place.resource)
            .ok_or_else(Failure::no_such_path)?;
        if place.namespace.is_some() && !kind.namespaced {
            return Err(Failure::no_such_path());
        }
        let is_status = match place.subresource.as_deref() {
            None => false,
            Some("token") if kind.kind == "ServiceAccount" => {
                return self.token(call, place, request).await;
            }
            Some("status") if kind.has_status() => true,
            Some(_) => return Err(Failure::no_such_path()),
        };
        let is_whole = matches!(call.verb, "list" | "watch" | "deletecollection");
        if kind.namespaced && place.namespace.is_none() && !matches!(call.verb, "list" | "watch") {
            return Err(Failure::method_not_allowed());
        }
        if is_status && !matches!(call.verb, "get" | "update" | "patch") {
            return Err(Failure::method_not_allowed());
        }
        // A POST to a name, or a PUT without one.
        let has_name = place.name.is_some();
        if !is_whole && has_name != (call.verb != "create") {
            return Err(Failure::method_not_allowed());
        }
        let to = Addressed {
            kind,
            version: &place.version,
            namespace: place.namespace.as_deref(),
            name: place.name.as_deref(),
        };
        let (parts, content) = request.into_parts();
        let form = Form::negotiate(&parts.headers, call.query.get("includeObject"))?;
        match call.verb {
            "get" => self.get(to, &form).await,
            "list" => self.list(to, &call.query, &form).await,
            "watch" => self.watch(to, &call.query, form).await,
            _ => {
                let content = body::collect(content).await?;
                let write = WriteCall {
                    user,
                    call,
                    headers: &parts.headers,
                    content: &content,
                    form,
                    is_status,
                };
                self.write(to, &write).await
            }
        }
    }

    async fn get(&self, to: Addressed<'_>, form: &Form) -> Result<Response<Body>, Failure> {
        let name = to.name.unwrap_or_default();
        let object = self
            .objects
            .get(to.kind, to.version, to.namespace, name)
            .await?;
        Ok(json_response(StatusCode::OK, &form.object(to.kind, object)))
    }

    async fn list(
        &self,
        to: Addressed<'_>,
        query: &Query,
        form: &Form,
    ) -> Result<Response<Body>, Failure> {
        let selector = Selector::parse(query, to.kind)?;
        let token = query.get("continue").filter(|token| !token.is_empty());
        let asked = revision_of(query)?;
        let at = match query.get("resourceVersionMatch") {
            Some("Exact") if token.is_none() => Some(asked.ok_or_else(|| {
                Failure::bad_request("resourceVersionMatch is given without resourceVersion")
            })?),
            _ => None,
        };
        let listed = self
            .objects
            .list(Wanted {
                kind: to.kind,
                version: to.version,
                namespace: to.namespace,
                selector: &selector,
                limit: limit_of(query)?,
                token,
                at,
            })
            .await?;
        if let Some(asked) = asked.filter(|asked| *asked > listed.revision && token.is_none()) {
            // The list is from now; if the client has seen later, it saw another store.
            return Err(crate::store::StoreError::Future {
                asked,
                current: listed.revision,
            }
            .into());
        }
        let value = form.list(to.kind, to.version, listed);
        Ok(json_response(StatusCode::OK, &value))
    }

    async fn watch(
        &self,
        to: Addressed<'_>,
        query: &Query,
        form: Form,
    ) -> Result<Response<Body>, Failure> {
        let selector = Selector::parse(query, to.kind)?;
        let seconds = query.number("timeoutSeconds")?.unwrap_or(0);
        let seconds = if seconds == 0 {
            DEFAULT_WATCH_SECONDS
        } else {
            seconds.min(MAX_WATCH_SECONDS)
        };
        let asked = revision_of(query)?.filter(|revision| *revision > 0);
        let sends_initial = query.get("sendInitialEvents") == Some("true");
        let position = *self.cache.position().borrow();
        let mut initial = Vec::new();
        let after = match asked {
            Some(revision) if !sends_initial => {
                self.check_place(revision, position.revision).await?;
                revision
            }
            _ => {
                let listed = self
                    .objects
                    .list(Wanted {
                        kind: to.kind,
                        version: to.version,
                        namespace: to.namespace,
                        selector: &selector,
                        limit: None,
                        token: None,
                        at: None,
                    })
                    .await?;
                // `sendInitialEvents=false` is a watch from now on.
                if query.get("sendInitialEvents") != Some("false") {
                    initial = listed.items;
                }
                listed.revision
            }
        };
        let subscription = Subscription {
            kind: to.kind,
            version: to.version.to_owned(),
            namespace: to.namespace.map(str::to_owned),
            selector,
            form,
            wants_bookmarks: query.is_true("allowWatchBookmarks"),
            until: Instant::now() + Duration::from_secs(seconds),
            initial,
            marks_initial_end: sends_initial,
            after,
        };
        let lines = watch::lines(
            Arc::clone(&self.cache),
            position.epoch,
            subscription,
            self.shutdown.clone(),
        );
        let mut response = Response::new(Body::from_stream(lines));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        Ok(response)
    }

    /// Refuses a place that never was in this store.
    async fn check_place(&self, asked: Revision, known: Revision) -> Result<(), Failure> {
        if asked > known {
            // This server may lag behind another one; the store knows.
            let current = self.objects.store().revision().await?;
            if asked > current {
                return Err(Failure::expired(format!(
                    "too new resource version: {asked}, the store is at {current}"
                )));
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        to: Addressed<'_>,
        write: &WriteCall<'_>,
    ) -> Result<Response<Body>, Failure> {
        let query = &write.call.query;
        let policy = self.cache.policy();
        let options = Write {
            user: write.user,
            is_dry_run: Deletion::check_dry_run(query.all("dryRun"))?,
            validation: FieldValidation::parse(query)?,
            policy: &policy,
        };
        let kind = to.kind;
        let (code, written) = match write.call.verb {
            "create" => {
                let object = body::object(write.headers, write.content)?;
                let written = self.objects.create(object, to, &options).await?;
                (StatusCode::CREATED, written)
            }
            "update" => {
                let object = body::object(write.headers, write.content)?;
                if !write.is_status {
                    check_replacement(&object, kind)?;
                }
                let change = |_: &Value| Ok(object.clone());
                let modified = self.objects.modify(to, &options, write.is_status, &change);
                (StatusCode::OK, modified.await?)
            }
            "patch" => {
                let patch = Patch::parse(write.headers, write.content, kind)?;
                let change = |old: &Value| patch.apply(old, kind);
                let modified = self.objects.modify(to, &options, write.is_status, &change);
                (StatusCode::OK, modified.await?)
            }
            "delete" | "deletecollection" => {
                return self.delete(to, write, options.is_dry_run).await;
            }
            _ => return Err(Failure::method_not_allowed()),
        };
        let Written { object, warnings } = written;
        let mut response = json_response(code, &write.form.object(kind, object));
        warn(response.headers_mut(), &warnings);
        Ok(response)
    }

    async fn delete(
        &self,
        to: Addressed<'_>,
        write: &WriteCall<'_>,
        is_dry_run: bool,
    ) -> Result<Response<Body>, Failure> {
        let mut how = if write.content.is_empty() {
            Deletion::default()
        } else {
            let value = body::object(write.headers, write.content)?;
            serde_json::from_value(value)
                .map_err(|error| Failure::bad_request(format!("DeleteOptions: {error}")))?
        };
        Deletion::check_dry_run(how.dry_run.iter().map(String::as_str))?;
        if is_dry_run {
            how.dry_run = vec!["All".to_owned()];
        }
        if write.call.verb == "delete" {
            let name = to.name.unwrap_or_default();
            let object = self
                .objects
                .delete(to.kind, to.version, to.namespace, name, &how)
                .await?;
            let waits = has(&object, "metadata.deletionTimestamp");
            let value = if waits {
                write.form.object(to.kind, object)
            } else {
                success(&json!({
                    "name": name_of(&object),
                    "group": to.kind.group,
                    "kind": to.kind.plural,
                    "uid": at(&object, "metadata.uid"),
                }))
            };
            return Ok(json_response(StatusCode::OK, &value));
        }
        let query = &write.call.query;
        let selector = Selector::parse(query, to.kind)?;
        let deleted = self
            .objects
            .delete_collection(
                Wanted {
                    kind: to.kind,
                    version: to.version,
                    namespace: to.namespace,
                    selector: &selector,
                    limit: limit_of(query)?,
                    token: query.get("continue").filter(|token| !token.is_empty()),
                    at: None,
                },
                &how,
            )
            .await?;
        let value = json!({
            "kind": format!("{}List", to.kind.kind),
            "apiVersion": to.kind.api_version(to.version),
            "metadata": {},
            "items": deleted,
        });
        Ok(json_response(StatusCode::OK, &value))
    }

    async fn token(
        &self,
        call: &Call,
        place: &Place,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        if call.verb != "create" {
            return Err(Failure::method_not_allowed());
        }
        let (parts, content) = request.into_parts();
        let content = body::collect(content).await?;
        let value = reviews::token_request(self, place, &parts.headers, &content).await?;
        Ok(json_response(StatusCode::CREATED, &value))
    }
}

/// A write as it came.
struct WriteCall<'a> {
    user: &'a User,
    call: &'a Call,
    headers: &'a HeaderMap,
    content: &'a [u8],
    form: Form,
    is_status: bool,
}

fn limit_of(query: &Query) -> Result<Option<NonZeroUsize>, Failure> {
    let limit = query.number("limit")?.unwrap_or(0);
    Ok(NonZeroUsize::new(usize::try_from(limit).unwrap_or(0)))
}

fn revision_of(query: &Query) -> Result<Option<Revision>, Failure> {
    query.number("resourceVersion")
}

/// Warnings as headers: code 299, agent unknown (RFC 7234 5.5).
fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let text: String = warning
            .chars()
            .map(|character| match character {
                '\\' => "\\\\".to_owned(),
                '"' => "\\\"".to_owned(),
                control if control.is_control() => " ".to_owned(),
                other => other.to_string(),
            })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

/// Between Kubernetes' 30 and 60 minutes; clients resume.
const DEFAULT_WATCH_SECONDS: u64 = 45 * 60;

/// Nobody needs a watch for longer, and a number beyond what a clock can add must not be believed.
const MAX_WATCH_SECONDS: u64 = 24 * 3600;

/// Headers are bounded; more than these nobody reads.
const MAX_WARNINGS: usize = 20;
