//! `cargo xtask e2e`: the whole mesh on this machine, each promise proved with real traffic.
//!
//! Two processes: the outer one prepares, looks at the machine before and after, and waits;
//! the inner one runs in a network and mount namespace that plays the host, so that nothing of the
//! scenario touches this machine's own network.

mod daemon;
mod ground;
mod machine;
mod nomad;
mod row;
mod scenario;
mod world;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::cmd::Cmd;
use crate::provision::{self, Tools};
use crate::{E2eArguments, Failure, Ground};
use machine::Machine;
use row::{Report, Row};
use world::World;

/// Everything of a run is below this directory: short, because sockets are in it, and open to every
/// user, because proxies and applications are not root.
const HOME: &str = "/tmp/mesh-e2e";
/// Held by a run.
const LOCK: &str = "/run/mesh-e2e.lock";

pub(crate) fn run(root: &Path, arguments: &E2eArguments) -> Result<(), Failure> {
    match &arguments.inside {
        Some(home) => inside(root, home, arguments),
        None => outside(root, arguments),
    }
}

fn outside(root: &Path, arguments: &E2eArguments) -> Result<(), Failure> {
    let start = Instant::now();
    let tools = preflight(root, arguments.ground)?;
    let lock = File::create(LOCK)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err("another `cargo xtask e2e` is running on this machine; wait for it".into());
    }
    build(root)?;
    let home = prepare(root, &tools, arguments.ground)?;
    let built = Instant::now();
    let before = Machine::look();

    let program = std::env::current_exe()?;
    let mut inner = Command::new(tools.need("unshare")?);
    inner
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(["e2e", arguments.ground.name(), "--inside"])
        .arg(&home)
        .args(arguments.keep.then_some("--keep"))
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    let status = run_inside(&mut inner)?;

    let mut report = Report::load(&home).unwrap_or_default();
    if !arguments.keep {
        report.rows.push(nothing_left(&before, &Machine::look()));
    }
    if !status.success() {
        let ended = Row::fail("the scenario ran to its end", status.to_string());
        report.rows.push(ended);
    }
    report.seconds = built.elapsed().as_secs();
    report.print(arguments.json)?;
    eprintln!(
        "built in {} s, ran in {} s",
        (built - start).as_secs(),
        report.seconds
    );
    let verdict = report.verdict();
    if (verdict.is_err() && !report.interrupted) || arguments.keep {
        eprintln!("logs and state are in {}", home.display());
    } else {
        fs::remove_dir_all(&home)?;
    }
    drop(lock);
    verdict
}

/// What must be there before anything is built, one sentence each.
fn preflight(root: &Path, ground: Ground) -> Result<Tools, Failure> {
    if !cfg!(target_os = "linux") {
        return Err("e2e needs Linux: network namespaces and nftables".into());
    }
    provision::need_root()?;
    let tools = provision::run(root);
    let always = [
        "envoy",
        "kubectl",
        "ip",
        "unshare",
        "tcpdump",
        "redis-server",
        "curl",
        "openssl",
    ];
    let more: &[&str] = match ground {
        Ground::Process => &[],
        Ground::Docker => &["dockerd", "etcd", "etcdctl"],
        Ground::Nomad => &["nomad", "dockerd", "host-local", "iptables-restore", "nft"],
        Ground::Cluster => &["nomad", "etcd", "host-local", "iptables-restore", "nft"],
    };
    for program in always.iter().chain(more) {
        tools.need(program)?;
    }
    let probe = Cmd::new(tools.need("unshare")?, root)
        .args(["--net", "--mount", "true"])
        .read();
    probe.map_err(|failure| {
        format!("this kernel or container gives no network namespaces ({failure}): use a VM, or a privileged container")
    })?;
    Ok(tools)
}

fn build(root: &Path) -> Result<(), Failure> {
    Cmd::cargo(root)
        .args([
            "build",
            "--package",
            "mesh-cli",
            "--package",
            "mesh-tests",
            "--bins",
        ])
        .run()
}

/// A fresh directory with the programs in it, readable by every user.
fn prepare(root: &Path, tools: &Tools, ground: Ground) -> Result<PathBuf, Failure> {
    let home = PathBuf::from(HOME);
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    let bin = home.join("bin");
    fs::create_dir_all(&bin)?;
    for dir in [&home, &bin] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    let built = target_dir(root)?.join("debug");
    for name in ["mesh", "mesh-echo"] {
        fs::copy(built.join(name), bin.join(name))?;
        if ground != Ground::Process {
            // Images would carry what debuggers need: most of the file.
            Cmd::new("strip", root).arg(bin.join(name)).run()?;
        }
    }
    for name in links(ground) {
        std::os::unix::fs::symlink(tools.need(name)?, bin.join(name))?;
    }
    // Proxies are not root, and a home directory may be closed to them.
    fs::remove_file(bin.join("envoy"))?;
    fs::copy(tools.need("envoy")?, bin.join("envoy"))?;
    Ok(home)
}

/// Programs of the machine that the run calls.
fn links(ground: Ground) -> Vec<&'static str> {
    let mut names = vec![
        "envoy",
        "redis-server",
        "kubectl",
        "ip",
        "tcpdump",
        "curl",
        "openssl",
    ];
    match ground {
        Ground::Process => {}
        Ground::Docker => names.extend(["etcd", "etcdctl"]),
        Ground::Nomad => names.push("nomad"),
        Ground::Cluster => names.extend(["nomad", "etcd"]),
    }
    names
}

fn target_dir(root: &Path) -> Result<PathBuf, Failure> {
    let text = Cmd::cargo(root)
        .args(["metadata", "--format-version=1", "--no-deps"])
        .read()?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let dir = metadata
        .get("target_directory")
        .and_then(serde_json::Value::as_str);
    Ok(dir.ok_or("cargo names no target directory")?.into())
}

fn inside(root: &Path, home: &Path, arguments: &E2eArguments) -> Result<(), Failure> {
    let report = tokio::runtime::Runtime::new()?.block_on(scenario::run(
        World::new(root, home, arguments.ground),
        arguments.keep,
    ));
    report.save(home)
}

fn nothing_left(before: &Machine, after: &Machine) -> Row {
    let promise = "everything is down and nothing is left";
    let left = after.beyond(before);
    if left.is_empty() {
        Row::pass(
            promise,
            format!("compared before and after: {}", after.summary()),
        )
    } else {
        Row::fail(promise, left.join(", "))
    }
}

/// Runs the inner process, which takes everything down when it is told to end. We only wait for it,
/// and tell it so: a terminal tells both, others only the process that they know.
fn run_inside(inner: &mut Command) -> Result<ExitStatus, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    // Before it is there, so that none is lost; for as long as this process lives.
    let heard = [
        (Signal::INT, signal(SignalKind::interrupt())?),
        (Signal::TERM, signal(SignalKind::terminate())?),
    ];
    drop(entered);
    let mut inner = inner.spawn()?;
    let pid = Pid::from_child(&inner);
    for (kind, mut heard) in heard {
        runtime.spawn(async move {
            while heard.recv().await.is_some() {
                if let Err(errno) = kill_process(pid, kind) {
                    eprintln!("the scenario cannot be told to end: {errno}");
                }
            }
        });
    }
    Ok(inner.wait()?)
}
