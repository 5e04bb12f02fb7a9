//! Socket options of a proxy that takes redirected connections.

use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};

/// Lets a socket take connections to addresses of others, as TPROXY hands them over.
#[expect(unsafe_code, reason = "rustix has no IP_TRANSPARENT")]
pub(crate) fn set_transparent(fd: BorrowedFd<'_>, like: SocketAddr) {
    let (level, name) = match like {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap();
    // SAFETY: the pointer is to an int that lives throughout the call, and the length is its own.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const on).cast(), length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Where a redirected connection wanted to go.
pub(crate) fn original_destination(fd: BorrowedFd<'_>, like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => ip_original_dst(fd).unwrap().into(),
        IpAddr::V6(_) => ipv6_original_dst(fd).unwrap().into(),
    }
}
