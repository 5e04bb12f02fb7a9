//! A view of the file system that is private to a thread and what it starts.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Gives the calling thread a mount namespace of its own, with this resolver configuration.
///
/// What is mounted and unmounted on the host later is seen; what is mounted here is not seen there.
pub(super) fn make_private(resolv_conf: Option<&Path>) -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    if let Some(resolv_conf) = resolv_conf {
        mount_bind(resolv_conf, RESOLV_CONF).map_err(|error| {
            let error = io::Error::from(error);
            if error.kind() == io::ErrorKind::NotFound {
                let message = format!("`{RESOLV_CONF}` is not there to be mounted on: create it");
                return io::Error::new(io::ErrorKind::NotFound, message);
            }
            error
        })?;
    }
    Ok(())
}

/// Moves the calling thread into the mount namespace of a process.
pub(super) fn enter_that_of(pid: u32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    // The kernel refuses a thread that shares root and working directory with others.
    unshare(UnshareFlags::FS)?;
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Mount),
    )?)
}

#[expect(unsafe_code, reason = "rustix marks every use of unshare(2) as unsafe")]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only `FILES` can break what other threads rely on; the callers give `NEWNS` and `FS`.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Where the resolver of every C library looks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
