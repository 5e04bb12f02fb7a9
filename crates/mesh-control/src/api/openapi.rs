//! The schemas of the kinds, as OpenAPI documents of version 3 (JSON) and 2 (binary).

use axum::body::Body;
use http::{HeaderMap, Response};

/// Every document, made once.
#[derive(Debug)]
pub struct Documents {}

impl Documents {
    /// Makes them.
    pub fn new() -> Self {
        Self {}
    }

    /// The answer to a path, if it is one of a document.
    pub fn answer(&self, _path: &str, _headers: &HeaderMap) -> Option<Response<Body>> {
        None
    }
}
