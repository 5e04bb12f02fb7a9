//! The netlink socket of netfilter: transactions, lists, single requests.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::{EngineError, Rejection};
use crate::netlink::{
    Attributes, Batch, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Object, message,
};

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: Cell<u32>,
}

/// A list was changed while it was read.
#[derive(Debug)]
pub(super) enum ListError {
    Interrupted,
    Kernel(io::Error),
}

/// What the kernel sent, message by message.
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    flags: u16,
    pub(super) sequence: u32,
    /// After the header.
    pub(super) content: &'a [u8],
}

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const HEADER: usize = 16;
/// `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;
/// The kernel sends lists in pieces of at most 32 KiB.
pub(super) const RECEIVE_BUFFER: usize = 64 * 1024;
/// What the kernel takes without being asked (its default is 208 KiB).
const SMALL_BATCH: usize = 64 * 1024;

// === impl Socket ===

impl Socket {
    pub(super) fn open() -> Result<Self, EngineError> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        );
        Ok(Self {
            fd: fd.map_err(|errno| failed("open", errno.into()))?,
            sequence: Cell::new(1),
        })
    }

    /// Sends a transaction in one piece and waits for its end.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), EngineError> {
        self.make_room(batch.as_bytes().len())
            .map_err(|error| failed("enlarge", error))?;
        self.send(batch.as_bytes())
            .map_err(|error| failed("send on", error))?;
        // The kernel works off the whole transaction within `send`, so all answers are there.
        let mut rejections = Vec::new();
        let mut is_done = false;
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            match recv(&self.fd, spare_capacity(&mut buffer), RecvFlags::DONTWAIT) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(failed("receive from", errno.into())),
            }
            for answer in messages(&buffer) {
                if answer.kind != NLMSG_ERROR {
                    continue;
                }
                match error_of(answer.content) {
                    None => is_done |= answer.sequence == batch.last_sequence(),
                    Some(error) => rejections.push(Rejection {
                        object: batch
                            .object(answer.sequence)
                            .unwrap_or(&Object::Transaction)
                            .to_string(),
                        error,
                    }),
                }
            }
        }
        if !rejections.is_empty() {
            return Err(EngineError::Rejected { rejections });
        }
        if is_done {
            Ok(())
        } else {
            Err(EngineError::Answer {
                what: "the transaction",
            })
        }
    }

    /// Asks for a list; `each` gets the attributes of every entry with its family.
    pub(super) fn list(
        &self,
        kind: u16,
        family: u8,
        content: impl FnOnce(&mut Attributes),
        mut each: impl FnMut(u8, &[u8]),
    ) -> Result<(), ListError> {
        let sequence = self
            .request(kind, NLM_F_DUMP, family, content)
            .map_err(ListError::Kernel)?;
        let mut is_interrupted = false;
        self.receive(sequence, |answer| {
            is_interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
            if let Some((header, attributes)) = answer.content.split_at_checked(FAMILY_HEADER) {
                each(header.first().copied().unwrap_or_default(), attributes);
            }
        })
        .map_err(ListError::Kernel)?;
        if is_interrupted {
            Err(ListError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Asks for one thing, or for it to be done; `each` gets the attributes of what is answered.
    pub(super) fn ask(
        &self,
        kind: u16,
        family: u8,
        content: impl FnOnce(&mut Attributes),
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let sequence = self.request(kind, NLM_F_ACK, family, content)?;
        self.receive(sequence, |answer| {
            each(answer.content.get(FAMILY_HEADER..).unwrap_or_default());
        })
    }

    fn request(
        &self,
        kind: u16,
        flags: u16,
        family: u8,
        content: impl FnOnce(&mut Attributes),
    ) -> io::Result<u32> {
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        let header = Message {
            kind,
            flags: NLM_F_REQUEST | flags,
            family,
            sequence,
        };
        self.send(&message(Vec::new(), header, content))?;
        Ok(sequence)
    }

    /// Receives what answers the request, up to the message that ends it.
    fn receive(&self, sequence: u32, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            match recv(&self.fd, spare_capacity(&mut buffer), RecvFlags::empty()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            for answer in messages(&buffer) {
                if answer.sequence != sequence {
                    continue;
                }
                match answer.kind {
                    // The end of a list tells an error in the same way.
                    NLMSG_ERROR | NLMSG_DONE => {
                        return error_of(answer.content).map_or(Ok(()), Err);
                    }
                    _ => each(&answer),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match send(&self.fd, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Lets the socket take `bytes` in one piece.
    fn make_room(&self, bytes: usize) -> io::Result<()> {
        if bytes <= SMALL_BATCH {
            return Ok(());
        }
        // Beyond the system's limit only with CAP_NET_ADMIN of the host. Without it the kernel
        // gives what it may, and `send` says if that is not enough.
        set_socket_send_buffer_size_force(&self.fd, bytes)
            .or_else(|_| set_socket_send_buffer_size(&self.fd, bytes))
            .map_err(io::Error::from)
    }
}

fn failed(operation: &'static str, source: io::Error) -> EngineError {
    EngineError::Socket { operation, source }
}

/// The messages in what was received.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] =
            *bytes.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let content = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            content,
        })
    })
}

/// The error in an answer; none if it says that all is well.
pub(super) fn error_of(content: &[u8]) -> Option<io::Error> {
    let code = content.first_chunk().copied().map(i32::from_ne_bytes)?;
    (code != 0).then(|| io::Error::from_raw_os_error(code.wrapping_neg()))
}
