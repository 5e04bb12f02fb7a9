//! The record of virtual addresses: one ConfigMap, changed by compare-and-set.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_model::Host;
use mesh_model::service::VirtualAddresses;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval_at, sleep};
use tracing::{info, warn};

use super::system;
use crate::pilot::assembly::Resolved;

/// The ConfigMap's name, in `mesh-system`: host to address of version 4, which the one of version 6
/// follows from, and since when nobody has the host.
///
/// An address that clients may still know from DNS does not become another service's: it is given
/// back when its host was gone for a day.
pub(super) const CONFIG_MAP: &str = "virtual-addresses";

/// After the API server could not be written.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How often it is looked which hosts are gone, the first time so long after the start: by then
/// whoever is there has registered.
const SWEEP: Duration = Duration::from_secs(600);

/// The record, as a client of the API server changes it.
#[derive(Clone, Debug)]
pub(in crate::pilot) struct AddressBook {
    maps: Api<ConfigMap>,
}

/// Records addresses for the hosts that need some, and gives back those of hosts that are gone;
/// ends when nobody says so any more.
///
/// Replicas may do so at once: whoever loses a race reads again what the winner wrote.
pub async fn record_addresses(
    client: Client,
    mut unaddressed: watch::Receiver<BTreeSet<Host>>,
    current: watch::Receiver<Option<Arc<Resolved>>>,
) {
    let book = AddressBook::new(client);
    let mut sweeps = interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pause = PAUSE;
    loop {
        let hosts = unaddressed.borrow_and_update().clone();
        if !hosts.is_empty() {
            match book.add(&hosts).await {
                Ok(recorded) => {
                    pause = PAUSE;
                    if recorded > 0 {
                        info!(recorded, "virtual addresses recorded");
                    }
                }
                Err(kube::Error::Api(status)) if status.is_conflict() => continue,
                Err(error) => {
                    warn!(%error, "cannot record virtual addresses; trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                    continue;
                }
            }
        }
        tokio::select! {
            changed = unaddressed.changed() => if changed.is_err() {
                return;
            },
            _ = sweeps.tick() => {
                let in_use = current.borrow().as_ref().map(|resolved| in_use(resolved));
                // Before anything was read, nothing can be said to be gone.
                if let Some(in_use) = in_use
                    && let Err(error) = book.sweep(&in_use, Timestamp::now()).await
                {
                    // Also when another replica was faster: the next look is soon enough.
                    warn!(%error, "cannot give virtual addresses back now");
                }
            }
        }
    }
}

/// The hosts that have addresses by some service, or wait for some.
fn in_use(resolved: &Resolved) -> BTreeSet<Host> {
    let mesh = &resolved.mesh;
    let addressed = mesh.entries.iter();
    addressed
        .filter(|(_, entry)| entry.addresses.is_some())
        .map(|(host, _)| host)
        .chain(&mesh.unaddressed)
        .cloned()
        .collect()
}

/// The addresses that hosts have by the record.
pub(super) fn read(map: &ConfigMap) -> BTreeMap<Host, VirtualAddresses> {
    map.data.as_ref().map(record::read).unwrap_or_default()
}

// === impl AddressBook ===

impl AddressBook {
    pub(in crate::pilot) fn new(client: Client) -> Self {
        let maps = Api::namespaced(client, system().as_str());
        Self { maps }
    }

    /// Adds what is missing, if nobody else writes meanwhile; how many hosts were added.
    async fn add(&self, hosts: &BTreeSet<Host>) -> Result<usize, kube::Error> {
        let old = self.maps.get_opt(CONFIG_MAP).await?;
        let is_new = old.is_none();
        let mut map = old.unwrap_or_default();
        let allocation = record::add(map.data.get_or_insert_default(), hosts);
        for host in &allocation.left_out {
            warn!(%host, "no virtual address is left for it");
        }
        if allocation.added.is_empty() {
            return Ok(0);
        }
        if is_new {
            map.metadata.name = Some(CONFIG_MAP.to_owned());
            self.maps.create(&PostParams::default(), &map).await?;
        } else {
            self.replace(&map).await?;
        }
        Ok(allocation.added.len())
    }

    /// Marks what is not in use, and gives back what was not for a day.
    pub(in crate::pilot) async fn sweep(
        &self,
        in_use: &BTreeSet<Host>,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let Some(mut map) = self.maps.get_opt(CONFIG_MAP).await? else {
            return Ok(());
        };
        if record::sweep(map.data.get_or_insert_default(), in_use, now) {
            self.replace(&map).await?;
        }
        Ok(())
    }

    /// With the version that was read, so that the API server refuses it if that is not the newest.
    async fn replace(&self, map: &ConfigMap) -> Result<(), kube::Error> {
        let params = PostParams::default();
        self.maps.replace(CONFIG_MAP, &params, map).await?;
        Ok(())
    }
}
