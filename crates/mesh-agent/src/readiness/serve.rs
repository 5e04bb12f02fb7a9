//! Readiness over HTTP: `GET /ready` answers 200 or 503, and says what is missing; below
//! `/app-health/` are checks of the application.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Readiness;
use super::application::Application;

/// Listens on every address of both families; on IPv4 alone where the machine has no IPv6.
///
/// # Errors
///
/// The address that could not be bound, and why.
pub(crate) fn listen(port: u16) -> Result<TcpListener, (SocketAddr, io::Error)> {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind(v6) {
        Err(error) if has_no_v6(&error) => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            bind(v4).map_err(|error| (v4, error))
        }
        bound => bound.map_err(|error| (v6, error)),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        // Not left to net.ipv6.bindv6only.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        socket
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn has_no_v6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [
        rustix::io::Errno::AFNOSUPPORT,
        rustix::io::Errno::ADDRNOTAVAIL,
    ]
    .iter()
    .any(|known| code == Some(known.raw_os_error()))
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    application: Application,
    stop: CancellationToken,
) {
    let accepting = accept(listener, readiness, Arc::new(application));
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
}

async fn accept(listener: TcpListener, readiness: Readiness, application: Arc<Application>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection for readiness");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let readiness = readiness.clone();
        let application = Arc::clone(&application);
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = respond(&readiness, &application, request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(CONNECTION_PATIENCE, served).await {
                debug!(%error, "a connection for readiness broke");
            }
            drop(permit);
        });
    }
}

async fn respond(
    readiness: &Readiness,
    application: &Application,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_get && let Some((status, text)) = application.check(request.uri().path()).await {
        return plain(status, text);
    }
    answer(readiness, &request)
}

fn answer(readiness: &Readiness, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/ready") => {
            let verbose = request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
            let (ready, text) = readiness.text(verbose);
            let status = if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            (status, text)
        }
        (_, "/ready") => (StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "only /ready is here\n".to_owned()),
    };
    plain(status, text)
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Probes come one at a time; more is no probe.
const BACKLOG: u32 = 128;
/// Open at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say what it wants.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may take altogether.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
/// After an error of `accept` that is not a connection's own.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::readiness::report::{Facts, Report};
    use crate::wait_ready;

    fn report(envoy: Result<(), String>) -> Report {
        let facts = Facts {
            certificate: None,
            envoy,
            rules: None,
            leaving: false,
        };
        Report::new(&facts, std::time::SystemTime::now(), Duration::ZERO)
    }

    /// Readiness of `report`, served until the token is cancelled.
    fn served(report: Report) -> (SocketAddr, CancellationToken) {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let readiness = Readiness {
            report: watch::channel(report).1,
            envoy: watch::channel(crate::envoy::EnvoyStatus::default()).1,
            registered: watch::channel(crate::relay::Registered::default()).1,
            source: watch::channel(None).1,
            names: watch::channel(Arc::default()).1,
        };
        let stop = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            readiness,
            Application::default(),
            stop.clone(),
        ));
        (SocketAddr::from(([127, 0, 0, 1], port)), stop)
    }

    async fn get(address: SocketAddr, method: Method, path: &str) -> (StatusCode, String) {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (status, body) = crate::exchange::exchange(stream, method, path, 1 << 16)
            .await
            .unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn what_is_missing_is_answered_with_503() {
        let (address, stop) = served(report(Err("it is INITIALIZING".to_owned())));
        let (status, body) = get(address, Method::GET, "/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            body.contains("envoy: missing, it is INITIALIZING"),
            "{body}"
        );
        let (_, body) = get(address, Method::GET, "/ready?verbose").await;
        assert!(
            body.contains("configuration from: the accepted one"),
            "{body}"
        );
        let (status, _) = get(address, Method::POST, "/ready").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        let (status, _) = get(address, Method::GET, "/").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        stop.cancel();
    }

    #[tokio::test]
    async fn the_gate_stays_closed_and_says_what_was_missing() {
        let (address, stop) = served(report(Ok(())));
        let error = wait_ready(address, Duration::from_millis(300))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("certificate: missing"),
            "{error}"
        );
        stop.cancel();
    }
}
