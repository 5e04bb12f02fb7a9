//! What goes wrong, as Kubernetes says it: a `Status` object with code, reason, message and causes.
//!
//! The one place where errors become answers of HTTP.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use mesh_model::Problems;
use serde::Serialize;

use super::kind::Kind;
use crate::store::StoreError;

/// A refused or failed call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    /// The code of HTTP.
    pub(crate) code: StatusCode,
    /// The machine-readable reason; part of the API of Kubernetes.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
    /// What it is about.
    pub(crate) details: Option<Box<Details>>,
}

/// What a failure is about.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Details {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// API group of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) group: String,
    /// The plural of the kind, or the kind where several problems of one object are listed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    /// Every single problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<Cause>,
    /// When to try again, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_seconds: Option<u32>,
}

/// One problem of an object.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Cause {
    /// Machine-readable, as in `FieldValueInvalid`.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
    /// Path of the field.
    pub(crate) field: String,
}

/// The wire form.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(rename = "status")]
    outcome: &'static str,
    message: &'a str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Details>,
    code: u16,
}

// === impl Failure ===

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(mut self, kind: Kind, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            ..Details::default()
        }));
        self
    }

    /// 400: the call makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: nobody vouches for the caller.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403, in words of its own.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// 403: a write that an object of a kind does not allow.
    pub(crate) fn forbidden_object(kind: Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified());
        Self::forbidden(message).about(kind, name)
    }

    /// 404: no such path.
    pub(crate) fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 404: no such object.
    pub(crate) fn not_found(kind: Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    /// 405: no such method on this path.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406: we answer in JSON only.
    pub(crate) fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }

    /// 409: the name is taken.
    pub(crate) fn already_exists(kind: Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// 409: somebody else wrote in between.
    pub(crate) fn conflict(kind: Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            kind.qualified()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// 410: the revision asked for is no longer kept; list again.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 413: more than a request may have.
    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request body is larger than {limit} bytes");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
        )
    }

    /// 415: a form of body that is known and not served here, with what to do instead.
    pub(crate) fn unsupported_media_type_because(found: &str, why: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!("`{found}`: {why}"),
        )
    }

    /// 415: a form of body that is not understood here.
    pub(crate) fn unsupported_media_type(found: &str, expected: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format `{found}` - accepted media types include: {expected}"
        );
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    /// 422: everything that is wrong with an object.
    pub(crate) fn invalid(kind: Kind, name: &str, problems: &Problems) -> Self {
        let list: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
        let list = match list.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", kind.qualified_kind());
        let causes = problems
            .0
            .iter()
            .map(|problem| Cause {
                reason: "FieldValueInvalid",
                message: format!("`{}` is not {}", problem.value, problem.expected),
                field: problem.path.clone(),
            })
            .collect();
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        failure.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.kind.to_owned(),
            causes,
            retry_after_seconds: None,
        }));
        failure
    }

    /// 429: too much at once.
    pub(crate) fn too_many_requests() -> Self {
        let mut failure = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            "the server has too many requests in flight, try again later",
        );
        failure.details = Some(Box::new(Details {
            retry_after_seconds: Some(1),
            ..Details::default()
        }));
        failure
    }

    /// 500: our own fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// 503: the store does not answer.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let mut failure = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        );
        failure.details = Some(Box::new(Details {
            retry_after_seconds: Some(1),
            ..Details::default()
        }));
        failure
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        // Only strings and numbers: this cannot fail.
        serde_json::to_value(self.wire()).unwrap_or_default()
    }

    /// The answer of HTTP.
    pub(crate) fn into_response(self) -> Response<Body> {
        let body = serde_json::to_vec(&self.wire()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let retry = self.details.and_then(|details| details.retry_after_seconds);
        if let Some(seconds) = retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn wire(&self) -> Status<'_> {
        Status {
            kind: "Status",
            api_version: "v1",
            metadata: serde_json::Map::new(),
            outcome: "Failure",
            message: &self.message,
            reason: self.reason,
            details: self.details.as_deref(),
            code: self.code.as_u16(),
        }
    }
}

impl From<StoreError> for Failure {
    /// For errors that the caller did not turn into something more exact.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { .. } | StoreError::Rewound { .. } => {
                Self::expired(error.to_string())
            }
            StoreError::Future { .. } => {
                let mut failure = Self::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "Timeout",
                    format!("Too large resource version: {error}"),
                );
                failure.details = Some(Box::new(Details {
                    retry_after_seconds: Some(1),
                    ..Details::default()
                }));
                failure
            }
            StoreError::TooLarge { limit, .. } => Self::too_large(limit),
            StoreError::Full { .. } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                error.to_string(),
            ),
            StoreError::Conflict { .. } | StoreError::Exists { .. } | StoreError::Guard { .. } => {
                Self::new(StatusCode::CONFLICT, "Conflict", error.to_string())
            }
            StoreError::Unavailable { ref source } => {
                tracing::warn!(error = %source, "the store does not answer");
                Self::unavailable(error.to_string())
            }
            other => Self::internal(other.to_string()),
        }
    }
}
