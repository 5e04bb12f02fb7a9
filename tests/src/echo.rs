//! A server that says who called it and how, after calling those behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::call::{self, Call, Outcome};

/// Headers that an instance hands on, so that a route by header works behind the first hop.
const HANDED_ON: [&str; 2] = ["end-user", "x-marker"];

/// Who this instance is, and whom it calls for each request.
#[derive(Debug)]
pub struct Instance {
    /// Its service.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it calls for each request that is not below `/only`.
    pub calls: Vec<String>,
    /// Sent with each answer, as `x-marker`, so that a packet capture can look for it.
    pub marker: String,
    /// How often each key of a flaky path was asked for.
    pub seen: Mutex<BTreeMap<String, u64>>,
}

/// What a path asks of the server; `/only` alone keeps it from calling others.
#[derive(Debug)]
enum Wish {
    /// The ordinary answer.
    Answer,
    /// `/only/status/503`: that status.
    Fail(StatusCode),
    /// `/only/slow/2000`: the answer, after so many milliseconds.
    Wait(Duration),
    /// `/only/flaky/2/<key>`: 503 to the first two requests with this key, then the answer.
    FailFirst { key: String, times: u64 },
}

/// What the server saw of a request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Echo {
    /// The instance's service.
    pub name: String,
    /// The instance's version.
    pub version: String,
    /// The address that the connection came from.
    pub peer: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The request's headers.
    pub headers: BTreeMap<String, String>,
    /// What those behind it answered.
    pub calls: Vec<Outcome>,
}

/// Serves until the listener fails.
///
/// # Errors
///
/// What `accept` says.
pub async fn serve(listener: TcpListener, instance: Instance) -> std::io::Result<()> {
    let instance = Arc::new(instance);
    loop {
        let (stream, peer) = listener.accept().await?;
        let instance = Arc::clone(&instance);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&instance), peer, request));
            // A connection that breaks is the client's to report.
            drop(
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn answer(
    instance: Arc<Instance>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, http::Error> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    match Wish::of(&path) {
        Wish::Fail(status) => return Response::builder().status(status).body(Full::default()),
        Wish::Wait(duration) => tokio::time::sleep(duration).await,
        Wish::FailFirst { key, times } if instance.seen(&key) <= times => {
            return Response::builder()
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .body(Full::default());
        }
        Wish::Answer | Wish::FailFirst { .. } => {}
    }
    let handed_on = handed_on(request.headers());
    let calls = if path.starts_with("/only") {
        Vec::new()
    } else {
        let make = |url: &String| Call {
            headers: handed_on.clone(),
            ..Call::get(url)
        };
        join_all(instance.calls.iter().map(make).map(call::once)).await
    };
    let echo = Echo {
        name: instance.name.clone(),
        version: instance.version.clone(),
        peer: peer.ip().to_canonical().to_string(),
        method: request.method().to_string(),
        path,
        headers: texts(request.headers()),
        calls,
    };
    let body = serde_json::to_vec_pretty(&echo).unwrap_or_default();
    Response::builder()
        .header("content-type", "application/json")
        .header("x-marker", &instance.marker)
        .body(Full::from(body))
}

impl Wish {
    /// Reads the wish out of a path.
    fn of(path: &str) -> Self {
        let mut parts = path
            .strip_prefix("/only/")
            .unwrap_or_default()
            .splitn(3, '/');
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
        match parts.next() {
            Some("status") => parts
                .next()
                .and_then(|status| status.parse().ok())
                .map_or(Self::Answer, Self::Fail),
            Some("slow") => number(parts.next()).map_or(Self::Answer, |millis| {
                Self::Wait(Duration::from_millis(millis))
            }),
            Some("flaky") => match (number(parts.next()), parts.next()) {
                (Some(times), Some(key)) => Self::FailFirst {
                    key: key.to_owned(),
                    times,
                },
                _ => Self::Answer,
            },
            _ => Self::Answer,
        }
    }
}

impl Instance {
    /// How often a key was seen, this time included.
    fn seen(&self, key: &str) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }
}

fn handed_on(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut some = texts(headers);
    some.retain(|name, _| HANDED_ON.contains(&name.as_str()));
    some
}

fn texts(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}
