//! Network namespaces that have a name: a file on which the namespace is bind-mounted.
//!
//! A thread that changed its namespace never goes back to other work: it ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, StatFs};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::{Creation, Removal, RuntimeError};

/// `f_type` of a file on which a namespace is mounted. Source: linux/magic.h, `NSFS_MAGIC`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Makes a network namespace and mounts it on `path`; both stay when the caller ends.
pub(super) fn create(path: &Path) -> Result<Creation, RuntimeError> {
    if exists(path) {
        return Ok(Creation::Exists);
    }
    let failed = |error: io::Error| {
        RuntimeError::system(
            format!("make a network namespace at `{}`", path.display()),
            error,
        )
    };
    File::create(path).map_err(failed)?;
    let made = thread::scope(|scope| {
        let work = || -> io::Result<()> {
            unshare_network()?;
            // `thread-self`: `self` would be the namespace of the process.
            Ok(mount_bind("/proc/thread-self/ns/net", path)?)
        };
        spawn(scope, work)
    });
    made.and_then(|done| done).map_err(failed)?;
    Ok(Creation::Created)
}

/// Whether a namespace is mounted on `path`. After a reboot there is only an empty file.
pub(super) fn exists(path: &Path) -> bool {
    rustix::fs::statfs(path)
        .is_ok_and(|found: StatFs| u64::try_from(found.f_type) == Ok(NSFS_MAGIC))
}

/// Removes the name; the namespace goes with the last process in it.
pub(super) fn remove(path: &Path) -> Result<Removal, RuntimeError> {
    let failed = |error: io::Error| {
        RuntimeError::system(
            format!("remove the namespace at `{}`", path.display()),
            error,
        )
    };
    match unmount(path, UnmountFlags::DETACH) {
        // Not a mount point: after a reboot, or half made.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(Errno::NOENT) => return Ok(Removal::Absent),
        Err(error) => return Err(failed(error.into())),
    }
    // This also detaches the copies that mount namespaces made meanwhile have of it.
    match fs::remove_file(path) {
        Ok(()) => Ok(Removal::Removed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::Absent),
        Err(error) => Err(failed(error)),
    }
}

/// Does `work` on a thread of its own, inside the namespace at `path` if there is one.
pub(crate) fn within<T: Send>(
    path: Option<&Path>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        spawn(scope, || {
            if let Some(path) = path {
                enter(path)?;
            }
            Ok(work())
        })
    })
    .and_then(|done| done)
}

/// Moves the calling thread into the namespace at `path`, for good.
pub(crate) fn enter(path: &Path) -> io::Result<()> {
    let file = rustix::fs::openat(
        CWD,
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok(move_into_link_name_space(
        file.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<T> {
    let thread = thread::Builder::new()
        .name("netns".to_owned())
        .spawn_scoped(scope, work)?;
    // A panic of the work is the caller's panic.
    Ok(thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

#[expect(unsafe_code, reason = "rustix marks every use of unshare(2) as unsafe")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: only `FILES` can break what other threads rely on; this is `NEWNET` alone.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}
