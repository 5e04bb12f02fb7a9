//! The facts of a namespace on which plans depend.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Engine, EngineError, Netns};
use crate::Facts;

/// The file with which the C library finds its servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where `ip netns` has such files for the namespaces that it names.
const NAMED: &str = "/etc/netns";
/// Settings of the calling thread's network namespace.
const IPV6: &str = "/proc/sys/net/ipv6";
const LOOPBACK_IPV6_OFF: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

impl Engine {
    /// What a plan depends on in this namespace: the DNS servers of its processes, and whether it
    /// has IPv6.
    ///
    /// The servers are those of `/etc/resolv.conf` as the process sees it that names the namespace
    /// (`pid:N`), as `ip netns exec` shows it (a name), or else as this process sees it. Without
    /// such a file there are none.
    ///
    /// # Errors
    /// [`EngineError::Facts`] if something is there and cannot be read.
    pub fn facts(&self) -> Result<Facts, EngineError> {
        let path = resolv_conf(self.namespace.netns());
        let servers = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.map_err(|source| EngineError::Facts { path, source })?,
        };
        let lacks_ipv6 = self.namespace.enter(lacks_ipv6)?;
        Ok(Facts::default()
            .resolv_conf(&servers)
            .without_ipv6(lacks_ipv6))
    }
}

/// The `resolv.conf` of the processes in a namespace.
fn resolv_conf(netns: &Netns) -> PathBuf {
    match netns {
        Netns::Pid(pid) => PathBuf::from(format!("/proc/{pid}/root{RESOLV_CONF}")),
        Netns::Name(name) => {
            let own = Path::new(NAMED).join(name).join("resolv.conf");
            if own.exists() {
                own
            } else {
                PathBuf::from(RESOLV_CONF)
            }
        }
        Netns::Current | Netns::Path(_) => PathBuf::from(RESOLV_CONF),
    }
}

/// Whether the namespace of the calling thread has no IPv6: the kernel has none, or it is off even
/// on loopback.
fn lacks_ipv6() -> Result<bool, EngineError> {
    if !Path::new(IPV6).exists() {
        return Ok(true);
    }
    let off = fs::read_to_string(LOOPBACK_IPV6_OFF);
    let off = off.map_err(|source| EngineError::Facts {
        path: PathBuf::from(LOOPBACK_IPV6_OFF),
        source,
    })?;
    Ok(off.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_asks_the_servers_of_its_own_root() {
        assert_eq!(
            resolv_conf(&Netns::Pid(7)),
            Path::new("/proc/7/root/etc/resolv.conf")
        );
        let name = Netns::Name("no-such-name".to_owned());
        assert_eq!(resolv_conf(&name), Path::new(RESOLV_CONF));
    }
}
