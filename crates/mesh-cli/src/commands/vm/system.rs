//! systemd, as far as joining and leaving need it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::exit::{Failure, UNSUPPORTED};

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
