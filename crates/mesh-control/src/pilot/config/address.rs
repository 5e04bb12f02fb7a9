//! The record of virtual addresses: one ConfigMap, extended by compare-and-set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_model::Host;
use mesh_model::service::VirtualAddresses;
use mesh_model::virtual_address::allocate;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::system;

/// The ConfigMap's name, in `mesh-system`: host to address of version 4, which the one of version 6
/// follows from.
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
    let allocation = allocate(&recorded(&map), hosts);
    for host in &allocation.left_out {
        warn!(%host, "no virtual address is left for it");
    }
    if allocation.added.is_empty() {
        return Ok(0);
    }
    let data = map.data.get_or_insert_default();
    for (host, address) in &allocation.added {
        data.insert(host.to_string(), address.to_string());
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
    Ok(allocation.added.len())
}

/// The addresses that hosts have by the record.
///
/// A record that breaks the rules of allocation counts for nothing until it is replaced.
pub(super) fn read(map: &ConfigMap) -> BTreeMap<Host, VirtualAddresses> {
    let recorded = recorded(map);
    let mut allocation = allocate(&recorded, recorded.keys());
    for host in allocation.added.keys() {
        allocation.addresses.remove(host);
    }
    allocation.addresses
}

/// What is recorded; what somebody wrote there that is no address is left out.
fn recorded(map: &ConfigMap) -> BTreeMap<Host, Ipv4Addr> {
    let data = map.data.iter().flatten();
    data.filter_map(|(host, text)| {
        let entry = host.parse().ok().zip(text.parse().ok());
        if entry.is_none() {
            warn!(
                host,
                text, "not the address of a host in the record of virtual addresses"
            );
        }
        entry
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(data: &[(&str, &str)]) -> ConfigMap {
        let data = data
            .iter()
            .map(|(host, text)| ((*host).to_owned(), (*text).to_owned()));
        ConfigMap {
            data: Some(data.collect()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn only_addresses_that_were_allocated_count() {
        let hosts = ["a.default.mesh", "b.default.mesh", "c.default.mesh"];
        let hosts = hosts.map(|host| host.parse::<Host>().unwrap());
        let allocation = allocate(&BTreeMap::new(), &hosts);
        let [a, b, _] = &hosts;
        let right = allocation.added[a].to_string();
        let record = map(&[
            (a.as_str(), &right),
            (b.as_str(), "10.0.0.1"),
            ("c.default.mesh", "nowhere"),
            ("No Host", "240.240.0.1"),
        ]);
        let read = read(&record);
        assert_eq!(read.keys().collect::<Vec<_>>(), [a]);
        assert_eq!(read[a], allocation.addresses[a]);
    }
}
