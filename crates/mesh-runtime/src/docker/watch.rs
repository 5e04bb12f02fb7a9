//! Sidecars for all containers of a daemon whose labels ask for one: follows what happens to them,
//! and looks at all of them now and then, so that nothing depends on having heard of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::DockerEngine;
use super::beside::{Admission, Beside, BesideError};
use crate::RuntimeError;
use crate::inject::LABEL_INJECT;

/// Looks after the containers of a daemon, from now on.
struct Watch {
    engine: DockerEngine,
    admission: Arc<dyn Admission>,
    limit: Duration,
    /// Looks that are under way.
    looks: JoinSet<Look>,
    running: HashMap<String, AbortHandle>,
    /// What the last look at a container led to, so that only changes are told.
    known: HashMap<String, String>,
}

/// A look that came to its end.
#[derive(Debug)]
struct Look {
    container: String,
    outcome: Result<Beside, BesideError>,
}

// === impl DockerEngine ===

impl DockerEngine {
    /// Looks after all containers that ask for a sidecar by their labels, until it is dropped; what
    /// it made goes on without it, and the next one finds it.
    ///
    /// A container runs for some milliseconds before the daemon tells of it: what it says then goes
    /// past the mesh. Where that may not be, let containers join a group that is ready
    /// ([`Runner::Joining`](crate::Runner::Joining)).
    ///
    /// # Errors
    ///
    /// When the daemon does not answer at first. Later it is asked again until it does.
    pub async fn watch(
        &self,
        admission: Arc<dyn Admission>,
        limit: Duration,
    ) -> Result<std::convert::Infallible, RuntimeError> {
        let mut watch = Watch {
            engine: self.clone(),
            admission,
            limit,
            looks: JoinSet::new(),
            running: HashMap::new(),
            known: HashMap::new(),
        };
        watch.look_at_all().await?;
        tracing::info!("looking after the containers of this daemon");
        loop {
            match watch.follow().await {
                Ok(()) => tracing::warn!("the container daemon ends its events"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, "the container daemon does not tell events");
                }
            }
            sleep(AGAIN).await;
        }
    }
}

// === impl Watch ===

impl Watch {
    /// Follows events until the daemon tells no more.
    async fn follow(&mut self) -> Result<(), RuntimeError> {
        let filters = [
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![LABEL_INJECT.to_owned()]),
            (
                "event".to_owned(),
                vec!["start".to_owned(), "die".to_owned(), "destroy".to_owned()],
            ),
        ];
        // From before the look at all, so that nothing is missed between the two.
        let since = crate::process::now_millis() / 1000;
        let options = EventsOptions {
            since: Some(since.to_string()),
            filters: Some(filters.into()),
            ..EventsOptions::default()
        };
        let api = self.engine.engine.daemon.api.clone();
        let mut events = Box::pin(api.events(Some(options)));
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => {
                        return Err(self.engine.engine.daemon.failed("tell events", error));
                    }
                    None => return Ok(()),
                },
                Some(ended) = self.looks.join_next() => match ended {
                    Ok(look) => self.tell(look),
                    // It gave way to a later one.
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = sweep.tick() => self.look_at_all().await?,
            }
        }
    }

    /// A container began or ended: what was under way for it is over.
    fn take(&mut self, event: EventMessage) {
        let Some(container) = event.actor.and_then(|actor| actor.id) else {
            return;
        };
        if let Some(running) = self.running.remove(&container) {
            running.abort();
        }
        self.look_at(container);
    }

    /// Looks at every container that may need it and is not looked at already.
    async fn look_at_all(&mut self) -> Result<(), RuntimeError> {
        let engine = &self.engine.engine;
        let mut containers = engine.speakers().await?;
        // Those whose container is gone since.
        containers.extend(engine.joiners().await?.into_iter().map(|(_, id)| id));
        self.known.retain(|id, _| containers.contains(id));
        self.forget_ended(&containers);
        for container in containers {
            if !self.running.contains_key(&container) {
                self.look_at(container);
            }
        }
        Ok(())
    }

    fn forget_ended(&mut self, containers: &BTreeSet<String>) {
        self.running
            .retain(|id, look| containers.contains(id) && !look.is_finished());
    }

    fn look_at(&mut self, container: String) {
        let (engine, admission) = (self.engine.clone(), Arc::clone(&self.admission));
        let (id, limit) = (container.clone(), self.limit);
        let look = self.looks.spawn(async move {
            let outcome = engine.set_beside(&id, &*admission, limit).await;
            Look {
                container: id,
                outcome,
            }
        });
        self.running.insert(container, look);
    }

    /// Logs what a look led to, unless the one before led to the same. Whatever failed is tried
    /// again at the next look at all.
    fn tell(&mut self, look: Look) {
        let container = look.container;
        let words = match &look.outcome {
            Ok(outcome) => format!("{outcome:?}"),
            Err(error) => chain(error),
        };
        let before = self.known.insert(container.clone(), words.clone());
        let is_news = before.as_ref() != Some(&words);
        match look.outcome {
            Ok(Beside::Enrolled(group)) => {
                tracing::info!(container, %group, "container enrolled with a sidecar");
            }
            Ok(Beside::AlreadyEnrolled(group)) if before.is_none() => {
                tracing::info!(container, %group, "container has its sidecar");
            }
            Ok(Beside::Dismissed) => {
                tracing::info!(container, "sidecar removed, its container does not run");
            }
            Ok(Beside::Refused(problems)) if is_news => {
                let problems = problems.to_string();
                tracing::warn!(container, problems, "container cannot have a sidecar");
            }
            Err(_) if is_news => {
                tracing::warn!(container, error = words, "container is not enrolled yet");
            }
            _ => {}
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Between two looks at all containers; also how long something that failed waits.
const SWEEP: Duration = Duration::from_secs(5);

/// Until a daemon that went away is asked again.
const AGAIN: Duration = Duration::from_millis(500);
