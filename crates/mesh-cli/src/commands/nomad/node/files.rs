//! Plugin, network and user on a node, and the record of what of it is ours.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_model::sidecar::PROXY_UID;
use mesh_nomad::install::CniNetwork;
use mesh_nomad::install::node::{PLUGIN, USER, conflist};
use serde::{Deserialize, Serialize};

/// Where the record is, from the root of the node.
const RECORD: &str = "var/lib/mesh-node/record.json";

/// The plugins of the chain that are not ours.
const STANDARD: [&str; 5] = ["bridge", "firewall", "host-local", "loopback", "portmap"];

/// How much of a program is in memory at a time.
const PIECE: usize = 64 * 1024;

/// A node: the root of its files, and where its Nomad client looks.
#[derive(Debug)]
pub(super) struct Node {
    root: PathBuf,
    cni_path: Vec<PathBuf>,
    cni_config: PathBuf,
}

/// What was done, and what is left to others.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    pub(super) changes: Vec<String>,
    pub(super) lacks: Vec<String>,
}

/// What of a node is ours.
#[derive(Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Record {
    /// Files by their paths; the text where it tells ours from another's.
    files: BTreeMap<PathBuf, Option<String>>,
    user: bool,
    group: bool,
}

// === impl Node ===

impl Node {
    pub(super) fn new(root: &Path, cni_path: Vec<PathBuf>, cni_config: PathBuf) -> Self {
        Self {
            root: root.to_owned(),
            cni_path,
            cni_config,
        }
    }

    /// Puts there what is missing or another.
    pub(super) fn prepare(&self, program: &Path, network: &CniNetwork) -> io::Result<Outlook> {
        let mut outlook = Outlook::default();
        let mut record = Record::read(&self.root)?;
        let Some(first) = self.cni_path.first() else {
            return Err(io::Error::other("cni_path is empty"));
        };
        let plugin = first.join(PLUGIN);
        if self.put_copy(&plugin, program)? {
            outlook.changes.push(format!("plugin {}", plugin.display()));
        }
        record.files.insert(plugin, None);

        let missing: Vec<_> = STANDARD
            .iter()
            .filter(|name| {
                !self
                    .cni_path
                    .iter()
                    .any(|path| self.at(&path.join(name)).exists())
            })
            .copied()
            .collect();
        let file = self.cni_config.join(format!("{}.conflist", network.name));
        if missing.is_empty() {
            let text = conflist(network);
            if self.put(&file, text.as_bytes(), 0o644)? {
                outlook.changes.push(format!("network {}", file.display()));
            }
            record.files.insert(file, Some(text));
        } else {
            // A network whose chain cannot run would take groups that then fail.
            outlook.lacks.push(format!(
                "no network `{}` was made: the CNI plugins {} are in none of {}; install them (1.3 or later) and run this again",
                network.name,
                missing.join(", "),
                self.cni_path.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            ));
        }
        self.user(&mut record, &mut outlook)?;
        record.write(&self.root)?;
        Ok(outlook)
    }

    /// The proxy's user, by the node's own tools.
    fn user(&self, record: &mut Record, outlook: &mut Outlook) -> io::Result<()> {
        let id = PROXY_UID.to_string();
        let users = fs::read_to_string(self.at(Path::new("/etc/passwd"))).unwrap_or_default();
        match number(&users, USER) {
            Some(found) if found == id => return Ok(()),
            Some(found) => {
                outlook.lacks.push(format!(
                    "user {USER} has the number {found}, and the proxy's is {id}: rules would not know it"
                ));
                return Ok(());
            }
            None => {}
        }
        let groups = fs::read_to_string(self.at(Path::new("/etc/group"))).unwrap_or_default();
        let root = self.root.as_os_str();
        if number(&groups, USER).is_none() {
            let words = ["--non-unique", "--gid", &id, USER];
            run(Command::new("groupadd").arg("--root").arg(root).args(words))?;
            record.group = true;
        }
        let words = [
            "--non-unique",
            "--uid",
            &id,
            "--gid",
            &id,
            "--no-create-home",
            "--home-dir",
            "/",
            "--shell",
            "/usr/sbin/nologin",
            USER,
        ];
        run(Command::new("useradd").arg("--root").arg(root).args(words))?;
        record.user = true;
        outlook.changes.push(format!("user {USER}"));
        Ok(())
    }

    /// Copies a program, which may be larger than the memory of this task; false if it was there.
    fn put_copy(&self, path: &Path, program: &Path) -> io::Result<bool> {
        let path = self.at(path);
        let is_executable =
            fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o777 == 0o755);
        if is_executable && is_same(&path, program)? {
            return Ok(false);
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let new = temporary(&path);
        fs::copy(program, &new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(&new, &path)?;
        Ok(true)
    }

    /// Writes a file whole or not at all; false if it was so already.
    fn put(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
        let path = self.at(path);
        let is_same = fs::read(&path).is_ok_and(|found| found == bytes);
        if is_same && fs::metadata(&path)?.permissions().mode() & 0o777 == mode {
            return Ok(false);
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let new = temporary(&path);
        fs::write(&new, bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::rename(&new, &path)?;
        Ok(true)
    }

    fn at(&self, path: &Path) -> PathBuf {
        below(&self.root, path)
    }
}

// === impl Record ===

impl Record {
    fn read(root: &Path) -> io::Result<Self> {
        match fs::read_to_string(root.join(RECORD)) {
            Ok(text) => serde_json::from_str(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, root: &Path) -> io::Result<()> {
        let path = root.join(RECORD);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(
            path,
            serde_json::to_string_pretty(self).map_err(io::Error::other)?,
        )
    }
}

/// Takes back what the record says, and tells it. A file that became another's stays.
pub(super) fn remove(root: &Path, data: Option<&Path>) -> io::Result<Vec<String>> {
    let record = Record::read(root)?;
    let mut told = Vec::new();
    for (path, text) in &record.files {
        let at = below(root, path);
        let is_ours = match text {
            None => at.exists(),
            Some(text) => fs::read_to_string(&at).is_ok_and(|found| found == *text),
        };
        if is_ours {
            fs::remove_file(&at)?;
            told.push(path.display().to_string());
        }
    }
    if record.user {
        run(Command::new("userdel")
            .arg("--root")
            .arg(root.as_os_str())
            .arg(USER))?;
        told.push(format!("user {USER}"));
    }
    if record.group {
        let groups = fs::read_to_string(below(root, Path::new("/etc/group"))).unwrap_or_default();
        // Some tools take a user's group away with him.
        if number(&groups, USER).is_some() {
            run(Command::new("groupdel")
                .arg("--root")
                .arg(root.as_os_str())
                .arg(USER))?;
        }
    }
    let own = root.join(RECORD);
    let directories = own
        .parent()
        .map(Path::to_path_buf)
        .into_iter()
        .chain(data.map(|data| below(root, data)));
    for directory in directories {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(told)
}

/// The first directory on the way down to this one that the proxy's user cannot get through, with
/// its mode.
pub(super) fn closed_to_proxy(directory: &Path) -> Option<(PathBuf, u32)> {
    let mut way: Vec<_> = directory.ancestors().collect();
    way.reverse();
    way.into_iter().find_map(|directory| {
        let found = fs::metadata(directory).ok()?;
        let bit = if found.uid() == PROXY_UID {
            0o100
        } else if found.gid() == PROXY_UID {
            0o010
        } else {
            0o001
        };
        (found.mode() & bit == 0).then(|| (directory.to_owned(), found.mode()))
    })
}

/// Waits until the groups that had addresses of the network have given them back, which they do when
/// their part of it is taken down; those that are left, with whose they are.
///
/// The address of an allocation that the node has no directory of is nobody's: its client came to an
/// end before it could give it back.
pub(super) async fn given_back(
    network: &str,
    allocations: Option<&Path>,
    limit: Duration,
) -> Vec<String> {
    let memory = memory(network);
    let start = Instant::now();
    let mut told = Vec::new();
    loop {
        let mut held = held(&memory);
        held.retain(|(_, owner)| allocations.is_none_or(|all| all.join(owner).exists()));
        let held: Vec<_> = held
            .into_iter()
            .map(|(address, owner)| format!("{address} of allocation {owner}"))
            .collect();
        if held.is_empty() || start.elapsed() >= limit {
            return held;
        }
        if told != held {
            println!("waiting for {}", held.join(", "));
            told = held;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The addresses that `host-local` remembers below a directory, each with its container, here an
/// allocation, with which the address's file begins.
fn held(directory: &Path) -> Vec<(String, String)> {
    let mut held = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            held.extend(self::held(&path));
        } else if name.parse::<IpAddr>().is_ok() {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let owner = text.lines().next().unwrap_or_default().trim().to_owned();
            held.push((name, owner));
        }
    }
    held.sort_unstable();
    held
}

/// Forgets the addresses that the network's groups had.
pub(super) fn forget_network(network: &str) {
    drop(fs::remove_dir_all(memory(network)));
}

/// Where the network's addresses are remembered.
fn memory(network: &str) -> PathBuf {
    Path::new("/run/cni").join(network)
}

/// A name beside a file that the Nomad client takes for no network and no plugin.
fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Whether two files hold the same, read piece by piece.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (fs::File::open(one)?, fs::File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (
        BufReader::with_capacity(PIECE, one),
        BufReader::with_capacity(PIECE, other),
    );
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The number of a user or group, the third field of its line.
fn number<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1))?
    })
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{}: {error}", command.get_program().to_string_lossy()),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!(
        "{}: {message}",
        command.get_program().to_string_lossy()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ground {
        root: tempfile::TempDir,
        node: Node,
    }

    /// A node whose user is there already: accounts are made by the machine's own tools, as root.
    fn ground(plugins: &[&str]) -> Ground {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("etc")).unwrap();
        fs::write(at("etc/passwd"), "mesh-proxy:x:1337:1337::/:/bin/false\n").unwrap();
        fs::create_dir_all(at("opt/cni/bin")).unwrap();
        for plugin in plugins {
            fs::write(at("opt/cni/bin").join(plugin), "").unwrap();
        }
        let node = Node::new(
            root.path(),
            vec!["/opt/cni/bin".into()],
            "/opt/cni/config".into(),
        );
        Ground { root, node }
    }

    fn program(ground: &Ground) -> PathBuf {
        let program = ground.root.path().join("mesh");
        fs::write(&program, "mesh").unwrap();
        program
    }

    #[test]
    fn a_directory_is_closed_to_the_proxy_unless_others_may_get_through() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("data/alloc");
        fs::create_dir_all(&inner).unwrap();
        let set = |path: &str, mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(root.path().join(path), mode).unwrap();
        };
        set("", 0o755);
        set("data", 0o700);
        set("data/alloc", 0o711);
        let (closed, mode) = closed_to_proxy(&inner).unwrap();
        assert_eq!((closed, mode & 0o777), (root.path().join("data"), 0o700));
        set("data", 0o711);
        assert_eq!(closed_to_proxy(&inner), None);
    }

    #[test]
    fn an_address_is_held_until_its_file_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let network = directory.path().join("mesh");
        fs::create_dir(&network).unwrap();
        for (name, text) in [
            ("lock", ""),
            ("last_reserved_ip.0", "172.27.64.2"),
            ("172.27.64.2", "f5b4177c\r\neth0"),
            ("fd00::2", "f5b4177c\neth0"),
        ] {
            fs::write(network.join(name), text).unwrap();
        }
        let of = |address: &str| (address.to_owned(), "f5b4177c".to_owned());
        let expected = [of("172.27.64.2"), of("fd00::2")];
        assert_eq!(held(directory.path()), expected);
        fs::remove_file(network.join("172.27.64.2")).unwrap();
        assert_eq!(held(directory.path()), expected[1..]);
        assert_eq!(held(&directory.path().join("none")), []);
    }

    #[test]
    fn what_was_put_there_is_taken_back_and_nothing_else() {
        let ground = ground(&STANDARD);
        let program = program(&ground);
        let network = CniNetwork::default();
        let outlook = ground.node.prepare(&program, &network).unwrap();
        assert_eq!(outlook.changes.len(), 2, "{outlook:?}");
        assert!(outlook.lacks.is_empty(), "{outlook:?}");
        assert!(
            ground
                .node
                .prepare(&program, &network)
                .unwrap()
                .changes
                .is_empty()
        );
        let plugin = ground.root.path().join("opt/cni/bin/mesh-cni");
        assert_eq!(
            fs::metadata(&plugin).unwrap().permissions().mode() & 0o777,
            0o755
        );

        remove(ground.root.path(), None).unwrap();
        assert!(!plugin.exists());
        assert!(
            !ground
                .root
                .path()
                .join("opt/cni/config/mesh.conflist")
                .exists()
        );
        assert!(!ground.root.path().join("var/lib/mesh-node").exists());
        assert!(ground.root.path().join("opt/cni/bin/bridge").exists());
        assert!(remove(ground.root.path(), None).unwrap().is_empty());
    }

    #[test]
    fn a_network_whose_chain_cannot_run_is_not_made() {
        let ground = ground(&["bridge"]);
        let outlook = ground
            .node
            .prepare(&program(&ground), &CniNetwork::default())
            .unwrap();
        assert!(outlook.lacks[0].contains("portmap"), "{outlook:?}");
        assert!(
            !ground
                .root
                .path()
                .join("opt/cni/config/mesh.conflist")
                .exists()
        );
    }

    #[test]
    fn a_network_that_somebody_changed_stays() {
        let ground = ground(&STANDARD);
        ground
            .node
            .prepare(&program(&ground), &CniNetwork::default())
            .unwrap();
        let file = ground.root.path().join("opt/cni/config/mesh.conflist");
        fs::write(&file, "{}").unwrap();
        remove(ground.root.path(), None).unwrap();
        assert!(file.exists());
    }

    #[test]
    fn a_user_of_another_number_is_told() {
        let ground = ground(&STANDARD);
        fs::write(
            ground.root.path().join("etc/passwd"),
            "mesh-proxy:x:7:7::/:/bin/false\n",
        )
        .unwrap();
        let outlook = ground
            .node
            .prepare(&program(&ground), &CniNetwork::default())
            .unwrap();
        assert!(outlook.lacks[0].contains("number 7"), "{outlook:?}");
    }
}
