//! How a role reaches the API: its kubeconfig, read once.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mesh_identity::{Certificate, TrustBundle};
use tokio::net::UdpSocket;

use super::ServerError;

/// A role's way to the API.
#[derive(Clone)]
pub(super) struct Access {
    /// The client, with the role's credential.
    pub(super) client: Client,
    /// The API's CA, which also signs the certificates of users.
    pub(super) roots: TrustBundle,
    /// Host and port of the API.
    pub(super) server: String,
}

/// An API that does not accept a connection by then is away.
const CONNECT: Duration = Duration::from_secs(5);

impl Access {
    /// Reads a kubeconfig.
    pub(super) async fn open(path: &Path) -> Result<Self, ServerError> {
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
        let client = Client::try_from(config).map_err(|error| broken(error.into()))?;
        Ok(Self {
            client,
            roots,
            server,
        })
    }

    /// Our address on the way to the API, at which workloads reach us as well as they reach it.
    ///
    /// Nothing is sent: connecting a datagram socket only asks the routing table.
    async fn own_address(&self) -> Option<IpAddr> {
        for any in ["0.0.0.0:0", "[::]:0"] {
            let Ok(socket) = UdpSocket::bind(any).await else {
                continue;
            };
            if socket.connect(&self.server).await.is_ok()
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

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
