//! The calling side: a tonic channel whose connections prove both sides' identities.

use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Error};
use tower::service_fn;

use crate::{ClientTls, TlsError};

/// Longer than a handshake over a bad link, shorter than anybody's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle connection is probed. A replica on a machine that was lost says nothing at all,
/// and what comes from it is old until that is noticed: here within 15 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a probe may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel to `address` that connects at the first call and again whenever it must;
/// each connection reads the current credentials.
pub fn channel(address: SocketAddr, tls: ClientTls) -> Channel {
    endpoint(address).connect_with_connector_lazy(connector(address, tls))
}

/// Like [`channel`], with the first connection made.
///
/// # Errors
///
/// What the transport says; its sources hold the [`TlsError`].
pub async fn connect(address: SocketAddr, tls: ClientTls) -> Result<Channel, Error> {
    endpoint(address)
        .connect_with_connector(connector(address, tls))
        .await
}

fn endpoint(address: SocketAddr) -> Endpoint {
    let uri = Uri::builder()
        .scheme("https")
        .authority(address.to_string())
        .path_and_query("/")
        .build()
        // A socket address is always an authority; the default is never used.
        .unwrap_or_default();
    Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

fn connector(
    address: SocketAddr,
    tls: ClientTls,
) -> impl tower::Service<Uri, Response = TokioIo<TlsStream<TcpStream>>, Error = TlsError, Future: Send>
+ Send
+ 'static {
    service_fn(move |_uri: Uri| {
        let tls = tls.clone();
        async move { tls.connect(address).await.map(TokioIo::new) }
    })
}
