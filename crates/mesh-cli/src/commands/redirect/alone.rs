//! One watcher of the host's own rules at a time: two would undo each other's work.
//!
//! Nomad gives a static port once for each address of a machine, so on one with several a second
//! group can be placed that believes to have the machine for itself. It waits until the first has
//! gone.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use mesh_netfilter::InstanceName;
use rustix::net::sockopt::socket_peercred;

/// How long a watcher that waits leaves to one that ended, which may only be starting again.
const GRACE: Duration = Duration::from_secs(10);

/// Waits until no other watcher of this instance is in the network namespace, and keeps others
/// out for as long as this process lives.
pub(super) fn stand(instance: &InstanceName) -> io::Result<()> {
    let address = address(instance)?;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                // Those who wait see the end of their connection when this process ends.
                thread::spawn(move || {
                    let mut waiting = Vec::new();
                    for stream in listener.incoming() {
                        waiting.push(stream);
                    }
                });
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
        let Some(mut other) = other(&address)? else {
            tracing::warn!(%instance, "somebody who is not root took the watchers' name");
            return Ok(());
        };
        tracing::warn!(%instance, "another watcher is here; waiting until it has gone");
        // Nothing comes but the end.
        io::copy(&mut other, &mut io::sink())?;
        thread::sleep(GRACE);
    }
}

/// Whether a watcher of this instance is in the network namespace.
pub(super) fn is_watched(instance: &InstanceName) -> io::Result<bool> {
    Ok(other(&address(instance)?)?.is_some())
}

/// The watcher that is there, if it is root's: a name without a file belongs to whoever comes
/// first, and nobody else may hold back the rules.
fn other(address: &SocketAddr) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect_addr(address) {
        Ok(stream) => {
            let is_root = socket_peercred(&stream)?.uid.is_root();
            Ok(is_root.then_some(stream))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name of the network namespace, without a file: containers of the host's network share it.
fn address(instance: &InstanceName) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("mesh-redirect-watch/{instance}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_seen_while_it_stands() {
        let instance: InstanceName = format!("t{}", std::process::id()).parse().unwrap();
        assert!(!is_watched(&instance).unwrap());
        stand(&instance).unwrap();
        // Only root's counts.
        let is_root = rustix::process::geteuid().is_root();
        for _ in 0..3 {
            assert_eq!(is_watched(&instance).unwrap(), is_root);
        }
    }
}
