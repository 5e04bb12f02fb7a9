//! Containers that others made: looking at them, attaching them to a network, holding them while
//! their groups come to be, and letting them go.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt as _;

use bollard::models::{
    ContainerInspectResponse, EndpointIpamConfig, EndpointSettings, NetworkConnectRequest,
    NetworkDisconnectRequest,
};
use bollard::query_parameters::ListContainersOptions;

use super::daemon::{found, message, status};
use super::group::{Owner, addresses};
use super::{Engine, state};
use crate::inject::{Container, LABEL_INJECT};
use crate::process::address;
use crate::redirect;
use crate::{Addresses, Attachment, GroupSpec, Name, NetworkSpec, RuntimeError};

/// A container of others as it is.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) container: Container,
    /// When its run began, in milliseconds since 1970, while it runs or is paused.
    pub(super) run: Option<u64>,
    pub(super) is_paused: bool,
    /// Its first process, while it runs or is paused.
    pid: Option<i64>,
    networks: HashMap<String, EndpointSettings>,
}

// === impl Seen ===

impl Seen {
    fn of(told: ContainerInspectResponse) -> Self {
        let config = told.config.unwrap_or_default();
        let host = told.host_config.unwrap_or_default();
        let state = told.state.unwrap_or_default();
        let runs = state.running == Some(true) && state.restarting != Some(true);
        let mut container = Container::new(
            told.id.unwrap_or_default(),
            told.name.unwrap_or_default().trim_start_matches('/'),
        );
        container.labels = config.labels.unwrap_or_default().into_iter().collect();
        container.user = config.user.unwrap_or_default();
        container.network_mode = host.network_mode.unwrap_or_default();
        let networks = told.network_settings.and_then(|it| it.networks);
        Self {
            container,
            run: state::millis(state.started_at.as_deref()).filter(|_| runs),
            is_paused: state.paused == Some(true),
            pid: state.pid.filter(|pid| runs && *pid > 0),
            networks: networks.unwrap_or_default(),
        }
    }

    /// Its addresses on a network, if it is attached to it.
    fn on(&self, network: &str, spec: &NetworkSpec) -> Option<Addresses> {
        let endpoint = self.networks.get(network)?;
        Some(Addresses {
            v4: endpoint.ip_address.as_ref()?.parse().ok()?,
            v6: endpoint.global_ipv6_address.as_ref()?.parse().ok()?,
            gateways: spec.gateways(),
        })
    }

    /// Whether a group is in the network namespace that the container has now: a new run of the
    /// container has another one.
    pub(super) fn has(&self, owner: &Owner) -> bool {
        let namespace = |pid: Option<i64>| {
            let metadata = std::fs::metadata(format!("/proc/{}/ns/net", pid?)).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        let own = namespace(self.pid);
        own.is_some() && own == namespace(owner.pid)
    }
}

// === impl Engine ===

impl Engine {
    /// A container of others; none if it is gone.
    pub(super) async fn see(&self, id: &str) -> Result<Option<Seen>, RuntimeError> {
        let looked = self.daemon.inspect(id).await;
        let there = found(looked).map_err(|error| {
            self.daemon
                .failed(format!("look at container `{id}`"), error)
        })?;
        Ok(there.map(Seen::of))
    }

    /// The ids of all containers that speak of sidecars, running or not.
    pub(super) async fn speakers(&self) -> Result<BTreeSet<String>, RuntimeError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![LABEL_INJECT.to_owned()])].into()),
            ..ListContainersOptions::default()
        };
        let listed = self.daemon.list(options).await;
        let listed = listed.map_err(|error| self.daemon.failed("list containers", error))?;
        Ok(listed.into_iter().filter_map(|it| it.id).collect())
    }

    /// The groups that joined a container of others, with its id.
    pub(super) async fn joiners(&self) -> Result<Vec<(Name, String)>, RuntimeError> {
        let groups = self.groups().await?.into_iter();
        let joiners = groups.filter_map(|(spec, _)| match spec.attachment {
            Attachment::Container { id, .. } => Some((spec.name, id)),
            _ => None,
        });
        Ok(joiners.collect())
    }

    /// Attaches a container of others to a network unless it is, at addresses that the group's
    /// name points to.
    pub(super) async fn attach(
        &self,
        id: &str,
        spec: &GroupSpec,
        network: &NetworkSpec,
    ) -> Result<Addresses, RuntimeError> {
        let there = self.names.network(&network.name);
        let seen = self.seen(id).await?;
        if let Some(addresses) = seen.on(&there, network) {
            return Ok(addresses);
        }
        let mut taken = self.taken(network).await?;
        loop {
            let number = address::choose(network, spec, &taken)?;
            let chosen = addresses(network, number);
            let request = NetworkConnectRequest {
                container: id.to_owned(),
                endpoint_config: Some(EndpointSettings {
                    ipam_config: Some(EndpointIpamConfig {
                        ipv4_address: Some(chosen.v4.to_string()),
                        ipv6_address: Some(chosen.v6.to_string()),
                        ..EndpointIpamConfig::default()
                    }),
                    // By this mark it is known again as ours to undo, also after a restart of the
                    // container.
                    driver_opts: Some(self.names.mark()),
                    ..EndpointSettings::default()
                }),
            };
            match self.daemon.api.connect_network(&there, request).await {
                Ok(()) => return Ok(chosen),
                Err(error) if is_taken(&error) && spec.address.is_none() => {
                    taken.insert(number);
                }
                Err(error) => {
                    let action = format!("attach container `{id}` to network `{there}`");
                    return Err(self.daemon.failed(action, error));
                }
            }
        }
    }

    /// Pauses a container of others, and notes it, so that it is released by whoever goes on.
    pub(super) async fn hold(&self, seen: &Seen) -> Result<(), RuntimeError> {
        let (id, Some(run)) = (&seen.container.id, seen.run) else {
            return Ok(());
        };
        // Somebody else's pause is somebody else's to end.
        if seen.is_paused {
            return Ok(());
        }
        self.notes.hold(id, run)?;
        match self.daemon.api.pause_container(id).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.notes.release(id)?;
                let action = format!("pause container `{id}`");
                Err(self.daemon.failed(action, error))
            }
        }
    }

    /// Lets a container of others go on that was held.
    pub(super) async fn release(&self, id: &str) -> Result<(), RuntimeError> {
        let Some(run) = self.notes.held_run(id)? else {
            return Ok(());
        };
        let seen = self.see(id).await?;
        let is_that_run = seen.is_some_and(|seen| seen.is_paused && seen.run == Some(run));
        if is_that_run {
            match self.daemon.api.unpause_container(id).await {
                Ok(()) => {}
                // It ended, or somebody else was faster.
                Err(error) if matches!(status(&error), Some(404 | 409 | 500)) => {
                    let paused = self.see(id).await?.is_some_and(|seen| seen.is_paused);
                    if paused {
                        let action = format!("let container `{id}` go on");
                        return Err(self.daemon.failed(action, error));
                    }
                }
                Err(error) => {
                    let action = format!("let container `{id}` go on");
                    return Err(self.daemon.failed(action, error));
                }
            }
        }
        self.notes.release(id)
    }

    /// Leaves the container that a group joined as it was before: without rules, off the network
    /// that it was attached to for the group, running.
    pub(super) async fn let_go(&self, owner: &Owner) -> Result<(), RuntimeError> {
        let Attachment::Container { id, .. } = &owner.group.spec.attachment else {
            return Ok(());
        };
        let seen = self.see(id).await?;
        if seen.as_ref().is_some_and(|seen| seen.has(owner)) {
            let group = owner.group.spec.name.clone();
            owner
                .within(move |path| {
                    redirect::remove(path)
                        .map_err(|source| RuntimeError::Redirect { group, source })
                })
                .await?;
        }
        if let Some(seen) = &seen {
            self.detach(seen, owner).await?;
        }
        self.release(id).await
    }

    /// Removes a group whose namespace is of no use any more, with its units: nothing is drained,
    /// since nobody reaches them.
    pub(super) async fn discard(&self, name: &Name) -> Result<(), RuntimeError> {
        let owner = self.find_group(name).await?;
        for unit in self.units(name).await? {
            let container = self.names.unit(name, &unit.name);
            self.remove_container(&container).await?;
        }
        if let Some(owner) = &owner
            && let Attachment::Container { id, .. } = &owner.group.spec.attachment
        {
            let seen = self.see(id).await?;
            // One that runs again is about to join again.
            if let Some(seen) = seen.filter(|seen| seen.run.is_none()) {
                self.detach(&seen, owner).await?;
            }
        }
        self.dismantle(name, &self.names.group(name)).await
    }

    /// Takes a container of others off the network that it was attached to for a group.
    async fn detach(&self, seen: &Seen, owner: &Owner) -> Result<(), RuntimeError> {
        let Attachment::Container { id, network } = &owner.group.spec.attachment else {
            return Ok(());
        };
        let network = self.names.network(network);
        let marks = seen.networks.get(&network).map(|it| &it.driver_opts);
        if marks != Some(&Some(self.names.mark())) {
            return Ok(());
        }
        let request = NetworkDisconnectRequest {
            container: id.clone(),
            force: Some(false),
        };
        match self.daemon.api.disconnect_network(&network, request).await {
            Ok(()) => Ok(()),
            // The container or the network is gone, or somebody took it off before.
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) if message(&error).is_some_and(|it| it.contains("is not connected")) => {
                Ok(())
            }
            Err(error) => {
                let action = format!("take container `{id}` off network `{network}`");
                Err(self.daemon.failed(action, error))
            }
        }
    }

    async fn seen(&self, id: &str) -> Result<Seen, RuntimeError> {
        self.see(id).await?.ok_or_else(|| RuntimeError::NotFound {
            kind: "container",
            name: id.to_owned(),
        })
    }
}

/// Whether the daemon refused because somebody has the address.
fn is_taken(error: &bollard::errors::Error) -> bool {
    message(error).is_some_and(|it| it.to_lowercase().contains("address already in use"))
}
