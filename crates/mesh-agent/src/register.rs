//! Registration with every replica of Pilot: a stream to each that lives as long as the workload.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use mesh_identity::{ClientTls, CredentialStore};
use mesh_model::{
    Explicit, Health, Protocol, SpiffeId, Upstream, Workload, WorkloadPort, WorkloadService,
};
use mesh_proto::mesh::agent::v1 as wire;
use mesh_proto::mesh::agent::v1::agents_client::AgentsClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::control_plane::ControlPlane;
use crate::envoy::admin::Admin;
use crate::relay::Registered;

/// What is needed to register.
#[derive(Debug)]
pub(crate) struct Registration {
    /// Who is registered.
    pub(crate) workload: Workload,
    /// Where replicas of Pilot are.
    pub(crate) control: watch::Receiver<ControlPlane>,
    /// Whom a replica must prove to be.
    pub(crate) pilot_identity: SpiffeId,
    /// Own credentials; nothing is tried before there are any.
    pub(crate) store: CredentialStore,
    /// Told at each change.
    pub(crate) health: watch::Receiver<Health>,
    /// Asked for dumps.
    pub(crate) admin: Admin,
    /// Where replicas that hold the registration are told.
    pub(crate) registered: watch::Sender<Registered>,
}

impl Registration {
    /// Keeps a registration with each replica until `stop`.
    ///
    /// A replica that is no longer told of is left when its stream ends, and not before: it may
    /// only be between two registrations of its own, and one that goes says so.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut control = self.control.clone();
        let mut is_told = true;
        let mut kept = BTreeSet::new();
        let mut replicas = FuturesUnordered::new();
        loop {
            for &address in &control.borrow_and_update().pilots {
                if kept.insert(address) {
                    replicas.push(self.keep(address));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = control.changed(), if is_told => is_told = changed.is_ok(),
                Some(address) = replicas.next() => {
                    kept.remove(&address);
                }
            }
        }
    }

    /// One replica, for as long as it is told of.
    async fn keep(&self, address: SocketAddr) -> SocketAddr {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            self.store.ready().await;
            if !self.control.borrow().pilots.contains(&address) {
                info!(pilot = %address, "pilot is not there any more");
                return address;
            }
            let begun = Instant::now();
            let tls = ClientTls::mutual(self.store.clone(), self.pilot_identity.clone());
            let channel = mesh_identity::transport::channel(address, tls);
            let end = self.connect(address, channel).await;
            self.registered
                .send_if_modified(|registered| registered.remove(&address).is_some());
            if begun.elapsed() > STABLE {
                backoff.reset();
            }
            let is_news = backoff.is_fresh();
            let delay = backoff.next_delay();
            let reason =
                end.map_or_else(|status| chain(&status), |()| "pilot closed it".to_owned());
            // A replica that stays down is no news at each attempt.
            if is_news {
                warn!(pilot = %address, reason, retry_in = ?delay, "not registered with pilot");
            } else {
                debug!(pilot = %address, reason, retry_in = ?delay, "not registered with pilot");
            }
            sleep(delay).await;
        }
    }

    /// One stream, until it ends.
    async fn connect(&self, address: SocketAddr, channel: Channel) -> Result<(), Status> {
        let mut health = self.health.clone();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let register = wire::agent_message::Message::Register(wire::Register {
            workload: Some(workload(&self.workload)),
            health: self::health(*health.borrow_and_update()).into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        send(&sender, register).await?;
        let mut client = AgentsClient::new(channel.clone());
        let opening = client.connect(ReceiverStream::new(receiver));
        let mut messages = timeout(PATIENCE, opening)
            .await
            .map_err(|_elapsed| Status::new(Code::DeadlineExceeded, "no answer to the call"))??
            .into_inner();
        let mut held = false;
        let patience = sleep(PATIENCE);
        let mut dumps = FuturesUnordered::new();
        tokio::pin!(patience);
        loop {
            tokio::select! {
                message = messages.message() => match message?.map(|message| message.message) {
                    None => return Ok(()),
                    Some(Some(wire::pilot_message::Message::Registered(_))) => {
                        info!(pilot = %address, "registered with pilot");
                        held = true;
                        self.registered.send_modify(|registered| {
                            registered.insert(address, channel.clone());
                        });
                    }
                    Some(Some(wire::pilot_message::Message::AskConfigDump(ask))) => {
                        if dumps.is_empty() {
                            dumps.push(self.dump(ask.request));
                        } else {
                            send(&sender, refuse(ask.request)).await?;
                        }
                    }
                    // A newer Pilot may say more than this agent understands.
                    Some(None) => debug!(pilot = %address, "an unknown message of pilot"),
                },
                Ok(()) = health.changed() => {
                    let now = *health.borrow_and_update();
                    let change = self::health(now).into();
                    send(&sender, wire::agent_message::Message::Health(change)).await?;
                }
                Some(dump) = dumps.next() => send(&sender, dump).await?,
                () = &mut patience, if !held => {
                    return Err(Status::new(Code::DeadlineExceeded, "pilot does not confirm"));
                }
            }
        }
    }

    async fn dump(&self, request: u64) -> wire::agent_message::Message {
        let (json, error) = match self.admin.config_dump().await {
            Ok(json) => (json, String::new()),
            Err(error) => (bytes::Bytes::new(), error.to_string()),
        };
        wire::agent_message::Message::ConfigDump(wire::ConfigDump {
            request,
            json,
            error,
        })
    }
}

async fn send(
    sender: &mpsc::Sender<wire::AgentMessage>,
    message: wire::agent_message::Message,
) -> Result<(), Status> {
    let message = wire::AgentMessage {
        message: Some(message),
    };
    let sent = sender.send(message).await;
    sent.map_err(|_gone| Status::unavailable("the stream is closed"))
}

fn refuse(request: u64) -> wire::agent_message::Message {
    wire::agent_message::Message::ConfigDump(wire::ConfigDump {
        request,
        error: "another dump is under way".to_owned(),
        ..Default::default()
    })
}

fn health(health: Health) -> wire::Health {
    match health {
        Health::Starting => wire::Health::Starting,
        Health::Healthy => wire::Health::Healthy,
        Health::Unhealthy => wire::Health::Unhealthy,
    }
}

fn workload(workload: &Workload) -> wire::Workload {
    let port = |port: &WorkloadPort| wire::WorkloadPort {
        name: port.name.clone(),
        number: port.number.into(),
        target: port.target.into(),
        protocol: protocol(port.protocol),
        inside: port.inside.unwrap_or(0).into(),
    };
    let service = |service: &WorkloadService| wire::WorkloadService {
        name: service.name.to_string(),
        ports: service.ports.iter().map(port).collect(),
    };
    wire::Workload {
        id: workload.id.to_string(),
        namespace: workload.namespace.to_string(),
        service_account: workload.service_account.to_string(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        labels: workload.labels.clone(),
        services: workload.services.iter().map(service).collect(),
        explicit: workload.explicit.as_ref().map(explicit),
        capture: (!workload.capture.is_usual()).then(|| wire::Capture {
            outbound: workload.capture.outbound.into(),
            inbound: workload.capture.inbound.into(),
        }),
        gateway: workload.gateway,
    }
}

fn explicit(explicit: &Explicit) -> wire::Explicit {
    let upstream = |upstream: &Upstream| wire::Upstream {
        name: upstream.name.clone(),
        port: upstream.port.into(),
        listen: upstream.listen.to_string(),
    };
    let inbound = explicit.inbound.iter();
    wire::Explicit {
        inbound: inbound
            .map(|(target, port)| (u32::from(*target), u32::from(*port)))
            .collect(),
        upstreams: explicit.upstreams.iter().map(upstream).collect(),
    }
}

/// The name of a protocol, as the configuration spells it.
fn protocol(protocol: Protocol) -> String {
    match serde_json::to_value(protocol) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// What a failed call says, with its causes: the transport's own text alone is "transport error".
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        // Some layers repeat the cause in their own message.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Messages that wait for the transport; more would wait for a Pilot that does not read.
const QUEUE: usize = 16;
/// How long Pilot may take to answer the call and to confirm.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first attempt after a loss; spread, so that a returning Pilot is not stormed.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// A returning Pilot has everybody again within this time.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A stream that lasted this long was a good one.
const STABLE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_told_as_it_was_configured() {
        let configured: Workload = serde_json::from_value(serde_json::json!({
            "id": "shop/web-1",
            "namespace": "shop",
            "service_account": "web",
            "addresses": ["10.213.0.2", "fd00::2"],
            "labels": { "version": "v2" },
            "services": [{ "name": "web", "ports": [
                { "name": "http", "number": 80, "target": 8080, "protocol": "http" },
            ] }],
            "explicit": { "inbound": { "8080": 15100 }, "upstreams": [
                { "name": "reviews", "port": 9080, "listen": "127.0.0.1:15200" },
            ] },
        }))
        .unwrap();
        let told = workload(&configured);
        assert_eq!(told.addresses, ["10.213.0.2", "fd00::2"]);
        assert_eq!(told.services[0].ports[0].protocol, "http");
        assert_eq!(told.services[0].ports[0].target, 8080);
        let explicit = told.explicit.unwrap();
        assert_eq!(explicit.inbound, [(8080, 15100)].into());
        assert_eq!(explicit.upstreams[0].listen, "127.0.0.1:15200");
    }
}
