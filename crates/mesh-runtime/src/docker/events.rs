//! What happens to units of the Docker engine, as the daemon tells it.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::{Stream, StreamExt as _, stream};

use super::{Engine, label};
use crate::{Event, EventStream, Name, RuntimeError, UnitState};

type Words = Pin<Box<dyn Stream<Item = Result<EventMessage, bollard::errors::Error>> + Send>>;

/// Follows all units of an engine.
struct Follower {
    engine: Arc<Engine>,
    words: Words,
    known: BTreeMap<(Name, Name), UnitState>,
    told: VecDeque<Event>,
}

pub(super) async fn follow(engine: &Arc<Engine>) -> Result<EventStream, RuntimeError> {
    let owner = format!("{}={}", label::ENGINE, engine.names.owner);
    let filters = [
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![owner]),
    ];
    // From before the first look, so that nothing is missed: what was seen already says nothing.
    let since = crate::process::now_millis() / 1000;
    let options = EventsOptions {
        since: Some(since.to_string()),
        filters: Some(filters.into()),
        ..EventsOptions::default()
    };
    let mut follower = Follower {
        engine: Arc::clone(engine),
        words: Box::pin(engine.daemon.api.events(Some(options))),
        known: BTreeMap::new(),
        told: VecDeque::new(),
    };
    for group in engine.names_of("group", label::GROUP, None).await? {
        follower.look_at_group(&group).await?;
    }
    follower.told.clear();
    Ok(Box::pin(stream::try_unfold(follower, Follower::next)))
}

// === impl Follower ===

impl Follower {
    /// The next event, once there is one.
    async fn next(mut self) -> Result<Option<(Event, Self)>, RuntimeError> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Ok(Some((event, self)));
            }
            match self.words.next().await {
                Some(Ok(word)) => self.take(&word).await?,
                Some(Err(error)) => return Err(self.engine.daemon.failed("tell events", error)),
                // The daemon ends.
                None => return Ok(None),
            }
        }
    }

    /// Looks at what the daemon spoke of.
    async fn take(&mut self, word: &EventMessage) -> Result<(), RuntimeError> {
        // Commands beside a unit change nothing, and readiness is asked by such.
        if word
            .action
            .as_deref()
            .is_some_and(|it| it.starts_with("exec_"))
        {
            return Ok(());
        }
        let labels = word.actor.as_ref().and_then(|it| it.attributes.as_ref());
        let name = |key| -> Option<Name> { labels?.get(key)?.parse().ok() };
        match (name(label::GROUP), name(label::UNIT)) {
            (Some(group), Some(unit)) => self.look_at(&group, &unit).await,
            // With its namespace, units may be lost.
            (Some(group), None) => self.look_at_group(&group).await,
            (None, _) => Ok(()),
        }
    }

    async fn look_at_group(&mut self, group: &Name) -> Result<(), RuntimeError> {
        let units = self
            .engine
            .names_of("unit", label::UNIT, Some(group))
            .await?;
        for unit in units {
            self.look_at(group, &unit).await?;
        }
        Ok(())
    }

    async fn look_at(&mut self, group: &Name, unit: &Name) -> Result<(), RuntimeError> {
        let state = match self.engine.state(group, unit).await {
            Ok(state) => Some(state),
            Err(RuntimeError::NotFound { kind: "unit", .. }) => None,
            Err(error) => return Err(error),
        };
        let key = (group.clone(), unit.clone());
        let before = match &state {
            Some(state) => self.known.insert(key, state.clone()),
            None => self.known.remove(&key),
        };
        if before != state {
            self.told.push_back(Event {
                group: group.clone(),
                unit: unit.clone(),
                state,
            });
        }
        Ok(())
    }
}
