//! The machine's own resolver, as systemd-resolved is one: it knows one name.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where it listens.
pub(super) const ADDRESS: &str = "127.0.0.53";
/// The name that it knows, as a person writes it and as a query has it.
pub(super) const NAME: &str = "outside.example.com";
const WIRE: &[u8] = b"\x07outside\x07example\x03com\0";
/// Its address.
pub(super) const KNOWN: [u8; 4] = [192, 0, 2, 7];

/// Answers until it is dropped.
pub(super) struct Resolver {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// In the network of the machine whose process 1 this is.
    pub(super) fn start(machine: u32) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let namespace = std::fs::File::open(format!("/proc/{machine}/ns/net")).unwrap();
        let thread = std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            let socket = UdpSocket::bind((ADDRESS, 53)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let mut query = [0; 512];
            while !told.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut query) {
                    socket.send_to(&answer(&query[..length]), from).unwrap();
                }
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// RFC 1035, 4.1: one question of type A gets its answer, of another type none, of another name
/// "no such name".
fn answer(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut answer = query[..end].to_vec();
    let is_known = query[12..end - 4].eq_ignore_ascii_case(WIRE);
    let is_address = query[end - 4..end - 2] == [0, 1];
    let count = u8::from(is_known && is_address);
    answer[2..4].copy_from_slice(&[0x81, if is_known { 0x80 } else { 0x83 }]);
    answer[6..12].copy_from_slice(&[0, count, 0, 0, 0, 0]);
    if count == 1 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(KNOWN);
    }
    answer
}
