//! The gate that an application's start waits at: until its sidecar is ready.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::exchange::{ExchangeError, exchange};

/// Why the gate stayed closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The time is over.
    #[error("the sidecar at {address} was not ready within {} s: {last}", limit.as_secs())]
    Late {
        /// Where it was asked.
        address: SocketAddr,
        /// How long.
        limit: Duration,
        /// What it said last, or why it said nothing.
        last: String,
    },
}

/// Waits until the agent at `address` says that it is ready, at most `limit`.
///
/// # Errors
///
/// [`WaitError::Late`], with what was missing at the last look.
pub async fn wait_ready(address: SocketAddr, limit: Duration) -> Result<(), WaitError> {
    let mut last = "nobody listens there".to_owned();
    let waiting = async {
        loop {
            match ask(address).await {
                Ok((StatusCode::OK, _)) => return,
                Ok((_, text)) => last = text.trim().replace('\n', "; "),
                Err(error) => last = error.to_string(),
            }
            sleep(INTERVAL).await;
        }
    };
    timeout(limit, waiting)
        .await
        .map_err(|_elapsed| WaitError::Late {
            address,
            limit,
            last,
        })
}

async fn ask(address: SocketAddr) -> Result<(StatusCode, String), ExchangeError> {
    let answer = async {
        let stream = TcpStream::connect(address).await?;
        exchange(stream, Method::GET, "/ready", BODY_MAX).await
    };
    let (status, body) = timeout(PATIENCE, answer).await??;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// An application that starts late by less is not noticed.
const INTERVAL: Duration = Duration::from_millis(100);
/// For one look.
const PATIENCE: Duration = Duration::from_secs(2);
/// The report is a few lines.
const BODY_MAX: usize = 64 << 10;
