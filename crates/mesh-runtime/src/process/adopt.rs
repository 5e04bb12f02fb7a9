//! Taking over from an earlier process, and going away without a trace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use futures_util::future::join_all;

use super::record::{Layout, Phase};
use super::{Engine, ProcessEngine, cgroup, link, netns};
use crate::{Adoption, Attachment, GroupStatus, Name, Removal, RuntimeError, UnitState};

// === impl ProcessEngine ===

impl ProcessEngine {
    /// Removes all groups, then all networks, then what no record tells of, then the records.
    pub(super) async fn remove_everything(&self) -> Result<(), RuntimeError> {
        let groups = self
            .blocking(|engine| Layout::entries(&engine.layout.groups()))
            .await?;
        // At the same time: each waits for its own units, which may take their whole grace.
        let removals = groups.into_iter().map(async |group| {
            let stopped = self.stop_group(&group).await;
            let removed = self
                .blocking(move |engine| engine.remove_group(&group))
                .await;
            [stopped.err(), removed.err()]
        });
        let failed = join_all(removals).await;
        let mut errors: Vec<_> = failed.into_iter().flatten().flatten().collect();
        let rest = self.blocking(|engine| Ok(engine.remove_rest())).await?;
        errors.extend(rest);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(RuntimeError::Removal { errors })
        }
    }
}

// === impl Engine ===

impl Engine {
    pub(super) fn list(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<GroupStatus>, RuntimeError> {
        let mut groups = Vec::new();
        for name in Layout::entries(&self.layout.groups())? {
            let Some(record) = self.group_record(&name)? else {
                continue;
            };
            let carries = |(key, value): (&String, &String)| {
                record
                    .spec
                    .labels
                    .get(key)
                    .is_some_and(|found| found == value)
            };
            if !labels.iter().all(carries) {
                continue;
            }
            let mut units = Vec::new();
            for unit in self.units(&name)? {
                units.push(self.status(&name, &unit.name)?);
            }
            groups.push(GroupStatus {
                group: self.group(&name)?,
                units,
            });
        }
        Ok(groups)
    }

    pub(super) fn adopt(&self) -> Result<Adoption, RuntimeError> {
        let mut adoption = Adoption::default();
        for name in Layout::entries(&self.layout.groups())? {
            if let Some(why) = self.why_not_adopted(&name)? {
                self.remove_group(&name)?;
                adoption.removed.push(format!("group `{name}`, {why}"));
            }
        }
        for name in Layout::entries(&self.layout.networks())? {
            let half_made = |phase| phase != Phase::Ready;
            if self
                .network_record(&name)?
                .is_some_and(|it| half_made(it.phase))
            {
                self.remove_network(&name)?;
                adoption
                    .removed
                    .push(format!("network `{name}`, half made"));
            }
        }
        adoption.removed.extend(self.remove_strays()?);
        for group in self.list(&BTreeMap::new())? {
            for unit in group.units {
                let found = (group.group.spec.name.clone(), unit.name);
                match unit.state {
                    UnitState::Lost { .. } => adoption.lost.push(found),
                    state if state.is_active() => adoption.running.push(found),
                    _ => {}
                }
            }
        }
        Ok(adoption)
    }

    /// Why a group cannot be used: a crash in the middle, or a restart of the machine.
    fn why_not_adopted(&self, name: &Name) -> Result<Option<&'static str>, RuntimeError> {
        let Some(record) = self.group_record(name)? else {
            return Ok(Some("half made"));
        };
        if record.phase != Phase::Ready {
            return Ok(Some("half made"));
        }
        let has_namespace = matches!(record.spec.attachment, Attachment::Network(_));
        let gone = has_namespace && !netns::exists(&self.layout.namespace(name));
        Ok(gone.then_some("its namespace is gone"))
    }

    /// Removes what carries our mark and belongs to no group.
    fn remove_strays(&self) -> Result<Vec<String>, RuntimeError> {
        let _lock = self.layout.lock()?;
        let groups = Layout::entries(&self.layout.groups())?;
        let mut removed = Vec::new();
        let known: BTreeSet<String> = groups.iter().map(|name| self.id.link(name)).collect();
        let failed = |what: &str, error| RuntimeError::system(format!("remove {what}"), error);
        let links = link::with_prefix(&self.id.link_prefix())
            .map_err(|error| RuntimeError::system("list links", error))?;
        for link in links.into_iter().filter(|link| !known.contains(link)) {
            let what = format!("link `{link}`");
            link::remove(&link).map_err(|error| failed(&what, error))?;
            removed.push(what);
        }
        for name in Layout::entries(&self.layout.namespaces())? {
            if !groups.contains(&name) {
                netns::remove(&self.layout.namespace(&name))?;
                removed.push(format!("namespace `{name}`"));
            }
        }
        for cgroup in cgroup::existing(&self.cgroup()) {
            for name in Layout::entries(&cgroup)? {
                if cgroup.join(&name).is_dir() && !groups.contains(&name) {
                    let what = format!("cgroup `{name}`");
                    let stray = cgroup.join(&name);
                    cgroup::kill(&stray)
                        .and_then(|()| cgroup::remove(&stray))
                        .map_err(|error| failed(&what, error))?;
                    removed.push(what);
                }
            }
        }
        Ok(removed)
    }

    /// Removes what is left when all groups are gone; returns what went wrong.
    fn remove_rest(&self) -> Vec<RuntimeError> {
        let mut errors = Vec::new();
        match Layout::entries(&self.layout.networks()) {
            Ok(networks) => {
                for network in networks {
                    let removed: Result<Removal, _> = self.remove_network(&network);
                    errors.extend(removed.err());
                }
            }
            Err(error) => errors.push(error),
        }
        errors.extend(self.remove_strays().err());
        for cgroup in cgroup::existing(&self.cgroup()) {
            // Supervisors whose records are gone are still in here.
            let removed = cgroup::kill(&cgroup).and_then(|()| cgroup::remove(&cgroup));
            errors.extend(removed.err().map(|error| {
                RuntimeError::system(format!("remove cgroup `{}`", cgroup.display()), error)
            }));
        }
        if !errors.is_empty() {
            return errors;
        }
        let lock = self.layout.root.join("lock");
        errors.extend(super::network::remove_file(&lock).err());
        for directory in [
            self.layout.groups(),
            self.layout.namespaces(),
            self.layout.networks(),
            self.layout.root.clone(),
        ] {
            match fs::remove_dir(&directory) {
                // Somebody else keeps something there, or it is a file system of its own.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
                    ) => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let action = format!("remove `{}`", directory.display());
                    errors.push(RuntimeError::system(action, error));
                }
                _ => {}
            }
        }
        errors
    }
}
