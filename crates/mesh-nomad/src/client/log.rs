//! Logs of tasks, as they are written.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;

use super::Error;
use super::event::next_chunk;

/// A piece of a log.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct LogFrame {
    /// The file.
    pub file: String,
    /// Where in the file the piece ends.
    pub offset: i64,
    /// What happened to the file, if anything: it was truncated, or is gone.
    pub file_event: String,
    /// The piece, base64.
    data: String,
}

/// A log that is being followed. Dropped, it closes.
#[derive(Debug)]
pub struct LogStream {
    pub(super) body: Incoming,
    pub(super) path: String,
    pub(super) frames: Frames,
}

/// Cuts a stream of bytes into frames, which follow each other without separators.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

/// Heartbeats come every second; a minute without one means that nobody is there.
const SILENCE: Duration = Duration::from_secs(60);

// === impl LogFrame ===

impl LogFrame {
    /// The bytes of the piece.
    ///
    /// # Errors
    ///
    /// When it is not base64.
    pub fn bytes(&self) -> Result<Bytes, base64::DecodeError> {
        BASE64.decode(&self.data).map(Bytes::from)
    }

    fn is_heartbeat(&self) -> bool {
        self.data.is_empty() && self.file_event.is_empty()
    }
}

// === impl LogStream ===

impl LogStream {
    /// The next piece, heartbeats left out; none at the end.
    ///
    /// # Errors
    ///
    /// When the connection breaks or falls silent, or what comes is no frame.
    pub async fn next(&mut self) -> Result<Option<LogFrame>, Error> {
        let decode = |path: &str, source| Error::Decode {
            path: path.to_owned(),
            source,
        };
        loop {
            match self
                .frames
                .next_frame()
                .map_err(|error| decode(&self.path, error))?
            {
                Some(frame) if frame.is_heartbeat() => {}
                Some(frame) => return Ok(Some(frame)),
                None => {
                    let chunk = timeout(SILENCE, next_chunk(&mut self.body, &self.path));
                    let chunk = chunk.await.map_err(|_elapsed| Error::Timeout {
                        path: self.path.clone(),
                        after: SILENCE,
                    })?;
                    match chunk? {
                        Some(chunk) => self.frames.push(&chunk),
                        None => return Ok(None),
                    }
                }
            }
        }
    }
}

// === impl Frames ===

impl Frames {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    ///
    /// When what came is no frame.
    pub fn next_frame(&mut self) -> Result<Option<LogFrame>, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(&self.buffer).into_iter();
        match reader.next() {
            None => {
                self.buffer.clear();
                Ok(None)
            }
            Some(Ok(frame)) => {
                let read = reader.byte_offset();
                self.buffer.advance(read);
                Ok(Some(frame))
            }
            Some(Err(error)) if error.is_eof() => Ok(None),
            Some(Err(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_wherever_the_bytes_are() {
        let text = br#"{}{"Data":"aGk=","File":"alloc/logs/a.stdout.0","Offset":2}{}"#;
        for step in 1..text.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in text.chunks(step) {
                frames.push(piece);
                while let Some(frame) = frames.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found.len(), 3, "in steps of {step}");
            assert_eq!(&found[1].bytes().unwrap()[..], b"hi");
            assert!(found[0].is_heartbeat() && found[2].is_heartbeat());
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let mut frames = Frames::default();
        frames.push(b"{}oops");
        assert!(frames.next_frame().unwrap().is_some());
        assert!(frames.next_frame().is_err());
    }
}
