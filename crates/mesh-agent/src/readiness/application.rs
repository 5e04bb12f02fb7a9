//! Checks of the application that come to the agent, because strict mutual TLS would refuse them:
//! it makes them where the application is.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A check of the application, answered at `GET /app-health/<service>/<index>` of the readiness port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppProbe {
    /// The service that is checked.
    pub service: String,
    /// Which of its checks, from 0.
    pub index: usize,
    /// Where the application listens.
    pub port: u16,
    /// How long it may take.
    pub timeout: Duration,
    /// What is done.
    pub kind: AppProbeKind,
}

/// What a check of the application does.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum AppProbeKind {
    /// It connects.
    Tcp,
    /// It sends a request, to be answered with 200 to 299.
    Http {
        /// The method.
        method: String,
        /// The path, with the query.
        path: String,
        /// Header fields.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// It asks gRPC's health service.
    Grpc {
        /// About this service; empty for all of it.
        service: String,
    },
}

/// The checks of one application.
#[derive(Clone, Debug, Default)]
pub(crate) struct Application {
    /// Where it is, as others call it; the proxy's own way to it has this address as well.
    pub(crate) address: Option<IpAddr>,
    pub(crate) probes: Vec<AppProbe>,
    /// Ports at which it has to take connections before it is called.
    pub(crate) ports: BTreeSet<u16>,
}

/// gRPC's question after health.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// Its answer; 1 is "serving".
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Application {
    /// Whether it takes connections at each of its ports.
    pub(crate) async fn takes_connections(&self) -> bool {
        let takes = self.ports.iter().map(|port| async {
            let connected = timeout(CONNECT_PATIENCE, self.connect(*port)).await;
            connected.is_ok_and(|connected| connected.is_ok())
        });
        join_all(takes).await.into_iter().all(|takes| takes)
    }

    /// Makes the check that `path` names; none if there is none.
    pub(crate) async fn check(&self, path: &str) -> Option<(StatusCode, String)> {
        let (service, index) = path.strip_prefix("/app-health/")?.rsplit_once('/')?;
        let index: usize = index.parse().ok()?;
        let mut probes = self.probes.iter();
        let probe = probes.find(|probe| probe.service == service && probe.index == index)?;
        let made = timeout(probe.timeout, self.make(probe)).await;
        let late = |_elapsed| Err(format!("no answer within {:?}", probe.timeout));
        Some(match made.unwrap_or_else(late) {
            Ok(()) => (StatusCode::OK, "the application answers\n".to_owned()),
            Err(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the application: {why}\n"),
            ),
        })
    }

    async fn make(&self, probe: &AppProbe) -> Result<(), String> {
        let stream = self
            .connect(probe.port)
            .await
            .map_err(|error| format!("port {}: {error}", probe.port))?;
        match &probe.kind {
            AppProbeKind::Tcp => Ok(()),
            AppProbeKind::Http {
                method,
                path,
                headers,
                body,
            } => ask_http(stream, probe.port, (method, path), headers, body).await,
            AppProbeKind::Grpc { service } => ask_grpc(stream, probe.port, service).await,
        }
    }

    /// As Envoy hands on inbound connections: from an address that the rules let pass.
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        if let Some(address @ IpAddr::V4(_)) = self.address {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((PASSTHROUGH, 0)))?;
            if let Ok(stream) = socket.connect((address, port).into()).await {
                return Ok(stream);
            }
        }
        // An application that listens on loopback alone.
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
    }
}

async fn ask_http(
    stream: TcpStream,
    port: u16,
    (method, path): (&str, &str),
    headers: &[(String, String)],
    body: &str,
) -> Result<(), String> {
    let method = if method.is_empty() { "GET" } else { method };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?)
        .uri(format!("{slash}{path}"))
        .header(header::HOST, format!("127.0.0.1:{port}"))
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(|error| error.to_string())?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        // The check's own `Host` is the one that counts.
        if name == header::HOST {
            request.headers_mut().insert(name, value);
        } else {
            request.headers_mut().append(name, value);
        }
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with this function.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await;
    let status = response.map_err(|error| error.to_string())?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("answered with {status}"))
    }
}

/// Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
async fn ask_grpc(stream: TcpStream, port: u16, service: &str) -> Result<(), String> {
    let question = HealthRequest {
        service: service.to_owned(),
    }
    .encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0); // not compressed
    frame.put_u32(u32::try_from(question.len()).map_err(|error| error.to_string())?);
    frame.extend_from_slice(&question);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!(
            "http://127.0.0.1:{port}/grpc.health.v1.Health/Check"
        ))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(frame.freeze()))
        .map_err(|error| error.to_string())?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    let mut answer = body.map_err(|error| error.to_string())?.to_bytes();
    if answer.remaining() < FRAME_HEAD {
        return Err("answered without a message".to_owned());
    }
    answer.advance(FRAME_HEAD);
    let answer = HealthResponse::decode(answer).map_err(|error| error.to_string())?;
    if answer.status == SERVING {
        Ok(())
    } else {
        Err(format!("answered with status {}", answer.status))
    }
}

/// Both ends are on this machine.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Where Envoy's connections to the application come from.
const PASSTHROUGH: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// An answer of the health service is a few bytes.
const ANSWER_MAX: usize = 1 << 12;
/// A flag and a length.
const FRAME_HEAD: usize = 5;
const SERVING: i32 = 1;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn application(port: u16, kind: AppProbeKind) -> Application {
        let probe = AppProbe {
            service: "web".to_owned(),
            index: 1,
            port,
            timeout: Duration::from_secs(5),
            kind,
        };
        Application {
            address: None,
            ports: BTreeSet::new(),
            probes: vec![probe],
        }
    }

    /// Answers one connection with this text, and gives back what it was sent.
    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (port, served)
    }

    fn http() -> AppProbeKind {
        AppProbeKind::Http {
            method: String::new(),
            path: "/health".to_owned(),
            headers: vec![
                ("X-Probe".to_owned(), "1".to_owned()),
                ("Host".to_owned(), "web".to_owned()),
            ],
            body: String::new(),
        }
    }

    #[tokio::test]
    async fn an_http_check_is_made_as_it_was_written() {
        let (port, served) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let checked = application(port, http()).check("/app-health/web/1").await;
        assert_eq!(checked.unwrap().0, StatusCode::OK);
        let request = served.await.unwrap().to_ascii_lowercase();
        assert!(request.starts_with("get /health http/1.1\r\n"), "{request}");
        assert!(
            request.contains("x-probe: 1\r\n") && request.contains("host: web\r\n"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn an_application_that_is_ill_is_told_with_the_reason() {
        let (port, _served) = server("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
        let (status, text) = application(port, http())
            .check("/app-health/web/1")
            .await
            .unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("500"), "{text}");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_fails_and_one_where_somebody_does_succeeds() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let application = application(port, AppProbeKind::Tcp);
        let check = async || application.check("/app-health/web/1").await.unwrap().0;
        assert_eq!(check().await, StatusCode::SERVICE_UNAVAILABLE);
        let _listener = socket.listen(1).unwrap();
        assert_eq!(check().await, StatusCode::OK);
    }

    #[tokio::test]
    async fn checks_that_nobody_asked_for_are_not_there() {
        let application = application(1, AppProbeKind::Tcp);
        for path in [
            "/app-health/web/0",
            "/app-health/other/1",
            "/app-health/web/x",
            "/ready",
        ] {
            assert!(application.check(path).await.is_none(), "{path}");
        }
    }

    #[tokio::test]
    async fn a_grpc_check_speaks_the_health_protocol() {
        use std::convert::Infallible;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            for status in [1, 2] {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper::service::service_fn(
                    move |request: Request<hyper::body::Incoming>| async move {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(
                            HealthRequest::decode(&body[FRAME_HEAD..]).unwrap().service,
                            "shop"
                        );
                        let answer = HealthResponse { status }.encode_to_vec();
                        let mut frame = BytesMut::new();
                        frame.put_u8(0);
                        frame.put_u32(answer.len().try_into().unwrap());
                        frame.extend_from_slice(&answer);
                        Ok::<_, Infallible>(http::Response::new(Full::new(frame.freeze())))
                    },
                );
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // The client leaves when it has its answer.
                let _left = connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        let application = application(
            port,
            AppProbeKind::Grpc {
                service: "shop".to_owned(),
            },
        );
        let path = "/app-health/web/1";
        assert_eq!(application.check(path).await.unwrap().0, StatusCode::OK);
        let (status, text) = application.check(path).await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("status 2"), "{text}");
        served.await.unwrap();
    }
}
