//! Commands in running tasks, over a websocket.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Client, Error, Request};

/// A command that runs in a task. Dropped, its connection closes.
#[derive(Debug)]
pub struct Exec {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    heartbeat: Interval,
    path: String,
}

/// What a command says.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ExecOutput {
    /// Bytes of its output.
    Stdout(Bytes),
    /// Bytes of its error output.
    Stderr(Bytes),
    /// It ended, with this code.
    Exited(i64),
}

/// A command that ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Finished {
    /// All of its output.
    pub stdout: Vec<u8>,
    /// All of its error output.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub code: i64,
}

/// How often an empty frame is sent, so that nobody in between cuts a silent connection.
const HEARTBEAT: Duration = Duration::from_secs(10);

// === impl Client ===

impl Client {
    /// Starts a command in a running task.
    ///
    /// Without a terminal Nomad reports the end only after the standard input was closed
    /// ([`Exec::close_stdin`]).
    ///
    /// # Errors
    ///
    /// When the agent does not switch to a websocket. Whether the allocation, the task and the
    /// command exist is said later, by [`Exec::next`].
    pub async fn exec(
        &self,
        allocation: &str,
        task: &str,
        command: &[&str],
        tty: bool,
    ) -> Result<Exec, Error> {
        let request = Request::get(&["v1", "client", "allocation", allocation, "exec"])
            .query("task", task)
            .query("tty", tty)
            .query("command", json!(command));
        let token = self.token().await?;
        let mut nonce = [0; 16];
        if aws_lc_rs::rand::fill(&mut nonce).is_err() {
            return Err(exec_error(
                request.path(),
                "no randomness for the handshake",
            ));
        }
        let key = BASE64.encode(nonce);
        let more = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, key.as_str()),
        ];
        let make = || request.to_http(self.config(), token.as_ref(), &more);
        let (response, _lease) = self.inner.pool.send(request.path(), make).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let found = format!("status {} instead of a websocket", response.status());
            return Err(exec_error(request.path(), &found));
        }
        let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accept.and_then(|value| value.to_str().ok()) != Some(&accepted(&key)) {
            return Err(exec_error(
                request.path(),
                "the handshake is somebody else's",
            ));
        }
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|source| Error::Transport {
            path: request.path().to_owned(),
            source,
        })?;
        let stream = TokioIo::new(upgraded);
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Exec {
            socket: WebSocketStream::from_raw_socket(stream, Role::Client, None).await,
            heartbeat,
            path: request.path().to_owned(),
        })
    }

    /// Runs a command in a task to its end, without input.
    ///
    /// # Errors
    ///
    /// As [`Self::exec`] and [`Exec::next`].
    pub async fn run(
        &self,
        allocation: &str,
        task: &str,
        command: &[&str],
    ) -> Result<Finished, Error> {
        let mut exec = self.exec(allocation, task, command, false).await?;
        exec.close_stdin().await?;
        let mut finished = Finished::default();
        loop {
            match exec.next().await? {
                ExecOutput::Stdout(bytes) => finished.stdout.extend_from_slice(&bytes),
                ExecOutput::Stderr(bytes) => finished.stderr.extend_from_slice(&bytes),
                ExecOutput::Exited(code) => {
                    finished.code = code;
                    return Ok(finished);
                }
            }
        }
    }
}

// === impl Exec ===

impl Exec {
    /// What the command says next.
    ///
    /// # Errors
    ///
    /// [`Error::Exec`] with Nomad's words when the command could not be started, or the connection
    /// ended before the command did.
    pub async fn next(&mut self) -> Result<ExecOutput, Error> {
        loop {
            let message = tokio::select! {
                message = self.socket.next() => message,
                _ = self.heartbeat.tick() => {
                    self.send(&json!({})).await?;
                    continue;
                }
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(close))) => {
                    let reason = close.map(|close| close.reason.to_string());
                    return Err(self.ended(&reason.unwrap_or_default()));
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(self.ended(&error.to_string())),
                None => return Err(self.ended("the connection ended")),
            };
            let output = output(&text).map_err(|source| Error::Decode {
                path: self.path.clone(),
                source,
            })?;
            if let Some(output) = output {
                return Ok(output);
            }
        }
    }

    /// Sends bytes to its standard input.
    ///
    /// # Errors
    ///
    /// When the connection ended.
    pub async fn write_stdin(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.send(&json!({ "stdin": { "data": BASE64.encode(bytes) } }))
            .await
    }

    /// Ends its standard input.
    ///
    /// # Errors
    ///
    /// When the connection ended.
    pub async fn close_stdin(&mut self) -> Result<(), Error> {
        self.send(&json!({ "stdin": { "close": true } })).await
    }

    /// Says how large its terminal is, in characters.
    ///
    /// # Errors
    ///
    /// When the connection ended.
    pub async fn resize(&mut self, width: u16, height: u16) -> Result<(), Error> {
        let size = json!({ "tty_size": { "width": width, "height": height } });
        self.send(&size).await
    }

    async fn send(&mut self, frame: &Value) -> Result<(), Error> {
        let message = Message::text(frame.to_string());
        let sent = self.socket.send(message).await;
        sent.map_err(|error| self.ended(&error.to_string()))
    }

    fn ended(&self, reason: &str) -> Error {
        exec_error(&self.path, reason)
    }
}

/// What one frame says; nothing for heartbeats and ends of output.
fn output(text: &str) -> Result<Option<ExecOutput>, serde_json::Error> {
    let frame: Value = serde_json::from_str(text)?;
    let data = |name: &str| {
        let text = frame.get(name)?.get("data")?.as_str()?;
        BASE64.decode(text).ok().map(Bytes::from)
    };
    if frame.get("exited").and_then(Value::as_bool) == Some(true) {
        // Nomad leaves a code of 0 out.
        let code = frame.pointer("/result/exit_code").and_then(Value::as_i64);
        return Ok(Some(ExecOutput::Exited(code.unwrap_or(0))));
    }
    Ok(data("stdout")
        .map(ExecOutput::Stdout)
        .or_else(|| data("stderr").map(ExecOutput::Stderr)))
}

/// What a server answers to this key (RFC 6455, 4.2.2).
fn accepted(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    );
    BASE64.encode(digest)
}

fn exec_error(path: &str, reason: &str) -> Error {
    Error::Exec {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        assert_eq!(
            accepted("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_code_that_is_left_out_is_zero() {
        let exited = |text| output(text).unwrap().unwrap();
        assert_eq!(
            exited(r#"{"exited":true,"result":{}}"#),
            ExecOutput::Exited(0)
        );
        assert_eq!(
            exited(r#"{"exited":true,"result":{"exit_code":3}}"#),
            ExecOutput::Exited(3)
        );
        assert_eq!(
            exited(r#"{"stdout":{"data":"b3V0Cg=="}}"#),
            ExecOutput::Stdout(Bytes::from_static(b"out\n"))
        );
        assert_eq!(output(r#"{"stdout":{"close":true}}"#).unwrap(), None);
        assert_eq!(output("{}").unwrap(), None);
    }
}
