//! Calls of an instance: one, or a load of many that is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// How long a call may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// One request to make.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Call {
    /// `http://host:port/path`.
    pub url: String,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// Headers to send.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// What came of a call.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Outcome {
    /// What was called.
    pub url: String,
    /// The status; 0 when there was no answer.
    pub status: u16,
    /// Why there was no answer.
    pub error: Option<String>,
    /// The body if it is JSON, else as a JSON string.
    pub body: serde_json::Value,
    /// The answer's headers.
    pub headers: BTreeMap<String, String>,
    /// How long it took.
    pub milliseconds: u64,
}

/// Many requests: half on connections that are kept, half on new ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Load {
    /// What to call.
    pub call: Call,
    /// Ends after this many requests, or
    #[serde(default)]
    pub requests: Option<u64>,
    /// when this file exists; one of the two must be given.
    #[serde(default)]
    pub until_file: Option<std::path::PathBuf>,
    /// Not before this many requests, though the file exists; waited for two minutes at most.
    #[serde(default)]
    pub at_least: u64,
    /// Workers, each sending one request after the other.
    pub workers: u64,
    /// Pause of a worker between requests, in milliseconds.
    #[serde(default)]
    pub pause_ms: u64,
}

/// What a load saw, counted by the client.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct LoadReport {
    /// Requests sent.
    pub requests: u64,
    /// Of these, on connections of their own.
    pub on_new_connections: u64,
    /// Answers by status; 0 is no answer.
    pub by_status: BTreeMap<u16, u64>,
    /// Answers by the version that the instance gives of itself.
    pub by_version: BTreeMap<String, u64>,
    /// The first few errors in words.
    pub errors: Vec<String>,
    /// When the last request was begun that failed, in seconds from the first; 0 if none did.
    #[serde(default)]
    pub failed_until: f64,
    /// Seconds from the first to the last.
    pub seconds: f64,
}

fn get() -> String {
    "GET".to_owned()
}

// === impl Call ===

impl Call {
    /// A GET without headers.
    pub fn get(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            method: get(),
            headers: BTreeMap::new(),
        }
    }
}

// === impl LoadReport ===

impl LoadReport {
    /// Requests that were not answered with 200.
    pub fn failed(&self) -> u64 {
        self.requests - self.by_status.get(&200).copied().unwrap_or_default()
    }

    fn count(&mut self, outcome: &Outcome, new: bool) {
        self.requests += 1;
        self.on_new_connections += u64::from(new);
        *self.by_status.entry(outcome.status).or_default() += 1;
        if let Some(version) = outcome
            .body
            .get("version")
            .and_then(serde_json::Value::as_str)
        {
            *self.by_version.entry(version.to_owned()).or_default() += 1;
        }
        if outcome.status != 200 && self.errors.len() < 5 {
            let text = outcome
                .error
                .clone()
                .unwrap_or_else(|| outcome.body.to_string());
            self.errors.push(format!("{}: {text}", outcome.status));
        }
    }

    fn join(&mut self, other: Self) {
        self.requests += other.requests;
        self.on_new_connections += other.on_new_connections;
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        for (version, count) in other.by_version {
            *self.by_version.entry(version).or_default() += count;
        }
        self.failed_until = self.failed_until.max(other.failed_until);
        self.errors.extend(other.errors);
        self.errors.truncate(5);
    }
}

/// Makes one call on a connection of its own.
pub async fn once(call: Call) -> Outcome {
    let mut connection = None;
    on(&mut connection, &call).await
}

/// What came of a call that was made until it was answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Insisted {
    /// How often nobody answered.
    pub refused: u64,
    /// The answer.
    pub outcome: Outcome,
    /// When the first attempt was made, in seconds since 1970.
    pub began: f64,
}

/// Makes one call, each time on a connection of its own, until it is answered with 200.
pub async fn insist(call: Call) -> Insisted {
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let began = began.unwrap_or_default().as_secs_f64();
    let mut refused = 0;
    loop {
        let outcome = once(call.clone()).await;
        if outcome.status == 200 {
            return Insisted {
                refused,
                outcome,
                began,
            };
        }
        refused += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes many calls and counts.
pub async fn load(load: Load) -> LoadReport {
    let start = Instant::now();
    let load = Arc::new(load);
    let sent = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..load.workers)
        .map(|_| tokio::spawn(work(Arc::clone(&load), Arc::clone(&sent), start)))
        .collect();
    let mut report = LoadReport::default();
    for worker in workers {
        match worker.await {
            Ok(part) => report.join(part),
            Err(error) => report.errors.push(error.to_string()),
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// How long a load that is told to end goes on for the sake of its number.
const LONGEST: Duration = Duration::from_secs(120);

async fn work(load: Arc<Load>, sent: Arc<AtomicU64>, start: Instant) -> LoadReport {
    let mut report = LoadReport::default();
    let mut kept = None;
    loop {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        let enough = load.requests.is_some_and(|requests| number >= requests);
        let told = load.until_file.as_ref().is_some_and(|file| file.exists())
            && (number >= load.at_least || start.elapsed() > LONGEST);
        if enough || told || (load.requests.is_none() && load.until_file.is_none()) {
            return report;
        }
        let new = number.is_multiple_of(2);
        let begun = start.elapsed().as_secs_f64();
        let outcome = if new {
            once(load.call.clone()).await
        } else {
            on(&mut kept, &load.call).await
        };
        report.count(&outcome, new);
        if outcome.status != 200 {
            report.failed_until = report.failed_until.max(begun);
        }
        if load.pause_ms > 0 {
            tokio::time::sleep(Duration::from_millis(load.pause_ms)).await;
        }
    }
}

/// Makes a call on `connection`, opening it when there is none; drops it when it failed.
///
/// A kept connection that the other side closed between two requests is replaced, as every client does.
async fn on(connection: &mut Option<SendRequest<Full<Bytes>>>, call: &Call) -> Outcome {
    let start = Instant::now();
    if let Some(kept) = connection.as_mut()
        && kept.ready().await.is_err()
    {
        *connection = None;
    }
    let result = tokio::time::timeout(PATIENCE, exchange(connection, call)).await;
    let mut outcome = match result {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::failed(call, error.to_string()),
        Err(_) => Outcome::failed(call, format!("no answer within {} s", PATIENCE.as_secs())),
    };
    if outcome.status == 0 {
        *connection = None;
    }
    outcome.milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    outcome
}

async fn exchange(
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    call: &Call,
) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = call.url.parse()?;
    let authority = uri.authority().ok_or("the URL has no host")?.as_str();
    if connection.is_none() {
        let address = if authority.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        *connection = Some(sender);
    }
    let sender = connection.as_mut().ok_or("there is no connection")?;
    sender.ready().await?;

    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(Method::from_bytes(call.method.as_bytes())?)
        .uri(path)
        .header("host", authority);
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    let response = sender.send_request(request.body(Full::default())?).await?;
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let body = response.into_body().collect().await?.to_bytes();
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
    Ok(Outcome {
        url: call.url.clone(),
        status,
        error: None,
        body,
        headers,
        milliseconds: 0,
    })
}

// === impl Outcome ===

impl Outcome {
    fn failed(call: &Call, error: String) -> Self {
        Self {
            url: call.url.clone(),
            status: 0,
            error: Some(error),
            body: serde_json::Value::Null,
            headers: BTreeMap::new(),
            milliseconds: 0,
        }
    }
}
