//! The API servers as a service of Nomad's: dialled in turn, the one that answered last first.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use mesh_nomad::instances::{Following, Instances};
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::Service;
use tracing::{debug, warn};
use xxhash_rust::xxh3::xxh3_64;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// The API servers, as a connector of HTTP clients; clones share what they learn.
#[derive(Clone, Debug)]
pub(super) struct Replicas {
    known: watch::Receiver<Instances>,
    /// The one that answered last.
    last: Arc<Mutex<Option<SocketAddr>>>,
    /// Says in which order they are tried at first, so that clients spread over them.
    seed: u64,
}

/// A connector whose connections are made in time or not at all, TLS included.
#[derive(Clone, Debug)]
pub(super) struct Bounded<C> {
    inner: C,
    limit: Duration,
}

/// Why no API server could be reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    /// Nomad has not said yet where they are.
    #[error("Nomad has not told yet where the API server is")]
    Unknown,
    /// None of them answers.
    #[error("no API server answers at {}", .tried.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NoAnswer {
        /// Where they should be.
        tried: Vec<SocketAddr>,
        /// What the system says of the last.
        source: io::Error,
    },
}

/// One that does not answer by then is left for the next.
const DIAL: Duration = Duration::from_secs(2);
/// How long a connection may be silent before it is probed, how often, and how many probes may be
/// lost: a host that went away without a word is noticed within 20 s, also by a watch.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 2);
/// The same for data that nobody confirms, in milliseconds.
const UNCONFIRMED: u32 = 20_000;

// === impl Replicas ===

impl Replicas {
    /// The replicas of a service, and what keeps them known for as long as it is polled.
    pub(super) fn follow(service: Following) -> (Self, impl Future<Output = ()> + Send) {
        let (told, known) = watch::channel(service.kept().unwrap_or_default());
        let replicas = Self {
            known,
            last: Arc::default(),
            seed: seed(),
        };
        (replicas, service.run(told))
    }

    /// One of them, if any is known.
    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.in_order().first().copied()
    }

    fn in_order(&self) -> Vec<SocketAddr> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        order(&self.known.borrow().addresses, last, self.seed)
    }

    async fn dial(self) -> Result<TcpStream, DialError> {
        let addresses = self.in_order();
        let mut failed = None;
        for address in &addresses {
            match timeout(DIAL, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    if let Err(error) = prepare(&stream) {
                        debug!(%address, %error, "a connection is not probed");
                    }
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(*address);
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    warn!(%address, %error, "an API server does not answer");
                    failed = Some(error);
                }
                Err(_elapsed) => {
                    warn!(%address, "an API server does not answer in time");
                    failed = Some(io::ErrorKind::TimedOut.into());
                }
            }
        }
        Err(match failed {
            Some(source) => DialError::NoAnswer {
                tried: addresses,
                source,
            },
            None => DialError::Unknown,
        })
    }
}

impl Service<Uri> for Replicas {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let dialling = self.clone().dial();
        Box::pin(async move { Ok(TokioIo::new(dialling.await?)) })
    }
}

// === impl Bounded ===

impl<C> Bounded<C> {
    /// A connector that gives up after `limit`.
    pub(super) fn new(inner: C, limit: Duration) -> Self {
        Self { inner, limit }
    }
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Connecting<C::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let limit = self.limit;
        Box::pin(async move {
            match timeout(limit, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// In which order to try them: the one that answered last, then each client in an order of its
/// own, which stays the same.
fn order(addresses: &BTreeSet<SocketAddr>, last: Option<SocketAddr>, seed: u64) -> Vec<SocketAddr> {
    let mut order: Vec<SocketAddr> = addresses.iter().copied().collect();
    order.sort_by_cached_key(|address| {
        let weight = xxh3_64(format!("{seed} {address}").as_bytes());
        (Some(*address) != last, weight)
    });
    order
}

/// Without randomness clients do not spread, and nothing worse.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _filled = aws_lc_rs::rand::fill(&mut bytes).is_ok();
    u64::from_ne_bytes(bytes)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, probes) = KEEPALIVE;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, probes)?;
    sockopt::set_tcp_user_timeout(stream, UNCONFIRMED)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn addresses(count: u8) -> BTreeSet<SocketAddr> {
        (1..=count)
            .map(|host| SocketAddr::from(([10, 0, 0, host], 6443)))
            .collect()
    }

    #[test]
    fn the_one_that_answered_last_is_tried_first() {
        let all = addresses(3);
        for last in &all {
            let order = order(&all, Some(*last), 7);
            assert_eq!(order.len(), 3);
            assert_eq!(order.first(), Some(last));
        }
        // One that is gone is not tried at all.
        let gone = SocketAddr::from(([10, 0, 0, 9], 6443));
        assert!(!order(&all, Some(gone), 7).contains(&gone));
    }

    #[test]
    fn clients_spread() {
        let all = addresses(2);
        let first: BTreeSet<_> = (0..20).map(|seed| order(&all, None, seed)[0]).collect();
        assert_eq!(first, all);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_left_for_the_next() {
        // It has an address, and does not listen there.
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (away, there) = (closed.local_addr().unwrap(), open.local_addr().unwrap());
        let (told, known) = watch::channel(Instances {
            addresses: [away, there].into(),
            ..Instances::default()
        });
        let replicas = Replicas {
            known,
            last: Arc::new(Mutex::new(Some(away))),
            seed: 0,
        };
        let stream = replicas.clone().dial().await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        assert_eq!(replicas.first(), Some(there));

        told.send_replace(Instances::default());
        let error = replicas.dial().await.unwrap_err();
        assert!(error.to_string().contains("not told yet"), "{error}");
    }
}
