//! The called side of TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage};
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::verify::ClientIdentity;
use super::{ALPN_H2, Connection, Peer, TlsError, provider, server_name};
use crate::{Certificate, CredentialStore, Credentials, TrustBundle};

/// Who may connect to a server.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Workloads of the mesh, proven by their certificates.
    Workloads,
    /// Anybody: what a certificate proves is told, and handlers decide.
    ///
    /// With `users`, certificates of that CA (the API's) prove users.
    Anybody {
        /// Roots of the CA of users.
        users: Option<TrustBundle>,
    },
}

/// How to take calls, under one or several identities of one process.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identities: Vec<Identity>,
    clients: Clients,
    sends_roots: bool,
}

#[derive(Debug)]
struct Identity {
    store: CredentialStore,
    /// What was made from the credentials last seen.
    prepared: Mutex<Option<Arc<Prepared>>>,
}

#[derive(Debug)]
struct Prepared {
    credentials: Arc<Credentials>,
    config: Arc<ServerConfig>,
    clients: Arc<ClientIdentity>,
}

impl ServerTls {
    /// Takes calls as the identity in `store`, whose current credentials are read at each handshake.
    pub fn new(store: CredentialStore, clients: Clients) -> Self {
        Self::several(vec![store], clients)
    }

    /// Takes calls as one of several identities: the one that the client names, else the first.
    pub fn several(stores: Vec<CredentialStore>, clients: Clients) -> Self {
        let identities = stores.into_iter().map(|store| Identity {
            store,
            prepared: Mutex::default(),
        });
        Self(Arc::new(Inner {
            identities: identities.collect(),
            clients,
            sends_roots: false,
        }))
    }

    /// Sends the roots after the chain, so that clients at their first contact can pin them.
    #[must_use]
    pub fn sending_roots(self) -> Self {
        let inner = Inner {
            identities: self
                .0
                .identities
                .iter()
                .map(|identity| Identity {
                    store: identity.store.clone(),
                    prepared: Mutex::default(),
                })
                .collect(),
            clients: self.0.clients.clone(),
            sends_roots: true,
        };
        Self(Arc::new(inner))
    }

    /// Shakes hands and says who is there.
    ///
    /// # Errors
    ///
    /// [`TlsError::NoCredentials`], [`TlsError::UnknownName`], [`TlsError::Handshake`],
    /// [`TlsError::Refused`].
    pub async fn accept(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Connection), TlsError> {
        let failed = |source| TlsError::of_handshake(address, source);
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(failed)?;
        let prepared = self.choose(&start.client_hello())?;
        let stream = start
            .into_stream(Arc::clone(&prepared.config))
            .await
            .map_err(failed)?;
        let connection = connection(&stream, address, &prepared.clients)?;
        Ok((stream, connection))
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Result<Arc<Prepared>, TlsError> {
        let identities = &self.0.identities;
        let named = hello.server_name().and_then(|name| {
            identities.iter().find_map(|identity| {
                let credentials = identity.store.current()?;
                (server_name(credentials.identity()) == name).then_some((identity, credentials))
            })
        });
        let (identity, credentials) = match (named, identities.as_slice(), hello.server_name()) {
            (Some(found), _, _) => found,
            // One of several, and not this one: it may not be ready yet, the first is no substitute.
            (None, [_, _, ..], Some(name)) => {
                return Err(TlsError::UnknownName {
                    name: name.to_owned(),
                });
            }
            (None, [first, ..], _) => {
                let credentials = first.store.current().ok_or(TlsError::NoCredentials)?;
                (first, credentials)
            }
            (None, [], _) => return Err(TlsError::NoCredentials),
        };
        self.prepare(identity, credentials)
    }

    /// What these credentials give; made once for each.
    fn prepare(
        &self,
        identity: &Identity,
        credentials: Arc<Credentials>,
    ) -> Result<Arc<Prepared>, TlsError> {
        let mut slot = identity
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = slot.as_ref()
            && Arc::ptr_eq(&prepared.credentials, &credentials)
        {
            return Ok(Arc::clone(prepared));
        }
        let prepared = Arc::new(self.configure(credentials)?);
        *slot = Some(Arc::clone(&prepared));
        Ok(prepared)
    }

    fn configure(&self, credentials: Arc<Credentials>) -> Result<Prepared, TlsError> {
        let failed = |source| TlsError::Configuration { source };
        let (users, required) = match &self.0.clients {
            Clients::Workloads => (None, true),
            Clients::Anybody { users } => (users.as_ref(), false),
        };
        let trust_domain = credentials.identity().trust_domain.clone();
        let clients = ClientIdentity::new(credentials.bundle(), trust_domain, users, required)
            .map(Arc::new)
            .map_err(failed)?;
        let roots = if self.0.sends_roots {
            credentials.bundle().roots()
        } else {
            &[]
        };
        let chain = credentials.chain().iter().chain(roots);
        let verifier: Arc<ClientIdentity> = Arc::clone(&clients);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                chain.map(|one| one.der().clone()).collect(),
                credentials.key().to_der(),
            )
            .map_err(failed)?;
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        // No resumption: a session must not outlive the certificate that opened it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Prepared {
            credentials,
            config: Arc::new(config),
            clients,
        })
    }
}

/// Who is at the other end of an established connection.
///
/// The handshake has verified the same chain; asking again is what tells whose roots it led to.
fn connection(
    stream: &TlsStream<TcpStream>,
    address: SocketAddr,
    clients: &ClientIdentity,
) -> Result<Connection, TlsError> {
    let (_, session) = stream.get_ref();
    let Some((leaf, intermediates)) = session.peer_certificates().and_then(<[_]>::split_first)
    else {
        return Ok(Connection {
            peer: Peer::None,
            remote: address,
            certificate: None,
        });
    };
    let peer = clients
        .peer(leaf, intermediates, UnixTime::now())
        .map_err(|error| TlsError::of_peer(address, &error))?;
    let certificate = Certificate::from_der(leaf.clone()).map_err(|error| TlsError::Refused {
        address,
        reason: error.to_string(),
    })?;
    Ok(Connection {
        peer,
        remote: address,
        certificate: Some(Arc::new(certificate)),
    })
}
