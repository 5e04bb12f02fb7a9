//! What a caller asks for: networks, groups that share a network namespace, units in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use mesh_model::{Problem, Problems};
use serde::{Deserialize, Serialize};

use crate::{Capability, Name};

/// A network that groups are attached to, with a subnet of each family.
///
/// The first address of each subnet is the gateway, where the host itself is reached.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name.
    pub name: Name,
    /// Name of the bridge on the host: at most 15 bytes, as the kernel has it.
    pub bridge: String,
    /// The subnet of IPv4 addresses.
    pub v4: Ipv4Net,
    /// The subnet of IPv6 addresses.
    pub v6: Ipv6Net,
}

/// Units that share one network namespace, its addresses and its redirect rules.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GroupSpec {
    /// Its name.
    pub name: Name,
    /// Where it is attached.
    pub attachment: Attachment,
    /// How names resolve in it; as on the host when absent.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// Labels, by which callers find it again.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The IPv4 address that it must have, and the IPv6 address of the same host number; chosen by
    /// its name when absent.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Further names by which others on its network find it, where the runtime answers names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Ports at which others than its network reach it, where the runtime forwards them.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// The name that it has for itself, where the runtime gives groups one; by its name when
    /// absent.
    #[serde(default)]
    pub hostname: Option<String>,
}

/// A port of a group that can be reached at the host.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The address of the host; all of them when absent.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The port of the host.
    pub host: u16,
    /// The port of the group.
    pub group: u16,
    /// How it is spoken to.
    pub protocol: Protocol,
}

/// What a published port carries.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a group is attached.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Attachment {
    /// A network namespace of its own, on this network.
    Network(Name),
    /// The network namespace in which the engine runs.
    Host,
    /// The network namespace of a container that others made and run, with an address on this
    /// network: it is attached there if it is not yet.
    Container {
        /// The runtime's own id of the container, in full.
        id: String,
        /// The network.
        network: Name,
    },
}

/// The resolver configuration of a group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Servers, in the order of asking.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried behind a bare name.
    pub search: Vec<String>,
}

/// One command of a group, kept running by a supervisor.
///
/// ```
/// # use mesh_runtime::UnitSpec;
/// let mut unit = UnitSpec::new("web".parse().unwrap(), ["nginx", "-g", "daemon off;"]);
/// unit.uid = 65534;
/// unit.gid = 65534;
/// assert!(unit.check().0.is_empty());
/// ```
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct UnitSpec {
    /// Its name, unique in its group.
    pub name: Name,
    /// The image that it runs in, where the runtime has images.
    #[serde(default)]
    pub image: Option<String>,
    /// The program (a path, or a name that is looked up in PATH) and its arguments. With an image
    /// it may be empty: then it is what the image says.
    pub command: Vec<String>,
    /// Without a command: what follows the image's entry point, in place of what the image has
    /// there.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// The whole environment; PATH gets a default when it is not in here.
    pub environment: BTreeMap<String, String>,
    /// Numeric user.
    pub uid: u32,
    /// Numeric group; there are no supplementary groups.
    pub gid: u32,
    /// With an image: the user is the one that the image names, whatever `uid` and `gid` are.
    #[serde(default)]
    pub image_user: bool,
    /// Directory in which the command starts. With an image it may be empty: then it is where the
    /// image says.
    pub working_directory: PathBuf,
    /// Capabilities that the command keeps; none by default, also for user 0.
    pub capabilities: BTreeSet<Capability>,
    /// Directories and files of the machine that it sees in its image, where the runtime has
    /// images. They are not the runtime's: removing the unit leaves them as they are.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Directories that are made before the files are written.
    pub directories: Vec<DirectorySpec>,
    /// Files that are written before it starts.
    pub files: Vec<FileSpec>,
    /// What happens when the command ends by itself.
    pub restart: RestartPolicy,
    /// How it shows that it can be used; running is enough when absent.
    pub readiness: Option<Readiness>,
    /// Units of the same group that come first.
    pub after: Vec<Dependency>,
    /// How long a stop waits between TERM and KILL.
    pub stop_grace: Duration,
}

/// A directory or file of the machine in the image of a unit.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// Absolute path on the machine, where it must be when the unit starts.
    pub source: PathBuf,
    /// Absolute path as the unit sees it.
    pub target: PathBuf,
    /// Whether the unit may only read it.
    pub read_only: bool,
}

/// A directory of a unit.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DirectorySpec {
    /// Absolute path.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// A file of a unit.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Absolute path.
    pub path: PathBuf,
    /// What is in it. Never recorded anywhere else, since it may be a secret.
    #[serde(skip)]
    pub contents: Contents,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// Bytes of a file, of which `Debug` shows only how many there are.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Contents(pub Vec<u8>);

/// What happens when a command ends by itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RestartPolicy {
    /// It stays ended.
    #[default]
    Never,
    /// It is started again, unless it ended with code 0.
    OnFailure,
    /// It is started again.
    Always,
}

/// How a unit shows that it can be used.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Readiness {
    /// What is asked.
    pub check: Check,
    /// Time between two questions once it was ready; before, it is asked every few milliseconds.
    pub interval: Duration,
    /// How long one answer may take.
    pub timeout: Duration,
}

/// What is asked to learn whether a unit is ready.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// `GET` on 127.0.0.1 in the namespace of the group answers with a status of 200 to 299.
    Http {
        /// The port.
        port: u16,
        /// The path, with its leading `/`.
        path: String,
    },
    /// A command, run as the unit's user and beside it, ends with code 0.
    Command(Vec<String>),
}

/// A unit that comes first, and how far it must have come.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// A unit of the same group.
    pub unit: Name,
    /// How far it must have come.
    pub condition: Condition,
}

/// How far a unit must have come before another starts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Condition {
    /// It runs, or ran.
    Started,
    /// It is ready.
    Ready,
    /// It ended with code 0.
    Finished,
}

// === impl NetworkSpec ===

impl NetworkSpec {
    /// The mesh's own network: bridge `mesh0`, 10.213.0.0/16 and `fd6d:6573:68d5::/64`.
    pub fn mesh() -> Self {
        Self {
            name: Name::literal("mesh"),
            bridge: "mesh0".to_owned(),
            v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 0, 0), 16),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd6d, 0x6573, 0x68d5, 0, 0, 0, 0, 0), 64),
        }
    }

    /// The network of Istio's install without Kubernetes, where the API server is 172.28.0.13:
    /// bridge `istiomesh`, 172.28.0.0/16 and `fd6d:6573:681c::/64`.
    pub fn istiomesh() -> Self {
        Self {
            name: Name::literal("istiomesh"),
            bridge: "istiomesh".to_owned(),
            v4: Ipv4Net::new_assert(Ipv4Addr::new(172, 28, 0, 0), 16),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd6d, 0x6573, 0x681c, 0, 0, 0, 0, 0), 64),
        }
    }

    /// The gateway of each family: the first address of the subnet, the host's own.
    pub fn gateways(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.addresses(1)
    }

    /// The host number of an address of the IPv4 subnet that a group can have: not the network's
    /// own, not the gateway's, not the broadcast address.
    pub(crate) fn host_number(&self, address: Ipv4Addr) -> Option<u32> {
        let number = u32::from(address).checked_sub(u32::from(self.v4.network()))?;
        let usable = self.v4.contains(&address) && address != self.v4.broadcast();
        (usable && number > 1).then_some(number)
    }

    /// The addresses of one host number of the subnets.
    pub(crate) fn addresses(&self, host: u32) -> (Ipv4Addr, Ipv6Addr) {
        let v4 = u32::from(self.v4.network()).saturating_add(host);
        let v6 = u128::from(self.v6.network()).saturating_add(u128::from(host));
        (Ipv4Addr::from(v4), Ipv6Addr::from(v6))
    }

    /// Everything that is wrong with it.
    pub fn check(&self) -> Problems {
        let mut problems = Problems::default();
        let bridge = &self.bridge;
        let is_link_name = (1..=15).contains(&bridge.len())
            && bridge
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !matches!(bridge.as_str(), "." | "..");
        if !is_link_name {
            problems.push(Problem::new(
                "bridge",
                bridge,
                "a name of a link (1 to 15 of letters, digits, `-`, `_`, `.`)",
            ));
        }
        if self.v4.addr() != self.v4.network() || !(8..=28).contains(&self.v4.prefix_len()) {
            problems.push(Problem::new(
                "v4",
                self.v4.to_string(),
                "a subnet without host bits, of /8 to /28",
            ));
        }
        // A host number has up to 24 bits, and both families use the same one.
        if self.v6.addr() != self.v6.network() || !(32..=96).contains(&self.v6.prefix_len()) {
            problems.push(Problem::new(
                "v6",
                self.v6.to_string(),
                "a subnet without host bits, of /32 to /96",
            ));
        }
        problems
    }
}

// === impl Attachment ===

impl Attachment {
    /// The network on which a group with this attachment has an address.
    pub fn network(&self) -> Option<&Name> {
        match self {
            Self::Network(network) | Self::Container { network, .. } => Some(network),
            Self::Host => None,
        }
    }
}

// === impl GroupSpec ===

impl GroupSpec {
    /// A group of which nothing more is asked.
    pub fn new(name: Name, attachment: Attachment) -> Self {
        Self {
            name,
            attachment,
            dns: None,
            labels: BTreeMap::new(),
            address: None,
            aliases: Vec::new(),
            ports: Vec::new(),
            hostname: None,
        }
    }
}

// === impl UnitSpec ===

impl UnitSpec {
    /// A unit that runs `command` as root without capabilities, once, in `/`.
    pub fn new(name: Name, command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name,
            image: None,
            command: command.into_iter().map(Into::into).collect(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            uid: 0,
            gid: 0,
            image_user: false,
            working_directory: PathBuf::from("/"),
            capabilities: BTreeSet::new(),
            mounts: Vec::new(),
            directories: Vec::new(),
            files: Vec::new(),
            restart: RestartPolicy::Never,
            readiness: None,
            after: Vec::new(),
            stop_grace: Duration::from_secs(10),
        }
    }

    /// Everything that is wrong with it, seen alone.
    pub fn check(&self) -> Problems {
        let mut problems = Problems::default();
        let of_image = self.image.is_some() && self.command.is_empty();
        if !of_image {
            check_command("command", &self.command, &mut problems);
        }
        if !self.arguments.is_empty() && (!of_image || holds_nul(&self.arguments)) {
            problems.push(Problem::new(
                "arguments",
                self.arguments.join(" "),
                "expected here (only with an image and without a command, and without NUL)",
            ));
        }
        if self.image_user && self.image.is_none() {
            problems.push(Problem::new(
                "image_user",
                "true",
                "possible without an image",
            ));
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                problems.push(Problem::new(
                    format!("environment[{name:?}]"),
                    value,
                    "an environment variable (a name without `=`, and no NUL)",
                ));
            }
        }
        let of_image = self.image.is_some() && self.working_directory.as_os_str().is_empty();
        let start = ("working_directory".to_owned(), &self.working_directory);
        let paths = (!of_image)
            .then_some(start)
            .into_iter()
            .chain(self.mounts.iter().enumerate().flat_map(|(index, it)| {
                [
                    (format!("mounts[{index}].source"), &it.source),
                    (format!("mounts[{index}].target"), &it.target),
                ]
            }))
            .chain(numbered(
                "directories",
                self.directories.iter().map(|it| &it.path),
            ))
            .chain(numbered("files", self.files.iter().map(|it| &it.path)));
        for (field, path) in paths {
            let climbs = path
                .components()
                .any(|part| part == std::path::Component::ParentDir);
            if !path.is_absolute() || climbs {
                problems.push(Problem::new(
                    field,
                    path.display().to_string(),
                    "an absolute path without `..`",
                ));
            }
        }
        match self.readiness.as_ref().map(|readiness| &readiness.check) {
            Some(Check::Command(command)) => {
                check_command("readiness.check.command", command, &mut problems);
            }
            Some(Check::Http { port, path }) => {
                let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
                if *port == 0 || !path.starts_with('/') || !plain {
                    problems.push(Problem::new(
                        "readiness.check.http",
                        format!("{port}{path}"),
                        "a port from 1 and a path that begins with `/`, without spaces",
                    ));
                }
            }
            None => {}
        }
        problems
    }
}

fn numbered<'a>(
    field: &'static str,
    paths: impl Iterator<Item = &'a PathBuf>,
) -> impl Iterator<Item = (String, &'a PathBuf)> {
    paths
        .enumerate()
        .map(move |(index, path)| (format!("{field}[{index}].path"), path))
}

fn holds_nul(words: &[String]) -> bool {
    words.iter().any(|word| word.contains('\0'))
}

fn check_command(field: &str, command: &[String], problems: &mut Problems) {
    let empty = command.first().is_none_or(String::is_empty);
    if empty || holds_nul(command) {
        problems.push(Problem::new(
            field,
            command.join(" "),
            "a command (a program and its arguments, without NUL)",
        ));
    }
}

// === impl Readiness ===

impl Readiness {
    /// `GET` of `path` on `port`, each second once it was ready.
    pub fn http(port: u16, path: &str) -> Self {
        Self::of(Check::Http {
            port,
            path: path.to_owned(),
        })
    }

    /// A command that ends with code 0, each second once it was ready.
    pub fn command(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::of(Check::Command(
            command.into_iter().map(Into::into).collect(),
        ))
    }

    fn of(check: Check) -> Self {
        Self {
            check,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
        }
    }
}

// === impl Contents ===

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
