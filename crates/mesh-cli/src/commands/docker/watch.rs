//! `mesh docker watch`: a sidecar beside every container that asks for one by its labels.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_runtime::docker::{Admission, Asked};
use mesh_runtime::{Application, JoinToken, MeshFacts};
use tokio::signal::unix::{SignalKind, signal};

use super::{Socket, network};
use crate::connect::Connection;
use crate::engine::Kind;
use crate::exit::{Failure, OK, Outcome};
use crate::sidecar::{self, SidecarArgs};
use crate::{engine, ground, join};

/// Set a sidecar beside every container of this host that asks for one by its labels.
///
/// Runs until it is stopped. What it made goes on without it, and the next one finds it.
#[derive(Debug, clap::Args)]
#[command(after_help = LABELS)]
pub(crate) struct Args {
    #[command(flatten)]
    sidecar: SidecarArgs,
    /// How long a container is held at most until its sidecar is ready, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    /// IPv4 subnet of the workloads, where the network is not there yet.
    #[arg(long, value_name = "CIDR")]
    subnet: Option<ipnet::Ipv4Net>,
    /// IPv6 subnet of the workloads, where the network is not there yet.
    #[arg(long, value_name = "CIDR")]
    subnet6: Option<ipnet::Ipv6Net>,
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    connection: Connection,
}

const LABELS: &str = "\
Labels of a container:
  mesh.inject=true           it gets a sidecar
  mesh.name=web-1            name of the workload; the container's unless given
  mesh.namespace=shop        `default` unless given
  mesh.service-account=web   the account it runs as; `default` unless given
  mesh.ports=http:80:8080    ports of its service: NAME:PORT[:TARGET], separated by commas
  mesh.service=web           the service it is an instance of; the workload's name unless given
  mesh.labels.version=v1     a label of the workload; as many as needed

A container runs for some milliseconds before the daemon tells of it; what it sends then goes past
the mesh. `mesh docker prepare` is for containers where that may not be.";

/// How containers come into the mesh: by what the API server says.
#[derive(Debug)]
struct Control {
    connection: Connection,
    ground: sidecar::Ground,
    /// What it said last: a container does not wait for it to say the same again.
    last: Mutex<Option<MeshFacts>>,
}

pub(super) async fn run(args: &Args) -> Outcome {
    ground::check()?;
    let home = &args.connection.home.home;
    fs::create_dir_all(home)
        .map_err(|error| Failure::doing(format!("making {}", home.display()), &error))?;
    let engine = args.socket.open(home).await?;
    let spec = engine::network(Kind::Docker, args.subnet, args.subnet6);
    let network = network(&engine, spec).await?;
    let control = Control {
        ground: args.sidecar.on_docker(&engine, network).await?,
        connection: args.connection.clone(),
        last: Mutex::new(None),
    };
    // Now, while somebody sees it, rather than at the first container.
    control.ask().await?;
    let on = |kind| signal(kind).map_err(|error| Failure::doing("waiting for signals", &error));
    let (mut interrupt, mut terminate) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let limit = Duration::from_secs(args.timeout);
    tokio::select! {
        watched = engine.watch(Arc::new(control), limit) => {
            let Err(error) = watched;
            Err(engine::failed(&error))
        }
        _ = interrupt.recv() => Ok(OK.into()),
        _ = terminate.recv() => Ok(OK.into()),
    }
}

// === impl Control ===

impl Control {
    async fn ask(&self) -> Result<MeshFacts, Failure> {
        let client = self.connection.client().await?;
        let facts = self.ground.facts(join::facts(&client).await?);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(facts.clone());
        Ok(facts)
    }
}

impl Admission for Control {
    fn facts(&self) -> Asked<'_, MeshFacts> {
        Box::pin(async {
            self.ask().await.or_else(|failure| {
                // Rules can be set without the API server, and the sidecar may find Pilot yet.
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                last.clone().ok_or_else(|| failure.to_string().into())
            })
        })
    }

    fn token<'a>(&'a self, application: &'a Application) -> Asked<'a, JoinToken> {
        Box::pin(async move {
            let told = async {
                let client = self.connection.client().await?;
                sidecar::token(&client, application).await
            };
            told.await
                .map_err(|failure: Failure| failure.to_string().into())
        })
    }
}
