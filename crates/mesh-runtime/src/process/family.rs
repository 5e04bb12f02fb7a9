//! All processes that come from one, for machines on which no cgroup can be made.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends everything that the calling process started, also what forked away: as a subreaper it is
/// the parent of those in the end.
pub(super) fn kill_descendants() -> io::Result<()> {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let found = descendants(std::process::id())?;
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > give_up {
            let message = format!("processes {found:?} do not end");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        for pid in found {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                match kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        // The parent of most of them is ended too, so there is no single handle to wait on.
        thread::sleep(Duration::from_millis(2));
    }
}

fn descendants(of: u32) -> io::Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Ok(pid) = name.to_string_lossy().parse::<u32>() else {
            continue;
        };
        // Gone since: not ours to kill any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(parent) = running_child_of(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![of];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(child);
            next.push(child);
        }
    }
    Ok(found)
}

/// The parent, unless the process only waits to be reaped. Source: `proc_pid_stat(5)`.
fn running_child_of(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z").then_some(parent)
}
