//! The host's own network namespace: what has to hold before rules may go there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::capture::rules;
use super::listener::listeners;
use super::{Engine, EngineError, HostNetwork};
use crate::plan::{Action, Hook, Why};
use crate::{Plan, Port};

/// Where `sshd` listens unless it is told otherwise.
const SSH: Port = Port::of::<22>();

impl Engine {
    /// The ports on which `sshd` listens in this namespace; 22 if that is not to be known.
    ///
    /// # Errors
    /// [`EngineError::List`] if listeners cannot be read.
    pub fn ssh_ports(&self) -> Result<BTreeSet<Port>, EngineError> {
        let listeners = self.namespace.enter(|| {
            listeners().map_err(|source| EngineError::List {
                what: "listeners",
                source,
            })
        })?;
        let sockets = sockets_of("sshd");
        let ports: BTreeSet<Port> = listeners
            .iter()
            .filter(|listener| sockets.contains(&listener.inode))
            .filter_map(|listener| Port::new(listener.at.port()))
            .collect();
        if ports.is_empty() {
            return Ok(BTreeSet::from([SSH]));
        }
        Ok(ports)
    }

    /// Whether the namespace is the host's own, or may be: what is set there needs
    /// [`Policy::for_host`](crate::Policy::for_host).
    ///
    /// # Errors
    /// [`EngineError::EnterNamespace`] if the namespace cannot be entered.
    pub fn is_host(&self) -> Result<bool, EngineError> {
        let namespace = &self.namespace;
        namespace.enter(|| Ok(namespace.refuse_host().is_err()))
    }

    /// An error unless the plan may go into the thread's namespace.
    pub(super) fn admit(&self, plan: &Plan, host: HostNetwork) -> Result<(), EngineError> {
        match host {
            HostNetwork::Refuse => return self.namespace.refuse_host(),
            HostNetwork::IsNot => return Ok(()),
            HostNetwork::DangerouslyAllow => {}
        }
        // Whoever allows it where it is not the host's may capture everybody.
        let is_host = self.namespace.refuse_host().is_err();
        if is_host && captures_everybody(plan) {
            return Err(EngineError::HostIdentities {
                netns: self.namespace.name().to_owned(),
            });
        }
        Ok(())
    }
}

/// Whether connections are captured whoever sends them: in a chain that packets meet on their way
/// out without being asked for their sender. The proxy's own calls to its workload are.
fn captures_everybody(plan: &Plan) -> bool {
    rules(plan).any(|(chain, rule)| {
        let is_out = chain.base().is_some_and(|base| base.hook == Hook::Output);
        let takes = matches!(rule.action, Action::Redirect(_) | Action::Dnat(_));
        is_out && takes && rule.why != Why::SelfCall
    })
}

/// The numbers of the sockets that programs of this name have open, as far as we may look.
fn sockets_of(name: &str) -> BTreeSet<u64> {
    let mut sockets = BTreeSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.map(|entry| entry.path()) {
        let comm = fs::read_to_string(process.join("comm"));
        if comm.is_ok_and(|comm| comm.trim_end() == name) {
            sockets.extend(sockets_in(&process.join("fd")));
        }
    }
    sockets
}

fn sockets_in(folder: &Path) -> Vec<u64> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links
        .filter_map(|link| {
            let link = link.to_str()?;
            link.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_among_the_files_of_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let found = listeners().unwrap();
        let inode = found.iter().find(|it| it.at == at).unwrap().inode;
        let own = Path::new("/proc/self/fd");
        assert!(sockets_in(own).contains(&inode));
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(sockets_of(name.trim_end()).contains(&inode));
        assert!(!sockets_of("no-such-program").contains(&inode));
    }
}
