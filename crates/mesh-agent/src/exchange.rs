//! One HTTP request and its answer, on a connection of its own.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Anything that can go wrong in between.
pub(crate) type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// Asks for `path` on `stream`; the status and at most `body_max` bytes of body.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    path: &str,
    body_max: usize,
) -> Result<(StatusCode, Bytes), ExchangeError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), body_max)
            .collect()
            .await?;
        Ok((status, body.to_bytes()))
    };
    // The connection moves the bytes for as long as the answer is not complete.
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        end = &mut connection => {
            end?;
            answer.await
        }
    }
}
