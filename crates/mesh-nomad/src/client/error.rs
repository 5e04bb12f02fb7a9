//! What can go wrong between here and Nomad.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nomad answered, and it was no success.
    #[error(transparent)]
    Api(#[from] Box<ApiError>),
    /// Nobody answers at the address.
    #[error("no connection to the Nomad agent at `{address}`")]
    Connect {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke before the answer.
    #[error("`{path}`: the connection to the Nomad agent broke")]
    Transport {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The connection broke within the answer.
    #[error("`{path}`: the answer ended early")]
    Body {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("`{path}`: no answer within {after:?}")]
    Timeout {
        /// The path.
        path: String,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is not what the type expects.
    #[error("`{path}`: the answer cannot be read")]
    Decode {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The body of the request cannot be written.
    #[error("`{path}`: the request cannot be written")]
    Encode {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A list with index 0: Nomad's answer to who may not read it.
    #[error("`{path}`: the token does not allow this list (it came empty, with index 0)")]
    NotAllowed {
        /// The path.
        path: String,
    },
    /// An event stream that opened and said nothing: Nomad's answer to who may not read it.
    #[error("the token does not allow this event stream (no heartbeat within {after:?})")]
    StreamDenied {
        /// How long was waited.
        after: Duration,
    },
    /// The answer breaks the protocol.
    #[error("`{path}`: found {found}")]
    Protocol {
        /// The path.
        path: String,
        /// What was found.
        found: String,
    },
    /// A command in a task could not be run, or its connection ended.
    #[error("`{path}`: the command ended without a result: {reason}")]
    Exec {
        /// The path.
        path: String,
        /// What Nomad said.
        reason: String,
    },
    /// The request cannot be written as HTTP: a character in token, host or path.
    #[error("`{path}`: the request is not valid HTTP")]
    Invalid {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// The token cannot be read.
    #[error("no token in `{path}`")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Roots, certificate or key cannot be used.
    #[error("TLS: {what}")]
    Tls {
        /// What, with its file.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// An answer that is no success, as it came.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{method} `{path}`: status {status}: {}", body.trim_end())]
#[non_exhaustive]
pub struct ApiError {
    /// The method of the request.
    pub method: String,
    /// Its path.
    pub path: String,
    /// The status.
    pub status: u16,
    /// The text, whole.
    pub body: String,
}

/// What an [`ApiError`] means. Nomad has statuses for few of these; most are 500 with a text, so
/// the text is looked at where nothing else is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The request is wrong.
    Invalid,
    /// The token is missing, unknown or does not allow it.
    Denied,
    /// There is no such thing.
    NotFound,
    /// A compare-and-set failed, or a lock is held.
    Conflict,
    /// The job was changed by somebody else, exists, or does not.
    IndexEnforced,
    /// Too many connections of this address.
    TooMany,
    /// The servers have no leader, or cannot reach it. Passes by itself.
    NoLeader,
    /// The servers could not talk to each other or to a client. Passes by itself, mostly.
    Rpc,
    /// Anything else.
    Server,
}

// === impl Error ===

impl Error {
    /// What an answer of Nomad means; none when there was no answer.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Api(error) => Some(error.reason()),
            Self::NotAllowed { .. } | Self::StreamDenied { .. } => Some(Reason::Denied),
            _ => None,
        }
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }

    /// Whether the token is to blame.
    pub fn is_denied(&self) -> bool {
        self.reason() == Some(Reason::Denied)
    }

    /// Whether the same request may succeed later, nothing else changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api(error) => matches!(
                error.reason(),
                Reason::TooMany | Reason::NoLeader | Reason::Rpc
            ),
            Self::Connect { .. }
            | Self::Transport { .. }
            | Self::Body { .. }
            | Self::Timeout { .. }
            // A file that is being rewritten is empty for a moment.
            | Self::Token { .. } => true,
            _ => false,
        }
    }

    /// Whether the request was certainly not carried out, so that a write may be repeated.
    pub(super) fn is_before_any_effect(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Token { .. } => true,
            Self::Api(error) => matches!(error.reason(), Reason::TooMany | Reason::NoLeader),
            _ => false,
        }
    }

    /// What the operator can do about it, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        match (self, self.reason()) {
            (Self::Connect { .. }, _) => Some("is the agent running, and is NOMAD_ADDR right?"),
            (_, Some(Reason::Denied)) => Some(
                "the token's policies need `read-job` and `list-jobs` in every namespace that is read, and `node { policy = \"read\" }`",
            ),
            (_, Some(Reason::TooMany)) => Some(
                "raise `limits.http_max_conns_per_client` of the agent, or watch once and share",
            ),
            (_, Some(Reason::IndexEnforced)) => Some("plan again and look at what changed"),
            _ => None,
        }
    }
}

// === impl ApiError ===

impl ApiError {
    /// What it means.
    pub fn reason(&self) -> Reason {
        let body = self.body.trim();
        match self.status {
            401 | 403 => Reason::Denied,
            404 => Reason::NotFound,
            409 => Reason::Conflict,
            429 => Reason::TooMany,
            400 | 405 | 413 | 415 => Reason::Invalid,
            _ if body.starts_with("Enforcing job modify index") => Reason::IndexEnforced,
            _ if body.contains("No cluster leader") => Reason::NoLeader,
            // Texts of the servers' RPC that are about the request, not about the connection.
            _ if body.contains("Permission denied") => Reason::Denied,
            _ if body.ends_with("not found") || body.starts_with("Unknown allocation") => {
                Reason::NotFound
            }
            502..=504 => Reason::Rpc,
            _ if body.contains("rpc error") || body.contains("failed to get conn") => Reason::Rpc,
            _ => Reason::Server,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_real_server_have_their_meaning() {
        let reason = |status, body: &str| {
            let error = ApiError {
                method: "GET".to_owned(),
                path: "/v1/jobs".to_owned(),
                status,
                body: body.to_owned(),
            };
            error.reason()
        };
        for (status, body, expected) in [
            (500, "No cluster leader", Reason::NoLeader),
            (500, "rpc error: EOF", Reason::Rpc),
            (
                500,
                "rpc error: failed to get conn: dial tcp 10.20.0.12:4647: connect: connection refused",
                Reason::Rpc,
            ),
            (
                500,
                "Enforcing job modify index 0: job already exists",
                Reason::IndexEnforced,
            ),
            (403, "Permission denied", Reason::Denied),
            (401, "Unauthorized", Reason::Denied),
            (
                429,
                "Your IP is issuing too many concurrent connections, please rate limit your calls\n",
                Reason::TooMany,
            ),
            (404, "job not found", Reason::NotFound),
            (500, "Unknown allocation \"a\"", Reason::NotFound),
            (400, "Invalid wait time", Reason::Invalid),
            (500, "No path to region", Reason::Server),
        ] {
            assert_eq!(reason(status, body), expected, "{body}");
        }
    }
}
