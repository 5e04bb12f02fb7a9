//! The programs of iptables: found, and run in the namespace of the thread.
//!
//! No shell, no inherited environment but PATH. The child inherits the thread's network
//! namespace. What it reads is a file in memory, so it gets all of it even if this process dies.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, UnshareFlags, move_into_link_name_space, set_thread_res_gid,
    set_thread_res_uid, unshare_unsafe,
};

use super::super::EngineError;
use crate::{Backend, Family};

/// The programs of one variant.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    path: OsString,
    version: String,
    restore: Program,
    save: Program,
    /// None if the machine has no tools for IPv6.
    v6: Option<(Program, Program)>,
}

/// A program and what it is asked to be.
#[derive(Clone, Debug)]
struct Program {
    /// As people know it.
    name: String,
    file: PathBuf,
    /// The programs of all names are one; under its own name it takes theirs first.
    applet: Option<String>,
}

/// Seconds for which a program waits for the lock of its variant.
const LOCK_SECONDS: &str = "5";

// === impl Tools ===

impl Tools {
    /// The programs of `backend` in the folders of `path`.
    pub(super) fn find(backend: Backend, path: &OsStr) -> Result<Self, EngineError> {
        let variant = match backend {
            Backend::IptablesLegacy => "legacy",
            Backend::IptablesNft | Backend::Netlink => "nft",
        };
        let find = |tool: &str, verb: &str| Program::find(path, tool, variant, verb);
        let missing = |verb: &str| EngineError::MissingTool {
            program: format!("iptables-{variant}-{verb}"),
        };
        let restore = find("iptables", "restore").ok_or_else(|| missing("restore"))?;
        let save = find("iptables", "save").ok_or_else(|| missing("save"))?;
        let mut tools = Self {
            path: path.to_owned(),
            version: String::new(),
            restore,
            save,
            v6: find("ip6tables", "restore").zip(find("ip6tables", "save")),
        };
        let output = tools.run(
            tools.command(&tools.restore, &["--version"]),
            &tools.restore,
        )?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_ascii_whitespace().nth(1).unwrap_or_default();
        version
            .trim_start_matches('v')
            .clone_into(&mut tools.version);
        Ok(tools)
    }

    /// The version, such as `1.8.9`; empty if it is not told.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn has(&self, family: Family) -> bool {
        family == Family::V4 || self.v6.is_some()
    }

    /// Prints all tables of the namespace, with counters.
    pub(super) fn save(&self, family: Family) -> Result<String, EngineError> {
        let (_, save) = self.programs(family)?;
        let output = self.run(self.command(save, &["-c"]), save)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Has `input` done, table by table; as root of `owner` if that is not the own user namespace.
    pub(super) fn restore(
        &self,
        family: Family,
        input: &str,
        owner: Option<&OwnedFd>,
    ) -> Result<(), EngineError> {
        self.run_with(family, &["--noflush", "-w", LOCK_SECONDS], input, owner)
    }

    /// Has `input` checked as far as the kernel does without doing it.
    pub(super) fn test(&self, family: Family, input: &str) -> Result<(), EngineError> {
        self.run_with(
            family,
            &["--noflush", "--test", "-w", LOCK_SECONDS],
            input,
            None,
        )
    }

    fn run_with(
        &self,
        family: Family,
        arguments: &[&str],
        input: &str,
        owner: Option<&OwnedFd>,
    ) -> Result<(), EngineError> {
        let (restore, _) = self.programs(family)?;
        let mut command = self.command(restore, arguments);
        let failed = |source| restore.failed("prepare", source);
        let owner = owner.map(OwnedFd::try_clone).transpose().map_err(failed)?;
        command.stdin(Stdio::from(in_memory(input).map_err(failed)?));
        // The engine holds the lock that matters, that of the namespace. The program is given the
        // file with its input to lock, where nobody is in its way: the lock of all iptables of
        // the host may be held for hours, and users of other namespaces may not open it.
        command.env("XTABLES_LOCKFILE", "/proc/self/fd/0");
        #[expect(
            unsafe_code,
            reason = "only the child, between fork and exec, can do this"
        )]
        // SAFETY: the closure makes system calls and nothing else. It allocates no memory, takes
        // no lock and touches nothing of the parent's.
        unsafe {
            command.pre_exec(move || {
                if let Some(owner) = &owner {
                    become_root_of(owner)?;
                }
                hide_name_services();
                Ok(())
            });
        }
        self.run(command, restore).map(|_| ())
    }

    fn programs(&self, family: Family) -> Result<(&Program, &Program), EngineError> {
        match (family, &self.v6) {
            (Family::V4, _) => Ok((&self.restore, &self.save)),
            (Family::V6, Some((restore, save))) => Ok((restore, save)),
            (Family::V6, None) => Err(EngineError::MissingTool {
                program: self.restore.name.replacen("iptables", "ip6tables", 1),
            }),
        }
    }

    fn command(&self, program: &Program, arguments: &[&str]) -> Command {
        let mut command = Command::new(&program.file);
        command
            .args(&program.applet)
            .args(arguments)
            .env_clear()
            .env("PATH", &self.path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    #[expect(clippy::unused_self, reason = "running is what tools are for")]
    fn run(&self, mut command: Command, program: &Program) -> Result<Output, EngineError> {
        let output = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(|source| program.failed("run", source))?;
        if output.status.success() {
            return Ok(output);
        }
        Err(EngineError::ToolFailed {
            program: program.name.clone(),
            status: output.status.to_string(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

// === impl Program ===

impl Program {
    /// `iptables-nft-restore` by its own name, else as a part of `xtables-nft-multi`.
    fn find(path: &OsStr, tool: &str, variant: &str, verb: &str) -> Option<Self> {
        let name = format!("{tool}-{variant}-{verb}");
        let of = |file: &str| {
            std::env::split_paths(path)
                .map(|folder| folder.join(file))
                .find(|file| is_executable(file))
        };
        if let Some(file) = of(&name) {
            return Some(Self {
                name,
                file,
                applet: None,
            });
        }
        Some(Self {
            name,
            file: of(&format!("xtables-{variant}-multi"))?,
            applet: Some(format!("{tool}-{verb}")),
        })
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> EngineError {
        EngineError::Tool {
            program: self.name.clone(),
            operation,
            source,
        }
    }
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A file without a name that holds `text` and is read from its beginning.
fn in_memory(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"rules", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Makes the process root of the user namespace: rules that name owners must be written from
/// inside the one that owns the network namespace, and nobody else may.
fn become_root_of(owner: &OwnedFd) -> io::Result<()> {
    move_into_link_name_space(owner.as_fd(), Some(LinkNameSpaceType::User))?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

/// Hides the configuration of name services from this process. iptables asks them for a user named
/// `1337` before it takes that for a number, and they may ask the network, which is the very one
/// that is being set up. Where this is not possible, rules are made all the same.
fn hide_name_services() {
    #[expect(
        unsafe_code,
        reason = "the call is marked so, for other namespaces than this"
    )]
    // SAFETY: the process has one thread, and a mount namespace of its own shares no memory.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    // Without this the mount would be everybody's.
    if unshared.is_ok() && mount_change(c"/", apart).is_ok() {
        // Files are asked all the same, which is the default of an empty configuration. A machine
        // without the file has nothing to hide.
        mount_bind(c"/dev/null", c"/etc/nsswitch.conf").unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_what_to_do() {
        let error = Tools::find(Backend::IptablesLegacy, OsStr::new("/no-such")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`iptables-legacy-restore` is not in PATH"
        );
        assert!(error.hint().unwrap().contains("install iptables"));
    }
}
