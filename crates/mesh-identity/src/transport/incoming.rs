//! The called side: TLS connections for a tonic server, each with who is at the other end.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::{Connection, ServerTls};

/// Bounds on connections that have not proven anything yet.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// How long a handshake may take.
    pub timeout: Duration,
    /// How many may be under way.
    pub concurrent: usize,
    /// How old a handshake must be before it gives way to a new connection when there is no room.
    pub patience: Duration,
}

/// The connections of a listener whose handshake is done, as a stream for
/// `tonic::transport::Server::serve_with_incoming`.
///
/// A slow handshake delays nobody; a failed one is logged and is no item.
/// Dropping it closes the listener and what is under way.
#[derive(Debug)]
pub struct TlsIncoming {
    connections: mpsc::Receiver<TlsConnection>,
    _accepting: JoinSet<()>,
}

/// One connection, with who is at the other end.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    connection: Connection,
}

/// A handshake under way.
struct Pending {
    since: Instant,
    task: AbortHandle,
}

/// After an error of `accept` that is not a connection's own (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Finished connections that wait for the server to take them.
const READY_CONNECTIONS: usize = 64;

// === impl HandshakeLimits ===

impl Default for HandshakeLimits {
    /// 10 s, 512 at once, and 1 s before one gives way: an honest handshake takes two round trips.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            concurrent: 512,
            patience: Duration::from_secs(1),
        }
    }
}

// === impl TlsIncoming ===

impl TlsIncoming {
    /// Begins to accept connections of `listener`. Must be called within a tokio runtime.
    pub fn new(listener: TcpListener, tls: ServerTls, limits: HandshakeLimits) -> Self {
        let (sender, connections) = mpsc::channel(READY_CONNECTIONS);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, tls, limits, sender));
        Self {
            connections,
            _accepting: accepting,
        }
    }
}

impl Stream for TlsIncoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections
            .poll_recv(context)
            .map(|connection| connection.map(Ok))
    }
}

async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    limits: HandshakeLimits,
    sender: mpsc::Sender<TlsConnection>,
) {
    let mut handshakes = JoinSet::new();
    let mut pending: VecDeque<Pending> = VecDeque::new();
    loop {
        make_room(&mut handshakes, &mut pending, limits).await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handshake = handshake(stream, address, tls.clone(), limits.timeout, sender.clone());
        let task = handshakes.spawn(handshake);
        pending.push_back(Pending {
            since: Instant::now(),
            task,
        });
    }
}

/// Waits until one more handshake may begin: the oldest gives way once it had its time.
async fn make_room(
    handshakes: &mut JoinSet<()>,
    pending: &mut VecDeque<Pending>,
    limits: HandshakeLimits,
) {
    loop {
        while handshakes.try_join_next().is_some() {}
        pending.retain(|one| !one.task.is_finished());
        if pending.len() < limits.concurrent {
            return;
        }
        let Some(oldest) = pending.front() else {
            return;
        };
        tokio::select! {
            _ = handshakes.join_next() => {}
            () = sleep_until(oldest.since + limits.patience) => {
                oldest.task.abort();
                pending.pop_front();
                debug!("a slow handshake gave way to a new connection");
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: ServerTls,
    limit: Duration,
    sender: mpsc::Sender<TlsConnection>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, %error, "connection lost before its handshake");
        return;
    }
    match timeout(limit, tls.accept(stream, address)).await {
        Ok(Ok((stream, connection))) => {
            let ready = TlsConnection { stream, connection };
            if sender.send(ready).await.is_err() {
                debug!(%address, "connection closed, the server stops");
            }
        }
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            debug!(%address, error, "handshake failed");
        }
        Err(_elapsed) => debug!(%address, "handshake took too long"),
    }
}

// === impl TlsConnection ===

impl TlsConnection {
    /// Who is at the other end.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
