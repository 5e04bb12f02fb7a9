//! systemd, as far as joining and leaving need it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mesh_model::sidecar::{
    DNS_PORT, ENVOY_METRICS_PORT, INBOUND_PORT, OUTBOUND_PORT, READINESS_PORT,
};

use crate::exit::{Failure, UNSUPPORTED};

/// Where agent and Envoy listen.
const PORTS: [u16; 5] = [
    OUTBOUND_PORT,
    INBOUND_PORT,
    READINESS_PORT,
    DNS_PORT,
    ENVOY_METRICS_PORT,
];
/// There when systemd is process 1: `sd_booted(3)`.
const BOOTED: &str = "/run/systemd/system";

/// An error unless systemd runs this machine.
///
/// # Errors
///
/// With exit code 4.
pub(super) fn check() -> Result<(), Failure> {
    if Path::new(BOOTED).is_dir() {
        return Ok(());
    }
    Err(
        Failure::new("this machine is not run by systemd, which is to start the sidecar")
            .with_code(UNSUPPORTED)
            .with_hint("with --init none the files are written, and what to run is printed"),
    )
}

/// An error if anybody has a port that the sidecar needs: it would start again and again.
///
/// # Errors
///
/// With all that are taken, and exit code 4.
pub(super) fn check_ports() -> Result<(), Failure> {
    let taken: Vec<String> = PORTS
        .iter()
        .filter(|port| is_taken(**port))
        .map(u16::to_string)
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    let listed = taken.join(", ");
    Err(Failure::new(format!(
        "ports of the sidecar are in use on this machine: {listed}"
    ))
    .with_code(UNSUPPORTED)
    .with_hint("`ss -lntup` says by whom; does another sidecar run?"))
}

/// Whether somebody listens there, at any address of either family.
fn is_taken(port: u16) -> bool {
    let in_use = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let both: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    both.into_iter().any(|any| {
        let at = (any, port);
        let stream = TcpListener::bind(at).is_err_and(in_use);
        stream || port == DNS_PORT && UdpSocket::bind(at).is_err_and(in_use)
    })
}

/// Has systemd read its units again.
pub(super) fn reload() -> Result<(), Failure> {
    systemctl(&["daemon-reload"])
}

/// Starts a unit and waits until it has started.
pub(super) fn start(unit: &str) -> Result<(), Failure> {
    systemctl(&["start", unit])
        .map_err(|failure| failure.with_hint(format!("`journalctl -u {unit}` has what it said")))
}

/// Stops a unit and waits until it has stopped; one that does not run, or is not there any more, is
/// no error.
pub(super) fn stop(unit: &str) -> Result<(), Failure> {
    let output = run(&["stop", unit])?;
    if output.status.code() == Some(NOT_LOADED) {
        return Ok(());
    }
    judged(&["stop", unit], &output)
}

/// What systemd says about a unit, in a word.
pub(super) fn state(unit: &str) -> String {
    let output = Command::new("systemctl")
        .args(["is-active", unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    judged(arguments, &run(arguments)?)
}

fn run(arguments: &[&str]) -> Result<Output, Failure> {
    Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::doing(format!("systemctl {}", arguments.join(" ")), &error))
}

fn judged(arguments: &[&str], output: &Output) -> Result<(), Failure> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!(
        "systemctl {}: {}: {}",
        arguments.join(" "),
        output.status,
        said.trim()
    )))
}

/// The exit code of `systemctl stop` for a unit that nothing describes: systemctl(1).
const NOT_LOADED: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_at_whatever_address_somebody_listens() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(is_taken(port), "{address}");
        }
        assert!(!is_taken(mesh_tests::port::free_address().port()));
    }
}
