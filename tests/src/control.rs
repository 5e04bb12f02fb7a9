//! The file socket through which an instance is told to call somebody.
//!
//! One JSON document in, one out, then the end: [`Command`] and its answer.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener, UnixStream, lookup_host};

use crate::call::{self, Call, Load};

/// What an instance can be told.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Make one call; answered with a [`call::Outcome`].
    Call(Call),
    /// Make many; answered with a [`call::LoadReport`].
    Load(Load),
    /// Look a name up; answered with a list of addresses.
    Resolve {
        /// The name.
        name: String,
    },
    /// Send bytes and give back what came until the other side was silent; answered with a string.
    Tcp {
        /// `host:port`.
        address: String,
        /// What to send.
        send: String,
    },
    /// Tell the outcome of the call that the instance made in its first instruction.
    First,
}

/// Answers commands until the listener fails.
///
/// # Errors
///
/// What `bind` or `accept` say.
pub async fn serve(socket: &Path, first: Value) -> io::Result<()> {
    if socket.exists() {
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let first = first.clone();
        tokio::spawn(async move {
            let answer = match read(&mut stream).await {
                Ok(command) => obey(command, first).await,
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            };
            // The asker may have left; nobody else wants the answer.
            drop(stream.write_all(answer.to_string().as_bytes()).await);
        });
    }
}

/// Sends a command to the instance behind `socket`.
///
/// # Errors
///
/// When the socket cannot be reached or does not answer with JSON.
pub async fn send(socket: &Path, command: &Command) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&serde_json::to_vec(command)?).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

async fn read(stream: &mut UnixStream) -> io::Result<Command> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

async fn obey(command: Command, first: Value) -> Value {
    let answer = match command {
        Command::Call(call) => serde_json::to_value(call::once(call).await),
        Command::Load(load) => serde_json::to_value(call::load(load).await),
        Command::First => Ok(first),
        Command::Resolve { name } => match lookup_host((name.as_str(), 0)).await {
            Ok(found) => serde_json::to_value(found.map(|a| a.ip()).collect::<Vec<_>>()),
            Err(error) => Ok(serde_json::json!({ "error": error.to_string() })),
        },
        Command::Tcp { address, send } => match exchange(&address, &send).await {
            Ok(text) => Ok(text.into()),
            Err(error) => Ok(serde_json::json!({ "error": error.to_string() })),
        },
    };
    answer.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }))
}

async fn exchange(address: &str, send: &str) -> io::Result<String> {
    let patience = std::time::Duration::from_secs(3);
    let mut stream = tokio::time::timeout(patience, TcpStream::connect(address)).await??;
    stream.write_all(send.as_bytes()).await?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    // The other side's first silence ends the exchange: protocols like Redis' keep the connection.
    loop {
        let patience = std::time::Duration::from_millis(if text.is_empty() { 3000 } else { 200 });
        match tokio::time::timeout(patience, stream.read(&mut buffer)).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(Ok(count)) => text.extend(buffer.iter().take(count)),
            Ok(Err(error)) if text.is_empty() => return Err(error),
            Ok(Err(_)) => break,
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
