//! One Envoy process: it cannot outlive the agent, and is signalled through a handle that cannot name another.
//!
//! The kernel kills Envoy when the thread that started it ends (`PR_SET_PDEATHSIG`), whatever ended it;
//! that thread does nothing but wait for Envoy.
//! A file names the process too, so that an agent that starts finds one that was left nevertheless
//! (a binary with file capabilities loses the death signal at exec) and ends it before it starts its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// A running Envoy; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    id: u32,
    handle: OwnedFd,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
}

/// A process as the file names it: ids are used again, ids with a start time are not.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Record {
    id: u32,
    /// Clock ticks since boot: field 22 of `/proc/<pid>/stat`, proc(5).
    started: u64,
}

impl Process {
    /// Starts `program`; its output goes to the agent's standard output.
    /// Blocks until it is started, some milliseconds.
    pub(super) fn start(program: &Path, arguments: Vec<OsString>) -> io::Result<Self> {
        let (started, starting) = std::sync::mpsc::sync_channel(1);
        let (ending, ended) = oneshot::channel();
        let program = program.to_owned();
        // A thread of its own: the death signal is bound to the thread, and pool threads come and go.
        thread::Builder::new()
            .name("envoy".to_owned())
            .spawn(move || {
                let child = command(&program, arguments).and_then(|mut command| command.spawn());
                let opened = child.and_then(|child| {
                    // Not waited for yet, so that the id cannot be another process's.
                    let handle = open(child.id())?;
                    Ok((child, handle))
                });
                let mut child = match opened {
                    Ok((child, handle)) => {
                        if started.send(Ok((child.id(), handle))).is_err() {
                            return;
                        }
                        child
                    }
                    Err(error) => {
                        drop(started.send(Err(error)));
                        return;
                    }
                };
                drop(ending.send(child.wait()));
            })?;
        let (id, handle) = starting
            .recv()
            .map_err(|_gone| io::Error::other("the thread that starts it ended"))??;
        Ok(Self { id, handle, ended })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Waits until it ended; may be called again after being cancelled.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        match (&mut self.ended).await {
            Ok(status) => status,
            Err(_gone) => Err(io::Error::other("the thread that waits for it ended")),
        }
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.handle, Signal::TERM)?)
    }

    /// Ends it.
    pub(super) fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.handle, Signal::KILL)?)
    }

    /// Leaves a note for the next agent.
    pub(super) fn record(&self, file: &Path) -> io::Result<()> {
        let record = Record {
            id: self.id,
            started: started(self.id)?,
        };
        let part = file.with_extension("part");
        File::create(&part)?.write_all(&serde_json::to_vec(&record)?)?;
        fs::rename(part, file)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is the usual case, and no failure here has a remedy.
        drop(self.kill());
    }
}

/// Ends the Envoy that a former agent left, if it did; its process id.
pub(super) fn end_left_over(file: &Path) -> io::Result<Option<u32>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(record) = serde_json::from_slice::<Record>(&text) else {
        return Ok(None);
    };
    // Opened before it is compared: what is compared is then what is killed.
    let Ok(handle) = open(record.id) else {
        return Ok(None);
    };
    if started(record.id).ok() != Some(record.started) {
        return Ok(None);
    }
    pidfd_send_signal(&handle, Signal::KILL)?;
    wait_readable(&handle, KILL_PATIENCE)?;
    Ok(Some(record.id))
}

/// Where an executable is, as `execvp` would find it.
pub(crate) fn find(program: &Path, search: Option<&OsString>) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    std::env::split_paths(search?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn command(program: &Path, arguments: Vec<OsString>) -> io::Result<Command> {
    let agent = getpid();
    let output = || io::stdout().as_fd().try_clone_to_owned().map(Stdio::from);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?)
        // An interrupt from a terminal is for the agent, which lets Envoy drain.
        .process_group(0);
    let die_with_agent = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() == Some(agent) {
            Ok(())
        } else {
            // The agent died in between: no signal will come.
            Err(io::Error::from_raw_os_error(
                rustix::io::Errno::SRCH.raw_os_error(),
            ))
        }
    };
    #[expect(
        unsafe_code,
        reason = "only the child itself can ask for its death signal"
    )]
    // SAFETY: the closure runs between fork and exec and only makes two system calls
    // (prctl and getppid); it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(die_with_agent);
    }
    Ok(command)
}

fn open(id: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other(format!("`{id}` is not a process id")))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// When a process started.
fn started(id: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The command, field 2, stands in parentheses and may hold anything: fields count from its end.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(STARTTIME_AFTER_COMMAND))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other(format!("`/proc/{id}/stat` has no start time")))
}

fn wait_readable(handle: &OwnedFd, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Field 22 counted from field 3, the first after the command.
const STARTTIME_AFTER_COMMAND: usize = 19;
/// A killed process ends as soon as the kernel has freed its memory.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        Process::start(Path::new("/bin/sleep"), vec!["1000".into()]).unwrap()
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed() {
        let mut process = sleeper();
        process.terminate().unwrap();
        let status = process.ended().await.unwrap();
        assert!(!status.success());
    }

    #[tokio::test]
    async fn a_left_over_process_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("envoy.pid");
        let mut process = sleeper();
        process.record(&file).unwrap();
        assert_eq!(end_left_over(&file).unwrap(), Some(process.id()));
        assert!(!process.ended().await.unwrap().success());
        assert_eq!(end_left_over(&file).unwrap(), None);
    }

    #[tokio::test]
    async fn another_process_with_the_same_id_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("envoy.pid");
        let mut process = sleeper();
        let record = Record {
            id: process.id(),
            started: started(process.id()).unwrap() + 1,
        };
        fs::write(&file, serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(end_left_over(&file).unwrap(), None);
        process.kill().unwrap();
        process.ended().await.unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = Process::start(Path::new("/nonexistent/envoy"), Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
