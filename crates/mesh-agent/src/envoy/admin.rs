//! Envoy's admin interface, on its unix socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::exchange::{ExchangeError, exchange};

/// The admin interface of one Envoy.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    socket: PathBuf,
}

/// Why Envoy gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AdminError {
    /// Nobody listens.
    #[error("envoy's admin socket `{}` does not answer", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The exchange broke off.
    #[error("envoy broke off its answer to `{path}`")]
    Exchange {
        /// What was asked for.
        path: String,
        /// What went wrong.
        source: ExchangeError,
    },
    /// No answer in time.
    #[error("envoy did not answer `{path}` within {}", humane(*.limit))]
    Late {
        /// What was asked for.
        path: String,
        /// How long was waited.
        limit: Duration,
    },
    /// An answer that is a refusal.
    #[error("envoy answered `{path}` with {status}: {text}")]
    Status {
        /// What was asked for.
        path: String,
        /// The status.
        status: StatusCode,
        /// The body.
        text: String,
    },
}

impl Admin {
    /// The admin interface on `socket`.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether Envoy is `LIVE`, or the state in which it is.
    pub(crate) async fn ready(&self) -> Result<(), AdminError> {
        let body = self.ask(Method::GET, "/ready", READY_PATIENCE).await;
        body.map(drop)
    }

    /// Envoy's whole configuration with endpoints, in JSON; without secrets' private parts, which it redacts.
    pub(crate) async fn config_dump(&self) -> Result<Bytes, AdminError> {
        self.ask(Method::GET, "/config_dump?include_eds", DUMP_PATIENCE)
            .await
    }

    /// Lets inbound connections end by themselves; outbound ones stay until the end.
    pub(crate) async fn drain(&self) -> Result<(), AdminError> {
        let path = "/drain_listeners?inboundonly&graceful&skip_exit";
        self.ask(Method::POST, path, READY_PATIENCE).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, limit: Duration) -> Result<Bytes, AdminError> {
        timeout(limit, self.exchange(method, path))
            .await
            .unwrap_or_else(|_elapsed| {
                Err(AdminError::Late {
                    path: path.to_owned(),
                    limit,
                })
            })
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Bytes, AdminError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| AdminError::Connect {
                    socket: self.socket.clone(),
                    source,
                })?;
        let (status, body) = exchange(stream, method, path, BODY_MAX)
            .await
            .map_err(|source| AdminError::Exchange {
                path: path.to_owned(),
                source,
            })?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(AdminError::Status {
                path: path.to_owned(),
                status,
                text: String::from_utf8_lossy(&body).trim().to_owned(),
            })
        }
    }
}

fn humane(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

/// `/ready` and the like answer from memory.
const READY_PATIENCE: Duration = Duration::from_secs(2);
/// A dump of thousands of clusters takes Envoy's main thread a while.
const DUMP_PATIENCE: Duration = Duration::from_secs(30);
/// More than any sidecar's configuration.
const BODY_MAX: usize = 256 << 20;
