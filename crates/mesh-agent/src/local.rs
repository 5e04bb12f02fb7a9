//! The agent's own socket, on which Envoy finds ADS and SDS.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;

use futures_util::StreamExt as _;
use mesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use mesh_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, warn};

use crate::relay::EnvoyConnection;
use crate::sds::Sds;

/// The ADS service: hands each stream to the relay.
#[derive(Debug)]
struct Ads {
    relay: mpsc::Sender<EnvoyConnection>,
}

/// Listens on `path`, for this user only; a socket that a former agent left is replaced.
///
/// # Errors
///
/// What the system says.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory is closed to others already; this is the second lock.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: UnixListener,
    relay: mpsc::Sender<EnvoyConnection>,
    sds: Sds,
    stop: CancellationToken,
) {
    let own = rustix::process::geteuid().as_raw();
    let incoming = UnixListenerStream::new(listener).filter(move |stream| {
        let known = stream.as_ref().map_or(true, |stream| is_known(stream, own));
        std::future::ready(known)
    });
    let served = Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(Ads { relay }))
        .add_service(SecretDiscoveryServiceServer::new(sds))
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await;
    if let Err(error) = served {
        let error: &dyn std::error::Error = &error;
        error!(error, "the agent's socket is not served any more");
    }
}

/// Whether the other side runs as this user, or as root, who can read everything here anyway.
fn is_known(stream: &UnixStream, own: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => true,
        Ok(peer) => {
            warn!(uid = peer.uid(), "a stranger on the agent's socket");
            false
        }
        Err(error) => {
            warn!(%error, "cannot tell who is on the agent's socket");
            false
        }
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ResponseStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ResponseStream<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the delta protocol is served"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        // Not bounded: the relay reads no more from Pilot while Envoy owes it answers.
        let (responses, receiver) = mpsc::unbounded_channel();
        let connection = EnvoyConnection {
            requests: request.into_inner(),
            responses,
        };
        self.relay
            .send(connection)
            .await
            .map_err(|_gone| Status::unavailable("the agent ends"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            receiver,
        ))))
    }
}
