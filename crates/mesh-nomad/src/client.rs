//! Nomad's HTTP API: typed, asynchronous, with blocking queries and pages as streams.
//!
//! What can be decided without a socket is apart from what does it: a [`Request`] is a value,
//! [`Retry`] and [`Blocking`] decide what follows an answer, and the [`Client`] sends.

mod acl;
mod agent;
mod allocation;
mod block;
mod config;
mod connect;
mod deployment;
mod error;
mod event;
mod exec;
mod job;
mod log;
mod node;
mod request;
mod response;
mod retry;
mod service;
mod stream;
mod tls;
mod variable;
mod volume;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use self::connect::{Lease, Pool};
use crate::model::acl::SecretText;

pub use self::allocation::{LogKind, LogOptions};
pub use self::block::{Blocking, Step};
pub use self::config::{Address, Config, Tls, TokenSource};
pub use self::deployment::Health;
pub use self::error::{ApiError, Error, Reason};
pub use self::event::{EventStream, Lines, Topic};
pub use self::exec::{Exec, ExecOutput, Finished};
pub use self::job::{Register, Stop};
pub use self::log::{Frames, LogFrame, LogStream};
pub use self::request::Request;
pub use self::response::{Meta, Reply};
pub use self::retry::Retry;
pub use self::variable::{Acquired, Written};

/// A client of one Nomad agent, which forwards to the leader of its region. Clones share
/// connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    pool: Pool,
}

/// The most that an answer may hold: many times the list of all allocations of a large cluster.
const MAX_BODY: usize = 512 * 1024 * 1024;

// === impl Client ===

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] when the certificates or keys that the configuration names cannot be used.
    pub fn new(config: Config) -> Result<Self, Error> {
        let pool = Pool::new(&config)?;
        Ok(Self {
            inner: Arc::new(Inner { config, pool }),
        })
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Sends a request, again where [`Retry`] says so, and reads the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] for an answer that is not a success, with its status and text; the others
    /// when there was none that could be read.
    pub async fn fetch<T: DeserializeOwned>(&self, request: &Request) -> Result<Reply<T>, Error> {
        let (meta, body) = self.fetch_bytes(request).await?;
        let value = serde_json::from_slice(&body).map_err(|source| Error::Decode {
            path: request.path().to_owned(),
            source,
        })?;
        let reply = Reply { value, meta };
        if request.is_doubtful(&reply.meta) && !self.may_list(request).await? {
            return Err(Error::NotAllowed {
                path: request.path().to_owned(),
            });
        }
        Ok(reply)
    }

    /// Whether a list that came with index 0 is empty, not forbidden.
    async fn may_list(&self, request: &Request) -> Result<bool, Error> {
        match request.probe() {
            Some(probe) => Ok(self.fetch_bytes(&probe).await?.0.index > 0),
            None => Ok(false),
        }
    }

    /// The same for an answer without content.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn send(&self, request: &Request) -> Result<Meta, Error> {
        Ok(self.fetch_bytes(request).await?.0)
    }

    /// The same for an answer that is not JSON.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn fetch_bytes(&self, request: &Request) -> Result<(Meta, Bytes), Error> {
        let retry = &self.inner.config.retry;
        let mut attempt = 0;
        loop {
            let error = match self.try_once(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match retry.delay(attempt, request, &error, jitter()) {
                Some(delay) => sleep(delay).await,
                None => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn try_once(&self, request: &Request) -> Result<(Meta, Bytes), Error> {
        let patience = request.patience().unwrap_or(self.inner.config.timeout);
        let deadline = Instant::now() + patience;
        let late = || Error::Timeout {
            path: request.path().to_owned(),
            after: patience,
        };
        let answer = timeout_at(deadline, self.open(request));
        let Answer { parts, body, lease } = answer.await.map_err(|_elapsed| late())??;
        let status = parts.status.as_u16();
        let meta = Meta::from_headers(&parts.headers);
        let read = http_body_util::Limited::new(body, MAX_BODY).collect();
        let body = match timeout_at(deadline, read).await {
            Err(_elapsed) => return Err(late()),
            Ok(Err(source)) => {
                return Err(Error::Body {
                    path: request.path().to_owned(),
                    source,
                });
            }
            Ok(Ok(body)) => body.to_bytes(),
        };
        lease.give_back();
        response::classify(request, status, &body)?;
        Ok((meta, body))
    }

    /// Sends a request once and gives the answer before its body was read.
    async fn open(&self, request: &Request) -> Result<Answer, Error> {
        let token = self.inner.config.token.read().await?;
        let make = || request.to_http(&self.inner.config, token.as_ref(), &[]);
        let (response, lease) = self.inner.pool.send(request.path(), make).await?;
        let (parts, body) = response.into_parts();
        Ok(Answer { parts, body, lease })
    }

    /// The same for an answer whose body goes on; an answer that is no success is an error.
    async fn open_stream(&self, request: &Request) -> Result<Answer, Error> {
        let answer = self.open(request).await?;
        let status = answer.parts.status.as_u16();
        if answer.parts.status.is_success() {
            return Ok(answer);
        }
        let body = http_body_util::Limited::new(answer.body, MAX_BODY).collect();
        let body = body.await.map_err(|source| Error::Body {
            path: request.path().to_owned(),
            source,
        })?;
        response::classify(request, status, &body.to_bytes())?;
        Err(Error::Protocol {
            path: request.path().to_owned(),
            found: format!("status {status}"),
        })
    }

    /// The token as it is now.
    async fn token(&self) -> Result<Option<SecretText>, Error> {
        self.inner.config.token.read().await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.inner.config.address)
            .finish_non_exhaustive()
    }
}

/// An answer whose body was not read yet.
struct Answer {
    parts: http::response::Parts,
    body: Incoming,
    /// Gives the connection back once the body was read to its end.
    lease: Lease,
}

type Body = Full<Bytes>;

/// Between 0 and 1, so that clients that failed together do not come back together.
fn jitter() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness clients come back together; nothing worse.
    let _filled = aws_lc_rs::rand::fill(&mut bytes).is_ok();
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

/// How long anything but a blocking query may take, if the configuration does not say: a server
/// without leader answers after 5 s, and large lists take a second.
const TIMEOUT: Duration = Duration::from_secs(30);
