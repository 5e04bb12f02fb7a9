//! The workloads whose agents hold a registration stream open.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesh_model::{Health, Namespace, SpiffeId, Workload, WorkloadId};
use mesh_proto::mesh::agent::v1::{
    AskConfigDump, PilotMessage, Registered as Welcome, pilot_message,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::merged::is_agent_of;
use super::{NomadRegistry, Registry};

/// The workloads whose agents are connected to this process.
///
/// The end of a stream is not the end of its workload: an agent has [`GRACE`] to come back, so
/// that a restarted agent does not make its endpoint vanish everywhere and come back.
#[derive(Clone, Debug)]
pub struct AgentRegistry {
    inner: Arc<Inner>,
}

/// A workload as its agent registered it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registered {
    /// What it says of itself.
    pub workload: Workload,
    /// The identity of the certificate that it registered with.
    pub identity: SpiffeId,
    /// Whether it may be sent requests.
    pub health: Health,
    /// Version of the agent.
    pub agent_version: String,
}

/// Why a registration is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The certificate is for another account.
    #[error(
        "workload `{id}` says that it runs as `{claimed}`, but its certificate is of `{identity}`"
    )]
    OtherAccount {
        /// The workload.
        id: WorkloadId,
        /// The identity that follows from its namespace and account.
        claimed: Box<SpiffeId>,
        /// The identity of the caller.
        identity: Box<SpiffeId>,
    },
    /// The id is another account's.
    #[error("workload `{id}` is registered by `{owner}`, and the caller is `{identity}`")]
    Taken {
        /// The workload.
        id: WorkloadId,
        /// The identity that registered it.
        owner: Box<SpiffeId>,
        /// The identity of the caller.
        identity: Box<SpiffeId>,
    },
    /// The id is an allocation's, and the agent is not the one beside it.
    #[error(
        "workload `{id}` is an allocation of job `{job}`, and `{identity}` is not the account of a \
         sidecar there"
    )]
    OtherAllocation {
        /// The workload.
        id: WorkloadId,
        /// The allocation's job.
        job: String,
        /// The identity of the caller.
        identity: Box<SpiffeId>,
    },
}

/// Why there is no configuration dump.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The workload is not registered here.
    #[error("no workload `{id}` is connected to this Pilot")]
    Unknown {
        /// The workload.
        id: WorkloadId,
    },
    /// The agent has none.
    #[error("the agent of `{id}` has no configuration dump: {reason}")]
    Failed {
        /// The workload.
        id: WorkloadId,
        /// The agent's words.
        reason: String,
    },
    /// The agent does not answer.
    #[error("the agent of `{id}` did not answer within {} s", DUMP_TIMEOUT.as_secs())]
    Silent {
        /// The workload.
        id: WorkloadId,
    },
}

/// A registration that holds while it lives.
#[derive(Debug)]
#[must_use = "the registration ends when this is dropped"]
pub(super) struct Registration {
    registry: AgentRegistry,
    id: WorkloadId,
    stream: u64,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// Knows whose some of the ids are.
    nomad: Option<NomadRegistry>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<WorkloadId, Entry>,
    /// Streams and questions so far: their numbers.
    count: u64,
}

#[derive(Debug)]
struct Entry {
    registered: Registered,
    /// Which stream it belongs to.
    stream: u64,
    messages: mpsc::Sender<PilotMessage>,
    questions: HashMap<u64, oneshot::Sender<Result<Bytes, String>>>,
    /// When it is to go; set once its stream has ended.
    leaves: Option<Instant>,
}

/// How long a workload stays when its agent's stream ends: longer than an agent takes to dial
/// again at once, shorter than an operator waits for a removed workload to go.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long an agent may take for a configuration dump; Envoy needs 0.1 s for a large one.
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages to an agent that wait to be taken: questions for dumps, of which people ask few.
const MESSAGES: usize = 8;

// === impl AgentRegistry ===

impl AgentRegistry {
    /// A registry without workloads.
    pub fn new() -> Self {
        Self::beside(None)
    }

    /// A registry without workloads, in which the ids of Nomad's allocations are for their own
    /// agents alone.
    pub fn beside(nomad: Option<NomadRegistry>) -> Self {
        let (changed, _) = watch::channel(());
        let state = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                state,
                changed,
                nomad,
            }),
        }
    }

    /// Takes a registration; a live one of the same workload and identity is replaced, and its
    /// stream ends.
    ///
    /// Also gives what the agent is to be told; that ends when the registration is replaced.
    pub(super) fn register(
        &self,
        registered: Registered,
    ) -> Result<(Registration, mpsc::Receiver<PilotMessage>), Refused> {
        let id = registered.workload.id.clone();
        let claimed = registered
            .workload
            .identity(&registered.identity.trust_domain);
        if claimed != registered.identity {
            return Err(Refused::OtherAccount {
                id,
                claimed: claimed.into(),
                identity: registered.identity.into(),
            });
        }
        let (messages, inbox) = mpsc::channel(MESSAGES);
        let welcome = PilotMessage {
            message: Some(pilot_message::Message::Registered(Welcome {})),
        };
        let sent = messages.try_send(welcome);
        debug_assert!(sent.is_ok(), "the channel is new and has room");
        let instance = self.inner.nomad.as_ref().and_then(|nomad| nomad.find(&id));
        if let Some(instance) = &instance
            && !is_agent_of(instance, &registered.workload)
        {
            return Err(Refused::OtherAllocation {
                id,
                job: instance.job.clone(),
                identity: registered.identity.into(),
            });
        }
        let mut state = self.lock();
        if let Some(entry) = state.entries.get(&id)
            && entry.registered.identity != registered.identity
            // Somebody else's agent came before the catalogue had the allocation.
            && instance.is_none()
        {
            return Err(Refused::Taken {
                id,
                owner: entry.registered.identity.clone().into(),
                identity: registered.identity.into(),
            });
        }
        let stream = state.number();
        let entry = Entry {
            registered: registered.clone(),
            stream,
            messages,
            questions: HashMap::new(),
            leaves: None,
        };
        let old = state.entries.insert(id.clone(), entry);
        drop(state);
        // An agent that comes back within the grace as it was changes nothing.
        let is_same = |old: &Entry| {
            old.registered.workload == registered.workload
                && old.registered.health == registered.health
        };
        if !old.as_ref().is_some_and(is_same) {
            self.inner.changed.send_replace(());
        }
        let registration = Registration {
            registry: self.clone(),
            id,
            stream,
        };
        Ok((registration, inbox))
    }

    /// A workload, if it is registered.
    pub fn find(&self, id: &WorkloadId) -> Option<Registered> {
        let state = self.lock();
        state.entries.get(id).map(|entry| entry.registered.clone())
    }

    /// Every workload of a namespace, or of all.
    pub fn list(&self, namespace: Option<&Namespace>) -> Vec<Registered> {
        let state = self.lock();
        let all = state.entries.values().map(|entry| &entry.registered);
        all.filter(|registered| {
            namespace.is_none_or(|namespace| *namespace == registered.workload.namespace)
        })
        .cloned()
        .collect()
    }

    /// Waits until a workload is registered.
    pub async fn wait_for(&self, id: &WorkloadId) -> Registered {
        let mut changes = self.changes();
        loop {
            if let Some(registered) = self.find(id) {
                return registered;
            }
            if changes.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Asks the agent of a workload for Envoy's configuration dump, JSON.
    ///
    /// # Errors
    ///
    /// When the workload is not connected, its agent has no dump, or does not answer in time.
    pub async fn config_dump(&self, id: &WorkloadId) -> Result<Bytes, DumpError> {
        let (request, messages, answer) = {
            let mut state = self.lock();
            let request = state.number();
            let entry = state.entries.get_mut(id);
            let entry = entry.filter(|entry| entry.leaves.is_none());
            let entry = entry.ok_or_else(|| DumpError::Unknown { id: id.clone() })?;
            let (sender, answer) = oneshot::channel();
            entry.questions.retain(|_, sender| !sender.is_closed());
            entry.questions.insert(request, sender);
            (request, entry.messages.clone(), answer)
        };
        let ask = PilotMessage {
            message: Some(pilot_message::Message::AskConfigDump(AskConfigDump {
                request,
            })),
        };
        let silent = || DumpError::Silent { id: id.clone() };
        let answer = timeout(DUMP_TIMEOUT, async {
            messages.send(ask).await.ok()?;
            answer.await.ok()
        });
        match answer.await {
            Ok(Some(Ok(json))) => Ok(json),
            Ok(Some(Err(reason))) => Err(DumpError::Failed {
                id: id.clone(),
                reason,
            }),
            Ok(None) => Err(DumpError::Unknown { id: id.clone() }),
            Err(_elapsed) => Err(silent()),
        }
    }

    /// Lets workloads go whose agents did not come back, until told to stop.
    pub(crate) async fn expire(self, stop: CancellationToken) {
        let mut changes = self.changes();
        loop {
            let now = Instant::now();
            let next = self.sweep(now);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                news = changes.changed() => {
                    if news.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Lets go whose time is over; when the next one's is.
    fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let before = state.entries.len();
        state
            .entries
            .retain(|_, entry| entry.leaves.is_none_or(|leaves| leaves > now));
        if state.entries.len() < before {
            self.inner.changed.send_replace(());
        }
        state
            .entries
            .values()
            .filter_map(|entry| entry.leaves)
            .min()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held; a poisoned state is whole.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for AgentRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry for AgentRegistry {
    fn workloads(&self) -> Vec<(Workload, Health)> {
        let state = self.lock();
        let all = state.entries.values().map(|entry| &entry.registered);
        all.map(|registered| (registered.workload.clone(), registered.health))
            .collect()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }
}

// === impl State ===

impl State {
    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

// === impl Registration ===

impl Registration {
    /// Takes the agent's word on the workload's health.
    pub(super) fn set_health(&self, health: Health) {
        let changed = self.with(|entry| {
            let old = std::mem::replace(&mut entry.registered.health, health);
            old != health
        });
        if changed == Some(true) {
            self.registry.inner.changed.send_replace(());
        }
    }

    /// Takes the agent's answer to a question for a dump.
    pub(super) fn answer(&self, request: u64, dump: Result<Bytes, String>) {
        let asker = self
            .with(|entry| entry.questions.remove(&request))
            .flatten();
        if let Some(asker) = asker {
            // Who asked may be gone.
            drop(asker.send(dump));
        }
    }

    /// The entry, unless another stream has taken it over.
    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut state = self.registry.lock();
        let entry = state.entries.get_mut(&self.id)?;
        (entry.stream == self.stream).then(|| act(entry))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let leaves = Instant::now() + GRACE;
        let left = self.with(|entry| {
            entry.leaves = Some(leaves);
            entry.questions.clear();
        });
        if left.is_some() {
            // Wakes the task that lets it go; the workloads are what they were.
            self.registry.inner.changed.send_replace(());
        }
    }
}

impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.workload.id, self.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(id: &str, account: &str) -> Registered {
        let workload = Workload {
            id: id.parse().unwrap(),
            namespace: "default".parse().unwrap(),
            service_account: account.parse().unwrap(),
            addresses: vec!["10.213.0.2".parse().unwrap()],
            labels: BTreeMap::new(),
            services: Vec::new(),
            explicit: None,
            sidecar: mesh_model::Sidecar::Present,
            capture: mesh_model::Capture::default(),
            gateway: false,
        };
        Registered {
            identity: workload.identity(&mesh_model::TrustDomain::default()),
            workload,
            health: Health::Healthy,
            agent_version: "0".to_owned(),
        }
    }

    /// A registry that lets workloads go.
    fn registry() -> (AgentRegistry, tokio_util::sync::DropGuard) {
        let registry = AgentRegistry::new();
        let stop = CancellationToken::new();
        tokio::spawn(registry.clone().expire(stop.clone()));
        (registry, stop.drop_guard())
    }

    #[test]
    fn a_workload_registers_only_under_its_own_account() {
        let mut other = registered("a", "web");
        other.identity.service_account = "other".parse().unwrap();
        let refused = AgentRegistry::new().register(other).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "workload `a` says that it runs as `spiffe://cluster.local/ns/default/sa/web`, \
             but its certificate is of `spiffe://cluster.local/ns/default/sa/other`"
        );
    }

    #[test]
    fn an_id_belongs_to_the_account_that_registered_it() {
        let registry = AgentRegistry::new();
        let (_first, _) = registry.register(registered("a", "web")).unwrap();
        let refused = registry.register(registered("a", "other")).unwrap_err();
        assert!(matches!(refused, Refused::Taken { .. }), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_comes_back_in_time_was_never_away() {
        let (registry, _stop) = registry();
        let (first, _) = registry.register(registered("a", "web")).unwrap();
        drop(first);
        tokio::time::sleep(GRACE / 2).await;
        let (_second, _) = registry.register(registered("a", "web")).unwrap();
        tokio::time::sleep(GRACE * 2).await;
        assert_eq!(registry.workloads().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_workload_goes_when_its_agent_stays_away() {
        let (registry, _stop) = registry();
        let (first, _) = registry.register(registered("a", "web")).unwrap();
        drop(first);
        tokio::time::sleep(GRACE / 2).await;
        assert_eq!(registry.workloads().len(), 1);
        tokio::time::sleep(GRACE).await;
        assert!(registry.workloads().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_replaced_stream_ends_nothing() {
        let (registry, _stop) = registry();
        let (first, mut inbox) = registry.register(registered("a", "web")).unwrap();
        let (_second, _) = registry.register(registered("a", "web")).unwrap();
        assert!(inbox.recv().await.is_some(), "its welcome");
        assert!(inbox.recv().await.is_none(), "it is told to end");
        first.set_health(Health::Unhealthy);
        drop(first);
        tokio::time::sleep(GRACE * 2).await;
        assert_eq!(registry.workloads()[0].1, Health::Healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_agent_is_waited_for_so_long_and_no_longer() {
        let registry = AgentRegistry::new();
        let (registration, _inbox) = registry.register(registered("a", "web")).unwrap();
        let id = "a".parse().unwrap();
        let silent = registry.config_dump(&id).await.unwrap_err();
        assert_eq!(silent, DumpError::Silent { id: id.clone() });
        drop(registration);
        let gone = registry.config_dump(&id).await.unwrap_err();
        assert_eq!(gone, DumpError::Unknown { id });
    }
}
