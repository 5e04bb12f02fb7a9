//! Reading bodies: bounded, JSON or YAML, nothing believed.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

use super::status::Failure;

/// Reads a body up to the limit.
///
/// # Errors
///
/// 413 beyond it, 400 if the connection breaks.
pub(super) async fn collect(body: Body) -> Result<Bytes, Failure> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(MAX_BODY)),
        Err(error) => Err(Failure::bad_request(format!("reading the body: {error}"))),
    }
}

/// The media type of a body, without parameters, lower case; JSON if none is given.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase())
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| "application/json".to_owned())
}

/// An object in JSON or YAML.
///
/// # Errors
///
/// 415 for any other form, 400 if it is not of its form.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Value, Failure> {
    match media_type(headers).as_str() {
        "application/json" => json(body),
        "application/yaml" => yaml(body),
        super::protobuf::MEDIA_TYPE => super::protobuf::read(body),
        other => Err(Failure::unsupported_media_type(
            other,
            "application/json, application/yaml",
        )),
    }
}

/// JSON; depth is bounded by the parser.
///
/// # Errors
///
/// 400 if it is none.
pub(super) fn json(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(format!("the body could not be parsed as JSON: {error}"))
    })
}

/// YAML; aliases and depth are bounded by the parser.
///
/// # Errors
///
/// 400 if it is none.
pub(super) fn yaml(body: &[u8]) -> Result<Value, Failure> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Failure::bad_request(format!("the body is not text: {error}")))?;
    serde_saphyr::from_str(text).map_err(|error| {
        Failure::bad_request(format!("the body could not be parsed as YAML: {error}"))
    })
}

/// The largest body, bytes, as Kubernetes.
pub(super) const MAX_BODY: usize = 3 * 1024 * 1024;
