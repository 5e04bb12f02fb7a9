//! Waiting for a unit of the Docker engine, and asking whether it is ready.
//!
//! The daemon's own health checks ask once a second at most, from the beginning; so the engine asks
//! itself, from inside the namespace, as often as the process engine's supervisors do.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bollard::query_parameters::WaitContainerOptions;
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::Engine;
use super::group::Owner;
use super::unit::Container;
use crate::process::netns;
use crate::process::supervisor::readiness;
use crate::{Attachment, Check, Name, RuntimeError, UnitState, UnitStatus};

impl Engine {
    pub(super) async fn wait_ready(
        &self,
        group: &Name,
        unit: &Name,
        limit: Duration,
    ) -> Result<UnitStatus, RuntimeError> {
        let began = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            let status = self.status(group, unit).await?;
            if status.ready {
                return Ok(status);
            }
            if !status.state.is_active() {
                return Err(RuntimeError::Ended {
                    group: group.clone(),
                    unit: unit.clone(),
                    state: status.state,
                });
            }
            let waited = began.elapsed();
            if waited >= limit {
                return Err(RuntimeError::NotReady {
                    group: group.clone(),
                    unit: unit.clone(),
                    waited,
                    state: status.state,
                });
            }
            sleep(wait.min(limit.saturating_sub(waited))).await;
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }

    pub(super) async fn wait_ended(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<UnitStatus, RuntimeError> {
        loop {
            let container = self.container_of(group, unit).await?;
            let status = self.status(group, unit).await?;
            if !status.state.is_active() {
                return Ok(status);
            }
            let options = WaitContainerOptions {
                condition: "not-running".to_owned(),
            };
            let mut ends = Box::pin(self.daemon.api.wait_container(&container.id, Some(options)));
            match ends.next().await {
                // An exit code that is not 0 comes as an error; the next look tells it better.
                None
                | Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => {}
                Some(Err(error)) => {
                    let action = format!("wait for unit `{unit}`");
                    return Err(self.daemon.failed(action, error));
                }
            }
            // Between two runs the daemon answers at once.
            if matches!(status.state, UnitState::Waiting { .. }) {
                sleep(LONGEST_WAIT).await;
            }
        }
    }

    /// Asks a running unit whether it can be used. What cannot be asked is not ready.
    pub(super) async fn is_ready(&self, container: &Container, owner: &Owner) -> bool {
        let Some(readiness) = &container.spec.readiness else {
            return true;
        };
        let answer = async {
            match &readiness.check {
                Check::Http { port, path } => {
                    self.answers(owner, *port, path, readiness.timeout).await
                }
                Check::Command(command) => {
                    let output = self.run_in(container, command).await;
                    output.is_ok_and(|output| output.exit.is_success())
                }
            }
        };
        timeout(readiness.timeout, answer).await.unwrap_or(false)
    }

    async fn answers(&self, owner: &Owner, port: u16, path: &str, limit: Duration) -> bool {
        let path = path.to_owned();
        let ask = move || http(port, &path, limit);
        let status = match owner.group.spec.attachment {
            // The daemon's host is this machine, so that is where we are.
            Attachment::Host => super::blocking(move || Ok(ask())).await,
            Attachment::Network(_) | Attachment::Container { .. } => {
                owner
                    .within(move |namespace| {
                        Ok(netns::within(Some(namespace), ask).and_then(|asked| asked))
                    })
                    .await
            }
        };
        status.is_ok_and(|status| status.is_ok_and(|status| (200..300).contains(&status)))
    }
}

/// The status of a `GET` on loopback, as far as its first line tells it.
fn http(port: u16, path: &str, limit: Duration) -> io::Result<u16> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(readiness::request(port, path).as_bytes())?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    readiness::status(&start).ok_or_else(|| io::Error::other("the answer is not HTTP/1"))
}

/// Between the first two questions.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// Between two questions, while the answer is no.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
