//! `cargo xtask layout`: which functions stand side by side in the released binary.
//!
//! `mesh-cni` runs before anything of an allocation does, and needs 0.4 of the binary's 42 MB of code.
//! Spread over all of it they are in 70 places, and the first call into each costs the process a page
//! fault: together a seventh of what it takes. So the linker gets a list of them. What is on the list
//! and not in the binary changes nothing, and neither does what is missing but the speed; when
//! `cargo xtask bench nomad` says that ADD got slower, this writes the list anew.

mod map;
mod script;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Failure;
use crate::cmd::Cmd;
use crate::release;

/// A network namespace; gone when dropped.
struct Namespace<'a> {
    name: String,
    root: &'a Path,
}

/// A job whose group gets a sidecar: its arguments for the plugin are those of most calls.
const JOB: &str = r#"{"Job":{"ID":"a","Datacenters":["dc1"],"TaskGroups":[{
    "Name":"a","Networks":[{"Mode":"bridge","DynamicPorts":[{"Label":"http","To":80}]}],
    "Services":[{"Name":"a","Provider":"nomad","PortLabel":"http"}],
    "Tasks":[{"Name":"a","Driver":"exec","Config":{"command":"a"}}]}]}}"#;

pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let mesh = release::build(root)?;
    let sections = map::read(&fs::read_to_string(release::map(root)?)?)?;
    let executed = executed(root, &mesh)?;
    let path = release::layout(root);
    fs::write(&path, script::write(&sections, &executed)?)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The functions that a first and a second start of an allocation run through.
fn executed(root: &Path, mesh: &Path) -> Result<BTreeSet<String>, Failure> {
    let directory = tempfile::tempdir()?;
    let plugin = directory.path().join("mesh-cni");
    std::os::unix::fs::symlink(mesh, &plugin)?;
    let job = directory.path().join("job.json");
    fs::write(&job, JOB)?;
    let arguments = arguments(mesh, &job)?;
    let namespace = Namespace::new(root)?;
    let mut functions = BTreeSet::new();
    for command in ["ADD", "CHECK"] {
        let profile = directory.path().join(command);
        let mut child = Command::new("valgrind")
            .args(["--tool=callgrind", "--demangle=no"])
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(&plugin)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "layout")
            .env("CNI_NETNS", format!("/run/netns/{}", namespace.name))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("valgrind: {error}"))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(br#"{"cniVersion":"1.0.0","name":"mesh","type":"mesh-cni","prevResult":{"cniVersion":"1.0.0"}}"#)?;
        }
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("{command} under valgrind: {status}").into());
        }
        functions.extend(map::functions(&fs::read_to_string(&profile)?));
    }
    Ok(functions)
}

/// What Nomad puts into `CNI_ARGS` for a job, once it is injected.
fn arguments(mesh: &Path, job: &Path) -> Result<String, Failure> {
    const KEY: &str = "MESH_CONFIG";
    let injected = Cmd::new(mesh, Path::new("/"))
        .args(["inject", "--mode", "cni"])
        .arg(job)
        .read()?;
    let value = injected
        .split_once(KEY)
        .and_then(|(_, rest)| rest.split('"').nth(2))
        .ok_or_else(|| format!("`mesh inject` writes no {KEY}"))?;
    Ok(format!("IgnoreUnknown=true;{KEY}={value}"))
}

// === impl Namespace ===

impl<'a> Namespace<'a> {
    fn new(root: &'a Path) -> Result<Self, Failure> {
        let name = format!("mesh-layout-{}", std::process::id());
        Cmd::new("ip", root).args(["netns", "add", &name]).run()?;
        let namespace = Self { name, root };
        let up = ["-n", &namespace.name, "link", "set", "lo", "up"];
        Cmd::new("ip", root).args(up).run()?;
        Ok(namespace)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let gone = Cmd::new("ip", self.root).args(["netns", "delete", &self.name]);
        if let Err(failure) = gone.run() {
            eprintln!("{failure}");
        }
    }
}
