//! Finding what an earlier process left to the daemon, and going away without a trace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bollard::models::ContainerStateStatusEnum as Status;
use bollard::query_parameters::ListNetworksOptions;
use futures_util::future::join_all;

use super::{Engine, blocking, label};
use crate::{Adoption, GroupStatus, Name, RuntimeError, UnitState};

impl Engine {
    pub(super) async fn list(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<GroupStatus>, RuntimeError> {
        let names = self.names_of("group", label::GROUP, None).await?;
        let mut listed = Vec::new();
        for name in names {
            // It may have gone since it was listed.
            let Some(owner) = self.find_group(&name).await? else {
                continue;
            };
            let carried = &owner.group.spec.labels;
            if !labels
                .iter()
                .all(|(key, value)| carried.get(key) == Some(value))
            {
                continue;
            }
            let units = self.names_of("unit", label::UNIT, Some(&name)).await?;
            // At the same time: each may be asked whether it is ready.
            let statuses =
                join_all(
                    units
                        .iter()
                        .map(async |unit| match self.status(&name, unit).await {
                            Err(RuntimeError::NotFound { kind: "unit", .. }) => Ok(None),
                            status => status.map(Some),
                        }),
                );
            let statuses: Result<Vec<_>, _> = statuses.await.into_iter().collect();
            listed.push(GroupStatus {
                group: owner.group,
                units: statuses?.into_iter().flatten().collect(),
            });
        }
        Ok(listed)
    }

    pub(super) async fn adopt(&self) -> Result<Adoption, RuntimeError> {
        let mut adoption = Adoption::default();
        let mut groups = self.names_of("group", label::GROUP, None).await?;
        for name in groups.clone() {
            let owner = self.find_group(&name).await?;
            let half_made = owner.is_some_and(|it| it.status == Some(Status::CREATED));
            if half_made {
                self.remove_group(&name).await?;
                groups.remove(&name);
                adoption.removed.push(format!("group `{name}`, half made"));
            }
        }
        adoption.removed.extend(self.remove_strays(&groups).await?);
        for status in self.list(&BTreeMap::new()).await? {
            let group = status.group.spec.name;
            for unit in status.units {
                let found = (group.clone(), unit.name);
                match unit.state {
                    UnitState::Lost { .. } => adoption.lost.push(found),
                    state if state.is_active() => adoption.running.push(found),
                    _ => {}
                }
            }
        }
        Ok(adoption)
    }

    /// Removes units and directories that belong to no group.
    async fn remove_strays(&self, groups: &BTreeSet<Name>) -> Result<Vec<String>, RuntimeError> {
        let mut removed = Vec::new();
        let owners = self.names_of("unit", label::GROUP, None).await?;
        for group in owners.difference(groups) {
            self.remove_group(group).await?;
            removed.push(format!("units of group `{group}`"));
        }
        let root = self.notes.root.clone();
        let groups = groups.clone();
        let strays = blocking(move || {
            let failed =
                |error| RuntimeError::system(format!("look through `{}`", root.display()), error);
            let mut strays = Vec::new();
            for entry in std::fs::read_dir(&root).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                // What is no name of ours is somebody else's.
                let name = name.to_str().and_then(|name| name.parse::<Name>().ok());
                strays.extend(name.filter(|name| !groups.contains(name)));
            }
            Ok(strays)
        });
        for stray in strays.await? {
            // Another process of ours may have made the group since they were listed.
            if self.find_group(&stray).await?.is_none() {
                self.remove_group(&stray).await?;
                removed.push(format!("directory `{stray}`"));
            }
        }
        Ok(removed)
    }

    /// Removes all groups, then what belongs to none, then networks and images.
    pub(super) async fn remove_all(&self) -> Result<(), RuntimeError> {
        let groups = self.names_of("group", label::GROUP, None).await?;
        // At the same time: each waits for its own units, which may take their whole grace.
        let removals = groups
            .iter()
            .map(async |group| self.remove_group(group).await);
        let removed = join_all(removals).await;
        let mut errors: Vec<_> = removed.into_iter().filter_map(Result::err).collect();
        errors.extend(self.remove_strays(&BTreeSet::new()).await.err());
        match self.own_networks().await {
            Ok(networks) => {
                for network in networks {
                    errors.extend(self.remove_network(&network).await.err());
                }
            }
            Err(error) => errors.push(error),
        }
        errors.extend(self.remove_images().await.err());
        if errors.is_empty() {
            let root = self.notes.root.clone();
            let gone = blocking(move || match std::fs::remove_dir(&root) {
                // Somebody else keeps something there.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let action = format!("remove `{}`", root.display());
                    Err(RuntimeError::system(action, error))
                }
                _ => Ok(()),
            });
            errors.extend(gone.await.err());
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(RuntimeError::Removal { errors })
        }
    }

    async fn own_networks(&self) -> Result<Vec<Name>, RuntimeError> {
        let options = ListNetworksOptions {
            filters: Some(self.names.filter("network")),
        };
        let listed = self.daemon.api.list_networks(Some(options)).await;
        let listed = listed.map_err(|error| self.daemon.failed("list networks", error))?;
        let prefix = format!("{}_", self.names.owner);
        let names = listed.iter().filter_map(|it| it.name.as_deref());
        Ok(names
            .filter_map(|name| name.strip_prefix(&prefix)?.parse().ok())
            .collect())
    }
}
