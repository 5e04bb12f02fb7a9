//! The lock of a network namespace: one writer of iptables at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::super::EngineError;
use crate::Backend;

/// Held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    _own: File,
    _everybody: Option<File>,
}

/// Root alone may open what is in here, so no workload can hold a lock of ours.
const FOLDER: &str = "/run/mesh-netfilter";
/// The lock that all `iptables-legacy` of the host take, whatever their network namespace.
const EVERYBODY: &str = "/run/xtables.lock";
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Others of our kind are done within milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Whoever holds the lock of all is most likely busy in another namespace. Who is not, may lose or
/// undo a change, which is noticed and done again.
const COURTESY: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(1);

impl Lock {
    /// Takes the lock of the thread's network namespace; and for the legacy variant, whose changes
    /// are read, changed and written back as a whole, that of everybody if it is to be had soon.
    pub(super) fn take(backend: Backend) -> Result<Self, EngineError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| EngineError::Lock { path, source }
        };
        let namespace = Path::new(OWN_NAMESPACE);
        let inode = namespace.metadata().map_err(failed(namespace))?.ino();
        let path = PathBuf::from(FOLDER).join(format!("{inode}.lock"));
        let mut folder = DirBuilder::new();
        folder
            .mode(0o700)
            .recursive(true)
            .create(FOLDER)
            .map_err(failed(Path::new(FOLDER)))?;
        let own = open(&path).map_err(failed(&path))?;
        if !wait(&own, PATIENCE).map_err(failed(&path))? {
            return Err(EngineError::Busy);
        }
        let everybody = match backend {
            Backend::IptablesLegacy => open(Path::new(EVERYBODY))
                .ok()
                .filter(|file| wait(file, COURTESY).unwrap_or(false)),
            _ => None,
        };
        Ok(Self {
            _own: own,
            _everybody: everybody,
        })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Whether the lock was to be had within `patience`.
fn wait(file: &File, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}
