//! Which process is meant, also when the kernel has given its number to another one since.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process, for ever: its number, when it started, and in which run of the machine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// Clock ticks after boot. Source: `proc_pid_stat(5)`, field 22.
    started_ticks: u64,
    boot: String,
}

// === impl ProcessId ===

impl ProcessId {
    /// The process that asks.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let pid = std::process::id();
        let gone = || io::Error::other("this process is not in /proc");
        Ok(Self {
            pid,
            started_ticks: started_ticks(pid).ok_or_else(gone)?,
            boot: boot()?,
        })
    }

    /// Whether it still runs. A process that only waits to be reaped does not.
    pub(crate) fn is_alive(&self) -> bool {
        started_ticks(self.pid) == Some(self.started_ticks)
            && boot().is_ok_and(|boot| boot == self.boot)
    }

    /// A handle on it, if it still runs; readable once it has ended.
    pub(crate) fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // The handle holds whatever has the number now: only then look who it is.
            Ok(handle) => Ok(self.is_alive().then_some(handle)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends it a signal, if it still runs.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(handle) = self.open()? else {
            return Ok(());
        };
        match pidfd_send_signal(handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// When a process started, unless it has ended.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&stat)
}

/// The second field is the name in parentheses and may hold anything, so fields count from its end.
fn parse(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // Fields 4 to 21 lie between the state and the start.
    fields.nth(18)?.parse().ok()
}

fn boot() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let stat = "7 (a ) S 1 b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 2 3";
        assert_eq!(parse(stat), Some(4711));
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_does_not_run() {
        let stat = "7 (a) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 2 3";
        assert_eq!(parse(stat), None);
    }

    #[test]
    fn this_process_runs_and_an_earlier_one_of_its_number_does_not() {
        let this = ProcessId::of_this_process().unwrap();
        assert!(this.is_alive() && this.open().unwrap().is_some());
        let earlier = ProcessId {
            started_ticks: this.started_ticks - 1,
            ..this.clone()
        };
        assert!(!earlier.is_alive() && earlier.open().unwrap().is_none());
        let before_reboot = ProcessId {
            boot: "another".to_owned(),
            ..this
        };
        assert!(!before_reboot.is_alive());
    }
}
