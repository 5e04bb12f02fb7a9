//! Network namespaces: named, found, entered on a thread of its own.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::EngineError;
use crate::Problem;

/// A network namespace, as one speaks of it.
///
/// ```
/// # use mesh_netfilter::Netns;
/// assert_eq!("pid:42".parse(), Ok(Netns::Pid(42)));
/// assert_eq!("app".parse(), Ok(Netns::Name("app".to_owned())));
/// assert_eq!("/proc/42/ns/net".parse(), Ok(Netns::Path("/proc/42/ns/net".into())));
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Netns {
    /// That of the calling thread.
    Current,
    /// By a file that stands for it.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
    /// By its name among those of `ip netns`.
    Name(String),
}

/// A network namespace that stays open.
#[derive(Debug)]
pub(super) struct OpenNetns {
    netns: Netns,
    name: String,
    /// None for the current one.
    file: Option<File>,
}

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";
const HOST: &str = "/proc/1/ns/net";
const OWN: &str = "/proc/thread-self/ns/net";
/// Files of `/proc/PID/net` have inodes of their own in each namespace. They can be looked at
/// without the right to trace the process, which even root may lack for process 1.
const HOST_DEVICES: &str = "/proc/1/net/dev";
const OWN_DEVICES: &str = "/proc/thread-self/net/dev";

// === impl Netns ===

impl Netns {
    fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Current => None,
            Self::Path(path) => Some(path.clone()),
            Self::Pid(pid) => Some(PathBuf::from(format!("/proc/{pid}/ns/net"))),
            Self::Name(name) => Some(Path::new(NAMED).join(name)),
        }
    }
}

impl FromStr for Netns {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let problem = || {
            Problem::new(
                "",
                text,
                "a network namespace: a name, a path, or `pid:` and a number",
            )
        };
        if let Some(pid) = text.strip_prefix("pid:") {
            let is_number = pid.bytes().all(|byte| byte.is_ascii_digit());
            let pid = is_number.then(|| pid.parse().ok()).flatten();
            return pid
                .filter(|pid| *pid > 0)
                .map(Self::Pid)
                .ok_or_else(problem);
        }
        if text.is_empty() || text.contains('\0') || text == "." || text == ".." {
            return Err(problem());
        }
        Ok(if text.contains('/') {
            Self::Path(PathBuf::from(text))
        } else {
            Self::Name(text.to_owned())
        })
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

// === impl OpenNetns ===

impl OpenNetns {
    pub(super) fn open(netns: &Netns) -> Result<Self, EngineError> {
        let name = netns.to_string();
        let file = netns.path().map(File::open).transpose();
        let file = file.map_err(|source| EngineError::OpenNamespace {
            netns: name.clone(),
            source,
        })?;
        Ok(Self {
            netns: netns.clone(),
            name,
            file,
        })
    }

    /// As it was asked for.
    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The namespace as it was asked for.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Does `work` inside the namespace, on a thread that ends with it.
    pub(super) fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        let Some(file) = &self.file else {
            return work();
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    self.move_thread_to(file)?;
                    work()
                })
                .map_err(EngineError::Thread)?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, which is the current one from then on.
    pub(super) fn move_in(mut self) -> Result<Self, EngineError> {
        if let Some(file) = self.file.take() {
            self.move_thread_to(&file)?;
        }
        Ok(self)
    }

    fn move_thread_to(&self, file: &File) -> Result<(), EngineError> {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(file.as_fd(), network).map_err(|errno| {
            EngineError::EnterNamespace {
                netns: self.name.clone(),
                source: errno.into(),
            }
        })
    }

    /// An error if the current thread is in the host's own namespace, or if that is not known.
    ///
    /// The host's is taken to be that of process 1. In a container with process ids of its own,
    /// that is the container's: a false alarm, and never a false silence.
    pub(super) fn refuse_host(&self) -> Result<(), EngineError> {
        let is_host = match (identity(HOST), identity(OWN)) {
            (Ok(host), Ok(own)) => host == own,
            _ => self.readable(HOST_DEVICES)? == self.readable(OWN_DEVICES)?,
        };
        if is_host {
            return Err(EngineError::HostNetwork {
                netns: self.name.clone(),
            });
        }
        Ok(())
    }

    fn readable(&self, path: &str) -> Result<(u64, u64), EngineError> {
        identity(path).map_err(|source| EngineError::HostUnknown {
            netns: self.name.clone(),
            path: PathBuf::from(path),
            source,
        })
    }
}

/// Device and inode.
fn identity(path: &str) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_written_in_three_ways() {
        for text in ["pid:1", "app", "/run/netns/app", "./app"] {
            assert_eq!(text.parse::<Netns>().unwrap().to_string(), text);
        }
        for bad in [
            "", "pid:", "pid:0", "pid:-1", "pid:+1", "pid:x", ".", "..", "a\0b",
        ] {
            assert!(bad.parse::<Netns>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let error = OpenNetns::open(&Netns::Name("no-such".into())).unwrap_err();
        assert_eq!(error.to_string(), "cannot open network namespace `no-such`");
        assert!(error.hint().is_some());
    }
}
