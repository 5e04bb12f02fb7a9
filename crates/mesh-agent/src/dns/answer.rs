//! What becomes of a DNS query: an answer out of the name table, a question to somebody else, or silence.
//!
//! A name of the mesh is looked for in every form in which a resolver may ask:
//! `reviews`, `reviews.<ns>`, `reviews.<ns>.svc`, the host itself, and each with the search domains
//! of the workload's namespace appended, because resolvers append them before they ask plainly.

use std::net::IpAddr;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use crate::names::NameTable;

/// Seconds for which an answer may be kept: a virtual address stays with its host for a day.
const TTL_SECONDS: u32 = 10;
/// What a client without EDNS takes by udp: RFC 1035, 4.2.1.
const PLAIN_PAYLOAD: u16 = 512;
/// What we say that we take by udp: no fragments on any link.
const OWN_PAYLOAD: u16 = 1232;

/// By what a query came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    /// A datagram, which limits the answer.
    Udp,
    /// A stream.
    Tcp,
}

/// What becomes of a query.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Decision {
    /// This is the answer.
    Answer(Vec<u8>),
    /// It is no name of the mesh: the upstream server is to be asked.
    Forward,
    /// It is no query, and an answer could begin a loop.
    Drop,
}

/// A name as the table sees it.
#[derive(Debug, Eq, PartialEq)]
enum Found<'a> {
    /// A host of the mesh.
    Host(&'a [IpAddr]),
    /// Under the domain of the mesh, and there is none.
    Nothing,
    /// No matter of the mesh.
    Foreign,
}

/// Decides about one query of a workload in `namespace`.
pub(crate) fn decide(
    table: &NameTable,
    namespace: &str,
    transport: Transport,
    query: &[u8],
) -> Decision {
    let mut decoder = BinDecoder::new(query);
    let Ok(header) = Header::read(&mut decoder) else {
        return Decision::Drop;
    };
    if header.metadata.message_type == MessageType::Response {
        return Decision::Drop;
    }
    if header.metadata.op_code != OpCode::Query {
        return encode(&Message::error_msg(
            header.metadata.id,
            header.metadata.op_code,
            ResponseCode::NotImp,
        ));
    }
    let question = (header.counts.queries == 1)
        .then(|| Query::read(&mut decoder).ok())
        .flatten();
    let Some(question) = question else {
        return encode(&Message::error_msg(
            header.metadata.id,
            OpCode::Query,
            ResponseCode::FormErr,
        ));
    };
    if question.query_class() != DNSClass::IN {
        return Decision::Forward;
    }
    let name = question.name().to_ascii().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let mut message = Message::new(header.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata = Metadata::response_from_request(&header.metadata);
    message.metadata.recursion_available = true;
    match find(table, namespace, name) {
        Found::Foreign => return Decision::Forward,
        Found::Host(addresses) => {
            message.metadata.authoritative = true;
            message.add_answers(records(&question, addresses));
        }
        // Before the table came, nothing can be said not to exist.
        Found::Nothing if !table.is_complete() => {
            message.metadata.response_code = ResponseCode::ServFail;
        }
        Found::Nothing => {
            message.metadata.authoritative = true;
            message.metadata.response_code = ResponseCode::NXDomain;
        }
    }
    message.add_query(question);
    finish(message, transport, query)
}

/// An answer that says only that there is none, to a query that `decide` said to forward.
pub(super) fn failure(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut decoder = BinDecoder::new(query);
    let header = Header::read(&mut decoder).ok()?;
    let question = Query::read(&mut decoder).ok()?;
    let mut message = Message::new(header.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata = Metadata::response_from_request(&header.metadata);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_query(question);
    message.to_vec().ok()
}

/// The most bytes that the sender of `query` takes by udp.
pub(super) fn payload(query: &[u8]) -> u16 {
    edns(query).map_or(PLAIN_PAYLOAD, |edns| edns.max_payload().max(PLAIN_PAYLOAD))
}

fn edns(query: &[u8]) -> Option<Edns> {
    Message::from_vec(query).ok()?.edns
}

fn finish(mut message: Message, transport: Transport, query: &[u8]) -> Decision {
    // RFC 6891, 6.1.1: an answer has EDNS exactly if the query had.
    let asked = edns(query);
    let limit = match (transport, &asked) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PLAIN_PAYLOAD,
        (Transport::Udp, Some(edns)) => edns.max_payload().max(PLAIN_PAYLOAD),
    };
    if asked.is_some() {
        let mut own = Edns::new();
        own.set_max_payload(OWN_PAYLOAD);
        message.set_edns(own);
    }
    match message.to_vec() {
        Ok(bytes) if bytes.len() > usize::from(limit) => encode(&message.truncate()),
        Ok(bytes) => Decision::Answer(bytes),
        Err(_) => Decision::Drop,
    }
}

fn encode(message: &Message) -> Decision {
    message.to_vec().map_or(Decision::Drop, Decision::Answer)
}

fn records(question: &Query, addresses: &[IpAddr]) -> Vec<Record> {
    let data = addresses
        .iter()
        .filter_map(|address| match (question.query_type(), address) {
            (RecordType::A, IpAddr::V4(address)) => Some(RData::A(A(*address))),
            (RecordType::AAAA, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(*address))),
            _ => None,
        });
    data.map(|data| Record::from_rdata(question.name().clone(), TTL_SECONDS, data))
        .collect()
}

/// Looks for a name, in lower case and without its final dot, in every form.
fn find<'a>(table: &'a NameTable, namespace: &str, name: &str) -> Found<'a> {
    if let Some(addresses) = in_any_form(table, namespace, name) {
        return Found::Host(addresses);
    }
    let domains = [
        format!(".{namespace}.{MESH}"),
        format!(".{MESH}"),
        format!(".{namespace}.{CLUSTER}"),
        format!(".{CLUSTER}"),
        ".cluster.local".to_owned(),
    ];
    for domain in &domains {
        let plain = name.strip_suffix(domain.as_str());
        if let Some(addresses) = plain.and_then(|plain| in_any_form(table, namespace, plain)) {
            return Found::Host(addresses);
        }
    }
    let under = |domain: &str| {
        name.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if under(MESH) || under(CLUSTER) {
        Found::Nothing
    } else {
        Found::Foreign
    }
}

/// The addresses of a name without search domain.
fn in_any_form<'a>(table: &'a NameTable, namespace: &str, name: &str) -> Option<&'a [IpAddr]> {
    if name.is_empty() {
        return None;
    }
    if let Some(addresses) = table.addresses(name) {
        return Some(addresses);
    }
    let short = name
        .strip_suffix(".svc.cluster.local")
        .or_else(|| name.strip_suffix(".svc"))
        .unwrap_or(name);
    match short.split('.').count() {
        1 if short == name => table.addresses(&format!("{short}.{namespace}.{MESH}")),
        2 => table.addresses(&format!("{short}.{MESH}")),
        _ => None,
    }
}

/// The domain of the mesh's hosts.
const MESH: &str = "mesh";
/// Kubernetes' domain, whose names are the same hosts.
const CLUSTER: &str = "svc.cluster.local";

#[cfg(test)]
mod tests;
