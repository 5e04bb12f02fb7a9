//! Sidecar injection: an application goes in plain and comes out as a group with rules and sidecar.
//!
//! Pure: equal inputs give equal groups. [`enrol`](crate::enrol) carries one out.

mod check;
mod container;
mod port;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use mesh_model::Mode;
use mesh_model::{
    DeclaredUpstream, Explicit, Namespace, Problems, ServiceAccount, ServiceName, TrustDomain,
    WorkloadService,
};

pub use self::container::{Container, LABEL_INJECT, LABEL_LABELS, LABEL_PORTS, LABEL_SERVICE};
pub use self::port::parse_port;
pub use self::units::{
    APP_UNIT, Place, RULES_UNIT, SIDECAR_UNIT, STATE_DIRECTORY, SidecarFiles, VERDICT_FILE,
};
use crate::redirect::{self, Policy, RESOLVER, policy_beside_resolver};
use crate::{
    Attachment, Capability, Dns, GroupSpec, MountSpec, Name, PublishedPort, Readiness,
    RestartPolicy,
};

/// An application as its owner describes it; knows nothing of sidecars.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Application {
    /// Its name, unique in its namespace.
    pub name: ServiceName,
    /// Its namespace; its services are in the same one.
    pub namespace: Namespace,
    /// The account it runs as.
    pub service_account: ServiceAccount,
    /// The services that it is an instance of.
    pub services: Vec<WorkloadService>,
    /// Labels, by which subsets and policies select it.
    pub labels: BTreeMap<String, String>,
    /// Who starts it.
    pub runner: Runner,
    /// The image that it runs in, where the runtime has images.
    pub image: Option<String>,
    /// Directories and files of the machine that it sees in its image.
    pub mounts: Vec<MountSpec>,
    /// The program and its arguments. With an image it may be empty: then it is what the image
    /// says.
    pub command: Vec<String>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Numeric user, 65534 (nobody) by default; not the proxy's.
    pub uid: u32,
    /// Numeric group; not the proxy's.
    pub gid: u32,
    /// Capabilities that it keeps.
    pub capabilities: BTreeSet<Capability>,
    /// Where it starts.
    pub working_directory: PathBuf,
    /// What happens when it ends by itself; it is started again by default.
    pub restart: RestartPolicy,
    /// How it shows that it can be used.
    pub readiness: Option<Readiness>,
    /// Ports at which others than its network reach it, where the runtime forwards them.
    pub published: Vec<PublishedPort>,
    /// How its traffic comes to the sidecar.
    ///
    /// In [`Mode::Gateway`] there is no application: the group is a proxy that serves callers outside
    /// the mesh. Command, services and upstreams are empty then.
    ///
    /// In [`Mode::Explicit`] no rule is set and nothing in the group has a right that the
    /// application does not ask for. Others call the sidecar, which forwards to the application's
    /// ports on loopback: there it should listen, for whatever it opens on other addresses can be
    /// called past the sidecar.
    pub mode: Mode,
    /// The services that it calls at loopback addresses, in [`Mode::Explicit`].
    pub upstreams: Vec<DeclaredUpstream>,
}

/// Who starts an application, and in which network namespace it finds its sidecar.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Runner {
    /// The group does: the application is its unit `app`.
    #[default]
    Group,
    /// Others do, later: they join the network namespace of the group, that is ready before.
    Joining,
    /// Others did, in a container with a network namespace of its own, which the group joins.
    Container {
        /// The runtime's own id of the container, in full.
        id: String,
    },
}

/// What a sidecar must know of its mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshFacts {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Replicas of Pilot.
    pub pilots: Vec<SocketAddr>,
    /// Replicas of the CA.
    pub cas: Vec<SocketAddr>,
    /// SHA-256 of the DER of each root to trust at first, in hex.
    pub root_hashes: Vec<String>,
    /// The image in which rules and sidecar run, where the runtime has images: mesh and Envoy are
    /// in it.
    pub image: Option<String>,
    /// The `mesh` binary, as its units see it.
    pub mesh: PathBuf,
    /// The Envoy binary, as the sidecar sees it; from PATH when absent.
    pub envoy: Option<PathBuf>,
    /// The network that workloads are attached to.
    pub network: Name,
    /// Who answers what the sidecar does not know.
    pub resolver: Resolver,
    /// Lifetime to ask of the CA for each certificate, in seconds.
    pub certificate_ttl_seconds: Option<u64>,
}

/// Who answers the names of a group that are not the mesh's.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Resolver {
    /// Servers of the machine. Every query is captured, wherever it goes.
    Servers {
        /// What units see as their name servers: the gateway.
        seen: Vec<IpAddr>,
        /// Where the sidecar asks.
        upstream: Vec<SocketAddr>,
    },
    /// Docker's own at 127.0.0.11, in the namespace of each container: units see it, the sidecar
    /// asks it, and queries to it alone are captured, since it asks others from that namespace.
    Docker,
}

/// A join token. `Debug` does not show it.
#[derive(Clone, Eq, PartialEq)]
pub struct JoinToken(String);

/// A group with rules, sidecar and application, ready to be carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use = "an injected group does nothing until it is enrolled"]
pub struct InjectedGroup {
    /// The group.
    pub group: GroupSpec,
    /// Which of its traffic goes to the sidecar; none where no rules are set.
    pub policy: Option<Policy>,
    application: Application,
    facts: MeshFacts,
}

/// Adds rules and sidecar to an application.
///
/// # Errors
///
/// Everything that is wrong at once: the proxy's user or group, ports that the sidecar needs,
/// ports that contradict each other, facts that are missing.
pub fn inject(application: &Application, facts: &MeshFacts) -> Result<InjectedGroup, Problems> {
    check::problems(application, facts).into_result(())?;
    let Application {
        name, namespace, ..
    } = application;
    let labels = [
        (LABEL_NAME, name.as_str()),
        (LABEL_NAMESPACE, namespace.as_str()),
        (LABEL_SERVICE_ACCOUNT, application.service_account.as_str()),
    ];
    let network = facts.network.clone();
    let attachment = match &application.runner {
        Runner::Group | Runner::Joining => Attachment::Network(network),
        Runner::Container { id } => Attachment::Container {
            id: id.clone(),
            network,
        },
    };
    Ok(InjectedGroup {
        group: GroupSpec {
            dns: dns(application, facts),
            ports: application.published.clone(),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..GroupSpec::new(application.group_name(), attachment)
        },
        policy: match application.mode {
            Mode::Transparent => Some(facts.resolver.policy()),
            Mode::Explicit | Mode::Gateway => None,
        },
        application: application.clone(),
        facts: facts.clone(),
    })
}

/// How names resolve in the group.
fn dns(application: &Application, facts: &MeshFacts) -> Option<Dns> {
    // What others made has a resolver configuration already.
    if matches!(application.runner, Runner::Container { .. }) {
        return None;
    }
    Some(Dns {
        servers: match &facts.resolver {
            Resolver::Servers { seen, .. } => seen.clone(),
            // Docker writes its own address, and asks whom it asks anyway.
            Resolver::Docker => Vec::new(),
        },
        search: vec![format!("{}.mesh", application.namespace)],
    })
}

/// Label of a group: the name of its application.
pub const LABEL_NAME: &str = "mesh.name";
/// Label of a group: the namespace of its application.
pub const LABEL_NAMESPACE: &str = "mesh.namespace";
/// Label of a group: the account of its application.
pub const LABEL_SERVICE_ACCOUNT: &str = "mesh.service-account";

// === impl Application ===

impl Application {
    /// An application without services, as nobody, started again whenever it ends.
    pub fn new(
        namespace: Namespace,
        name: ServiceName,
        service_account: ServiceAccount,
        command: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            name,
            namespace,
            service_account,
            services: Vec::new(),
            labels: BTreeMap::new(),
            runner: Runner::Group,
            image: None,
            mounts: Vec::new(),
            command: command.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            uid: NOBODY,
            gid: NOBODY,
            capabilities: BTreeSet::new(),
            working_directory: PathBuf::from("/"),
            restart: RestartPolicy::Always,
            readiness: None,
            published: Vec::new(),
            mode: Mode::Transparent,
            upstreams: Vec::new(),
        }
    }

    /// Whether the group runs it: not if others do, and not if there is none.
    pub(crate) fn is_run_by_group(&self) -> bool {
        self.runner == Runner::Group && self.mode != Mode::Gateway
    }

    /// What its sidecar listens at, where no rules bring its traffic there.
    pub fn explicit(&self) -> Option<Explicit> {
        match self.mode {
            Mode::Transparent | Mode::Gateway => None,
            Mode::Explicit => Some(Explicit::new(&self.services, &self.upstreams)),
        }
    }

    /// The environment in which it is started: its own, and where its sidecar listens, unless it
    /// says otherwise itself.
    pub fn whole_environment(&self) -> BTreeMap<String, String> {
        let explicit = self.explicit();
        let mut environment = explicit.map_or_else(BTreeMap::new, |it| it.environment());
        environment.extend(self.environment.clone());
        environment
    }

    /// The group it becomes: its name, followed by `.` and the namespace if that is not `default`.
    pub fn group_name(&self) -> Name {
        Name::of_workload(&self.name, &self.namespace)
    }
}

// === impl Resolver ===

impl Resolver {
    /// Which traffic goes to a sidecar beside this resolver.
    fn policy(&self) -> Policy {
        let policy = redirect::sidecar_policy();
        match self {
            Self::Servers { .. } => policy,
            Self::Docker => policy_beside_resolver(&policy),
        }
    }

    /// Where the sidecar asks for names outside the mesh.
    fn upstream(&self) -> Vec<SocketAddr> {
        match self {
            Self::Servers { upstream, .. } => upstream.clone(),
            Self::Docker => vec![SocketAddr::new(RESOLVER, DNS)],
        }
    }
}

// === impl JoinToken ===

impl JoinToken {
    /// A token as the API server gave it.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

/// The port of DNS.
const DNS: u16 = 53;

/// The user and group `nobody`, as on every distribution.
const NOBODY: u32 = 65534;

#[cfg(test)]
mod tests;
