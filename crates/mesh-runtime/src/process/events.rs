//! What happens to units of the process engine: records that change, supervisors that end.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use futures_util::future::select_all;
use futures_util::stream;

use super::watch::{DirectoryWatch, ProcessWatch};
use super::{Engine, ProcessEngine};
use crate::process::record::Layout;
use crate::{Event, EventStream, Name, RuntimeError, UnitState};

/// Every unit with its state.
type Units = BTreeMap<(Name, Name), UnitState>;

/// Follows all units of an engine.
struct Follower {
    engine: Arc<Engine>,
    directories: DirectoryWatch,
    known: Units,
    told: VecDeque<Event>,
}

// === impl ProcessEngine ===

impl ProcessEngine {
    pub(super) fn follow(&self) -> Result<EventStream, RuntimeError> {
        let directories = DirectoryWatch::of_none()
            .map_err(|error| RuntimeError::system("watch the units", error))?;
        let mut follower = Follower {
            engine: Arc::clone(&self.engine),
            directories,
            known: Units::new(),
            told: VecDeque::new(),
        };
        follower.known = follower.look()?;
        Ok(Box::pin(stream::try_unfold(follower, Follower::next)))
    }
}

// === impl Follower ===

impl Follower {
    /// The next event, once there is one.
    async fn next(mut self) -> Result<Option<(Event, Self)>, RuntimeError> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Ok(Some((event, self)));
            }
            self.changed().await?;
            let found = self.look()?;
            self.told.extend(differences(&self.known, &found));
            self.known = found;
        }
    }

    /// Returns when a record changed, or the supervisor of an active unit ended.
    async fn changed(&mut self) -> Result<(), RuntimeError> {
        let failed = |error: io::Error| RuntimeError::system("watch the units", error);
        let mut supervisors = Vec::new();
        for ((group, unit), state) in &self.known {
            let record = self.engine.status_record(group, unit)?;
            if let Some(record) = record.filter(|_| state.is_active()) {
                supervisors.push(ProcessWatch::new(&record.supervisor).map_err(failed)?);
            }
        }
        if supervisors.is_empty() {
            return self.directories.changed().await.map_err(failed);
        }
        let ends = supervisors.iter().map(|it| Box::pin(it.ended()));
        tokio::select! {
            changed = self.directories.changed() => changed.map_err(failed),
            (ended, ..) = select_all(ends) => ended.map_err(failed),
        }
    }

    /// All units as they are. A directory is watched before it is read, so that nothing is missed.
    fn look(&self) -> Result<Units, RuntimeError> {
        let failed = |error: io::Error| RuntimeError::system("watch the units", error);
        let layout = &self.engine.layout;
        let mut found = Units::new();
        for directory in [&layout.root, &layout.groups()] {
            self.directories.add(directory).map_err(failed)?;
        }
        for group in Layout::entries(&layout.groups())? {
            for directory in [&layout.group(&group), &layout.units(&group)] {
                self.directories.add(directory).map_err(failed)?;
            }
            for unit in Layout::entries(&layout.units(&group))? {
                let directory = layout.unit(&group, &unit);
                self.directories.add(&directory).map_err(failed)?;
                match self.engine.status(&group, &unit) {
                    Ok(status) => drop(found.insert((group.clone(), unit), status.state)),
                    // Half made, or gone since the directory was read.
                    Err(RuntimeError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

/// What happened between two looks.
fn differences(before: &Units, after: &Units) -> Vec<Event> {
    let event = |(group, unit): &(Name, Name), state: Option<&UnitState>| Event {
        group: group.clone(),
        unit: unit.clone(),
        state: state.cloned(),
    };
    let removed = before.keys().filter(|key| !after.contains_key(*key));
    let changed = after
        .iter()
        .filter(|(key, state)| before.get(*key) != Some(*state));
    removed
        .map(|key| event(key, None))
        .chain(changed.map(|(key, state)| event(key, Some(state))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_changed_and_went_is_told_and_nothing_else() {
        let key = |unit: &str| ("g".parse().unwrap(), unit.parse().unwrap());
        let before = Units::from([
            (key("gone"), UnitState::Created),
            (key("same"), UnitState::Stopped),
            (key("on"), UnitState::Created),
        ]);
        let after = Units::from([
            (key("same"), UnitState::Stopped),
            (key("on"), UnitState::Running { pid: 7 }),
            (key("new"), UnitState::Created),
        ]);
        let events = differences(&before, &after);
        let told: Vec<_> = events
            .iter()
            .map(|it| (it.unit.as_str(), it.state.is_some()))
            .collect();
        assert_eq!(told, [("gone", false), ("new", true), ("on", true)]);
        assert_eq!(differences(&after, &after), []);
    }
}
