//! The addresses that a client calls by themselves, and the clusters that it is given for them.
//!
//! Envoy takes some 50 KB for each, and asks for each once in its life. Every allocation has a port
//! of its own, so a proxy that lives long has called many at which nobody is any more: beyond
//! [`KEPT`] clusters those are taken away again, and come back unasked when somebody is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::subscription::Subscription;
use super::view::parse_version;
use crate::pilot::resource::{Resource, Resources};
use crate::pilot::snapshot::direct::{self, Directory};

/// What a client is given for the addresses that it asked for.
#[derive(Debug, Default)]
pub(super) struct Dialed {
    addresses: BTreeMap<Arc<str>, Dial>,
    clusters: Resources,
    departures: u64,
}

/// One address.
#[derive(Debug)]
struct Dial {
    standing: Standing,
    /// None if it is withdrawn.
    cluster: Option<Resource>,
}

/// Who is at an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// Nobody of the mesh, and never was as far as is known: something else may be.
    Other,
    /// A workload.
    Taken,
    /// A workload was; the number orders departures.
    Left(u64),
    /// A workload was, and the client has no cluster any more.
    Withdrawn(u64),
}

/// Clusters that a client is given before those of addresses that somebody left are withdrawn.
pub(super) const KEPT: usize = 1024;

/// Addresses that one stream may ask for, withdrawn ones included: an application that scans the
/// ports of its nodes costs its proxy 200 MB.
pub(super) const MAX_DIALED: usize = 4096;

// === impl Dialed ===

impl Dialed {
    /// The clusters that the client is to have, in the order of their names.
    pub(super) fn clusters(&self) -> &Resources {
        &self.clusters
    }

    /// Finds the clusters of the addresses that were asked for. What did not change stays the same
    /// memory.
    pub(super) fn look_up(&mut self, asked: &Subscription, directory: Option<&Directory>) {
        let mut before = std::mem::take(&mut self.addresses);
        if let Some(directory) = directory {
            for name in asked.direct_names() {
                if let Some(dial) = self.dial(name, before.remove(name), asked, directory) {
                    self.addresses.insert(Arc::clone(name), dial);
                }
            }
        }
        self.withdraw();
        let clusters = self.addresses.values().filter_map(|it| it.cluster.clone());
        let clusters: Vec<_> = clusters.collect();
        if *clusters != *self.clusters {
            self.clusters = clusters.into();
        }
    }

    /// The addresses that were withdrawn first, to make room for so many others.
    pub(super) fn forgettable(&self, count: usize) -> Vec<Arc<str>> {
        let mut withdrawn: Vec<_> = self
            .addresses
            .iter()
            .filter_map(|(name, dial)| match dial.standing {
                Standing::Withdrawn(when) => Some((when, name)),
                _ => None,
            })
            .collect();
        withdrawn.sort_unstable();
        let names = withdrawn.into_iter().take(count);
        names.map(|(_, name)| Arc::clone(name)).collect()
    }

    /// How an address stands now; none if the name is not one that Envoy would make.
    fn dial(
        &mut self,
        name: &Arc<str>,
        before: Option<Dial>,
        asked: &Subscription,
        directory: &Directory,
    ) -> Option<Dial> {
        if let Some(cluster) = directory.cluster(name) {
            return Some(Dial {
                standing: Standing::Taken,
                cluster: Some(cluster),
            });
        }
        let standing = match before.as_ref().map(|dial| dial.standing) {
            None if asked.owes(name) => Standing::Other,
            None => first_seen(name, asked),
            Some(Standing::Taken) => self.leave(),
            // Envoy asks for what it has not, whatever became of it before.
            Some(Standing::Withdrawn(_)) if asked.owes(name) => self.leave(),
            Some(_) => return before,
        };
        let cluster = match standing {
            Standing::Withdrawn(_) => None,
            Standing::Left(_) => Some(direct::passing(name, true)?),
            Standing::Other | Standing::Taken => Some(direct::passing(name, false)?),
        };
        Some(Dial { standing, cluster })
    }

    fn leave(&mut self) -> Standing {
        self.departures += 1;
        Standing::Left(self.departures)
    }

    /// Takes away what somebody left first, until few enough are left.
    fn withdraw(&mut self) {
        let given = self.addresses.values().filter(|it| it.cluster.is_some());
        let excess = given.count().saturating_sub(KEPT);
        if excess == 0 {
            return;
        }
        let mut left: Vec<_> = self
            .addresses
            .values_mut()
            .filter_map(|dial| match dial.standing {
                Standing::Left(when) => Some((when, dial)),
                _ => None,
            })
            .collect();
        left.sort_by_key(|(when, _)| *when);
        for (when, dial) in left.into_iter().take(excess) {
            dial.standing = Standing::Withdrawn(when);
            dial.cluster = None;
        }
    }
}

/// How an address stands that the first request names: a client that comes from another Pilot tells
/// by the versions that it has.
fn first_seen(name: &str, asked: &Subscription) -> Standing {
    let Some(versions) = asked.versions() else {
        return Standing::Other;
    };
    let passing = direct::passing(name, false).map(|resource| resource.version);
    match versions.get(name).map(|version| parse_version(version)) {
        // Not Pilot's: an agent gave it while no Pilot could be asked.
        Some(None) => Standing::Other,
        Some(known) if known == passing => Standing::Other,
        Some(_) => Standing::Left(0),
        None if versions.is_empty() => Standing::Other,
        None => Standing::Withdrawn(0),
    }
}
