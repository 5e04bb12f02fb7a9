//! What stands for systemd in a machine that is nothing but namespaces: it runs the units that are
//! installed there, by their own command lines, as their users, in their order.
//!
//! It knows what the units of this project say, and fails at the first word that it does not know.
//! Sandboxes of files and system calls it leaves out; users, capabilities and privileges it sets.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::machine::{child_of, enter};

/// A unit file, read: each key with its values.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit(BTreeMap<String, Vec<String>>);

/// The stand-in, for one boot of one machine.
pub(super) struct Init {
    state: Arc<Mutex<State>>,
    server: Option<JoinHandle<()>>,
}

struct State {
    /// Process 1 of the machine, as this process sees it.
    machine: u32,
    logs: PathBuf,
    running: BTreeMap<String, Child>,
    /// Every unit that was told to start, in that order.
    started: Vec<String>,
}

/// Keys that sandbox a unit, or say what happens long after a test.
const LEFT_OUT: [&str; 12] = [
    "Protect",
    "Private",
    "Restrict",
    "SystemCall",
    "LockPersonality",
    "MemoryDeny",
    "RemoveIPC",
    "Restart",
    "Description",
    "Documentation",
    "ReadWritePaths",
    "UMask",
];
const KNOWN: [&str; 28] = [
    "After",
    "AmbientCapabilities",
    "Before",
    "CapabilityBoundingSet",
    "ConditionPathExists",
    "Conflicts",
    "DefaultDependencies",
    "DynamicUser",
    "Environment",
    "EnvironmentFile",
    "ExecStart",
    "ExecStartPre",
    "Group",
    "KillMode",
    "LimitNOFILE",
    "NoNewPrivileges",
    "RemainAfterExit",
    "Requires",
    "RuntimeDirectory",
    "StateDirectory",
    "StateDirectoryMode",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "Type",
    "User",
    "WantedBy",
    "Wants",
    "Install",
];
const FOLDERS: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];
/// `DefaultTimeoutStopSec` is longer; no unit of ours needs it.
const STOP: Duration = Duration::from_secs(20);
/// Where the machine's `systemctl` puts what it is asked, and gets the answer.
const REQUEST: &str = "run/init/request";
const ANSWER: &str = "run/init/answer";

/// What the machine has in the place of `systemctl`: it hands its words over.
pub(super) const SYSTEMCTL: &str = r#"#!/bin/bash
exec 9>/run/init/lock
flock 9
echo "$*" > /run/init/request
{ read -r code; text=$(cat); } < /run/init/answer
[ "$code" = 0 ] && echo "$text" || echo "$text" >&2
[ "$1" = is-active ] && echo "$text"
exit "$code"
"#;

impl Unit {
    pub(super) fn read(text: &str) -> Self {
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', '[']) {
                continue;
            }
            let (key, value) = line.split_once('=').unwrap();
            let is_known =
                KNOWN.contains(&key) || LEFT_OUT.iter().any(|prefix| key.starts_with(prefix));
            assert!(is_known, "the stand-in for systemd does not know `{key}`");
            keys.entry(key.to_owned())
                .or_default()
                .push(value.to_owned());
        }
        Self(keys)
    }

    fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn one(&self, key: &str) -> Option<&str> {
        self.all(key).last().map(String::as_str)
    }

    fn words(&self, key: &str) -> impl Iterator<Item = &str> {
        self.all(key)
            .iter()
            .flat_map(|value| value.split_whitespace())
    }

    pub(super) fn comes_before(&self, name: &str, other: &Self, other_name: &str) -> bool {
        self.words("Before").any(|unit| unit == other_name)
            || other.words("After").any(|unit| unit == name)
    }
}

impl Init {
    /// Begins to answer the machine's `systemctl`.
    pub(super) fn serve(machine: u32, logs: &Path) -> Self {
        let state = State {
            machine,
            logs: logs.to_owned(),
            running: BTreeMap::new(),
            started: Vec::new(),
        };
        let root = state.root();
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let server = std::thread::spawn(move || {
            loop {
                let asked = fs::read_to_string(root.join(REQUEST)).unwrap();
                if asked.trim() == "end" {
                    return;
                }
                // A unit may ask for another while it starts or stops: answers are one by one, since
                // the machine's `systemctl` holds a lock.
                let (code, text) = answer(&shared, asked.trim());
                let mut answer = File::options().write(true).open(root.join(ANSWER)).unwrap();
                writeln!(answer, "{code}\n{text}").unwrap();
            }
        });
        Self {
            state,
            server: Some(server),
        }
    }

    /// Starts what is enabled, each after what it is ordered after.
    pub(super) fn boot(&self) {
        let root = self.state.lock().unwrap().root();
        let mut enabled: Vec<(String, Unit)> = Vec::new();
        for target in ["sysinit.target.wants", "multi-user.target.wants"] {
            let folder = root.join("etc/systemd/system").join(target);
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                if name.starts_with("mesh-") {
                    let unit = unit(&root, &name).unwrap();
                    enabled.push((name, unit));
                }
            }
        }
        while !enabled.is_empty() {
            let is_first = |(name, unit): &(String, Unit)| {
                !enabled
                    .iter()
                    .any(|(other, found)| found.comes_before(other, unit, name))
            };
            let at = enabled
                .iter()
                .position(is_first)
                .expect("the units are ordered in a circle");
            let (name, _) = enabled.remove(at);
            start(&self.state, &name).unwrap();
        }
    }

    /// The units that were told to start, in that order.
    pub(super) fn started(&self) -> Vec<String> {
        self.state.lock().unwrap().started.clone()
    }

    /// Whether the process of a unit runs.
    pub(super) fn runs(&self, unit: &str) -> bool {
        self.state.lock().unwrap().runs(unit)
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let root = self.state.lock().unwrap().root();
        // As somebody on the machine would: opening blocks until it is read.
        if let Ok(mut request) = File::options().write(true).open(root.join(REQUEST)) {
            drop(request.write_all(b"end"));
        }
        drop(self.server.take().map(JoinHandle::join));
        for child in self.state.lock().unwrap().running.values_mut() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl State {
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.machine))
    }

    fn runs(&mut self, unit: &str) -> bool {
        let child = self.running.get_mut(unit);
        child.is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

fn answer(state: &Mutex<State>, asked: &str) -> (u8, String) {
    let done = match asked.split_once(' ') {
        None if asked == "daemon-reload" => Ok(String::new()),
        Some(("start", unit)) => start(state, unit).map(|()| String::new()),
        // The exit code of the real one for a unit that it does not know.
        Some(("stop", name)) if unit(&root(state), name).is_err() && !runs(state, name) => {
            return (5, format!("Unit {name} not loaded."));
        }
        Some(("stop", name)) => {
            stop(state, name);
            Ok(String::new())
        }
        Some(("is-active", name)) if runs(state, name) => Ok("active".to_owned()),
        Some(("is-active", _)) => Err("inactive".to_owned()),
        _ => panic!("the stand-in for systemd cannot `{asked}`"),
    };
    match done {
        Ok(text) => (0, text),
        Err(text) => (3, text),
    }
}

fn root(state: &Mutex<State>) -> PathBuf {
    state.lock().unwrap().root()
}

fn runs(state: &Mutex<State>, name: &str) -> bool {
    state.lock().unwrap().runs(name)
}

fn unit(root: &Path, name: &str) -> Result<Unit, String> {
    let paths = FOLDERS.map(|folder| root.join(folder.trim_start_matches('/')).join(name));
    let text = paths.iter().find_map(|path| fs::read_to_string(path).ok());
    Ok(Unit::read(
        &text.ok_or_else(|| format!("{name} is not there"))?,
    ))
}

fn start(state: &Mutex<State>, name: &str) -> Result<(), String> {
    let (root, machine, log) = {
        let mut state = state.lock().unwrap();
        if state.runs(name) {
            return Ok(());
        }
        state.started.push(name.to_owned());
        let log = state.logs.join(format!("{name}.log"));
        (state.root(), state.machine, log)
    };
    let unit = unit(&root, name)?;
    for needed in unit.words("Requires") {
        start(state, needed)?;
    }
    for path in unit.words("ConditionPathExists") {
        if !root.join(path.trim_start_matches('/')).exists() {
            return Ok(());
        }
    }
    directories(&unit, &root);
    let log = File::options().append(true).create(true).open(log).unwrap();
    let command = |line: &str| {
        let mut command = command(&unit, &root, machine, line);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log.try_clone().unwrap());
        command
    };
    let run = |line: &str| match command(line).status() {
        Ok(status) if status.success() => Ok(()),
        ended => Err(format!("{name}: `{line}`: {ended:?}")),
    };
    for line in unit.all("ExecStartPre") {
        run(line)?;
    }
    let line = unit.one("ExecStart").unwrap();
    if unit.one("Type") == Some("oneshot") {
        return run(line);
    }
    assert_eq!(unit.one("Type"), Some("exec"));
    let child = command(line).spawn().unwrap();
    state.lock().unwrap().running.insert(name.to_owned(), child);
    Ok(())
}

fn stop(state: &Mutex<State>, name: &str) {
    let (child, root) = {
        let mut state = state.lock().unwrap();
        let is_running = state.runs(name);
        let child = state.running.remove(name).filter(|_| is_running);
        (child, state.root())
    };
    let Some(mut child) = child else { return };
    let outer = child.id();
    let end = |signal: &str| {
        // The one that entered the machine waits for the one that runs there.
        if let Some(inner) = child_of(outer) {
            let kill = Command::new("kill")
                .args([signal, &inner.to_string()])
                .status();
            assert!(kill.is_ok());
        }
    };
    end("-TERM");
    let deadline = Instant::now() + STOP;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            end("-KILL");
            child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Ok(unit) = unit(&root, name) {
        for directory in unit.words("RuntimeDirectory") {
            drop(fs::remove_dir_all(root.join("run").join(directory)));
        }
    }
}

/// `RuntimeDirectory=` and `StateDirectory=`: the user's own.
fn directories(unit: &Unit, root: &Path) {
    let ids = unit.one("User").map(|user| number(root, user));
    let runtime = unit.words("RuntimeDirectory").map(|name| ("run", name));
    let state = unit.words("StateDirectory").map(|name| ("var/lib", name));
    for (above, name) in runtime.chain(state) {
        let path = root.join(above).join(name);
        fs::create_dir_all(&path).unwrap();
        let mode = match unit.one("StateDirectoryMode") {
            Some(mode) if above != "run" => u32::from_str_radix(mode, 8).unwrap(),
            _ => 0o755,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, ids, ids).unwrap();
    }
}

fn number(root: &Path, user: &str) -> u32 {
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(user));
    let number = line.and_then(|line| line.split(':').nth(2));
    number.unwrap_or(user).parse().unwrap()
}

/// A command line of a unit, inside the machine, as the unit's user with its rights.
fn command(unit: &Unit, root: &Path, machine: u32, line: &str) -> Command {
    let environment = environment(unit, root);
    let mut command = enter(machine);
    command.arg("setpriv");
    if let Some(user) = unit.one("User") {
        let uid = number(root, user).to_string();
        let gid = number(root, unit.one("Group").unwrap_or(user)).to_string();
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]);
    }
    if unit.one("NoNewPrivileges") == Some("yes") {
        command.arg("--no-new-privs");
    }
    if let Some(set) = unit.one("CapabilityBoundingSet") {
        let kept = set.split_whitespace().map(|capability| {
            let name = capability.strip_prefix("CAP_").unwrap();
            format!(",+{}", name.to_ascii_lowercase())
        });
        let set = format!("-all{}", kept.collect::<String>());
        command.args(["--inh-caps", &set, "--bounding-set", &set]);
    }
    command.args(["--", "env", "-i"]);
    command.args(
        environment
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    for word in line.split_whitespace() {
        // `${NAME}` is one word, `$NAME` as many as it has: systemd.service(5).
        let value = |name: &str| environment.get(name).cloned().unwrap_or_default();
        if let Some(name) = word
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
        {
            command.arg(value(name));
        } else if let Some(name) = word.strip_prefix('$') {
            command.args(value(name).split_whitespace());
        } else {
            assert!(!word.contains(['$', '%', '"', '\'']), "{word}");
            command.arg(word);
        }
    }
    command
}

fn environment(unit: &Unit, root: &Path) -> BTreeMap<String, String> {
    // What systemd gives to every unit.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";
    let mut all = BTreeMap::from([("PATH".to_owned(), path.to_owned())]);
    let mut add = |line: &str| {
        if let Some((name, value)) = line.split_once('=') {
            all.insert(name.to_owned(), value.to_owned());
        }
    };
    unit.all("Environment").iter().for_each(|line| add(line));
    for file in unit.all("EnvironmentFile") {
        let path = file.strip_prefix('-').unwrap_or(file);
        let text = fs::read_to_string(root.join(path.trim_start_matches('/')));
        assert!(text.is_ok() || file.starts_with('-'), "{file}");
        let text = text.unwrap_or_default();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .for_each(&mut add);
    }
    all
}
