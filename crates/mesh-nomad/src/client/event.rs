//! The event stream: what changed, as it changes. A hint, never the truth.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Client, Error, Request};
use crate::model::event::EventBatch;

/// What to hear of: a topic, and which keys of it; all if none is named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Topic {
    /// As `Service`, `Allocation`, `Job`, `Node`.
    pub name: String,
    /// One ID or name.
    pub key: Option<String>,
}

/// An open event stream. Dropped, it closes.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    lines: Lines,
}

/// Cuts a stream of bytes into lines of JSON.
///
/// ```
/// use mesh_nomad::client::Lines;
///
/// let mut lines = Lines::default();
/// lines.push(b"{}\n{\"Index\"");
/// assert!(lines.next_batch()?.unwrap().is_heartbeat());
/// assert!(lines.next_batch()?.is_none());
/// lines.push(b":7}\n");
/// assert_eq!(lines.next_batch()?.unwrap().index.value(), 7);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Lines {
    buffer: BytesMut,
    /// So many of its first bytes end no line: a long line comes in many pieces.
    searched: usize,
}

const PATH: &str = "/v1/event/stream";

/// How long the first heartbeat may take; an open stream has it at once, a denied one never.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Heartbeats come every 30 s; two and a half without one mean that nobody is there.
const SILENCE: Duration = Duration::from_secs(75);

// === impl Topic ===

impl Topic {
    /// All keys of a topic.
    pub fn all(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            key: None,
        }
    }
}

// === impl Client ===

impl Client {
    /// Opens the event stream of a namespace, `*` for all, from `index` on. Without one, or with
    /// one that is too old, it begins with all that the server still has, which may be megabytes.
    ///
    /// # Errors
    ///
    /// [`Error::StreamDenied`] when no heartbeat comes within 5 s: Nomad answers 200 first and
    /// looks at the token afterwards.
    pub async fn events(
        &self,
        topics: &[Topic],
        namespace: &str,
        index: Option<u64>,
    ) -> Result<EventStream, Error> {
        let mut request = Request::get(&["v1", "event", "stream"]).namespace(namespace);
        for Topic { name, key } in topics {
            let topic = match key {
                Some(key) => format!("{name}:{key}"),
                None => name.clone(),
            };
            request = request.query("topic", topic);
        }
        request = request.query_if("index", index);
        let denied = || Error::StreamDenied {
            after: OPEN_TIMEOUT,
        };
        let open = async {
            let answer = self.open_stream(&request).await?;
            let mut stream = EventStream {
                body: answer.body,
                lines: Lines::default(),
            };
            // The connection is not given back, so its lease ends here; the body holds it open.
            drop(answer.lease);
            match stream.read().await? {
                Some(first) if first.is_heartbeat() => Ok(stream),
                Some(_) => Err(Error::Protocol {
                    path: PATH.to_owned(),
                    found: "an event before the first heartbeat".to_owned(),
                }),
                None => Err(denied()),
            }
        };
        match timeout(OPEN_TIMEOUT, open).await {
            Ok(stream) => stream,
            Err(_elapsed) => Err(denied()),
        }
    }
}

// === impl EventStream ===

impl EventStream {
    /// The next events, heartbeats left out; none when the server ended the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when not even heartbeats come, [`Error::Body`] when the connection breaks,
    /// [`Error::Decode`] for a line that is no batch of events. The stream is of no use then.
    pub async fn next(&mut self) -> Result<Option<EventBatch>, Error> {
        loop {
            let read = timeout(SILENCE, self.read()).await;
            match read.map_err(|_elapsed| Error::Timeout {
                path: PATH.to_owned(),
                after: SILENCE,
            })?? {
                Some(batch) if batch.is_heartbeat() => {}
                other => return Ok(other),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<EventBatch>, Error> {
        loop {
            let batch = self.lines.next_batch().map_err(|source| Error::Decode {
                path: PATH.to_owned(),
                source,
            })?;
            if batch.is_some() {
                return Ok(batch);
            }
            match next_chunk(&mut self.body, PATH).await? {
                Some(chunk) => self.lines.push(&chunk),
                None => return Ok(None),
            }
        }
    }
}

// === impl Lines ===

impl Lines {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, read.
    ///
    /// # Errors
    ///
    /// When the line is not a batch of events; it is gone then.
    pub fn next_batch(&mut self) -> Result<Option<EventBatch>, serde_json::Error> {
        loop {
            let mut new = self.buffer.iter().skip(self.searched);
            let Some(end) = new.position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return Ok(None);
            };
            let end = end + std::mem::take(&mut self.searched);
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            if !line.iter().all(u8::is_ascii_whitespace) {
                return serde_json::from_slice(&line).map(Some);
            }
        }
    }
}

/// The next bytes of a body; none at its end.
pub(super) async fn next_chunk(body: &mut Incoming, path: &str) -> Result<Option<Bytes>, Error> {
    loop {
        let Some(frame) = body.frame().await else {
            return Ok(None);
        };
        let frame = frame.map_err(|source| Error::Body {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}
