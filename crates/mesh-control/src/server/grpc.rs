//! The gRPC listeners: one that CA and Pilot share, one of the Mixer.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_identity::ServerTls;
use mesh_identity::tls::Clients;
use mesh_identity::transport::{HandshakeLimits, TlsIncoming};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tracing::info;

use super::ca::{self, Ca};
use super::pilot::{self, Pilot};
use super::{Context, Role, ServerError};

/// How often an idle connection is probed, so that a dead peer is noticed within 20 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a probe may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open streams may take to end after they are told to.
const DRAIN: Duration = Duration::from_secs(3);

/// Listens.
pub(super) async fn bind(
    what: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Bind {
            what,
            address,
            source,
        })
}

/// Serves until `stop`, and then until the streams have ended or had their time to.
pub(super) async fn serve(
    what: &'static str,
    listener: TcpListener,
    tls: ServerTls,
    routes: Routes,
    stop: &CancellationToken,
) -> Result<(), ServerError> {
    if let Ok(address) = listener.local_addr() {
        info!(what, %address, "listening");
    }
    let incoming = TlsIncoming::new(listener, tls, HandshakeLimits::default());
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled());
    let patience = async {
        stop.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        served = served => served.map_err(|error| ServerError::Serve {
            what,
            source: error.into(),
        }),
        () = patience => Ok(()),
    }
}

/// Runs CA, Pilot or both on their listener until it is time to stop.
pub(super) async fn run_ca_and_pilot(context: Context) -> Result<(), ServerError> {
    let roles = &context.config.roles;
    let listener = bind("CA and Pilot", context.config.listen.grpc).await?;
    let ca = if roles.has(Role::Ca) {
        match ca::start_ca(&context).await? {
            Some(ca) => Some(ca),
            None => return Ok(()),
        }
    } else {
        None
    };
    let pilot = if roles.has(Role::Pilot) {
        let trust_domain = ca.as_ref().map(|ca| ca.trust_domain.clone());
        match pilot::start_pilot(&context, trust_domain).await? {
            Some(pilot) => Some(pilot),
            None => return Ok(()),
        }
    } else {
        None
    };
    let (tls, routes) = share(ca.as_ref(), pilot.as_ref());
    let stop = &context.stop;
    tokio::try_join!(
        serve("CA and Pilot", listener, tls, routes, stop),
        async {
            if let Some(ca) = &ca {
                tokio::join!(ca.publish(&context), ca.renew(stop.clone()));
            }
            Ok(())
        },
        async {
            match pilot {
                Some(pilot) => Box::pin(pilot.run(&context)).await,
                None => Ok(()),
            }
        },
    )?;
    Ok(())
}

/// One listener for both: each shows its own certificate to who asks for it by name.
fn share(ca: Option<&Ca>, pilot: Option<&Pilot>) -> (ServerTls, Routes) {
    let mut routes = RoutesBuilder::default();
    let mut stores = Vec::new();
    let mut users = None;
    if let Some(ca) = ca {
        routes.add_service(ca.service.clone());
        stores.push(ca.store.clone());
    }
    if let Some(pilot) = pilot {
        pilot.add_services(&mut routes);
        stores.push(pilot.store.clone());
        users = Some(pilot.users.clone());
    }
    // Who joins has no certificate yet, and who looks inside has one of the API's CA: the services
    // say whom they serve.
    let tls = ServerTls::several(stores, Clients::Anybody { users });
    (tls.sending_roots(), routes.routes())
}
