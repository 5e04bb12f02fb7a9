//! The daemon at the other end of the socket: connecting, its version, what its errors mean.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::time::sleep;

use crate::RuntimeError;

/// A daemon that answers and is new enough.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    pub(super) api: Docker,
    socket: PathBuf,
    /// Its processors, as in `amd64`.
    pub(super) architecture: String,
    /// Podman takes the same calls and knows fewer options.
    pub(super) is_podman: bool,
}

/// The oldest API version that has what the engine uses: that of Docker 20.10.
const NEEDED: (usize, usize) = (1, 41);
const NEEDED_TEXT: &str = "1.41";

/// How long the daemon may take to answer, in seconds. It copies and unpacks meanwhile.
const PATIENCE: u64 = 120;

// === impl Daemon ===

impl Daemon {
    pub(super) async fn connect(socket: &Path) -> Result<Self, RuntimeError> {
        let away = |source: Error| RuntimeError::NoDaemon {
            socket: socket.to_path_buf(),
            source: source.into(),
        };
        let api =
            Docker::connect_with_unix(&socket.display().to_string(), PATIENCE, API_DEFAULT_VERSION)
                .map_err(away)?;
        let api = api.negotiate_version().await.map_err(away)?;
        let version = api.client_version();
        if (version.major_version, version.minor_version) < NEEDED {
            return Err(RuntimeError::OldDaemon {
                found: version.to_string(),
                needed: NEEDED_TEXT,
            });
        }
        let told = api.version().await.map_err(away)?;
        let components = told.components.unwrap_or_default();
        Ok(Self {
            api,
            socket: socket.to_path_buf(),
            architecture: told.arch.unwrap_or_default(),
            is_podman: components.iter().any(|it| it.name.contains("Podman")),
        })
    }

    /// Looks at a container. Each look at containers goes through here or [`Daemon::list`].
    pub(super) async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse, Error> {
        let began = Instant::now();
        loop {
            let told = self
                .api
                .inspect_container(id, None::<InspectContainerOptions>)
                .await;
            if !is_between(&told) || began.elapsed() > CLEANUP {
                return told;
            }
            sleep(AGAIN).await;
        }
    }

    /// All containers that fit.
    pub(super) async fn list(
        &self,
        options: ListContainersOptions,
    ) -> Result<Vec<ContainerSummary>, Error> {
        let began = Instant::now();
        loop {
            let told = self.api.list_containers(Some(options.clone())).await;
            if !is_between(&told) || began.elapsed() > CLEANUP {
                return told;
            }
            sleep(AGAIN).await;
        }
    }

    /// What an error of a call means.
    pub(super) fn failed(&self, action: impl Into<String>, source: Error) -> RuntimeError {
        let action = action.into();
        if message(&source).is_some_and(|it| it.contains("no space left on device")) {
            return RuntimeError::DiskFull {
                action,
                source: source.into(),
            };
        }
        match source {
            Error::SocketNotFoundError(_)
            | Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. } => RuntimeError::NoDaemon {
                socket: self.socket.clone(),
                source: source.into(),
            },
            source => RuntimeError::Daemon {
                action,
                source: source.into(),
            },
        }
    }
}

/// Whether podman told of a container between its end and its cleanup: it is `stopped` then, which
/// Docker's API does not have.
fn is_between<T>(told: &Result<T, Error>) -> bool {
    matches!(told, Err(Error::JsonDataError { message, .. }) if message.contains("`stopped`"))
}

/// Between two looks at a container that is cleaned up.
const AGAIN: Duration = Duration::from_millis(20);

/// Far longer than podman needs to clean up after a container.
const CLEANUP: Duration = Duration::from_secs(20);

/// The HTTP status of an answer that is an error.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What the daemon said, in its own words.
pub(super) fn message(error: &Error) -> Option<&str> {
    match error {
        Error::DockerResponseServerError { message, .. } => Some(message),
        Error::DockerStreamError { error } => Some(error),
        _ => None,
    }
}

/// What is there, or nothing where the daemon says that it is not.
pub(super) fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}
