//! The program that units of the conformance suite run: needs nothing but the kernel, so that it is
//! a whole root file system by itself.
//!
//! Built by the suite with `rustc`, statically linked; see `guest()` in `bed.rs`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[1..] {
        ["sleep"] => sleep(),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap()),
        ["print", text] => println!("{text}"),
        ["print-and-sleep", text] => {
            println!("{text}");
            sleep();
        }
        ["exists", path] => return ExitCode::from(u8::from(!std::path::Path::new(path).exists())),
        ["write", path, text] => std::fs::write(path, text).unwrap(),
        // What a unit is: its user, capabilities, directory and environment.
        ["self"] => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            for line in status.lines() {
                if ["Uid:", "Gid:", "CapEff:", "NoNewPrivs:", "Groups:"]
                    .iter()
                    .any(|it| line.starts_with(it))
                {
                    println!("{}", line.replace('\t', " ").trim_end());
                }
            }
            println!("Dir: {}", std::env::current_dir().unwrap().display());
            for (key, value) in std::env::vars() {
                println!("{key}={value}");
            }
        }
        ["cat", path] => {
            use std::os::unix::fs::MetadataExt;
            let metadata = std::fs::metadata(path).unwrap();
            let text = std::fs::read_to_string(path).unwrap();
            println!(
                "{:o} {}:{} {text}",
                metadata.mode() & 0o7777,
                metadata.uid(),
                metadata.gid()
            );
        }
        // A child that is an orphan at once, in a session of its own.
        ["orphan"] => {
            let program = std::env::current_exe().unwrap();
            Command::new(program).arg("sleep").spawn().unwrap();
            sleep();
        }
        ["lines", count] => {
            for line in 0..count.parse::<u32>().unwrap() {
                println!("line {line}");
            }
        }
        // Ignores the end of input and never ends by itself; answers every HTTP request with 200.
        ["http", address] => {
            let listener = TcpListener::bind(address).unwrap();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhere\n",
                );
            }
        }
        ["fetch", address] => {
            let address = address.to_socket_addrs().unwrap().next().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            println!("{text}");
        }
        // Answers every DNS query for an IPv4 address, and tells what was asked.
        ["dns-answer", address, answer] => {
            let socket = UdpSocket::bind(address).unwrap();
            println!("answering");
            let mut query = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut query).unwrap();
                println!("asked for {}", name_in(&query[..length]));
                let mut reply = query[..length].to_vec();
                let end = 12 + name_length(&query[12..length]) + 4;
                reply.truncate(end);
                reply[2] = 0x81;
                reply[3] = 0x80;
                reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                reply.extend(answer.split('.').map(|part| part.parse::<u8>().unwrap()));
                socket.send_to(&reply, from).unwrap();
            }
        }
        // The first IPv4 address of a name, or why there is none.
        ["resolve", server, name] => println!("{}", resolve(server, name)),
        _ => panic!("unknown: {arguments:?}"),
    }
    ExitCode::SUCCESS
}

fn sleep() {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn resolve(server: &str, name: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.connect(server).unwrap();
    if let Err(error) = socket.send(&query) {
        return format!("not sent: {error}");
    }
    let mut reply = [0; 512];
    let length = match socket.recv(&mut reply) {
        Ok(length) => length,
        Err(error) => return format!("no answer: {error}"),
    };
    let reply = &reply[..length];
    let code = reply[3] & 15;
    let answers = u16::from_be_bytes([reply[6], reply[7]]);
    if code != 0 || answers == 0 {
        return format!("code {code}, {answers} answers");
    }
    let mut at = 12 + name_length(&reply[12..]) + 4;
    loop {
        at += name_length(&reply[at..]);
        let kind = reply[at + 1];
        let size = usize::from(u16::from_be_bytes([reply[at + 8], reply[at + 9]]));
        at += 10;
        if kind == 1 {
            let bytes = &reply[at..at + 4];
            return bytes
                .iter()
                .map(u8::to_string)
                .collect::<Vec<_>>()
                .join(".");
        }
        at += size;
    }
}

fn name_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match bytes[at] {
            0 => return at + 1,
            length if length >= 0xc0 => return at + 2,
            length => at += 1 + usize::from(length),
        }
    }
}

fn name_in(query: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).into_owned());
        at += 1 + length;
    }
    labels.join(".")
}
