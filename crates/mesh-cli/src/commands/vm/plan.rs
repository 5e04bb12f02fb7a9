//! What joining changes on a machine: files with contents, units in their order, the policy. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use mesh_model::sidecar::{PROXY_UID, SELF_CALL_PORT};
use mesh_model::{Problem, Problems, SidecarConfig, TrustDomain, Workload};
use mesh_netfilter::{
    DestinationSelect, Destinations, Dns, IdRange, Identities, IdentitySelect, Inbound, Outbound,
    Policy, Port, PortSelect, PortSet, SshAccess,
};

/// What a machine is to be in the mesh, with all that the plan depends on.
#[derive(Clone, Debug)]
pub(super) struct VmRequest {
    /// The machine as a workload: name, account, addresses, labels, services.
    pub(super) workload: Workload,
    /// The trust domain of the mesh.
    pub(super) trust_domain: TrustDomain,
    /// Replicas of Pilot.
    pub(super) pilots: Vec<SocketAddr>,
    /// Replicas of the CA.
    pub(super) cas: Vec<SocketAddr>,
    /// SHA-256 of each root to trust at first, in hex.
    pub(super) root_hashes: Vec<String>,
    /// By which it joins.
    pub(super) token: Token,
    /// Users whose connections and queries are captured.
    pub(super) include_uids: Vec<IdRange>,
    /// Groups of which the same holds.
    pub(super) include_gids: Vec<IdRange>,
    /// Where their connections go directly.
    pub(super) exclude_networks: Vec<IpNet>,
    /// Where `sshd` listens.
    pub(super) ssh_ports: BTreeSet<Port>,
    /// The machine's own name servers.
    pub(super) upstream_dns: Vec<SocketAddr>,
    /// The `mesh` binary.
    pub(super) program: PathBuf,
    /// The Envoy binary.
    pub(super) envoy: PathBuf,
    /// Units that a package has installed already, with their paths.
    pub(super) packaged: BTreeMap<&'static str, PathBuf>,
    /// Who has the proxy's number in the machine's list of users.
    pub(super) proxy_user: Option<String>,
}

/// A join token. `Debug` does not show it.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Token(pub(super) String);

/// What joining changes.
#[derive(Clone, Debug)]
#[must_use = "a plan does nothing until it is carried out"]
pub(super) struct Plan {
    /// Directories that must be there, those above first.
    pub(super) directories: Vec<Directory>,
    /// Files, in the order of writing.
    pub(super) files: Vec<File>,
    /// By these the units are started at boot, once the join is confirmed.
    pub(super) links: Vec<Link>,
    /// Which traffic goes to the sidecar.
    pub(super) policy: Policy,
    /// What the sidecar is told.
    pub(super) config: SidecarConfig,
}

/// A directory of the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Directory {
    /// Its path.
    pub(super) path: PathBuf,
    /// Permissions it is made with.
    pub(super) mode: u32,
    /// Its user and group.
    pub(super) owner: u32,
    /// Whether whatever is in it goes with it.
    pub(super) is_own: bool,
}

/// A file of the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct File {
    /// Its path.
    pub(super) path: PathBuf,
    /// Permissions.
    pub(super) mode: u32,
    /// User and group.
    pub(super) owner: u32,
    /// What is in it.
    pub(super) contents: Contents,
}

/// What is in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Contents {
    /// What everybody may see.
    Plain(String),
    /// What nobody may.
    Secret(Token),
}

/// A symbolic link that has systemd start a unit at boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    /// Its path.
    pub(super) path: PathBuf,
    /// Where it leads.
    pub(super) target: PathBuf,
}

/// The units that joining needs, as their package has them.
#[derive(Debug)]
struct Unit {
    name: &'static str,
    text: &'static str,
    /// The target that wants it.
    wanted_by: Option<&'static str>,
}

/// The redirect rules and their watcher.
pub(super) const REDIRECT_UNIT: &str = "mesh-redirect.service";
/// Agent and Envoy.
pub(super) const AGENT_UNIT: &str = "mesh-agent.service";
/// What other services can wait for.
pub(super) const READY_UNIT: &str = "mesh-agent-ready.service";
/// Takes a join back that nobody confirms.
pub(super) const UNCONFIRMED_UNIT: &str = "mesh-unconfirmed.service";

const UNITS: [Unit; 4] = [
    Unit {
        name: UNCONFIRMED_UNIT,
        text: include_str!("../../../package/systemd/mesh-unconfirmed.service"),
        wanted_by: None,
    },
    Unit {
        name: REDIRECT_UNIT,
        text: include_str!("../../../package/systemd/mesh-redirect.service"),
        wanted_by: Some(WANTED_BY),
    },
    Unit {
        name: AGENT_UNIT,
        text: include_str!("../../../package/systemd/mesh-agent.service"),
        wanted_by: Some(WANTED_BY),
    },
    Unit {
        name: READY_UNIT,
        text: include_str!("../../../package/systemd/mesh-agent-ready.service"),
        wanted_by: None,
    },
];

/// The units of the plan whose files a package may bring.
pub(super) const UNIT_NAMES: [&str; 4] = [UNCONFIRMED_UNIT, REDIRECT_UNIT, AGENT_UNIT, READY_UNIT];

/// The target that starts them at boot, as their texts say.
const WANTED_BY: &str = "multi-user.target";
/// What the texts of units say that is otherwise where no package has installed them: the path of
/// the binary, and the name of the user.
const PACKAGED_PROGRAM: &str = "/usr/bin/mesh";
const PACKAGED_USER: [(&str, &str); 2] = [
    ("User=mesh\n", "User=1337\n"),
    ("Group=mesh\n", "Group=1337\n"),
];
/// Units that were not installed by a package.
const UNIT_DIRECTORY: &str = "/etc/systemd/system";
/// What the machine is told about its part in the mesh; root's. The units know it.
pub(super) const CONFIG_DIRECTORY: &str = "/etc/mesh/vm";
/// What the sidecar is told.
pub(super) const CONFIG: &str = "/etc/mesh/vm/agent.json";
/// The redirect policy.
pub(super) const POLICY: &str = "/etc/mesh/vm/redirect.json";
/// What the watcher of the rules says; the directory is the unit's.
pub(super) const VERDICT: &str = "/run/mesh-redirect/verdict.json";
/// The sidecar's own directory, as its unit names it.
pub(super) const AGENT_DIRECTORY: &str = "/var/lib/mesh-agent";
/// The join token.
pub(super) const TOKEN: &str = "/var/lib/mesh-agent/token";
/// Key, certificate, last configuration.
const STATE: &str = "/var/lib/mesh-agent/state";

/// Ports of the sidecar and of what else belongs to the mesh.
const RESERVED: std::ops::RangeInclusive<u16> = 15000..=15099;
/// What `ProtectHome=` and `PrivateTmp=` take from the sight of a unit: systemd.exec(5).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
/// Names that the proxy's number may have.
const PROXY_USERS: [&str; 3] = ["mesh", "envoy", "istio-proxy"];

/// Decides what joining changes.
///
/// # Errors
///
/// Everything that is wrong with the request, at once.
pub(super) fn plan(request: &VmRequest) -> Result<Plan, Problems> {
    let config = config(request);
    let mut problems = config.validate().err().unwrap_or_default();
    check(request, &mut problems);
    problems.into_result(())?;
    let policy = policy(request).map_err(|found| {
        let same = |problem: mesh_netfilter::Problem| {
            Problem::new(problem.path, problem.value, problem.expected)
        };
        Problems(found.0.into_iter().map(same).collect())
    })?;

    let mut files = vec![
        plain(CONFIG_DIRECTORY, "redirect.json", &json(&policy)),
        plain(CONFIG_DIRECTORY, "redirect.env", REDIRECT_ENVIRONMENT),
        plain(CONFIG_DIRECTORY, "agent.json", &json(&config)),
        plain(CONFIG_DIRECTORY, "agent.env", AGENT_ENVIRONMENT),
        File {
            path: TOKEN.into(),
            mode: 0o600,
            owner: PROXY_UID,
            contents: Contents::Secret(request.token.clone()),
        },
    ];
    let own = UNITS
        .iter()
        .filter(|unit| !request.packaged.contains_key(unit.name));
    files.extend(own.map(|unit| plain(UNIT_DIRECTORY, unit.name, &unit_text(request, unit.text))));
    Ok(Plan {
        directories: directories(),
        files,
        links: boot_links(&request.packaged),
        policy,
        config,
    })
}

/// What the sidecar is told.
fn config(request: &VmRequest) -> SidecarConfig {
    SidecarConfig {
        workload: request.workload.clone(),
        trust_domain: request.trust_domain.clone(),
        pilots: request.pilots.clone(),
        cas: request.cas.clone(),
        root_hashes: request.root_hashes.clone(),
        token_file: Some(TOKEN.into()),
        state_dir: STATE.into(),
        envoy: Some(request.envoy.clone()),
        upstream_dns: request.upstream_dns.clone(),
        rules_verdict: Some(VERDICT.into()),
        // The CA decides.
        certificate_ttl_seconds: None,
    }
}

/// What only a machine minds.
fn check(request: &VmRequest, problems: &mut Problems) {
    let included = || request.include_uids.iter().chain(&request.include_gids);
    if included().next().is_none() {
        let expected = "at least one user or group whose traffic is captured; everybody's would be \
                        that of the machine's own services";
        problems.add("--include-uids", "", expected);
    }
    for range in included().filter(|range| (range.first()..=range.last()).contains(&PROXY_UID)) {
        let expected = "users and groups without the proxy's own, 1337";
        problems.add("--include-uids", range.to_string(), expected);
    }
    for port in target_ports(&request.workload) {
        if RESERVED.contains(&port.get()) {
            let expected = "a port outside of 15000 to 15099, which are the mesh's";
            problems.add("--port", port.to_string(), expected);
        }
        if request.ssh_ports.contains(&port) {
            let expected = "another port than that of ssh, which stays as it is";
            problems.add("--port", port.to_string(), expected);
        }
    }
    if let Some(user) = &request.proxy_user
        && !PROXY_USERS.contains(&user.as_str())
    {
        let expected = "user 1337 to be nobody's or the mesh's: its connections are not captured";
        problems.add("/etc/passwd", user, expected);
    }
    for (name, path) in [("mesh", &request.program), ("--envoy", &request.envoy)] {
        let text = path.to_string_lossy();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
        if !text.starts_with('/') || !text.chars().all(is_plain) {
            let expected = "an absolute path of letters, digits and `._-+@`, as units can name it";
            problems.add(name, text, expected);
        } else if HIDDEN.iter().any(|hidden| path.starts_with(hidden)) {
            let expected = "a path outside of home directories, which the units do not see";
            problems.add(name, text, expected);
        }
    }
}

/// Inbound the ports of the services and no other, outbound and DNS of the included only.
fn policy(request: &VmRequest) -> Result<Policy, mesh_netfilter::Problems> {
    let sidecar = Policy::sidecar();
    let mut ports: PortSet = target_ports(&request.workload).collect();
    ports = ports.union(&PortSet::from([Port::of::<SELF_CALL_PORT>()]));
    let inbound = sidecar.inbound().cloned();
    let outbound = sidecar.outbound().cloned().map(|outbound| {
        let networks = request.exclude_networks.iter().copied().collect();
        let excluded = Destinations {
            networks,
            ..Destinations::default()
        };
        if excluded.is_empty() {
            return outbound;
        }
        Outbound::destinations(outbound, DestinationSelect::AllExcept(excluded))
    });
    let included = Identities::users(request.include_uids.iter().copied())
        .and_groups(request.include_gids.iter().copied());
    let dns: Option<Dns> = sidecar.dns().cloned();
    let policy = sidecar
        .to_builder()
        .inbound(inbound.map(|inbound| Inbound::ports(inbound, PortSelect::Only(ports))))
        .outbound(outbound)
        .dns(dns)
        .identities(IdentitySelect::Only(included))
        .build()?;
    // Only the ports of ssh: who is connected now may call services like everybody else later.
    policy.for_host(&SshAccess {
        ports: request.ssh_ports.clone(),
        peers: BTreeSet::new(),
    })
}

fn target_ports(workload: &Workload) -> impl Iterator<Item = Port> + '_ {
    let ports = workload.services.iter().flat_map(|service| &service.ports);
    ports.filter_map(|port| Port::new(port.own()))
}

/// Those above first; what a machine with systemd has anyway is for images.
fn directories() -> Vec<Directory> {
    let root = |path: &str| Directory {
        path: path.into(),
        mode: 0o755,
        owner: 0,
        is_own: false,
    };
    let own = Directory {
        mode: 0o700,
        owner: PROXY_UID,
        is_own: true,
        ..root(AGENT_DIRECTORY)
    };
    let above = [
        "/etc",
        "/etc/mesh",
        CONFIG_DIRECTORY,
        "/etc/systemd",
        UNIT_DIRECTORY,
    ];
    let mut directories: Vec<Directory> = above.map(root).into();
    directories.push(Directory {
        path: wants_directory(WANTED_BY),
        ..root("")
    });
    directories.extend(["/var", "/var/lib"].map(root));
    directories.push(own);
    directories
}

fn wants_directory(target: &str) -> PathBuf {
    Path::new(UNIT_DIRECTORY).join(format!("{target}.wants"))
}

/// By these the units are started at boot.
pub(super) fn boot_links(packaged: &BTreeMap<&'static str, PathBuf>) -> Vec<Link> {
    let wanted = UNITS
        .iter()
        .filter_map(|unit| Some((unit.name, unit.wanted_by?)));
    wanted
        .map(|(unit, target)| link(unit, target, packaged))
        .collect()
}

/// The link by which systemd takes an unconfirmed join back after a reboot.
pub(super) fn unconfirmed_link(packaged: &BTreeMap<&'static str, PathBuf>) -> Link {
    link(UNCONFIRMED_UNIT, WANTED_BY, packaged)
}

/// Where the unit is that waits for the confirmation, unless a package has brought it.
pub(super) fn unconfirmed_unit() -> PathBuf {
    Path::new(UNIT_DIRECTORY).join(UNCONFIRMED_UNIT)
}

fn link(unit: &'static str, target: &str, packaged: &BTreeMap<&'static str, PathBuf>) -> Link {
    let own = || Path::new(UNIT_DIRECTORY).join(unit);
    Link {
        path: wants_directory(target).join(unit),
        target: packaged.get(unit).cloned().unwrap_or_else(own),
    }
}

fn unit_text(request: &VmRequest, text: &str) -> String {
    let text = text.replace(PACKAGED_PROGRAM, &request.program.to_string_lossy());
    PACKAGED_USER
        .iter()
        .fold(text, |text, (name, number)| text.replace(name, number))
}

fn plain(directory: &str, name: &str, text: &str) -> File {
    File {
        path: Path::new(directory).join(name),
        mode: 0o644,
        owner: 0,
        contents: Contents::Plain(text.to_owned()),
    }
}

/// As a file has it.
#[expect(clippy::expect_used, reason = "plain data with keys that are strings")]
pub(super) fn json(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("plain data");
    text.push('\n');
    text
}

const AGENT_ENVIRONMENT: &str = "\
# Written by `mesh vm join`: the environment of mesh-agent.service, after /etc/mesh/agent.env.
MESH_AGENT_CONFIG=/etc/mesh/vm/agent.json
";

const REDIRECT_ENVIRONMENT: &str = "\
# Written by `mesh vm join`: the environment of mesh-redirect.service, after /etc/mesh/redirect.env.
MESH_REDIRECT_OPTIONS=--policy /etc/mesh/vm/redirect.json
";

// === impl Contents ===

impl Contents {
    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(text) => text.as_bytes(),
            Self::Secret(Token(token)) => token.as_bytes(),
        }
    }

    /// The text, unless it is a secret.
    pub(super) fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Secret(_) => None,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests;
