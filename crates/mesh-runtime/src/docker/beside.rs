//! A sidecar beside a container that others made: what one look at the container leads to.
//!
//! A look compares what is with what the labels ask for and goes the rest of the way, so it may be
//! cut short and repeated. In this order: the container is paused; rules are set in its network
//! namespace, from when on nothing passes but through the sidecar; the sidecar is started; once it
//! is ready the container goes on.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use mesh_model::{Problem, Problems};

use super::DockerEngine;
use super::join::Seen;
use crate::inject::{LABEL_NAME, Place, SIDECAR_UNIT};
use crate::order::start_units;
use crate::{
    Application, Attachment, InjectedGroup, JoinToken, MeshFacts, Name, Runtime as _, RuntimeError,
    inject,
};

/// Something that the control plane is asked for.
pub type Asked<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// How workloads come into the mesh: what its control plane must be asked for each.
pub trait Admission: fmt::Debug + Send + Sync {
    /// What sidecars must know of the mesh.
    fn facts(&self) -> Asked<'_, MeshFacts>;

    /// A join token for the account of an application.
    fn token<'a>(&'a self, application: &'a Application) -> Asked<'a, JoinToken>;
}

/// What a look at a container led to.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Beside {
    /// It got a sidecar.
    Enrolled(Name),
    /// It had a sidecar.
    AlreadyEnrolled(Name),
    /// It asks for a sidecar that it cannot have, and runs without one.
    Refused(Problems),
    /// It does not run, or asks for nothing; what it had is removed.
    Dismissed,
    /// It does not run, or asks for nothing.
    Nothing,
}

/// A container whose labels speak of sidecars.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Asker {
    /// Its full id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a container stands whose labels speak of sidecars.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Standing {
    /// It has a sidecar.
    Enrolled {
        /// The group of its sidecar.
        group: Name,
        /// Whether the sidecar is ready.
        is_ready: bool,
    },
    /// It is to have a sidecar.
    Waiting {
        /// The group of its sidecar to be.
        group: Name,
        /// Whether it is paused until then.
        is_held: bool,
    },
    /// It asks for a sidecar that it cannot have.
    Refused(Problems),
    /// It does not run.
    Ended,
    /// It asks for none.
    Unasked,
}

/// Why a look did not come to an end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BesideError {
    /// The daemon or the machine could not do it.
    #[error("the sidecar could not be set beside container `{container}`")]
    Runtime {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: RuntimeError,
    },
    /// The control plane gave no answer that would let it in.
    #[error("the mesh did not admit container `{container}`")]
    Admission {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// One container, on its way into the mesh.
struct Candidate<'a> {
    engine: &'a DockerEngine,
    seen: &'a Seen,
    application: &'a Application,
    name: Name,
}

// === impl DockerEngine ===

impl DockerEngine {
    /// Looks at a container by its full id, and sees to it that it has a sidecar if and only if it
    /// runs and its labels ask for one ([`inject::Container`](crate::inject::Container)).
    ///
    /// `limit` holds for the sidecar to become ready. After that the container goes on without,
    /// and its rules let nothing through until the sidecar is ready; it is not paused for ever.
    ///
    /// # Errors
    ///
    /// What kept it from coming to an end; look again. A container that has no rules yet stays
    /// paused meanwhile.
    pub async fn set_beside(
        &self,
        container: &str,
        admission: &dyn Admission,
        limit: Duration,
    ) -> Result<Beside, BesideError> {
        let runtime = |source| runtime_error(container, source);
        let seen = self.engine.see(container).await.map_err(runtime)?;
        let Some(seen) = seen.filter(|seen| seen.run.is_some()) else {
            return self.dismiss(container).await.map_err(runtime);
        };
        let application = match seen.container.application() {
            Ok(Some(application)) => application,
            Ok(None) => return self.dismiss(container).await.map_err(runtime),
            Err(problems) => return Ok(Beside::Refused(problems)),
        };
        let candidate = Candidate {
            engine: self,
            name: application.group_name(),
            application: &application,
            seen: &seen,
        };
        candidate.enrol(admission, limit).await
    }

    /// All containers whose labels speak of sidecars, by name.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoDaemon`] and [`RuntimeError::Daemon`].
    pub async fn askers(&self) -> Result<Vec<Asker>, RuntimeError> {
        let mut askers = Vec::new();
        for id in self.engine.speakers().await? {
            // It may have gone since it was listed.
            let Some(seen) = self.engine.see(&id).await? else {
                continue;
            };
            askers.push(Asker {
                standing: self.standing(&seen).await?,
                name: seen.container.name,
                id,
            });
        }
        askers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(askers)
    }

    async fn standing(&self, seen: &Seen) -> Result<Standing, RuntimeError> {
        let application = match seen.container.application() {
            Err(problems) => return Ok(Standing::Refused(problems)),
            Ok(None) => return Ok(Standing::Unasked),
            Ok(Some(_)) if seen.run.is_none() => return Ok(Standing::Ended),
            Ok(Some(application)) => application,
        };
        let candidate = Candidate {
            engine: self,
            name: application.group_name(),
            application: &application,
            seen,
        };
        let group = candidate.name.clone();
        let owner = self.engine.find_group(&group).await?;
        if owner.is_some_and(|owner| seen.has(&owner)) {
            let is_ready = candidate.is_settled().await?;
            return Ok(Standing::Enrolled { group, is_ready });
        }
        let held = self.engine.notes.held_run(&seen.container.id)?;
        let is_held = seen.is_paused && held == seen.run;
        Ok(Standing::Waiting { group, is_held })
    }

    /// Removes what was set beside a container that has no use for it any more.
    async fn dismiss(&self, container: &str) -> Result<Beside, RuntimeError> {
        let mut outcome = Beside::Nothing;
        for (name, of) in self.engine.joiners().await? {
            if of == container {
                self.engine.discard(&name).await?;
                outcome = Beside::Dismissed;
            }
        }
        self.engine.release(container).await?;
        Ok(outcome)
    }
}

// === impl Candidate ===

impl Candidate<'_> {
    async fn enrol(
        &self,
        admission: &dyn Admission,
        limit: Duration,
    ) -> Result<Beside, BesideError> {
        let id = &self.seen.container.id;
        let runtime = |source| runtime_error(id, source);
        let refused = |source| BesideError::Admission {
            container: id.clone(),
            source,
        };
        if let Some(problem) = self.make_room().await.map_err(runtime)? {
            return Ok(Beside::Refused(problem.into()));
        }
        if self.is_settled().await.map_err(runtime)? {
            self.engine.engine.release(id).await.map_err(runtime)?;
            return Ok(Beside::AlreadyEnrolled(self.name.clone()));
        }
        let facts = admission.facts().await.map_err(refused)?;
        let injected = match inject(self.application, &facts) {
            Ok(injected) => injected,
            Err(problems) => {
                self.engine.engine.release(id).await.map_err(runtime)?;
                return Ok(Beside::Refused(problems));
            }
        };
        self.redirect(&injected).await.map_err(runtime)?;
        // From here on it may go on whatever happens: nothing passes but through the sidecar.
        let started = async {
            let token = admission.token(self.application).await.map_err(refused)?;
            self.start(&injected, &token, limit).await.map_err(runtime)
        };
        let started = started.await;
        self.engine.engine.release(id).await.map_err(runtime)?;
        started.map(|()| Beside::Enrolled(self.name.clone()))
    }

    /// Pauses the container unless its rules are set, and removes a group of its name that is of
    /// an earlier run or of a container that is gone. A name that somebody else has is a problem.
    async fn make_room(&self) -> Result<Option<Problem>, RuntimeError> {
        let (engine, id) = (&self.engine.engine, &self.seen.container.id);
        let Some(owner) = engine.find_group(&self.name).await? else {
            engine.hold(self.seen).await?;
            return Ok(None);
        };
        let (spec, has_rules) = (
            &owner.group.spec,
            owner.group.rules_applied_at_millis.is_some(),
        );
        match &spec.attachment {
            Attachment::Container { id: of, .. } if of == id => {
                let is_current = self.seen.has(&owner);
                if !(is_current && has_rules) {
                    engine.hold(self.seen).await?;
                }
                if !is_current {
                    engine.discard(&self.name).await?;
                }
                Ok(None)
            }
            Attachment::Container { id: of, .. } => {
                let other = engine.see(of).await?;
                if other.is_some_and(|other| other.run.is_some()) {
                    return Ok(Some(self.taken(&format!("container `{of}`"))));
                }
                engine.hold(self.seen).await?;
                engine.discard(&self.name).await?;
                Ok(None)
            }
            _ => Ok(Some(self.taken("a workload of `mesh run`"))),
        }
    }

    fn taken(&self, by: &str) -> Problem {
        let expected = format!("a name of its own: {by} has it");
        Problem::new(LABEL_NAME, self.name.as_str(), expected)
    }

    /// Whether everything is there and ready.
    async fn is_settled(&self) -> Result<bool, RuntimeError> {
        let group = match self.engine.group(&self.name).await {
            Ok(group) => group,
            Err(RuntimeError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if group.rules_applied_at_millis.is_none() {
            return Ok(false);
        }
        let sidecar = Name::literal(SIDECAR_UNIT);
        match self.engine.status(&self.name, &sidecar).await {
            Ok(status) => Ok(status.ready),
            Err(RuntimeError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn redirect(&self, injected: &InjectedGroup) -> Result<(), RuntimeError> {
        self.engine.create_group(&injected.group).await?;
        if let Some(policy) = &injected.policy {
            self.engine.redirect_group(&self.name, policy).await?;
        }
        Ok(())
    }

    async fn start(
        &self,
        injected: &InjectedGroup,
        token: &JoinToken,
        limit: Duration,
    ) -> Result<(), RuntimeError> {
        let group = self.engine.group(&self.name).await?;
        let addresses = group.addresses.ok_or_else(|| RuntimeError::NotFound {
            kind: "address of group",
            name: self.name.to_string(),
        })?;
        let units = injected.units(&Place {
            directory: &group.directory,
            addresses,
            token,
        })?;
        for unit in &units {
            match self.engine.create_unit(&self.name, unit).await {
                // Of an earlier version, or of a mesh that has moved.
                Err(RuntimeError::Differs { .. }) => {
                    self.engine.remove_unit(&self.name, &unit.name).await?;
                    self.engine.create_unit(&self.name, unit).await?;
                }
                made => drop(made?),
            }
        }
        start_units(self.engine, &self.name, &units, limit).await
    }
}

fn runtime_error(container: &str, source: RuntimeError) -> BesideError {
    BesideError::Runtime {
        container: container.to_owned(),
        source,
    }
}
