//! Waiting without asking again and again: a directory that changes, a process that ends.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::identity::ProcessId;

/// Tells when files of one directory are written, made or moved in.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    events: AsyncFd<OwnedFd>,
}

/// Tells when a process has ended.
#[derive(Debug)]
pub(super) struct ProcessWatch {
    handle: Option<AsyncFd<OwnedFd>>,
}

// === impl DirectoryWatch ===

impl DirectoryWatch {
    /// Tells of records that are replaced, and not of logs that grow.
    pub(super) fn of_records(directory: &Path) -> io::Result<Self> {
        Self::new(directory, inotify::WatchFlags::MOVED_TO)
    }

    /// Tells of files that grow, too.
    pub(super) fn of_logs(directory: &Path) -> io::Result<Self> {
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        Self::new(directory, flags | inotify::WatchFlags::MOVED_TO)
    }

    /// Tells of nothing, until directories are added.
    pub(super) fn of_none() -> io::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        Ok(Self {
            events: register(events)?,
        })
    }

    /// Tells of what is made, moved in and removed in one more directory, too. Adding it again
    /// changes nothing; one that is not there is left out, and its parent tells when it comes.
    pub(super) fn add(&self, directory: &Path) -> io::Result<()> {
        let flags = inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF;
        match inotify::add_watch(self.events.get_ref(), directory, flags) {
            Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn new(directory: &Path, flags: inotify::WatchFlags) -> io::Result<Self> {
        let watch = Self::of_none()?;
        let flags = flags | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(watch.events.get_ref(), directory, flags)?;
        Ok(watch)
    }

    /// Returns when something changed since the last call.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            if ready.try_io(|events| drain(events.get_ref())).is_ok() {
                return Ok(());
            }
        }
    }
}

/// Takes all events: one answer stands for any number of them.
fn drain(events: &OwnedFd) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            Ok(_event) => any = true,
            Err(rustix::io::Errno::AGAIN) if any => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

// === impl ProcessWatch ===

impl ProcessWatch {
    /// Begins to watch a process, which may have ended already.
    pub(super) fn new(process: &ProcessId) -> io::Result<Self> {
        let handle = process.open()?;
        Ok(Self {
            handle: handle.map(register).transpose()?,
        })
    }

    /// Returns when it has ended; at once when it had.
    pub(super) async fn ended(&self) -> io::Result<()> {
        if let Some(handle) = &self.handle {
            let _guard = handle.readable().await?;
        }
        Ok(())
    }
}

#[expect(
    unsafe_code,
    reason = "tokio cannot see that an owned descriptor stays what it is"
)]
fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open as long as it lives, and nothing here takes it out or
    // duplicates over it before the `AsyncFd` that owns it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
