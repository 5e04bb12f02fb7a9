//! Ports for programs that tests start.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};

/// The first of the ports that are given out: below the range from which the kernel takes those of
/// outgoing connections, as 32768 and above are by default.
const FIRST: u16 = 10_000;
/// How many there are.
const COUNT: u16 = 20_000;

/// An address of loopback at which nobody listens, another one each time.
///
/// It is not found out by listening there: such a socket lives on for a moment in whatever program
/// another thread is about to start, and the address is then still in use when it is needed.
///
/// # Example
/// ```
/// let (api, metrics) = (mesh_tests::port::free_address(), mesh_tests::port::free_address());
/// assert_ne!(api, metrics);
/// std::net::TcpListener::bind(api).expect("nobody listens there");
/// ```
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // Processes begin at different places.
        let begin = std::process::id() * 97 % u32::from(COUNT);
        let begin = u16::try_from(begin).unwrap_or_default();
        let port = FIRST + (begin + next % COUNT) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpStream::connect(address).is_err() {
            return address;
        }
    }
}
