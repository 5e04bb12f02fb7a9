//! Sockets of a probe: made as somebody else, listened at, and asked where packets arrived.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{
    Timeout, ip_original_dst, ipv6_original_dst, set_ipv6_v6only, set_socket_reuseaddr,
    set_socket_timeout,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, recv, send, socket_with,
};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::case::{Over, Sender};
use crate::Owner;

/// Where a packet was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// In the namespace that is probed, with this destination.
    Here {
        local: SocketAddr,
        /// The destination before translation, as a proxy would ask for it.
        original: Option<SocketAddr>,
    },
    /// At the other end.
    There,
    Refused,
    Nowhere,
    /// The kernel did not even send it.
    Unsent(String),
}

/// How long to sleep between two looks at sockets.
const TICK: Duration = Duration::from_millis(1);

/// A socket of the thread's network namespace that belongs to somebody. The thread's own identity
/// stays: the socket is made on a thread that ends with it.
///
/// Only the raw system calls change one thread alone; those of the C library change the process.
pub(super) fn owned(sender: Sender, over: Over, address: IpAddr) -> io::Result<OwnedFd> {
    let Sender::Near { owner, mark } = sender else {
        return plain(over, address);
    };
    let fd = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("probe".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            become_owner(owner)?;
            plain(over, address)
        })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if mark != 0 {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
    }
    Ok(fd)
}

/// A socket that takes what is steered to it, whatever its destination.
pub(super) fn transparent(over: Over, at: SocketAddr) -> io::Result<OwnedFd> {
    let fd = plain(over, at.ip())?;
    let (level, name) = match at {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    set_option(&fd, level, name, 1)?;
    open(over, fd, at)
}

/// A socket that waits for packets.
pub(super) fn listener(over: Over, at: SocketAddr) -> io::Result<OwnedFd> {
    open(over, plain(over, at.ip())?, at)
}

/// The address that a socket has.
pub(super) fn address(fd: impl AsFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(getsockname(fd)?)
        .map_err(|_other_family| io::ErrorKind::InvalidData.into())
}

/// Connects, or sends one datagram. What was refused or not answered is no error.
pub(super) fn launch(
    fd: &OwnedFd,
    over: Over,
    source: SocketAddr,
    to: SocketAddr,
    token: &[u8],
    patience: Duration,
) -> Result<(), Seen> {
    let judge = |errno: Errno| match errno {
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::PERM | Errno::ACCESS => Seen::Refused,
        Errno::INPROGRESS | Errno::TIMEDOUT | Errno::AGAIN => Seen::Nowhere,
        errno => Seen::Unsent(errno.to_string()),
    };
    let unsent = |errno: Errno| Seen::Unsent(errno.to_string());
    set_socket_timeout(fd, Timeout::Send, Some(patience)).map_err(unsent)?;
    // The port may be one that somebody has just used, whose socket may not quite be gone.
    set_socket_reuseaddr(fd, true).map_err(unsent)?;
    bind(fd, &source).map_err(unsent)?;
    connect(fd, &to).map_err(judge)?;
    if over == Over::Udp {
        send(fd, token, SendFlags::empty()).map_err(judge)?;
    }
    Ok(())
}

/// Waits until one of the sockets has what was launched.
pub(super) fn find(
    fd: &OwnedFd,
    over: Over,
    (here, there): (&OwnedFd, Option<&OwnedFd>),
    token: &[u8],
    patience: Duration,
) -> io::Result<Seen> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = take(here, over, token)? {
            return Ok(seen);
        }
        if let Some(there) = there
            && take(there, over, token)?.is_some()
        {
            return Ok(Seen::There);
        }
        // A datagram that was refused on its way comes back as an error of the socket.
        if over == Over::Udp && rustix::net::sockopt::socket_error(fd)?.is_err() {
            return Ok(Seen::Refused);
        }
        if Instant::now() >= deadline {
            return Ok(Seen::Nowhere);
        }
        std::thread::sleep(TICK);
    }
}

/// What has arrived at a socket, if it is ours.
fn take(fd: &OwnedFd, over: Over, token: &[u8]) -> io::Result<Option<Seen>> {
    if over == Over::Udp {
        let mut buffer = [0; 64];
        return match recv(fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) if buffer.get(..length) == Some(token) => Ok(Some(Seen::Here {
                local: address(fd)?,
                original: None,
            })),
            Ok(_) | Err(Errno::AGAIN | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(errno.into()),
        };
    }
    match accept_with(fd, SocketFlags::CLOEXEC) {
        Ok(accepted) => {
            let local = address(&accepted)?;
            let original = match local {
                SocketAddr::V4(_) => ip_original_dst(&accepted).map(SocketAddr::V4),
                SocketAddr::V6(_) => ipv6_original_dst(&accepted).map(SocketAddr::V6),
            };
            Ok(Some(Seen::Here {
                local,
                // A connection that conntrack does not know was not translated.
                original: original.ok(),
            }))
        }
        Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn plain(over: Over, address: IpAddr) -> io::Result<OwnedFd> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match over {
        Over::Tcp => SocketType::STREAM,
        Over::Udp => SocketType::DGRAM,
    };
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

fn open(over: Over, fd: OwnedFd, at: SocketAddr) -> io::Result<OwnedFd> {
    if at.is_ipv6() {
        set_ipv6_v6only(&fd, true)?;
    }
    // Connections of the packet before may linger at this address.
    set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &at)?;
    if over == Over::Tcp {
        listen(&fd, 16)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
    }
    Ok(fd)
}

fn become_owner(owner: Owner) -> io::Result<()> {
    let group = Gid::from_raw(owner.group);
    let user = Uid::from_raw(owner.user);
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: `value` lives through the call, and `length` is its size.
    #[expect(unsafe_code, reason = "rustix has neither IP_TRANSPARENT nor SO_MARK")]
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
