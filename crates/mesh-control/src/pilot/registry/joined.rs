//! The registry that Pilot reads: the connected agents, and Nomad's catalogue where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_model::{Health, Workload, WorkloadId};
use mesh_nomad::catalogue::Snapshot;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::merged::{Catalogue, Instances, merge};
use super::{AgentRegistry, NomadRegistry, Registry};

/// The connected agents and Nomad's catalogue as one.
#[derive(Debug)]
pub struct JoinedRegistry {
    agents: AgentRegistry,
    nomad: NomadRegistry,
    seen: Mutex<Seen>,
    changed: watch::Sender<()>,
}

/// What the catalogue listed so far.
#[derive(Debug, Default)]
struct Seen {
    last: Arc<Snapshot>,
    departed: Instances,
    /// Whether the catalogue was read whole once.
    has_begun: bool,
    inherited: BTreeSet<WorkloadId>,
    /// Those that were listed again, and are waited for.
    restarting: BTreeMap<WorkloadId, Restart>,
}

/// A restart of an allocation. Its tasks end and start each for itself: its agent may be back
/// while the application that it finds is the one that is about to end.
#[derive(Clone, Copy, Debug)]
struct Restart {
    since: Instant,
    /// Whether its agent has been gone or unwell since.
    has_left: bool,
}

/// How many instances are remembered that the catalogue has dropped and whose agents are not here;
/// such an agent comes back within seconds, or never.
const MAX_DEPARTED: usize = 1024;

/// How long after it was listed again an allocation is waited for: longer than tasks usually take
/// to end. One whose agent goes on as before does not restart.
const RESTART: Duration = Duration::from_secs(30);

// === impl JoinedRegistry ===

impl JoinedRegistry {
    /// Both as one.
    pub fn new(agents: AgentRegistry, nomad: NomadRegistry) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            agents,
            nomad,
            seen: Mutex::default(),
            changed,
        }
    }

    /// Tells of the changes of both, and once of each allocation that cannot be taken, until told
    /// to stop.
    pub async fn run(&self, stop: CancellationToken) {
        let mut agents = self.agents.changes();
        let mut snapshots = self.nomad.snapshots();
        let mut status = self.nomad.status();
        let mut told = BTreeSet::new();
        loop {
            self.nomad.measure();
            tell(&snapshots.borrow_and_update().clone(), &mut told);
            self.changed.send_replace(());
            let news = async {
                tokio::select! {
                    news = agents.changed() => news,
                    news = snapshots.changed() => news,
                    news = status.changed() => news,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RESTART), if self.is_waiting() => {}
                // Their senders live as long as the registries do.
                news = news => if news.is_err() { return },
            }
        }
    }

    /// Whether an allocation is waited for to restart, which time alone may end.
    fn is_waiting(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        !seen.restarting.is_empty()
    }
}

impl Registry for JoinedRegistry {
    fn workloads(&self) -> Vec<(Workload, Health)> {
        let agents = self.agents.workloads();
        // Before what is read: what comes with it was not there when Pilot began.
        let is_whole = self.is_whole();
        // Nothing panics while the lock is held; what was seen is whole.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take(self.nomad.snapshot(), is_whole, &agents, Instant::now());
        let restarting = seen.restarting.keys().cloned().collect();
        let catalogue = Catalogue {
            listed: &seen.last.instances,
            departed: &seen.departed,
            inherited: &seen.inherited,
            restarting: &restarting,
        };
        merge(agents, catalogue)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn is_whole(&self) -> bool {
        self.nomad.status().borrow().is_whole
    }
}

// === impl Seen ===

impl Seen {
    fn take(
        &mut self,
        next: Arc<Snapshot>,
        is_whole: bool,
        agents: &[(Workload, Health)],
        now: Instant,
    ) {
        let healthy = agents.iter().filter(|(_, it)| *it == Health::Healthy);
        let healthy: BTreeSet<_> = healthy.map(|(agent, _)| &agent.id).collect();
        self.restarting.retain(|id, restart| {
            let is_healthy = healthy.contains(id);
            let instance = next.instances.get(id);
            let is_over = restart.has_left
                && is_healthy
                && instance.is_none_or(|instance| !instance.is_restarting);
            restart.has_left |= !is_healthy;
            !is_over && now.saturating_duration_since(restart.since) < RESTART
        });
        if !self.has_begun {
            self.inherited.extend(next.instances.keys().cloned());
            self.has_begun = is_whole;
        }
        for (agent, _) in agents {
            self.inherited.remove(&agent.id);
        }
        if Arc::ptr_eq(&self.last, &next) {
            return;
        }
        let delta = next.since(&self.last);
        for id in delta.removed {
            self.inherited.remove(&id);
            if let Some(instance) = self.last.instances.get(&id) {
                self.departed.insert(id, Arc::clone(instance));
            }
        }
        for id in delta.changed.keys() {
            if self.departed.remove(id).is_some() && healthy.contains(id) {
                let restart = Restart {
                    since: now,
                    has_left: false,
                };
                self.restarting.insert(id.clone(), restart);
            }
        }
        if self.departed.len() > MAX_DEPARTED {
            let connected: BTreeSet<_> = agents.iter().map(|(agent, _)| &agent.id).collect();
            self.departed.retain(|id, _| connected.contains(id));
        }
        self.last = next;
    }
}

/// Warns of what cannot be taken and was not told of before.
fn tell(snapshot: &Snapshot, told: &mut BTreeSet<(String, String)>) {
    let problems = snapshot.problems.iter();
    let problems: BTreeSet<_> = problems
        .map(|(allocation, problems)| (allocation.clone(), problems.to_string()))
        .collect();
    for (allocation, problems) in problems.difference(told) {
        warn!(
            allocation,
            problems, "a registration of nomad's is not used"
        );
    }
    *told = problems;
}

#[cfg(test)]
mod tests;
