//! A run of `cargo xtask e2e` that is told to end once its sample is deployed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub(crate) const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const HOME: &str = "/tmp/mesh-e2e";

/// How a run is told to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// As a terminal does it: all processes are told.
    Terminal,
    /// As a service manager or `kill` does it: the one that was started is told.
    Kill,
}

/// Runs on `ground`, calls `meanwhile` once the sample is deployed, ends it, and wants nothing to be
/// left.
pub(crate) fn end(ground: &str, end: End, meanwhile: impl FnOnce()) {
    // A group of its own, as a terminal makes one.
    let mut run = Command::new(XTASK)
        .args(["e2e", ground])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines();
    let mut heard = Vec::new();
    let deployed = "rules before sidecar, sidecar live before the application";
    for line in lines.by_ref() {
        heard.push(line.unwrap());
        if heard.last().unwrap().contains(deployed) {
            break;
        }
    }
    assert!(heard.last().unwrap().contains("pass"), "{heard:#?}");
    meanwhile();

    let pid = Pid::from_child(&run);
    match end {
        End::Terminal => kill_process_group(pid, Signal::INT).unwrap(),
        End::Kill => kill_process(pid, Signal::TERM).unwrap(),
    }
    // Its progress is read to the end, else it could not write.
    heard.extend(lines.map(Result::unwrap));
    let mut table = String::new();
    run.stdout
        .take()
        .unwrap()
        .read_to_string(&mut table)
        .unwrap();
    assert!(!run.wait().unwrap().success());
    assert!(
        table.contains("FAIL     the scenario ran to its end"),
        "{table}"
    );
    assert!(
        table.contains("pass     everything is down and nothing is left"),
        "{table}\n{heard:#?}"
    );
    assert!(!Path::new(HOME).exists(), "{HOME} is left");
}
