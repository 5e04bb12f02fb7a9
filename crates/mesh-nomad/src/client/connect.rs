//! Connections: opened when needed, kept while they serve.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Address, Body, Config, Error, tls};

/// The connections to one agent.
pub(super) struct Pool {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
}

/// A connection in use. Dropped, it closes; so a body that was not read to its end takes its
/// connection along.
pub(super) struct Lease {
    sender: SendRequest<Body>,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
}

/// What bytes go over.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

// === impl Pool ===

impl Pool {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let tls = match &config.address {
            Address::Https { host, .. } => {
                let name = config.tls.server_name.as_ref().unwrap_or(host);
                let name = name.trim_matches(['[', ']']).to_owned();
                let parsed = ServerName::try_from(name.clone()).map_err(|source| Error::Tls {
                    what: format!("`{name}` is not the name of a server"),
                    source: Some(Box::new(source)),
                })?;
                let config = tls::client_config(&config.tls)?;
                Some((TlsConnector::from(config), parsed))
            }
            Address::Http { .. } | Address::Unix(_) => None,
        };
        Ok(Self {
            address: config.address.clone(),
            tls,
            idle: Arc::default(),
        })
    }

    /// Sends what `make` makes, over a connection that is open or over a new one.
    pub(super) async fn send(
        &self,
        path: &str,
        make: impl Fn() -> Result<http::Request<Body>, http::Error>,
    ) -> Result<(http::Response<Incoming>, Lease), Error> {
        let make = || {
            make().map_err(|source| Error::Invalid {
                path: path.to_owned(),
                source,
            })
        };
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.send_request(make()?).await {
                Ok(response) => return Ok((response, self.lease(sender))),
                // The agent closed it while nobody looked, and nothing was sent.
                Err(error) if error.is_canceled() => {}
                Err(source) => return Err(broke(path, source)),
            }
        }
        let mut sender = self.open(path).await?;
        let response = sender.send_request(make()?).await;
        let response = response.map_err(|source| broke(path, source))?;
        Ok((response, self.lease(sender)))
    }

    async fn open(&self, path: &str) -> Result<SendRequest<Body>, Error> {
        let failed = |source| Error::Connect {
            address: self.address.to_string(),
            source,
        };
        let socket = match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(socket) => socket.map_err(failed)?,
            Err(_elapsed) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        let (sender, connection) = handshake(TokioIo::new(socket))
            .await
            .map_err(|source| broke(path, source))?;
        // Ends when the sender is dropped or the agent closes; what ended it, the sender reports.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to nomad ended");
            }
        });
        Ok(sender)
    }

    async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        let (host, port) = match &self.address {
            Address::Unix(path) => return Ok(Box::new(unix(path).await?)),
            Address::Http { host, port } | Address::Https { host, port } => (host, *port),
        };
        let host = host.trim_matches(['[', ']']);
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(tcp)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), tcp).await?)),
        }
    }

    fn take(&self) -> Option<SendRequest<Body>> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn lease(&self, sender: SendRequest<Body>) -> Lease {
        Lease {
            sender,
            idle: Arc::clone(&self.idle),
        }
    }
}

async fn unix(path: &PathBuf) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

// === impl Lease ===

impl Lease {
    /// Keeps the connection for the next request.
    pub(super) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(self.sender);
        }
    }
}

fn broke(path: &str, source: hyper::Error) -> Error {
    Error::Transport {
        path: path.to_owned(),
        source,
    }
}

/// How long a connection may take to open, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections kept: well below the 100 that an agent allows one address by default.
const MAX_IDLE: usize = 16;
