//! What an answer says beside its body, and whether it is a success.

use std::time::Duration;

use http::HeaderMap;

use super::{ApiError, Error, Request};

/// What Nomad says beside the body, in headers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Meta {
    /// Index of the table that was read; 0 when there is none.
    pub index: u64,
    /// Whether the servers had a leader; unset for answers of clients and writes.
    pub known_leader: Option<bool>,
    /// How long ago the server that answered heard of its leader.
    pub last_contact: Option<Duration>,
    /// Where the next page begins.
    pub next_token: Option<String>,
}

/// A value with what was said beside it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "an answer has these two parts")]
pub struct Reply<T> {
    /// The value.
    pub value: T,
    /// What was said beside it.
    pub meta: Meta,
}

// === impl Meta ===

impl Meta {
    /// The index to ask with next and to compare with: at least 1, for an index of 0 does not block.
    pub fn floor(&self) -> u64 {
        self.index.max(1)
    }

    /// Reads the headers; what is missing or not a number counts as not said.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name| text(name).and_then(|text| text.parse::<u64>().ok());
        Self {
            index: number("x-nomad-index").unwrap_or(0),
            known_leader: text("x-nomad-knownleader").and_then(|text| text.parse().ok()),
            last_contact: number("x-nomad-lastcontact").map(Duration::from_millis),
            next_token: text("x-nomad-nexttoken")
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
        }
    }
}

/// An error unless the status is a success.
pub(super) fn classify(request: &Request, status: u16, body: &[u8]) -> Result<(), Error> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    Err(Error::Api(Box::new(ApiError {
        method: request.method().to_string(),
        path: request.path().to_owned(),
        status,
        body: String::from_utf8_lossy(body).into_owned(),
    })))
}
