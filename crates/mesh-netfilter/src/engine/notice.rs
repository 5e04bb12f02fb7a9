//! Notices: what nftables tells about each change of rules, as it happens.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::socket::{RECEIVE_BUFFER, messages};
use super::watch::Maker;
use crate::netlink::{attributes, nft};

/// A subscription to changes of nftables rules in one namespace.
#[derive(Debug)]
pub(super) struct Notices {
    fd: OwnedFd,
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Whether anything has changed.
    pub(super) any: bool,
    /// Who changed it, ourselves excepted.
    pub(super) makers: Vec<Maker>,
}

/// `NFNLGRP_NFTABLES` is group 7; a mask has one bit for each.
const GROUPS: u32 = 1 << 6;
/// `NFT_MSG_NEWGEN`, the last message about each transaction, and its attributes.
const NEWGEN: u16 = nft::kind(15);
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
/// `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

// === impl Notices ===

impl Notices {
    /// Subscribes in the namespace of the thread.
    pub(super) fn open() -> io::Result<Self> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(NETFILTER),
        )?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { fd })
    }

    /// Waits until something changes or the time has passed, and takes all that is told.
    pub(super) fn wait(&self, limit: Duration) -> io::Result<Heard> {
        set_socket_timeout(&self.fd, Timeout::Recv, Some(limit))?;
        let mut heard = Heard::default();
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut flags = RecvFlags::empty();
        loop {
            match recv(&self.fd, &mut buffer[..], flags) {
                Ok((length, _)) => {
                    heard.any = true;
                    heard.take(buffer.get(..length).unwrap_or_default());
                }
                // More was told than fits: something has changed, and who did it is lost.
                Err(Errno::NOBUFS) => heard.any = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(heard),
                Err(errno) => return Err(errno.into()),
            }
            if heard.any {
                flags = RecvFlags::DONTWAIT;
            }
        }
    }
}

// === impl Heard ===

impl Heard {
    fn take(&mut self, bytes: &[u8]) {
        let own = std::process::id();
        for message in messages(bytes).filter(|message| message.kind == NEWGEN) {
            let content = message.content.get(FAMILY_HEADER..).unwrap_or_default();
            let find = |kind| attributes(content).find(|attribute| attribute.kind == kind);
            let pid = find(NFTA_GEN_PROC_PID).and_then(|pid| pid.number());
            let name = find(NFTA_GEN_PROC_NAME).map(|name| name.text());
            let (Some(pid), Some(name)) = (pid, name) else {
                continue;
            };
            let maker = Maker { pid, name };
            if pid != own && !self.makers.contains(&maker) {
                self.makers.push(maker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Message, message};

    fn generation(pid: u32, name: &str) -> Vec<u8> {
        let header = Message {
            kind: NEWGEN,
            flags: 0,
            family: 0,
            sequence: 0,
        };
        message(Vec::new(), header, |to| {
            to.number(1, 7);
            to.number(NFTA_GEN_PROC_PID, pid);
            to.text(NFTA_GEN_PROC_NAME, name);
        })
    }

    #[test]
    fn makers_are_named_once_and_we_are_not_among_them() {
        let mut heard = Heard::default();
        heard.take(&generation(std::process::id(), "we"));
        for _ in 0..2 {
            heard.take(&generation(1, "nft"));
        }
        let expected = Maker {
            pid: 1,
            name: "nft".to_owned(),
        };
        assert_eq!(heard.makers, [expected]);
    }

    #[test]
    fn hostile_notices_name_nobody() {
        let mut heard = Heard::default();
        for length in 0..40 {
            heard.take(&vec![0xff; length]);
            heard.take(generation(1, "nft").get(..length).unwrap());
        }
        assert_eq!(heard.makers, []);
    }
}
