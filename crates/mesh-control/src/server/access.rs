//! How a role reaches the API: its kubeconfig, read once, and the addresses of that or of Nomad.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mesh_identity::{Certificate, TrustBundle};
use tokio::net::UdpSocket;
use tower::ServiceExt as _;

use super::replicas::{Bounded, Replicas};
use super::{API_SERVICE_TLS_NAME, ServerError};

/// A role's way to the API.
#[derive(Clone)]
pub(super) struct Access {
    /// The client, with the role's credential.
    pub(super) client: Client,
    /// The API's CA, which also signs the certificates of users.
    pub(super) roots: TrustBundle,
    /// Host and port of the API.
    pub(super) server: String,
    /// Where the API servers are instead, as Nomad knows them.
    replicas: Option<Replicas>,
}

/// An API that does not accept a connection by then is away.
const CONNECT: Duration = Duration::from_secs(5);
/// The same when there may be several to try, TLS included.
const CONNECT_ONE_OF_SEVERAL: Duration = Duration::from_secs(10);

impl Access {
    /// Reads a kubeconfig. With `replicas` they are the API servers, and the address in it is none.
    pub(super) async fn open(
        path: &Path,
        replicas: Option<&Replicas>,
    ) -> Result<Self, ServerError> {
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| ServerError::Kubeconfig {
            path: path.to_owned(),
            source,
        };
        let lacks = |what| ServerError::KubeconfigLacks {
            path: path.to_owned(),
            what,
        };
        let read = Kubeconfig::read_from(path).map_err(|error| broken(error.into()))?;
        let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .map_err(|error| broken(error.into()))?;
        config.connect_timeout = Some(CONNECT);
        let roots = config
            .root_cert
            .as_ref()
            .ok_or_else(|| lacks("certificate authority"))?;
        let roots = roots
            .iter()
            .map(|der| Certificate::from_der(der.as_slice().into()))
            .collect::<Result<Vec<_>, _>>()
            .and_then(TrustBundle::new)
            .map_err(|error| broken(error.into()))?;
        let host = config
            .cluster_url
            .host()
            .ok_or_else(|| lacks("server address"))?;
        let port = config.cluster_url.port_u16().unwrap_or(443);
        let server = format!("{host}:{port}");
        let client = match replicas {
            Some(replicas) => client_of(config, replicas),
            None => Client::try_from(config),
        };
        Ok(Self {
            client: client.map_err(|error| broken(error.into()))?,
            roots,
            server,
            replicas: replicas.cloned(),
        })
    }

    /// Our address on the way to the API, at which workloads reach us as well as they reach it.
    ///
    /// Nothing is sent: connecting a datagram socket only asks the routing table.
    async fn own_address(&self) -> Option<IpAddr> {
        let server = match &self.replicas {
            Some(replicas) => replicas.first()?.to_string(),
            None => self.server.clone(),
        };
        for any in ["0.0.0.0:0", "[::]:0"] {
            let Ok(socket) = UdpSocket::bind(any).await else {
                continue;
            };
            if socket.connect(&server).await.is_ok()
                && let Ok(address) = socket.local_addr()
            {
                return Some(address.ip());
            }
        }
        None
    }

    /// The addresses to publish for a service that listens at `listen`.
    pub(super) async fn advertised(
        &self,
        advertise: &[IpAddr],
        listen: SocketAddr,
    ) -> Vec<SocketAddr> {
        let port = listen.port();
        if !advertise.is_empty() {
            let addresses = advertise.iter();
            return addresses.map(|ip| SocketAddr::new(*ip, port)).collect();
        }
        let ip = if listen.ip().is_unspecified() {
            self.own_address().await.unwrap_or_else(|| listen.ip())
        } else {
            listen.ip()
        };
        vec![SocketAddr::new(ip, port)]
    }
}

/// A client that dials whichever API server answers; all show a certificate for one name.
fn client_of(mut config: Config, replicas: &Replicas) -> Result<Client, kube::Error> {
    config.cluster_url = Uri::builder()
        .scheme("https")
        .authority(API_SERVICE_TLS_NAME)
        .path_and_query("/")
        .build()
        .unwrap_or_default();
    config.tls_server_name = Some(API_SERVICE_TLS_NAME.to_owned());
    let tls = config.rustls_https_connector_with_connector(replicas.clone())?;
    let connector = Bounded::new(tls, CONNECT_ONE_OF_SEVERAL);
    let http: legacy::Client<_, Body> =
        legacy::Client::builder(TokioExecutor::new()).build(connector);
    let namespace = config.default_namespace.clone();
    let authentication = config.auth_layer()?;
    let address = config.base_uri_layer();
    let http = http.map_err(Box::<dyn std::error::Error + Send + Sync>::from);
    let builder = ClientBuilder::new(http, namespace);
    Ok(match authentication {
        Some(layer) => builder.with_layer(&layer).with_layer(&address).build(),
        None => builder.with_layer(&address).build(),
    })
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
