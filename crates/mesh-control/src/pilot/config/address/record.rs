//! What the record of virtual addresses says, and when an address may be another host's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use mesh_model::Host;
use mesh_model::service::VirtualAddresses;
use mesh_model::virtual_address::{Allocation, allocate};
use tracing::warn;

/// How long an address is kept for a host that nobody has any more: clients may still know it, and
/// the host may return.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// The data of the ConfigMap: hosts, and what is recorded of each.
pub(super) type Data = BTreeMap<String, String>;

/// What is recorded of a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    v4: Ipv4Addr,
    /// Since when nobody has the host.
    unused_since: Option<Timestamp>,
}

/// Adds what hosts without addresses need; what was added and for whom nothing was left.
pub(super) fn add(data: &mut Data, hosts: &BTreeSet<Host>) -> Allocation {
    let allocation = allocate(&places(&entries(data)), hosts);
    for (host, v4) in &allocation.added {
        let entry = Entry {
            v4: *v4,
            unused_since: None,
        };
        data.insert(host.to_string(), entry.to_string());
    }
    allocation
}

/// Marks hosts that are not in use, takes the mark from those that are again, and gives back the
/// addresses of those that were not for a day; whether anything changed.
pub(super) fn sweep(data: &mut Data, in_use: &BTreeSet<Host>, now: Timestamp) -> bool {
    let mut changed = false;
    for (host, entry) in entries(data) {
        let since = match entry.unused_since {
            _ if in_use.contains(&host) => None,
            Some(since) if now.duration_since(since) >= KEPT => {
                data.remove(host.as_str());
                changed = true;
                continue;
            }
            Some(since) => Some(since),
            None => Some(now),
        };
        if since != entry.unused_since {
            let entry = Entry {
                unused_since: since,
                ..entry
            };
            data.insert(host.to_string(), entry.to_string());
            changed = true;
        }
    }
    changed
}

/// The addresses that hosts have.
///
/// A record that breaks the rules of allocation counts for nothing until it is replaced.
pub(super) fn read(data: &Data) -> BTreeMap<Host, VirtualAddresses> {
    let recorded = places(&entries(data));
    let mut allocation = allocate(&recorded, recorded.keys());
    for host in allocation.added.keys() {
        allocation.addresses.remove(host);
    }
    allocation.addresses
}

fn places(entries: &BTreeMap<Host, Entry>) -> BTreeMap<Host, Ipv4Addr> {
    entries
        .iter()
        .map(|(host, entry)| (host.clone(), entry.v4))
        .collect()
}

/// What is recorded; what somebody wrote there that is no entry is left out, and left alone.
fn entries(data: &Data) -> BTreeMap<Host, Entry> {
    data.iter()
        .filter_map(|(host, text)| {
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

// === impl Entry ===

const UNUSED: &str = " unused since ";

/// `240.240.0.1`, or `240.240.0.1 unused since 2026-01-02T03:04:05Z`.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.v4)?;
        match self.unused_since {
            Some(since) => write!(f, "{UNUSED}{since:.0}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Entry {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (v4, since) = match text.split_once(UNUSED) {
            Some((v4, since)) => (v4, Some(since.parse().map_err(drop)?)),
            None => (text, None),
        };
        Ok(Self {
            v4: v4.parse().map_err(drop)?,
            unused_since: since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        format!("{name}.default.mesh").parse().unwrap()
    }

    fn hosts(names: &[&str]) -> BTreeSet<Host> {
        names.iter().map(|name| host(name)).collect()
    }

    fn at(hours: i64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
    }

    #[test]
    fn only_addresses_that_were_allocated_count() {
        let mut data = Data::new();
        let added = add(&mut data, &hosts(&["a"]));
        data.insert(host("b").to_string(), "10.0.0.1".to_owned());
        data.insert(host("c").to_string(), "nowhere".to_owned());
        data.insert(
            host("d").to_string(),
            "240.240.0.1 unused since then".to_owned(),
        );
        data.insert("No Host".to_owned(), "240.240.0.1".to_owned());
        assert_eq!(read(&data), added.addresses);
    }

    #[test]
    fn an_address_is_given_back_after_a_day_without_its_host() {
        let mut data = Data::new();
        let both = hosts(&["a", "b"]);
        let addresses = add(&mut data, &both).addresses;
        assert!(
            !sweep(&mut data, &both, at(0)),
            "nothing to say of hosts in use"
        );

        let one = hosts(&["a"]);
        assert!(sweep(&mut data, &one, at(1)));
        let marked = &data[host("b").as_str()];
        assert!(
            marked.ends_with(" unused since 2026-01-01T01:00:00Z"),
            "{marked}"
        );
        assert!(!sweep(&mut data, &one, at(24)), "nothing is new");
        assert_eq!(read(&data), addresses, "it is kept for its host");

        assert!(sweep(&mut data, &one, at(25)));
        assert!(!data.contains_key(host("b").as_str()));
    }

    #[test]
    fn nobody_else_gets_an_address_that_is_kept() {
        let a = host("a");
        let mut data = Data::new();
        let first = add(&mut data, &hosts(&["a"])).addresses[&a].v4;
        sweep(&mut data, &BTreeSet::new(), at(0));
        // One whose place is the same, were it free: it is taken before any other of its bucket.
        let rival = (0..1_000_000)
            .map(|n| host(&format!("r{n}")))
            .find(|rival| {
                let alone = allocate(&BTreeMap::new(), [rival]);
                alone.addresses[rival].v4 == first
            })
            .unwrap();
        let rivals = BTreeSet::from([rival.clone()]);
        let second = add(&mut data.clone(), &rivals).addresses[&rival].v4;
        assert_ne!(second, first);
        sweep(&mut data, &BTreeSet::new(), at(24));
        assert_eq!(add(&mut data, &rivals).addresses[&rival].v4, first);
    }

    #[test]
    fn a_host_that_returns_has_its_address_and_no_mark() {
        let mut data = Data::new();
        assert_eq!(add(&mut data, &hosts(&["a"])).added.len(), 1);
        let before = data.clone();
        sweep(&mut data, &BTreeSet::new(), at(0));
        assert!(sweep(&mut data, &hosts(&["a"]), at(30)), "however late");
        assert_eq!(data, before);
    }
}
