//! The user namespace that owns the thread's network namespace.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

use super::super::EngineError;

/// `NS_GET_USERNS` of `linux/nsfs.h`: a descriptor of the user namespace that owns another one.
struct GetOwner;

const NETWORK: &str = "/proc/thread-self/ns/net";
const USER: &str = "/proc/thread-self/ns/user";
const NS_GET_USERNS: Opcode = rustix::ioctl::opcode::none(0xb7, 1);

/// The user namespace to join before rules that name owners are written; none if it is the
/// thread's own.
pub(super) fn of_network() -> Result<Option<OwnedFd>, EngineError> {
    let look = || -> io::Result<Option<OwnedFd>> {
        let owner = match owner(&File::open(NETWORK)?) {
            Ok(owner) => owner,
            // The owner is outside of what this process may know: then it is not below it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(error),
        };
        let theirs = owner.metadata()?;
        let own = std::fs::metadata(USER)?;
        let is_own = (theirs.dev(), theirs.ino()) == (own.dev(), own.ino());
        Ok((!is_own).then(|| owner.into()))
    };
    look().map_err(|source| EngineError::Lock {
        path: PathBuf::from(NETWORK),
        source,
    })
}

fn owner(namespace: &File) -> io::Result<File> {
    #[expect(unsafe_code, reason = "rustix has no name for this request")]
    // SAFETY: the request takes no argument and answers with a new descriptor, as `GetOwner` says.
    let owner = unsafe { ioctl(namespace, GetOwner) }?;
    Ok(File::from(owner))
}

#[expect(unsafe_code, reason = "rustix has no name for this request")]
// SAFETY: the request reads and writes no memory of the caller; its answer is a new descriptor,
// which nobody else owns.
unsafe impl Ioctl for GetOwner {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NS_GET_USERNS
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the kernel has just made this descriptor for the caller.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}
