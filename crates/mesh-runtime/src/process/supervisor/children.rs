//! Every process that the supervisor is the parent of, and how each ended.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::Signal as SignalStream;
use tokio::sync::oneshot;

use crate::Exit;

/// Children that somebody waits for. Others are orphans of the command, which are only reaped.
#[derive(Clone, Debug, Default)]
pub(super) struct Children {
    awaited: Arc<Mutex<BTreeMap<u32, oneshot::Sender<Exit>>>>,
}

// === impl Children ===

impl Children {
    /// Starts a command; the receiver is told how it ended.
    pub(super) fn spawn(
        &self,
        command: &mut Command,
    ) -> io::Result<(u32, oneshot::Receiver<Exit>)> {
        // Held over the start, so that an end is never reaped before somebody waits for it.
        let mut awaited = self.awaited();
        let child = command.spawn()?;
        let (sender, receiver) = oneshot::channel();
        awaited.insert(child.id(), sender);
        Ok((child.id(), receiver))
    }

    /// Asks a child to end, unless it has.
    pub(super) fn terminate(&self, child: u32) {
        self.signal(child, Signal::TERM);
    }

    /// Ends a child, unless it has ended.
    pub(super) fn kill(&self, child: u32) {
        self.signal(child, Signal::KILL);
    }

    /// Reaps whatever ends, for ever.
    pub(super) async fn reap(self, mut signals: SignalStream) {
        while signals.recv().await.is_some() {
            // One signal may stand for several ends.
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                if let (Some(exit), Some(sender)) = (exit(status), self.awaited().remove(&pid))
                    && sender.send(exit).is_err()
                {
                    tracing::debug!(pid, "a readiness check ended after its time");
                }
            }
        }
    }

    fn signal(&self, child: u32, signal: Signal) {
        // A child that is not reaped keeps its number, so it cannot be somebody else.
        let awaited = self.awaited();
        let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) else {
            return;
        };
        if awaited.contains_key(&child)
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, child, "signalling a child failed");
        }
    }

    fn awaited(&self) -> MutexGuard<'_, BTreeMap<u32, oneshot::Sender<Exit>>> {
        // Every change of the map is one call, so it is whole even after a panic.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exit(status: WaitStatus) -> Option<Exit> {
    let code = status.exit_status().map(Exit::Code);
    code.or_else(|| status.terminating_signal().map(Exit::Signal))
}
