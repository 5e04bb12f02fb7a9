//! Sidecar injection: an application goes in plain and comes out as a group with rules and sidecar.
//!
//! Pure: equal inputs give equal groups. [`enrol`](crate::enrol) carries one out.

mod check;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use mesh_model::{Namespace, Problems, ServiceAccount, ServiceName, TrustDomain, WorkloadService};

pub use self::units::{
    APP_UNIT, Place, RULES_UNIT, SIDECAR_UNIT, STATE_DIRECTORY, SidecarFiles, VERDICT_FILE,
};
use crate::redirect::{self, Policy};
use crate::{Attachment, Capability, Dns, GroupSpec, Name, Readiness, RestartPolicy};

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
    /// The program and its arguments.
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
    /// How its traffic comes to the sidecar.
    pub mode: Mode,
}

/// How the traffic of an application comes to its sidecar.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mode {
    /// By redirect rules in its network namespace: the application notices nothing.
    #[default]
    Transparent,
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
    /// The `mesh` binary.
    pub mesh: PathBuf,
    /// The Envoy binary; from PATH when absent.
    pub envoy: Option<PathBuf>,
    /// The network that workloads are attached to.
    pub network: Name,
    /// What units see as their name servers: the gateway, since the rules catch every query.
    pub name_servers: Vec<IpAddr>,
    /// Where the sidecar asks for names outside the mesh.
    pub upstream_dns: Vec<SocketAddr>,
    /// Lifetime to ask of the CA for each certificate, in seconds.
    pub certificate_ttl_seconds: Option<u64>,
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
    /// Which of its traffic goes to the sidecar.
    pub policy: Policy,
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
    Ok(InjectedGroup {
        group: GroupSpec {
            dns: Some(Dns {
                servers: facts.name_servers.clone(),
                search: vec![format!("{namespace}.mesh")],
            }),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..GroupSpec::new(
                application.group_name(),
                Attachment::Network(facts.network.clone()),
            )
        },
        policy: redirect::sidecar_policy(),
        application: application.clone(),
        facts: facts.clone(),
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
            command: command.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            uid: NOBODY,
            gid: NOBODY,
            capabilities: BTreeSet::new(),
            working_directory: PathBuf::from("/"),
            restart: RestartPolicy::Always,
            readiness: None,
            mode: Mode::Transparent,
        }
    }

    /// The group it becomes: its name, followed by `.` and the namespace if that is not `default`.
    pub fn group_name(&self) -> Name {
        Name::of_workload(&self.name, &self.namespace)
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

/// The user and group `nobody`, as on every distribution.
const NOBODY: u32 = 65534;

#[cfg(test)]
mod tests;
