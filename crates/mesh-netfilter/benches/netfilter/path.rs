//! The way of a packet: what a connection and a round trip pay for rules.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ground::{apply, enter_new, namespace, run, sidecar};
use crate::measure_times;

/// A namespace with a listener, and the address at which it is reached.
pub(crate) struct Road {
    namespace: File,
    listener: TcpListener,
    to: SocketAddr,
}

/// Somebody who asks conntrack, without whom the kernel keeps it off.
const CONNTRACK: &str = "add table inet watch; \
     add chain inet watch out { type filter hook output priority 0; }; \
     add rule inet watch out ct state new counter";

const AT_A_TIME: usize = 100;

/// What connections and round trips cost without anything, with conntrack, and with the rules.
pub(crate) fn measure_path(count: usize) {
    let roads = [
        ("nothing", Road::direct(|| {})),
        ("conntrack alone", Road::direct(|| run("nft", &[CONNTRACK]))),
        ("redirected", Road::new(|| apply(&sidecar()))),
    ];
    let mut connects = roads.each_ref().map(|_| Vec::new());
    let mut trips = roads.each_ref().map(|_| Vec::new());
    for _ in 0..count.div_ceil(AT_A_TIME) {
        for (index, (_, road)) in roads.iter().enumerate() {
            connects[index].extend(connect_times(road, AT_A_TIME));
            trips[index].extend(trip_times(road, AT_A_TIME));
        }
    }
    for (what, mut all) in [("connect", connects), ("round trip", trips)] {
        for ((name, _), times) in roads.iter().zip(&mut all) {
            let plain = format!("{what}, conntrack alone");
            let against = (*name == "redirected").then_some(plain.as_str());
            measure_times(&format!("{what}, {name}"), times, against);
        }
    }
}

/// How long each of so many connections takes to open.
pub(crate) fn connect_times(road: &Road, count: usize) -> Vec<Duration> {
    road.inside(|| {
        (0..count)
            .map(|_| {
                let start = Instant::now();
                let near = TcpStream::connect(road.to).unwrap();
                let took = start.elapsed();
                let (far, _) = road.listener.accept().unwrap();
                // With a reset, so that no port waits.
                set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
                drop(near);
                drop(far);
                took
            })
            .collect()
    })
}

/// How long a byte takes there and another one back, on one connection.
fn trip_times(road: &Road, count: usize) -> Vec<Duration> {
    road.inside(|| {
        let mut near = TcpStream::connect(road.to).unwrap();
        let (mut far, _) = road.listener.accept().unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let mut byte = [0];
        (0..count)
            .map(|_| {
                let start = Instant::now();
                near.write_all(b"1").unwrap();
                far.read_exact(&mut byte).unwrap();
                far.write_all(b"2").unwrap();
                near.read_exact(&mut byte).unwrap();
                start.elapsed()
            })
            .collect()
    })
}

impl Road {
    /// A way to an address outside, which rules redirect to the listener.
    pub(crate) fn new(rules: impl FnOnce() + Send) -> Self {
        Self::to("10.77.0.2:8080", rules)
    }

    /// A way to the listener itself.
    fn direct(rules: impl FnOnce() + Send) -> Self {
        Self::to("127.0.0.1:15001", rules)
    }

    fn to(to: &str, rules: impl FnOnce() + Send) -> Self {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_new();
                // Both ends here: nothing ever leaves, but there is a way out.
                let veth = "link add d0 index 11 type veth peer name d1 index 12";
                for arguments in [
                    veth,
                    "addr add 10.77.0.1/24 dev d0",
                    "link set d1 up",
                    "link set d0 up",
                ] {
                    run("ip", &arguments.split(' ').collect::<Vec<_>>());
                }
                rules();
                Self {
                    namespace: namespace(),
                    listener: TcpListener::bind("127.0.0.1:15001").unwrap(),
                    to: to.parse().unwrap(),
                }
            });
            thread.join().unwrap()
        })
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), network).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }
}
