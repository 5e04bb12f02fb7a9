//! DNS of the sidecar: names of the mesh out of the name table, the rest from upstream, on loopback only.

mod answer;
mod forward;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::Namespace;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::names::NameTable;
use answer::{Decision, Transport, decide};
use forward::Upstream;

/// The sockets of the server, bound.
#[derive(Debug)]
pub(crate) struct Listeners {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// The server.
#[derive(Debug)]
pub(crate) struct Dns {
    names: watch::Receiver<Arc<NameTable>>,
    namespace: Namespace,
    upstream: Upstream,
    /// Questions under way upstream.
    questions: Arc<Semaphore>,
    /// Open connections by tcp.
    connections: Arc<Semaphore>,
}

impl Listeners {
    /// Binds udp and tcp on both loopback addresses. A machine without IPv6 has one of them.
    ///
    /// # Errors
    ///
    /// The address that could not be bound, and why.
    pub(crate) async fn bind(port: u16) -> Result<Self, (SocketAddr, io::Error)> {
        let mut listeners = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        listeners.add(v4).await.map_err(|error| (v4, error))?;
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        match listeners.add(v6).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                debug!("no DNS on ::1, this machine has no IPv6");
            }
            Err(error) => return Err((v6, error)),
            Ok(()) => {}
        }
        Ok(listeners)
    }

    async fn add(&mut self, address: SocketAddr) -> io::Result<()> {
        let udp = UdpSocket::bind(address).await?;
        self.tcp.push(TcpListener::bind(address).await?);
        self.udp.push(udp);
        Ok(())
    }
}

impl Dns {
    /// A server for a workload of `namespace`, that asks `servers` for what it does not know.
    pub(crate) fn new(
        names: watch::Receiver<Arc<NameTable>>,
        namespace: Namespace,
        servers: Vec<SocketAddr>,
    ) -> Self {
        Self {
            names,
            namespace,
            upstream: Upstream {
                servers,
                patience: UPSTREAM_PATIENCE,
            },
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    /// Serves until `stop`.
    pub(crate) async fn run(self, listeners: Listeners, stop: CancellationToken) {
        let dns = Arc::new(self);
        let mut tasks = JoinSet::new();
        for socket in listeners.udp {
            tasks.spawn(Arc::clone(&dns).serve_udp(Arc::new(socket)));
        }
        for listener in listeners.tcp {
            tasks.spawn(Arc::clone(&dns).serve_tcp(listener));
        }
        // Dropping the set ends what it holds, and with it the sets of each.
        stop.cancelled().await;
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut forwards = JoinSet::new();
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            while forwards.try_join_next().is_some() {}
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error about an earlier answer comes here too.
                    debug!(%error, "cannot receive a query");
                    continue;
                }
            };
            let query = buffer.get(..length).unwrap_or_default();
            match self.decide(query, Transport::Udp) {
                Decision::Answer(answer) => reply(&socket, &answer, client).await,
                Decision::Drop => {}
                Decision::Forward => {
                    let Ok(permit) = Arc::clone(&self.questions).try_acquire_owned() else {
                        // More than can be asked at once: the client tries again.
                        debug!(%client, "too many questions are under way");
                        continue;
                    };
                    let forward = Arc::clone(&self).forward_udp(
                        Arc::clone(&socket),
                        query.to_vec(),
                        client,
                        permit,
                    );
                    forwards.spawn(forward);
                }
            }
        }
    }

    async fn forward_udp(
        self: Arc<Self>,
        socket: Arc<UdpSocket>,
        query: Vec<u8>,
        client: SocketAddr,
        _permit: OwnedSemaphorePermit,
    ) {
        if let Some(answer) = self.upstream.ask(&query, Transport::Udp).await {
            reply(&socket, &answer, client).await;
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut clients = JoinSet::new();
        loop {
            while clients.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, client)) => {
                    let dns = Arc::clone(&self);
                    clients.spawn(async move {
                        if let Err(error) = dns.serve_client(stream).await {
                            debug!(%client, %error, "a connection for DNS broke");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for DNS");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Queries by tcp, one after the other: RFC 7766 with a short patience.
    async fn serve_client(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = match timeout(CLIENT_PATIENCE, stream.read_u16()).await {
                Ok(Ok(length)) => length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => return Ok(()),
            };
            let mut query = vec![0; usize::from(length)];
            timeout(CLIENT_PATIENCE, stream.read_exact(&mut query)).await??;
            let answer = match self.decide(&query, Transport::Tcp) {
                Decision::Answer(answer) => Some(answer),
                Decision::Drop => None,
                Decision::Forward => self.upstream.ask(&query, Transport::Tcp).await,
            };
            let Some(answer) = answer else {
                return Ok(());
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            timeout(CLIENT_PATIENCE, stream.write_all(&framed)).await??;
        }
    }

    fn decide(&self, query: &[u8], transport: Transport) -> Decision {
        let names = Arc::clone(&self.names.borrow());
        decide(&names, self.namespace.as_str(), transport, query)
    }
}

async fn reply(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        debug!(%client, %error, "cannot send an answer");
    }
}

/// Resolvers wait 5 s: two servers can be asked in that time.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(2);
/// Each holds a socket and a buffer of 64 KiB.
const QUESTIONS_MAX: usize = 256;
/// Clients by tcp; more wait in the backlog.
const CONNECTIONS_MAX: usize = 64;
/// How long a client by tcp may be silent.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// Longer queries do not occur.
const DATAGRAM_MAX: usize = 4096;
/// After an error of `accept` that is not a connection's own.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    #[tokio::test]
    async fn names_are_answered_by_udp_and_tcp_as_soon_as_they_are_known() {
        let listeners = Listeners::bind(0).await.unwrap();
        let udp = listeners.udp[0].local_addr().unwrap();
        let tcp = listeners.tcp[0].local_addr().unwrap();
        let table = NameTable::of(&[("web.shop.mesh", &["240.240.0.1"])]);
        let (sender, names) = watch::channel(Arc::new(NameTable::default()));
        sender.send_replace(Arc::new(table));
        let dns = Dns::new(names, "shop".parse().unwrap(), Vec::new());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(dns.run(listeners, stop.clone()));

        let mut query = Message::new(9, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii("web.").unwrap();
        query.add_query(Query::query(name, RecordType::A));
        let query = query.to_vec().unwrap();
        let is_answer = |bytes: &[u8]| {
            let message = Message::from_vec(bytes).unwrap();
            message.metadata.id == 9 && message.answers[0].data.to_string() == "240.240.0.1"
        };

        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&query, udp).await.unwrap();
        let mut buffer = [0; 512];
        let length = client.recv(&mut buffer).await.unwrap();
        assert!(is_answer(&buffer[..length]));

        let mut client = TcpStream::connect(tcp).await.unwrap();
        for _ in 0..2 {
            let length = u16::try_from(query.len()).unwrap();
            client.write_u16(length).await.unwrap();
            client.write_all(&query).await.unwrap();
            let mut answer = vec![0; usize::from(client.read_u16().await.unwrap())];
            client.read_exact(&mut answer).await.unwrap();
            assert!(is_answer(&answer));
        }
        stop.cancel();
        serving.await.unwrap();
    }
}
