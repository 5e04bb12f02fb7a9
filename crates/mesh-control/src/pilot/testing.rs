//! Connections in memory whose other end is who a test says it is, and agents that register.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use mesh_identity::{Connection, Peer};
use mesh_model::Workload;
use mesh_proto::mesh::agent::v1::agents_client::AgentsClient;
use mesh_proto::mesh::agent::v1::{
    AgentMessage, PilotMessage, Register, agent_message, pilot_message,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Status, Streaming};

use crate::pilot::registry::wire::write_workload;

/// Makes connections to a server.
pub(super) struct Dialer {
    connections: mpsc::UnboundedSender<io::Result<Wire>>,
}

/// The registration stream of a test's agent.
pub(super) struct Agent {
    pub(super) messages: mpsc::Sender<AgentMessage>,
    pub(super) answers: Streaming<PilotMessage>,
}

/// A connection whose other end has proven who it is.
struct Wire {
    stream: DuplexStream,
    connection: Connection,
}

impl Dialer {
    /// Serves until `stop`.
    pub(super) fn serve(routes: Routes, stop: &CancellationToken) -> Self {
        let (connections, incoming) = mpsc::unbounded_channel();
        let server = Server::builder()
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                UnboundedReceiverStream::new(incoming),
                stop.clone().cancelled_owned(),
            );
        tokio::spawn(server);
        Self { connections }
    }

    /// A channel of a client that has proven to be `peer`.
    pub(super) fn channel(&self, peer: &Peer) -> Channel {
        let connections = self.connections.clone();
        let connection = Connection {
            peer: peer.clone(),
            remote: ([127, 0, 0, 1], 1).into(),
            certificate: None,
        };
        let connect = tower::service_fn(move |_uri| {
            let (ours, theirs) = tokio::io::duplex(16 * 1024);
            let wire = Wire {
                stream: theirs,
                connection: connection.clone(),
            };
            let sent = connections.send(Ok(wire)).map_err(io::Error::other);
            async move { sent.map(|()| TokioIo::new(ours)) }
        });
        Endpoint::from_static("http://pilot").connect_with_connector_lazy(connect)
    }
}

impl Agent {
    /// Registers a workload as healthy.
    pub(super) async fn register(channel: Channel, workload: &Workload) -> Result<Self, Status> {
        let (messages, outbound) = mpsc::channel(8);
        let register = Register {
            workload: Some(write_workload(workload)),
            health: 1,
            version: "1.2.3".to_owned(),
        };
        let first = AgentMessage {
            message: Some(agent_message::Message::Register(register)),
        };
        messages.send(first).await.unwrap();
        let mut client = AgentsClient::new(channel);
        let answers = client.connect(ReceiverStream::new(outbound)).await?;
        let mut answers = answers.into_inner();
        let first = answers.message().await?.unwrap().message.unwrap();
        assert!(matches!(first, pilot_message::Message::Registered(_)));
        Ok(Self { messages, answers })
    }
}

impl Connected for Wire {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
