//! The units of an injected group, once its place is known: rules, sidecar, application.

use std::path::{Path, PathBuf};

use mesh_model::sidecar::{PROXY_UID, READINESS_PORT};
use mesh_model::{Mode, Problems, SidecarConfig, Workload};

use super::{InjectedGroup, JoinToken};
use crate::redirect::Policy;
use crate::{
    Addresses, Capability, Condition, Contents, Dependency, DirectorySpec, FileSpec, Group, Name,
    Readiness, RestartPolicy, RuntimeError, UnitSpec,
};

/// Where an injected group came to be.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The group's own directory.
    pub directory: &'a Path,
    /// Its addresses.
    pub addresses: Addresses,
    /// The token by which its sidecar joins.
    pub token: &'a JoinToken,
}

/// Where the parts of an injected group keep their files, below the group's own directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SidecarFiles {
    directory: PathBuf,
}

// === impl SidecarFiles ===

impl SidecarFiles {
    /// The files below a group's own directory ([`Group::directory`]).
    pub fn below(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
        }
    }

    /// The redirect policy, as JSON; root's.
    pub fn policy(&self) -> PathBuf {
        self.directory.join("rules/policy.json")
    }

    /// What the watcher of the rules says, as JSON; everybody may read it.
    pub fn verdict(&self) -> PathBuf {
        self.directory.join(VERDICT_FILE)
    }

    /// What the sidecar is told, as JSON ([`SidecarConfig`]); the proxy's alone.
    pub fn config(&self) -> PathBuf {
        self.directory.join("sidecar/config.json")
    }

    /// The join token; the proxy's alone.
    pub fn token(&self) -> PathBuf {
        self.directory.join("sidecar/token")
    }

    /// The sidecar's own directory; the proxy's alone.
    pub fn state(&self) -> PathBuf {
        self.directory.join(STATE_DIRECTORY)
    }
}

impl From<&Group> for SidecarFiles {
    fn from(group: &Group) -> Self {
        Self::below(&group.directory)
    }
}

// === impl InjectedGroup ===

impl InjectedGroup {
    /// What the sidecar is told.
    ///
    /// # Errors
    ///
    /// Names that cannot be the id of a workload.
    pub fn sidecar_config(&self, place: &Place<'_>) -> Result<SidecarConfig, Problems> {
        let (application, facts) = (&self.application, &self.facts);
        let files = SidecarFiles::below(place.directory);
        let id = format!("{}/{}", application.namespace, application.name);
        Ok(SidecarConfig {
            workload: Workload {
                id: id.parse().map_err(Problems::from)?,
                namespace: application.namespace.clone(),
                service_account: application.service_account.clone(),
                addresses: place.addresses.both().into(),
                labels: application.labels.clone(),
                services: application.services.clone(),
                explicit: application.explicit(),
                sidecar: mesh_model::Sidecar::Present,
                capture: mesh_model::Capture::default(),
                gateway: application.mode == Mode::Gateway,
            },
            trust_domain: facts.trust_domain.clone(),
            pilots: facts.pilots.clone(),
            cas: facts.cas.clone(),
            root_hashes: facts.root_hashes.clone(),
            token_file: Some(files.token()),
            state_dir: files.state(),
            envoy: facts.envoy.clone(),
            upstream_dns: facts.resolver.upstream(),
            rules_verdict: self.policy.as_ref().map(|_| files.verdict()),
            certificate_ttl_seconds: facts.certificate_ttl_seconds,
        })
    }

    /// The units, in the order of starting: `rules` if there are any, `sidecar`, and `app` where
    /// the group runs it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Invalid`] for names that cannot be the id of a workload, and
    /// [`RuntimeError::Record`] for what cannot be written as JSON.
    pub fn units(&self, place: &Place<'_>) -> Result<Vec<UnitSpec>, RuntimeError> {
        let files = SidecarFiles::below(place.directory);
        let config = self
            .sidecar_config(place)
            .map_err(RuntimeError::invalid("group", &self.group.name))?;
        let policy = self.policy.as_ref();
        let rules = policy
            .map(|policy| self.rules(policy, &files))
            .transpose()?;
        let sidecar = self.sidecar(place, &files, &config)?;
        let app = self.application.is_run_by_group().then(|| self.app());
        Ok(rules.into_iter().chain([sidecar]).chain(app).collect())
    }

    /// Looks after the rules: reading them takes a right that the sidecar does not have.
    fn rules(&self, policy: &Policy, files: &SidecarFiles) -> Result<UnitSpec, RuntimeError> {
        let mut unit = self.ours(
            RULES_UNIT,
            &[
                "redirect".as_ref(),
                "watch".as_ref(),
                "--policy".as_ref(),
                &files.policy(),
                "--verdict".as_ref(),
                &files.verdict(),
            ],
        );
        if self.facts.image.is_some() {
            // In a container process 1 is the container's own, so the watcher cannot tell the
            // host's namespace from another; the engine has, when it set the rules.
            unit.command.push("--not-host-network".to_owned());
        }
        unit.capabilities = [Capability::NetAdmin].into();
        let policy = json(&files.policy(), policy)?;
        unit.files = vec![owned(0, 0o600, files.policy(), policy)];
        Ok(unit)
    }

    fn sidecar(
        &self,
        place: &Place<'_>,
        files: &SidecarFiles,
        config: &SidecarConfig,
    ) -> Result<UnitSpec, RuntimeError> {
        let mut unit = self.ours(
            SIDECAR_UNIT,
            &["agent".as_ref(), "--config".as_ref(), &files.config()],
        );
        unit.uid = PROXY_UID;
        unit.gid = PROXY_UID;
        let own = [place.directory.join("sidecar"), files.state()];
        unit.directories = own
            .map(|path| DirectorySpec {
                path,
                mode: 0o700,
                uid: PROXY_UID,
                gid: PROXY_UID,
            })
            .into();
        let config = json(&files.config(), config)?;
        let token = place.token.as_bytes().to_vec();
        unit.files = vec![
            owned(PROXY_UID, 0o600, files.config(), config),
            owned(PROXY_UID, 0o600, files.token(), token),
        ];
        // A container may bind every port of its network anyway.
        if self.application.mode == Mode::Gateway && self.facts.image.is_none() {
            unit.capabilities = [Capability::NetBindService].into();
        }
        unit.readiness = Some(Readiness::http(READINESS_PORT, "/ready"));
        // The engine has set the rules already; that they are watched is a part of being ready, so
        // the watcher may start at the same time.
        Ok(unit)
    }

    fn app(&self) -> UnitSpec {
        let application = &self.application;
        UnitSpec {
            image: application.image.clone(),
            mounts: application.mounts.clone(),
            environment: application.whole_environment(),
            uid: application.uid,
            gid: application.gid,
            capabilities: application.capabilities.clone(),
            working_directory: application.working_directory.clone(),
            restart: application.restart,
            readiness: application.readiness.clone(),
            // Before that, the rules refuse its connections, or nobody listens where it calls.
            after: vec![after(SIDECAR_UNIT, Condition::Ready)],
            ..UnitSpec::new(Name::literal(APP_UNIT), &application.command)
        }
    }

    /// A unit that runs the `mesh` binary.
    fn ours(&self, name: &'static str, arguments: &[&Path]) -> UnitSpec {
        // What it does is rare and worth a line in its log.
        let program = [self.facts.mesh.as_path(), Path::new("--verbose")];
        let command = program.into_iter().chain(arguments.iter().copied());
        let mut unit = UnitSpec::new(
            Name::literal(name),
            command.map(|part| part.display().to_string()),
        );
        unit.image.clone_from(&self.facts.image);
        unit.restart = RestartPolicy::Always;
        unit
    }
}

/// The unit that looks after the redirect rules.
pub const RULES_UNIT: &str = "rules";
/// The unit of agent and Envoy.
pub const SIDECAR_UNIT: &str = "sidecar";
/// The unit of the application.
pub const APP_UNIT: &str = "app";
/// What the watcher of the rules says, below the directory of the group.
pub const VERDICT_FILE: &str = "rules/verdict.json";
/// The sidecar's own directory, below the directory of the group.
pub const STATE_DIRECTORY: &str = "sidecar/state";

fn after(unit: &'static str, condition: Condition) -> Dependency {
    Dependency {
        unit: Name::literal(unit),
        condition,
    }
}

fn owned(id: u32, mode: u32, path: PathBuf, contents: Vec<u8>) -> FileSpec {
    FileSpec {
        path,
        contents: Contents(contents),
        mode,
        uid: id,
        gid: id,
    }
}

fn json(path: &Path, value: &impl serde::Serialize) -> Result<Vec<u8>, RuntimeError> {
    serde_json::to_vec_pretty(value).map_err(|source| RuntimeError::Record {
        path: path.to_path_buf(),
        source,
    })
}
