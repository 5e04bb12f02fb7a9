//! The stream of access logs that each proxy keeps open.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_identity::Connection;
use mesh_model::SpiffeId;
use mesh_proto::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use mesh_proto::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use mesh_proto::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::metrics::Metrics;
use super::sample::{Reporter, Sample};

/// Takes Envoy's access logs.
#[derive(Debug)]
pub struct AccessLogs {
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

/// What is known of one stream: the side is told once, and connections that began may end.
#[derive(Debug)]
struct Log {
    identity: SpiffeId,
    reporter: Option<Reporter>,
    open: HashSet<String>,
}

/// Connections that one stream may have open at a time; of more, the beginning counts at the end.
const MAX_OPEN: usize = 65_536;

impl AccessLogs {
    /// Counts into `metrics` until `stop`.
    pub fn new(metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Self { metrics, stop }
    }

    /// The service, for the routes of a server whose connections are
    /// [`mesh_identity::transport::TlsConnection`]s.
    pub fn into_server(self) -> AccessLogServiceServer<Self> {
        AccessLogServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl AccessLogService for AccessLogs {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let identity = request
            .extensions()
            .get::<Connection>()
            .and_then(|connection| connection.peer.workload())
            .cloned()
            .ok_or_else(|| Status::unauthenticated("show the certificate of a workload"))?;
        let mut log = Log {
            identity,
            reporter: None,
            open: HashSet::new(),
        };
        let mut messages = request.into_inner();
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                () = self.stop.cancelled() => None,
            };
            match message {
                Some(message) => log.take(message, &self.metrics)?,
                None => return Ok(Response::new(StreamAccessLogsResponse {})),
            }
        }
    }
}

impl Log {
    fn take(&mut self, message: StreamAccessLogsMessage, metrics: &Metrics) -> Result<(), Status> {
        // The first message names the log, and only that one.
        if let Some(identifier) = &message.identifier {
            let name = &identifier.log_name;
            let reporter = Reporter::of_log(name).ok_or_else(|| {
                Status::invalid_argument(format!(
                    "log name `{name}` is neither `inbound` nor `outbound`"
                ))
            })?;
            self.reporter = Some(reporter);
        }
        let reporter = self
            .reporter
            .ok_or_else(|| Status::invalid_argument("the first message names no log"))?;
        match message.log_entries {
            Some(LogEntries::HttpLogs(logs)) => {
                for entry in &logs.log_entry {
                    if let Some(sample) = Sample::of_http(entry, reporter, &self.identity) {
                        metrics.record(&self.identity, sample, false);
                    }
                }
            }
            Some(LogEntries::TcpLogs(logs)) => {
                for entry in &logs.log_entry {
                    if let Some(sample) = Sample::of_tcp(entry, reporter, &self.identity) {
                        self.connection(sample, metrics);
                    }
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Each connection begins once: at its first report, whichever that is.
    fn connection(&mut self, sample: Sample, metrics: &Metrics) {
        let begins = match &sample {
            Sample::Opened { stream_id, .. } => {
                // Without an id or room its end could not be recognized.
                if stream_id.is_empty() || self.open.len() >= MAX_OPEN {
                    return;
                }
                if !self.open.insert(stream_id.clone()) {
                    return;
                }
                false
            }
            Sample::Closed { stream_id, .. } => !self.open.remove(stream_id),
            Sample::Request { .. } => false,
        };
        metrics.record(&self.identity, sample, begins);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mesh_identity::testing::Authority;
    use mesh_identity::tls::Clients;
    use mesh_identity::transport::{HandshakeLimits, TlsIncoming, channel};
    use mesh_identity::{ClientTls, ServerTls};
    use mesh_proto::envoy::data::accesslog::v3::{
        AccessLogCommon, AccessLogType, TcpAccessLogEntry,
    };
    use mesh_proto::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
    use mesh_proto::envoy::service::accesslog::v3::stream_access_logs_message::{
        HttpAccessLogEntries, Identifier, TcpAccessLogEntries,
    };
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tonic::Code;
    use tonic::client::Grpc;
    use tonic::codegen::http::uri::PathAndQuery;
    use tonic::transport::Channel;

    use super::super::metrics::Bounds;
    use super::super::sample::tests::{DETAILS, PRODUCTPAGE, common, request};
    use super::*;

    const MIXER: &str = "spiffe://cluster.local/ns/mesh-system/sa/mixer";

    struct Mesh {
        registry: Registry,
        channel: Channel,
        stop: CancellationToken,
        _tasks: JoinSet<()>,
    }

    async fn mesh() -> Mesh {
        let authority = Authority::new();
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::new(Bounds::default(), &mut registry));
        let stop = CancellationToken::new();
        let service = AccessLogs::new(metrics, stop.clone()).into_server();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTls::new(authority.store(MIXER), Clients::Workloads);
        let incoming = TlsIncoming::new(listener, tls, HandshakeLimits::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let proxy = ClientTls::mutual(authority.store(PRODUCTPAGE), MIXER.parse().unwrap());
        Mesh {
            registry,
            channel: channel(address, proxy),
            stop,
            _tasks: tasks,
        }
    }

    fn message(name: Option<&str>, entries: LogEntries) -> StreamAccessLogsMessage {
        StreamAccessLogsMessage {
            identifier: name.map(|name| Identifier {
                log_name: name.to_owned(),
                node: None,
            }),
            log_entries: Some(entries),
        }
    }

    fn http(code: u32) -> LogEntries {
        let tags = [("peer", DETAILS), ("service", "details.shop.mesh")];
        LogEntries::HttpLogs(HttpAccessLogEntries {
            log_entry: vec![request(&tags, code)],
        })
    }

    fn lines(registry: &Registry, start: &str) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn the_reporter_is_who_the_connection_proves() {
        let mesh = mesh().await;
        let messages = vec![
            message(Some("outbound"), http(200)),
            message(None, http(200)),
        ];
        AccessLogServiceClient::new(mesh.channel.clone())
            .stream_access_logs(tokio_stream::iter(messages))
            .await
            .unwrap();
        let found = lines(&mesh.registry, "istio_requests_total{");
        let [line] = found.as_slice() else {
            panic!("expected one line, found {found:?}");
        };
        assert!(line.contains(&format!("source_principal=\"{PRODUCTPAGE}\"")));
        assert!(line.contains(&format!("destination_principal=\"{DETAILS}\"")));
        assert!(line.ends_with("} 2"), "{line}");
    }

    #[tokio::test]
    async fn a_log_without_a_known_side_is_refused() {
        let mesh = mesh().await;
        for name in [None, Some(""), Some("sideways")] {
            let messages = vec![message(name, http(200))];
            let refused = AccessLogServiceClient::new(mesh.channel.clone())
                .stream_access_logs(tokio_stream::iter(messages))
                .await
                .unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        assert_eq!(lines(&mesh.registry, "istio_requests_total{").len(), 0);
    }

    #[tokio::test]
    async fn a_stream_that_stays_open_ends_with_the_server() {
        let mesh = mesh().await;
        let (sender, messages) = tokio::sync::mpsc::channel(1);
        sender
            .send(message(Some("outbound"), http(200)))
            .await
            .unwrap();
        let mut client = AccessLogServiceClient::new(mesh.channel.clone());
        let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
        let call = client.stream_access_logs(stream);
        mesh.stop.cancel();
        assert!(call.await.is_ok());
        drop(sender);
    }

    #[test]
    fn each_connection_begins_once() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(Bounds::default(), &mut registry);
        let mut log = Log {
            identity: PRODUCTPAGE.parse().unwrap(),
            reporter: Some(Reporter::Source),
            open: HashSet::new(),
        };
        let entry = |id: &str, kind: AccessLogType| TcpAccessLogEntry {
            common_properties: Some(AccessLogCommon {
                stream_id: id.to_owned(),
                access_log_type: kind.into(),
                ..common(&[("peer", DETAILS)])
            }),
            connection_properties: None,
        };
        let entries = vec![
            entry("1", AccessLogType::TcpConnectionStart),
            entry("1", AccessLogType::TcpUpstreamConnected),
            entry("1", AccessLogType::TcpConnectionEnd),
            entry("2", AccessLogType::TcpConnectionEnd),
            entry("", AccessLogType::TcpConnectionStart),
            entry("", AccessLogType::TcpConnectionEnd),
            entry("3", AccessLogType::TcpConnectionStart),
        ];
        let logs = TcpAccessLogEntries { log_entry: entries };
        log.take(message(None, LogEntries::TcpLogs(logs)), &metrics)
            .unwrap();
        let value = |name: &str| lines(&registry, name).concat();
        assert!(value("istio_tcp_connections_opened_total{").ends_with("} 4"));
        assert!(value("istio_tcp_connections_closed_total{").ends_with("} 3"));
    }

    /// Envoy asks these at addresses that an operator may point here.
    #[tokio::test]
    async fn checks_and_quotas_are_unimplemented() {
        let mesh = mesh().await;
        for path in [
            "/envoy.service.auth.v3.Authorization/Check",
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        ] {
            let mut grpc = Grpc::new(mesh.channel.clone());
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<StreamAccessLogsMessage, StreamAccessLogsResponse>::default();
            let answer = grpc
                .unary(
                    Request::new(StreamAccessLogsMessage::default()),
                    PathAndQuery::from_static(path),
                    codec,
                )
                .await;
            assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
        }
    }
}
