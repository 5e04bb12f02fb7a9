//! The rtnetlink socket: policy rules, routes, addresses, links of one namespace.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
    socket_with,
};

use super::socket::{NLMSG_DONE, NLMSG_ERROR, RECEIVE_BUFFER, error_of, messages};
use crate::netlink::{NLM_F_ACK, NLM_F_DUMP};
use crate::rtnetlink::{Entry, Listed, Request, addition, deletion, lists, read};

/// An rtnetlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct RouteSocket {
    fd: OwnedFd,
    sequence: Cell<u32>,
}

/// `EEXIST`, and what deleting answers when there is nothing: `ENOENT`, `ESRCH`, `EADDRNOTAVAIL`.
const EXISTS: i32 = 17;
const ABSENT: [i32; 3] = [2, 3, 99];
const HEADER: u32 = 16;

// === impl RouteSocket ===

impl RouteSocket {
    pub(super) fn open() -> io::Result<Self> {
        Self::open_for(None) // NETLINK_ROUTE is protocol 0
    }

    /// A socket for requests about sockets instead (`sock_diag(7)`): they go the same way.
    pub(super) fn open_for_sockets() -> io::Result<Self> {
        Self::open_for(Some(netlink::SOCK_DIAG))
    }

    fn open_for(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self {
            fd,
            sequence: Cell::new(1),
        })
    }

    /// All entries of the kinds that we make, also those of others.
    pub(super) fn entries(&self) -> io::Result<Vec<Listed>> {
        let mut entries = Vec::new();
        for request in lists() {
            self.ask(&request, |kind, content| {
                entries.extend(read(kind, content));
            })?;
        }
        Ok(entries)
    }

    /// Adds an entry; one that is there already is as good.
    pub(super) fn add(&self, entry: &Entry) -> io::Result<()> {
        match self.ask(&addition(entry), |_, _| {}) {
            Err(error) if error.raw_os_error() == Some(EXISTS) => Ok(()),
            result => result,
        }
    }

    /// Removes an entry; one that is not there is as good.
    pub(super) fn delete(&self, entry: &Entry) -> io::Result<()> {
        match self.ask(&deletion(entry), |_, _| {}) {
            Err(error)
                if error
                    .raw_os_error()
                    .is_some_and(|code| ABSENT.contains(&code)) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Sends a request; `each` gets type and content of every message that answers it.
    pub(super) fn ask(
        &self,
        request: &Request,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        let length = u32::try_from(request.body.len()).unwrap_or(u32::MAX - HEADER) + HEADER;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&request.kind.to_ne_bytes());
        bytes.extend_from_slice(&request.flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&request.body);
        send(&self.fd, &bytes, SendFlags::empty())?;
        // A request for one thing without acknowledgement ends with its answer.
        let ends_itself = request.flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
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
                if [NLMSG_ERROR, NLMSG_DONE].contains(&answer.kind) {
                    return error_of(answer.content).map_or(Ok(()), Err);
                }
                each(answer.kind, answer.content);
                if ends_itself {
                    return Ok(());
                }
            }
        }
    }
}
