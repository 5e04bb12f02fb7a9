//! The call by which agents register: one stream for as long as the workload lives.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use mesh_proto::mesh::agent::v1::agents_server::Agents;
use mesh_proto::mesh::agent::v1::{AgentMessage, PilotMessage, Register, agent_message};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::agents::{AgentRegistry, Refused, Registered, Registration};
use super::wire::{describe, read_health, read_workload};
use crate::pilot::caller;
use crate::pilot::cut;

/// Serves `mesh.agent.v1.Agents`.
#[derive(Clone, Debug)]
pub struct AgentsService {
    registry: AgentRegistry,
    stop: CancellationToken,
}

/// One registration stream; ends with it.
#[derive(Debug)]
struct Connected {
    inbound: Streaming<AgentMessage>,
    inbox: mpsc::Receiver<PilotMessage>,
    registration: Registration,
    stop: CancellationToken,
}

/// How long an agent may take to say who it is, once connected.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a version text worth keeping.
const MAX_VERSION: usize = 64;

impl AgentsService {
    /// Registers agents in `registry`; streams end when `stop` is cancelled.
    pub fn new(registry: AgentRegistry, stop: CancellationToken) -> Self {
        Self { registry, stop }
    }
}

#[tonic::async_trait]
impl Agents for AgentsService {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<PilotMessage, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let identity = caller::workload(request.extensions())?;
        let mut inbound = request.into_inner();
        let first = timeout(REGISTER_TIMEOUT, inbound.message());
        let first = first
            .await
            .map_err(|_elapsed| Status::deadline_exceeded("no `register` message came"))??;
        let Some(agent_message::Message::Register(register)) =
            first.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument(
                "the first message must be `register`",
            ));
        };
        let Register {
            workload,
            health,
            mut version,
        } = register;
        let workload = read_workload(&workload.unwrap_or_default())
            .map_err(|problems| Status::invalid_argument(describe("workload", &problems)))?;
        cut(&mut version, MAX_VERSION);
        let registered = Registered {
            workload,
            identity,
            health: read_health(health),
            agent_version: version,
        };
        let text = registered.to_string();
        let (registration, inbox) = self.registry.register(registered).map_err(|refused| {
            info!(error = %refused, "registration refused");
            match refused {
                Refused::OtherAccount { .. } | Refused::OtherAllocation { .. } => {
                    Status::permission_denied(refused.to_string())
                }
                Refused::Taken { .. } => Status::already_exists(refused.to_string()),
            }
        })?;
        debug!(workload = text, "registered");
        let connected = Connected {
            inbound,
            inbox,
            registration,
            stop: self.stop.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(
            Some(connected),
            |connected| async {
                let mut connected = connected?;
                match connected.next().await {
                    Ok(Some(message)) => Some((Ok(message), Some(connected))),
                    Ok(None) => None,
                    Err(status) => Some((Err(status), None)),
                }
            },
        ))))
    }
}

impl Connected {
    /// What to tell the agent next; takes what it says meanwhile.
    async fn next(&mut self) -> Result<Option<PilotMessage>, Status> {
        loop {
            let message = tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("Pilot stops")),
                message = self.inbox.recv() => {
                    return message.map(Some).ok_or_else(|| {
                        Status::aborted("the workload registered anew on another stream")
                    });
                }
                message = self.inbound.message() => message,
            };
            let Some(message) = message? else {
                return Ok(None);
            };
            match message.message {
                Some(agent_message::Message::Health(health)) => {
                    self.registration.set_health(read_health(health));
                }
                Some(agent_message::Message::ConfigDump(dump)) => {
                    let answer = if dump.error.is_empty() {
                        Ok(dump.json)
                    } else {
                        Err(dump.error)
                    };
                    self.registration.answer(dump.request, answer);
                }
                Some(agent_message::Message::Register(_)) => {
                    return Err(Status::invalid_argument(
                        "a stream registers one workload, once",
                    ));
                }
                // A message of a newer agent.
                None => {}
            }
        }
    }
}
