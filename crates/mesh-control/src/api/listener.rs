//! Connections: TCP, TLS, HTTP/1.1 and 2, each bounded in time, all ended at shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::net::sockopt;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::ApiError;
use super::authentication::Peer;
use super::bootstrap::ServerCertificate;
use super::router::{Api, respond};

/// Takes connections.
pub(super) struct Listener {
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    shutdown: CancellationToken,
}

// === impl Listener ===

impl Listener {
    /// TLS with this certificate; client certificates of the same CA are asked for, not demanded.
    pub(super) fn new(
        certificate: ServerCertificate,
        api: Arc<Api>,
        shutdown: CancellationToken,
    ) -> Result<Self, ApiError> {
        let tls = |source: rustls::Error| ApiError::Tls { source };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.authority).map_err(tls)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|error| tls(rustls::Error::General(error.to_string())))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificate.chain, certificate.key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            api,
            shutdown,
        })
    }

    /// Serves until shutdown, then lets requests finish for a while.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let place = tokio::select! {
                () = self.shutdown.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => match place {
                    Ok(place) => place,
                    Err(_) => break,
                },
            };
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => {
                    let this = Arc::clone(&self);
                    connections.spawn(async move {
                        this.connection(stream, remote).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: others will close.
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            connections.shutdown().await;
        }
    }

    async fn connection(&self, stream: TcpStream, remote: SocketAddr) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%remote, %error, "connection lost");
            return;
        }
        let handshake = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%remote, %error, "tls handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%remote, "tls handshake took too long");
                return;
            }
        };
        let peer = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(Peer::of_certificate)
            .unwrap_or_default();
        let api = Arc::clone(&self.api);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (api, peer) = (Arc::clone(&api), peer.clone());
            async move {
                let response = respond(api, peer, request.map(Body::new)).await;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(MAX_STREAMS);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%remote, %error, "connection ended");
        }
    }
}

/// No delay for short answers; whoever takes no data or is gone is cut off by the kernel.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    sockopt::set_tcp_user_timeout(stream, TAKES_NOTHING_MS)?;
    Ok(())
}

/// Data that a client does not take for so long, milliseconds: a watcher that has stopped reading.
const TAKES_NOTHING_MS: u32 = 60_000;

/// Connections at once on one address; each costs some tens of kilobytes.
const MAX_CONNECTIONS: usize = 4096;

/// Watches of one client share a connection; Kubernetes allows 250.
const MAX_STREAMS: u32 = 250;

/// Long enough for the far side of the world, short for one who only opens connections.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Between the first byte of a request and the last of its headers.
const HEADERS: Duration = Duration::from_secs(15);

/// Finds dead peers.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// For requests that run at shutdown; watches end at once.
const DRAIN: Duration = Duration::from_secs(5);

/// When the machine has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
