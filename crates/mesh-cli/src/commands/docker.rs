//! `mesh docker`: sidecars for containers that others start, with `docker run` or Compose.

mod prepare;
mod status;
mod watch;

use std::path::Path;

use mesh_runtime::{DockerEngine, NetworkSpec, Runtime as _, RuntimeError};

use crate::engine::{self, Choice, Engine, Kind};
use crate::exit::{Failure, Outcome};

/// Sidecars for containers that others start.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Watch(watch::Args),
    Status(status::Args),
    Prepare(prepare::Args),
}

/// Which daemon.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Socket {
    /// Socket of the container daemon, as a path or a `unix://` address; as `mesh up` chose unless
    /// given.
    #[arg(long, env = "DOCKER_HOST", value_name = "SOCKET")]
    docker_socket: Option<String>,
}

pub(crate) async fn run(command: &Command) -> Outcome {
    match command {
        Command::Watch(args) => watch::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Prepare(args) => prepare::run(args).await,
    }
}

// === impl Socket ===

impl Socket {
    async fn open(&self, home: &Path) -> Result<DockerEngine, Failure> {
        let choice = Choice {
            engine: Some(Kind::Docker),
            docker_socket: self.docker_socket.clone(),
        };
        match engine::open(&choice, home).await? {
            Engine::Docker(engine) => Ok(engine),
            Engine::Process(_) => Err(Failure::new("the engine of this mesh is not Docker")),
        }
    }
}

/// The network of the workloads, which is made on a host where `mesh up` never was.
async fn network(engine: &DockerEngine, spec: NetworkSpec) -> Result<NetworkSpec, Failure> {
    match engine.network(&spec.name).await {
        Ok(network) => Ok(network),
        Err(RuntimeError::NotFound { .. }) => {
            let made = engine.create_network(&spec).await;
            made.map_err(|error| engine::failed(&error))?;
            Ok(spec)
        }
        Err(error) => Err(engine::failed(&error)),
    }
}
