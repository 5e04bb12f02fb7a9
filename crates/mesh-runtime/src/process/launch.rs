//! How a command of a unit comes to run: in its cgroup, as its user, with its capabilities alone.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::{fs, process, thread};

use super::cgroup;
use crate::{Capability, UnitSpec};

/// What the child does to itself between fork and exec.
#[derive(Debug)]
struct Descent {
    /// Takes the child into its cgroup.
    processes: Option<OwnedFd>,
    uid: process::Uid,
    gid: process::Gid,
    capabilities: CapabilitySet,
}

/// The command `command`, as the unit's user and in its cgroup, with the unit's environment.
///
/// The namespaces are those of the thread that spawns it.
pub(crate) fn prepare(
    command: &[String],
    unit: &UnitSpec,
    cgroup: Option<&Path>,
) -> io::Result<Command> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
    let mut prepared = Command::new(program);
    prepared
        .args(arguments)
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        .envs(&unit.environment)
        .current_dir(&unit.working_directory);
    let descent = Descent {
        processes: open_processes(cgroup)?,
        uid: process::Uid::from_raw(unit.uid),
        gid: process::Gid::from_raw(unit.gid),
        capabilities: set_of(&unit.capabilities),
    };
    before_exec(&mut prepared, descent);
    Ok(prepared)
}

/// Lets a command live apart from whoever starts it: in a cgroup of its own, since that of the
/// caller may be ended with the caller's session or service, and without what the caller has open.
pub(super) fn detach(command: &mut Command, cgroup: Option<&Path>) -> io::Result<()> {
    leave_caller(command, open_processes(cgroup)?);
    Ok(())
}

fn open_processes(cgroup: Option<&Path>) -> io::Result<Option<OwnedFd>> {
    let open = |cgroup: &Path| {
        let path = cgroup.join(cgroup::PROCESSES);
        OpenOptions::new().write(true).open(path)
    };
    Ok(cgroup.map(open).transpose()?.map(OwnedFd::from))
}

fn join(processes: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(processes) = processes {
        // 0 stands for the writer itself.
        rustix::io::write(processes, b"0")?;
    }
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "the standard library runs code after fork only as unsafe, and rustix has no close_range"
)]
fn leave_caller(command: &mut Command, processes: Option<OwnedFd>) {
    let leave = move || {
        join(processes.as_ref())?;
        // SAFETY: marks descriptors to be closed at exec, the next thing that happens; none is
        // closed under somebody who uses it.
        let marked = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3_u32,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if marked == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the closure makes two system calls on values made before the fork, and nothing else.
    unsafe { command.pre_exec(leave) };
}

#[expect(
    unsafe_code,
    reason = "the standard library runs code after fork only as unsafe"
)]
fn before_exec(command: &mut Command, descent: Descent) {
    // SAFETY: the closure makes system calls on values made before the fork, and nothing else: it
    // allocates nothing, takes no lock and touches no file descriptor but its own.
    unsafe { command.pre_exec(move || descent.run()) };
}

// === impl Descent ===

impl Descent {
    /// Rights go last: until then they are needed.
    fn run(&self) -> io::Result<()> {
        join(self.processes.as_ref())?;
        process::setsid()?;
        process::umask(fs::Mode::from_raw_mode(0o022));
        for number in 0..CAPABILITIES {
            let bit = CapabilitySet::from_bits_retain(1 << number);
            if !self.capabilities.contains(bit) {
                match thread::remove_capability_from_bounding_set(bit) {
                    // A kernel that does not know it.
                    Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        thread::set_keep_capabilities(true)?;
        thread::set_thread_groups(&[])?;
        thread::set_thread_res_gid(self.gid, self.gid, self.gid)?;
        thread::set_thread_res_uid(self.uid, self.uid, self.uid)?;
        thread::set_capabilities(
            None,
            CapabilitySets {
                effective: self.capabilities,
                permitted: self.capabilities,
                inheritable: self.capabilities,
            },
        )?;
        thread::clear_ambient_capability_set()?;
        for bit in self.capabilities.iter() {
            // Without this, a user other than root would lose them at exec.
            thread::configure_capability_in_ambient_set(bit, true)?;
        }
        Ok(thread::set_no_new_privs(true)?)
    }
}

fn set_of(capabilities: &BTreeSet<Capability>) -> CapabilitySet {
    let bits = capabilities
        .iter()
        .fold(0, |bits, it| bits | 1 << it.number());
    CapabilitySet::from_bits_retain(bits)
}

/// The kernel's sets have so many bits.
const CAPABILITIES: u32 = u64::BITS;

/// What a command finds its programs with when its environment says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
