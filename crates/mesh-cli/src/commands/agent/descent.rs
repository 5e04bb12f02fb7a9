//! From root to the proxy's user, with the right to listen at ports below 1024 and no other.

use std::io;

use mesh_model::sidecar::PROXY_UID;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use crate::exit::Failure;

/// Goes on as the proxy's user. Only this thread does, so it has to be the only one.
///
/// The right is ambient: Envoy, which listens, inherits it.
pub(super) fn to_proxy_user() -> Result<(), Failure> {
    descend().map_err(|error| {
        let failure = Failure::doing("becoming the proxy's user", &error);
        failure.with_hint(
            "start it as root, with the capabilities SETUID, SETGID and NET_BIND_SERVICE",
        )
    })
}

fn descend() -> io::Result<()> {
    let right = CapabilitySet::NET_BIND_SERVICE;
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    thread::set_keep_capabilities(true)?;
    thread::set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(PROXY_UID), Gid::from_raw(PROXY_UID));
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: right,
            permitted: right,
            inheritable: right,
        },
    )?;
    thread::clear_ambient_capability_set()?;
    thread::configure_capability_in_ambient_set(right, true)?;
    thread::set_no_new_privs(true)?;
    Ok(())
}
