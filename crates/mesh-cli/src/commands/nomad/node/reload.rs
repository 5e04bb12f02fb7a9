//! Tells the Nomad client whose task this is to look at plugins and networks again.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Failure;

/// Sends SIGHUP to the client: the nearest process above this one that is `nomad agent`. False when
/// there is none, as when this was not started by Nomad.
pub(super) fn client() -> Result<bool, Failure> {
    let mut process = std::process::id();
    while let Some(parent) = parent(process) {
        if is_agent(parent) {
            let pid = i32::try_from(parent).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| Failure::new(format!("process {parent} has no number")))?;
            return kill_process(pid, Signal::HUP)
                .map(|()| true)
                .map_err(|error| {
                    Failure::doing(
                        format!("telling the Nomad client, process {parent}"),
                        &std::io::Error::from(error),
                    )
                });
        }
        process = parent;
    }
    Ok(false)
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim()
        .parse()
        .ok()
        .filter(|parent| *parent > 1 || is_agent(*parent))
}

/// `nomad agent …`; its executors are `nomad executor …`, of the same program.
fn is_agent(process: u32) -> bool {
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"agent".as_slice())
}
