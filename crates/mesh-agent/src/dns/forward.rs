//! Questions to the upstream servers: from a fresh port, under a fresh id, and only their answer counts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Header, MessageType, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tracing::debug;

use super::answer::{Transport, failure, payload};
use crate::backoff::random;

/// The servers that are asked for names outside the mesh.
#[derive(Debug)]
pub(super) struct Upstream {
    /// In the order in which they are asked.
    pub(super) servers: Vec<SocketAddr>,
    /// How long each may take.
    pub(super) patience: Duration,
}

impl Upstream {
    /// The answer to `query` by the first server that gives one; else one that says that there is none.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        if self.servers.is_empty() {
            return failure(query, ResponseCode::Refused);
        }
        for &server in &self.servers {
            match timeout(self.patience, ask(server, query, transport)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => debug!(%server, %error, "no answer from the upstream server"),
                Err(_elapsed) => debug!(%server, "no answer from the upstream server in time"),
            }
        }
        failure(query, ResponseCode::ServFail)
    }
}

async fn ask(server: SocketAddr, query: &[u8], transport: Transport) -> std::io::Result<Vec<u8>> {
    if transport == Transport::Tcp {
        return by_tcp(server, query).await;
    }
    let answer = by_udp(server, query).await?;
    if !is_truncated(&answer) {
        return Ok(answer);
    }
    // What fits by tcp may fit into the client's datagram too, whose limit may be above the server's.
    match by_tcp(server, query).await {
        Ok(whole) if whole.len() <= usize::from(payload(query)) => Ok(whole),
        _ => Ok(answer),
    }
}

async fn by_udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    // A socket for each question: the kernel chooses the port, and passes on what comes from the server only.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let question = Question::new(query)?;
    socket.send(&question.bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        // A wrong answer may be a forged one: the right one may still come.
        if let Some(answer) = question.accept(answer) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let question = Question::new(query)?;
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.bytes.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&question.bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    question
        .accept(&answer)
        .ok_or_else(|| std::io::Error::other("the answer is to another question"))
}

/// A query under an id of our own.
struct Question {
    bytes: Vec<u8>,
    clients_id: [u8; 2],
    id: u16,
    query: Query,
}

impl Question {
    fn new(query: &[u8]) -> std::io::Result<Self> {
        let id = u16::try_from(random() & 0xffff).unwrap_or_default();
        let (header, parsed) = parse(query).ok_or_else(|| std::io::Error::other("not a query"))?;
        let mut bytes = query.to_vec();
        for (to, from) in bytes.iter_mut().zip(id.to_be_bytes()) {
            *to = from;
        }
        Ok(Self {
            bytes,
            clients_id: header.metadata.id.to_be_bytes(),
            id,
            query: parsed,
        })
    }

    /// The answer with the client's id, if it is one to this question.
    fn accept(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let (header, query) = parse(answer)?;
        let fits = header.metadata.message_type == MessageType::Response
            && header.metadata.id == self.id
            && query == self.query;
        if !fits {
            return None;
        }
        let mut answer = answer.to_vec();
        for (to, from) in answer.iter_mut().zip(self.clients_id) {
            *to = from;
        }
        Some(answer)
    }
}

fn parse(message: &[u8]) -> Option<(Header, Query)> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    let query = Query::read(&mut decoder).ok()?;
    (header.counts.queries == 1).then_some((header, query))
}

fn is_truncated(message: &[u8]) -> bool {
    parse(message).is_some_and(|(header, _)| header.metadata.truncation)
}

#[cfg(test)]
mod tests;
