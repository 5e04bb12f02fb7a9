//! The record of virtual addresses: one ConfigMap, extended by compare-and-set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_model::Host;
use mesh_model::service::VirtualAddresses;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::system;
use crate::pilot::mesh::address::assign;

/// The ConfigMap's name, in `mesh-system`: host to `<v4> <v6>`.
///
/// Entries are never removed, so that an address that clients may still know from DNS does not
/// become another service's.
pub(super) const CONFIG_MAP: &str = "virtual-addresses";

/// After the API server could not be written.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Records addresses for the hosts that need some; ends when nobody says so any more.
///
/// Replicas may do so at once: whoever loses a race reads again what the winner wrote.
pub async fn record_addresses(client: Client, mut unaddressed: watch::Receiver<BTreeSet<Host>>) {
    let maps: Api<ConfigMap> = Api::namespaced(client, system().as_str());
    let mut pause = PAUSE;
    loop {
        let hosts = unaddressed.borrow_and_update().clone();
        if !hosts.is_empty() {
            match record(&maps, &hosts).await {
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
        if unaddressed.changed().await.is_err() {
            return;
        }
    }
}

/// Adds what is missing, if nobody else writes meanwhile; how many hosts were added.
async fn record(maps: &Api<ConfigMap>, hosts: &BTreeSet<Host>) -> Result<usize, kube::Error> {
    let old = maps.get_opt(CONFIG_MAP).await?;
    let is_new = old.is_none();
    let mut map = old.unwrap_or_default();
    let missing = allocate(&read(&map), hosts);
    if missing.is_empty() {
        return Ok(0);
    }
    let data = map.data.get_or_insert_default();
    for (host, VirtualAddresses { v4, v6 }) in &missing {
        data.insert(host.to_string(), format!("{v4} {v6}"));
    }
    if is_new {
        map.metadata.name = Some(CONFIG_MAP.to_owned());
        maps.create(&PostParams::default(), &map).await?;
    } else {
        // With the version that was read, so that the API server refuses it if that is not the
        // newest.
        maps.replace(CONFIG_MAP, &PostParams::default(), &map)
            .await?;
    }
    Ok(missing.len())
}

/// Addresses for those hosts that have none, all different from each other and from the recorded.
fn allocate(
    recorded: &BTreeMap<Host, VirtualAddresses>,
    hosts: &BTreeSet<Host>,
) -> BTreeMap<Host, VirtualAddresses> {
    let mut taken: BTreeMap<Ipv4Addr, Host> = recorded
        .iter()
        .map(|(host, addresses)| (addresses.v4, host.clone()))
        .collect();
    let mut allocated = BTreeMap::new();
    for host in hosts.iter().filter(|host| !recorded.contains_key(*host)) {
        let Some(addresses) = assign(host, &taken) else {
            warn!(%host, "no virtual address is left for it");
            continue;
        };
        taken.insert(addresses.v4, host.clone());
        allocated.insert(host.clone(), addresses);
    }
    allocated
}

/// What is recorded; what somebody wrote there that is no address is left out.
pub(super) fn read(map: &ConfigMap) -> BTreeMap<Host, VirtualAddresses> {
    let data = map.data.iter().flatten();
    data.filter_map(|(host, text)| {
        let addresses = || {
            let (v4, v6) = text.split_once(' ')?;
            let (v4, v6) = (v4.parse().ok()?, v6.parse().ok()?);
            Some((host.parse().ok()?, VirtualAddresses { v4, v6 }))
        };
        let entry = addresses();
        if entry.is_none() {
            warn!(
                host,
                text, "not addresses of a host in the record of virtual addresses"
            );
        }
        entry
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(numbers: BTreeSet<u16>) -> BTreeSet<Host> {
        let numbers = numbers.into_iter();
        numbers
            .map(|number| format!("s{number}.default.mesh").parse().unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_none_changes(
            first in proptest::collection::btree_set(any::<u16>(), 0..400),
            second in proptest::collection::btree_set(any::<u16>(), 0..400),
        ) {
            let mut recorded = allocate(&BTreeMap::new(), &hosts(first));
            let before = recorded.clone();
            let second = hosts(second);
            let added = allocate(&recorded, &second);
            prop_assert!(added.keys().all(|host| !before.contains_key(host)));
            recorded.extend(added);
            let addresses: BTreeSet<_> = recorded.values().map(|it| it.v4).collect();
            prop_assert_eq!(addresses.len(), recorded.len());
            prop_assert!(second.iter().all(|host| recorded.contains_key(host)));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let allocated = allocate(&BTreeMap::new(), &hosts([1, 2].into()));
        let data = allocated.iter();
        let mut map = ConfigMap {
            data: Some(
                data.map(|(host, it)| (host.to_string(), format!("{} {}", it.v4, it.v6)))
                    .collect(),
            ),
            ..ConfigMap::default()
        };
        let spoiled = map.data.get_or_insert_default();
        spoiled.insert("spoiled.default.mesh".to_owned(), "240.240.0.1".to_owned());
        assert_eq!(read(&map), allocated);
    }
}
