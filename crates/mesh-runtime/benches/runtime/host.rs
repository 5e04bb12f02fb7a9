//! A machine of its own: a network and a mount namespace in which a measurement runs.

use std::ffi::OsStr;
use std::future::Future;
use std::process::{Command, Output};
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

/// Does `work` on a machine of its own, which is gone afterwards.
pub(crate) fn on_a_machine(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let done = scope.spawn(|| {
            become_a_machine();
            work();
        });
        if let Err(panic) = done.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits for `work` on the calling thread, in whose namespaces everything happens.
pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// Runs a program, which must succeed; what it wrote.
pub(crate) fn run(program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    succeed(Command::new(program).args(arguments))
}

/// Runs a command, which must succeed; what it wrote.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&stdout).into_owned()
}

#[expect(unsafe_code, reason = "rustix marks every use of unshare(2) as unsafe")]
fn become_a_machine() {
    // SAFETY: only `FILES` can break what other threads rely on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    // For the namespaces of `ip netns`.
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
    run("ip", &["link", "set", "lo", "up"]);
}
