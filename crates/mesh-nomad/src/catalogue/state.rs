//! What the catalogue knows, what it has to read, and what follows from an answer. No sockets, no
//! clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::Problems;

use super::instance::{self, Instance, JobSays, Placed};
use super::listed::Listed;
use super::table::{Age, Table};
use super::{Delta, Snapshot};
use crate::model::allocation::Allocation;
use crate::model::event::EventBatch;
use crate::model::registration::{NamespaceServices, Registration};
use crate::model::reply::JobStub;

/// Decides what Nomad's answers mean. Times are of any clock that does not go back.
#[derive(Debug, Default)]
pub struct Catalogue {
    services: Table,
    allocations: Table,
    jobs: Table,
    entries: BTreeMap<Name, Entry>,
    /// By allocation, then by ID.
    registrations: BTreeMap<String, BTreeMap<String, Registration>>,
    placed: BTreeMap<String, Placed>,
    stubs: BTreeMap<(String, String), Stub>,
    /// What versions of jobs say of their groups, by namespace, job and version.
    versions: BTreeMap<Version, BTreeMap<String, JobSays>>,
    /// Allocations to be read one by one.
    wanted: BTreeMap<String, Wanted>,
    /// Allocations whose instance may be another now, and whose job is to be found.
    dirty: BTreeSet<String>,
    /// Those whose job was found since, if they have one: to be published.
    settled: BTreeSet<String>,
    /// Instances by allocation, as they were published.
    published: Snapshot,
    ids: BTreeMap<String, mesh_model::WorkloadId>,
    sweep_at: Duration,
    relist_at: Duration,
    is_whole: bool,
}

/// A service of a namespace.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "a service has these two names")]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The service.
    pub service: String,
}

/// Something to read.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Read {
    /// The registrations of a service.
    Service(Name),
    /// An allocation, whole.
    Allocation(String),
}

/// What came. Indexes are those of the answers' headers, 1 where a table has none yet; an answer that
/// means "not allowed" is no input.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// The list of services.
    Services {
        /// Its index.
        index: u64,
        /// The list.
        list: Vec<NamespaceServices>,
    },
    /// The list of allocations.
    Allocations {
        /// Its index.
        index: u64,
        /// The list.
        list: Vec<Listed>,
    },
    /// The list of jobs.
    Jobs {
        /// Its index.
        index: u64,
        /// The list.
        list: Vec<JobStub>,
    },
    /// The answer to [`Read::Service`].
    Service {
        /// The service.
        name: Name,
        /// The answer's index.
        index: u64,
        /// Its registrations.
        registrations: Vec<Registration>,
    },
    /// The answer to [`Read::Allocation`]; none if there is no such allocation.
    Allocation {
        /// Its ID.
        id: String,
        /// It.
        allocation: Option<Box<Allocation>>,
    },
    /// A read had no answer.
    Failed(Read),
    /// Events: hints at what to read.
    Events(EventBatch),
    /// The event stream begins anew, so hints may have been missed.
    StreamOpened,
}

#[derive(Debug, Default)]
struct Entry {
    table: Table,
    /// It has to be read at this index or later.
    due: u64,
    /// It has to be read at once, not with the next sweep.
    is_urgent: bool,
    is_reading: bool,
    /// The answer that is awaited may be older than the reason to read again.
    is_again: bool,
    not_before: Duration,
    /// Failures in a row, and answers that were older than asked for.
    failures: u32,
    /// Registration and its allocation.
    registrations: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Wanted {
    is_reading: bool,
    not_before: Duration,
    failures: u32,
}

type Version = (String, String, u64);

#[derive(Debug)]
struct Stub {
    job_modify_index: u64,
    says: JobSays,
}

/// How often the names that no event spoke of are read again while the catalogue changes.
const SWEEP: Duration = Duration::from_secs(1);

/// How often everything is read again, whatever was said.
const RELIST: Duration = Duration::from_secs(300);

/// How many answers may be older than asked for before the index that was asked for is given up;
/// by then nearly 20 s have passed.
const MAX_LATE: u32 = 8;

/// The first wait after a failed read; doubled up to 64 times that.
const PAUSE: Duration = Duration::from_millis(100);

// === impl Catalogue ===

impl Catalogue {
    /// A catalogue that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what came.
    pub fn take(&mut self, input: Input, now: Duration) {
        match input {
            Input::Services { index, list } => self.take_services(index, &list, now),
            Input::Allocations { index, list } => self.take_allocations(index, list, now),
            Input::Jobs { index, list } => self.take_jobs(index, &list, now),
            Input::Service {
                name,
                index,
                registrations,
            } => self.take_service(&name, index, registrations, now),
            Input::Allocation { id, allocation } => {
                self.take_allocation(id, allocation.as_deref(), now);
            }
            Input::Failed(read) => self.take_failure(&read, now),
            // What changes while everything is read for the first time, the lists tell; a stream
            // begins with what is long past.
            Input::Events(_) | Input::StreamOpened if !self.is_whole => {}
            Input::Events(batch) => self.take_events(&batch),
            Input::StreamOpened => {
                self.entries.values_mut().for_each(Entry::ask_again);
            }
        }
    }

    /// What to read now, the urgent first. Each is given once, until its answer or failure came.
    pub fn reads(&mut self, now: Duration) -> Vec<Read> {
        if now >= self.relist_at {
            self.relist_at = now + RELIST;
            self.entries.values_mut().for_each(Entry::ask_again);
        }
        let is_sweep = !self.is_whole || now >= self.sweep_at;
        let (mut urgent, mut swept) = (Vec::new(), Vec::new());
        for (name, entry) in &mut self.entries {
            if entry.is_reading || now < entry.not_before {
                continue;
            }
            let is_due = entry.table.index() < entry.due;
            let list = match (entry.is_urgent, is_due && is_sweep) {
                (true, _) => &mut urgent,
                (false, true) => &mut swept,
                (false, false) => continue,
            };
            entry.is_reading = true;
            list.push(Read::Service(name.clone()));
        }
        if !swept.is_empty() {
            self.sweep_at = now + SWEEP;
        }
        for (id, wanted) in &mut self.wanted {
            if !wanted.is_reading && now >= wanted.not_before {
                wanted.is_reading = true;
                urgent.push(Read::Allocation(id.clone()));
            }
        }
        urgent.append(&mut swept);
        urgent
    }

    /// What changed since the last call; none while nothing did, or while not everything was read
    /// once.
    pub fn publish(&mut self) -> Option<Delta> {
        self.settle();
        if !self.is_whole {
            self.is_whole = self.has_read_all();
            if !self.is_whole {
                return None;
            }
        }
        let is_first = self.published.sequence == 0;
        let mut delta = Delta::default();
        let mut has_news = is_first;
        for allocation in std::mem::take(&mut self.settled) {
            match self.instance(&allocation) {
                Some(Ok(instance)) => {
                    has_news |= self.published.problems.remove(&allocation).is_some();
                    self.put(&allocation, instance, &mut delta);
                }
                Some(Err(problems)) => {
                    let before = self.published.problems.insert(allocation.clone(), problems);
                    has_news |= before.as_ref() != self.published.problems.get(&allocation);
                    self.drop_instance(&allocation, &mut delta);
                }
                None => {
                    has_news |= self.published.problems.remove(&allocation).is_some();
                    self.drop_instance(&allocation, &mut delta);
                }
            }
        }
        if !has_news && delta.changed.is_empty() && delta.removed.is_empty() {
            return None;
        }
        self.published.sequence += 1;
        delta.sequence = self.published.sequence;
        Some(delta)
    }

    /// Everything as it was published last.
    pub fn snapshot(&self) -> &Snapshot {
        &self.published
    }

    fn has_read_all(&self) -> bool {
        let lists = [&self.services, &self.allocations, &self.jobs];
        lists.iter().all(|table| table.index() > 0)
            && self.entries.values().all(|entry| entry.table.index() > 0)
            && self.wanted.is_empty()
    }

    fn put(&mut self, allocation: &str, instance: Instance, delta: &mut Delta) {
        let id = instance.workload.id.clone();
        let known = self.published.instances.get(&id);
        if known.is_none_or(|known| **known != instance) {
            let instance = Arc::new(instance);
            self.published
                .instances
                .insert(id.clone(), Arc::clone(&instance));
            delta.changed.insert(id.clone(), instance);
        }
        self.ids.insert(allocation.to_owned(), id);
    }

    fn drop_instance(&mut self, allocation: &str, delta: &mut Delta) {
        if let Some(id) = self.ids.remove(allocation) {
            self.published.instances.remove(&id);
            delta.removed.push(id);
        }
    }

    /// What an allocation is now; none if it is nothing.
    fn instance(&self, allocation: &str) -> Option<Result<Instance, Problems>> {
        let registrations = self.registrations.get(allocation)?;
        let placed = self
            .placed
            .get(allocation)
            .filter(|placed| !placed.is_terminal)?;
        let says = placed.job.as_ref()?;
        Some(instance::join(
            allocation,
            placed,
            says,
            registrations.values(),
        ))
    }

    /// Finds the job of each dirty allocation, and has read what is not known.
    fn settle(&mut self) {
        // What the first lists are about to say need not be read one by one.
        if self.allocations.index() == 0 || self.jobs.index() == 0 {
            return;
        }
        let wanted = self.wanted.keys().filter_map(|id| self.placed.get(id));
        let mut asked: BTreeSet<Version> = wanted.map(version).collect();
        for id in std::mem::take(&mut self.dirty) {
            if self.settle_one(&id, &mut asked) {
                self.settled.insert(id);
            } else {
                self.settled.remove(&id);
            }
        }
    }

    /// Whether it is known what an allocation is now; has read what is not. Of versions that were
    /// asked for no second allocation is read.
    fn settle_one(&mut self, id: &str, asked: &mut BTreeSet<Version>) -> bool {
        let Some(registrations) = self.registrations.get(id) else {
            return true;
        };
        let Some(placed) = self.placed.get_mut(id) else {
            // A list that is newer than the registration and does not have its allocation
            // proves that the registration is stale.
            let newest = registrations
                .values()
                .map(|found| found.create_index.value())
                .max();
            if newest.is_some_and(|newest| newest > self.allocations.index()) {
                self.wanted.entry(id.to_owned()).or_default();
                return false;
            }
            self.wanted.remove(id);
            return true;
        };
        if placed.is_terminal || placed.job.is_some() {
            return true;
        }
        let version = version(placed);
        let key = (placed.namespace.clone(), placed.job_id.clone());
        if let Some(groups) = self.versions.get(&version) {
            placed.job = groups.get(&placed.group).cloned();
        } else if !placed.has_sidecar()
            && let Some(stub) = self.stubs.get(&key)
            && stub.job_modify_index <= placed.create_index
        {
            placed.job = Some(stub.says.clone());
        }
        if placed.job.is_some() {
            return true;
        }
        // Its job is another now, or its group says something of its own: that is in the
        // allocation, and one of a version is enough.
        if asked.insert(version) {
            self.wanted.entry(id.to_owned()).or_default();
        }
        false
    }

    fn take_services(&mut self, index: u64, list: &[NamespaceServices], now: Duration) {
        match self.services.take(index, now) {
            Age::Older => return,
            Age::Newer => {}
            Age::Restored => {
                for entry in self.entries.values_mut() {
                    entry.table = Table::default();
                    entry.due = 0;
                }
            }
        }
        let mut listed = BTreeSet::new();
        for namespace in list {
            for service in namespace.services.items() {
                listed.insert(Name {
                    namespace: namespace.namespace.text().to_owned(),
                    service: service.name.text().to_owned(),
                });
            }
        }
        let gone = self.entries.iter().filter(|(name, entry)| {
            !listed.contains(name) && entry.table.index() <= index && entry.due <= index
        });
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            if let Some(entry) = self.entries.remove(&name) {
                self.forget(entry.registrations.into_iter());
            }
        }
        for name in listed {
            let entry = self.entries.entry(name).or_default();
            entry.due = entry.due.max(index);
            entry.is_urgent |= entry.table.index() == 0;
        }
    }

    fn take_service(
        &mut self,
        name: &Name,
        index: u64,
        registrations: Vec<Registration>,
        now: Duration,
    ) {
        // A name that was removed while it was being read.
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.is_reading = false;
        if entry.table.take(index, now) == Age::Older {
            entry.is_urgent = true;
            entry.pause(now);
            return;
        }
        if index >= entry.due || entry.failures >= MAX_LATE {
            // An index that is never reached is one of servers that were restored since.
            entry.due = entry.due.min(index);
            entry.is_urgent = std::mem::take(&mut entry.is_again);
            entry.failures = 0;
        } else {
            entry.pause(now);
        }
        let found = registrations
            .iter()
            .map(|found| (found.id.text().to_owned(), found.alloc_id.text().to_owned()));
        let found: BTreeMap<_, _> = found.collect();
        let before = std::mem::replace(&mut entry.registrations, found);
        let kept = &entry.registrations;
        let gone = before.into_iter().filter(|(id, _)| !kept.contains_key(id));
        let gone: Vec<_> = gone.collect();
        self.forget(gone.into_iter());
        for registration in registrations {
            let allocation = registration.alloc_id.text().to_owned();
            let id = registration.id.text().to_owned();
            let of_allocation = self.registrations.entry(allocation.clone()).or_default();
            if of_allocation.get(&id) != Some(&registration) {
                of_allocation.insert(id, registration);
                self.dirty.insert(allocation);
            }
        }
    }

    /// Drops registrations, given with their allocations.
    fn forget(&mut self, gone: impl Iterator<Item = (String, String)>) {
        for (id, allocation) in gone {
            if let Some(of_allocation) = self.registrations.get_mut(&allocation) {
                of_allocation.remove(&id);
                if of_allocation.is_empty() {
                    self.registrations.remove(&allocation);
                    self.wanted.remove(&allocation);
                }
            }
            self.dirty.insert(allocation);
        }
    }

    fn take_allocations(&mut self, index: u64, list: Vec<Listed>, now: Duration) {
        let age = self.allocations.take(index, now);
        if age == Age::Older {
            return;
        }
        let mut before = std::mem::take(&mut self.placed);
        for allocation in list {
            let id = allocation.id.clone();
            let known = before.remove(&id);
            let is_wanted = self.registrations.contains_key(&id);
            if allocation.is_terminal() && !is_wanted {
                continue;
            }
            self.insert_placed(&id, Placed::new(allocation), known, age == Age::Restored);
        }
        for (id, known) in before {
            // Read by itself after the list was made.
            if age == Age::Newer && known.modify_index > index {
                self.placed.insert(id, known);
            } else {
                self.dirty.insert(id);
            }
        }
        let versions: BTreeSet<_> = self.placed.values().map(version).collect();
        self.versions.retain(|found, _| versions.contains(found));
        // Those that no list has had so far may be proven stale now.
        let unknown = self
            .registrations
            .keys()
            .filter(|id| !self.placed.contains_key(*id));
        self.dirty.extend(unknown.cloned());
    }

    /// Stores an allocation unless what is known of it is newer.
    fn insert_placed(&mut self, id: &str, mut new: Placed, known: Option<Placed>, force: bool) {
        if let Some(known) = known {
            if known.modify_index > new.modify_index && !force {
                self.placed.insert(id.to_owned(), known);
                return;
            }
            if known.create_index == new.create_index {
                new.job = new.job.or(known.job);
                new.is_restarting = new.is_restarting.or(known.is_restarting);
                // Only what was asked for with its resources has ports.
                if new.ports.is_empty() {
                    new.ports = known.ports;
                }
            }
        }
        self.placed.insert(id.to_owned(), new);
        self.dirty.insert(id.to_owned());
    }

    fn take_allocation(&mut self, id: String, allocation: Option<&Allocation>, now: Duration) {
        self.wanted.remove(&id);
        self.dirty.insert(id.clone());
        let Some(allocation) = allocation else {
            // Collected, and its registrations are about to be. The next list replaces this.
            self.placed.insert(id, Placed::gone());
            self.touch_open();
            return;
        };
        let known = self.placed.remove(&id);
        let placed = Placed::new(Listed::from(allocation));
        let version = version(&placed);
        let groups = allocation
            .job
            .get()
            .map(JobSays::of_groups)
            .unwrap_or_default();
        let says_group = groups.contains_key(&placed.group);
        self.insert_placed(&id, placed, known, false);
        if says_group {
            self.versions.insert(version, groups);
            self.touch_open();
        } else {
            // Without its job nobody knows its account; to be asked again, but not without rest.
            let wanted = Wanted {
                not_before: now + SWEEP,
                ..Wanted::default()
            };
            self.wanted.insert(id, wanted);
        }
    }

    fn take_jobs(&mut self, index: u64, list: &[JobStub], now: Duration) {
        if self.jobs.take(index, now) == Age::Older {
            return;
        }
        self.stubs = list
            .iter()
            .map(|job| {
                let key = (job.namespace.text().to_owned(), job.id.text().to_owned());
                let says = JobSays::of_stub(job);
                let job_modify_index = job.job_modify_index.value();
                (
                    key,
                    Stub {
                        job_modify_index,
                        says,
                    },
                )
            })
            .collect();
        self.touch_open();
    }

    /// Has another look at allocations whose job is not known.
    fn touch_open(&mut self) {
        let open = self
            .placed
            .iter()
            .filter(|(_, placed)| placed.job.is_none());
        self.dirty.extend(open.map(|(id, _)| id.clone()));
    }

    fn take_failure(&mut self, read: &Read, now: Duration) {
        match read {
            Read::Service(name) => {
                if let Some(entry) = self.entries.get_mut(name) {
                    entry.is_reading = false;
                    entry.is_urgent = true;
                    entry.pause(now);
                }
            }
            Read::Allocation(id) => {
                if let Some(wanted) = self.wanted.get_mut(id) {
                    wanted.is_reading = false;
                    wanted.not_before = now + pause(wanted.failures);
                    wanted.failures = wanted.failures.saturating_add(1);
                }
            }
        }
    }

    fn take_events(&mut self, batch: &EventBatch) {
        for event in batch.events.items() {
            match event.topic.text() {
                "Service" => {
                    let Some(service) = event.service_name() else {
                        continue;
                    };
                    let name = Name {
                        namespace: event.namespace.text().to_owned(),
                        service: service.to_owned(),
                    };
                    let entry = self.entries.entry(name).or_default();
                    entry.is_urgent = true;
                    entry.due = entry.due.max(batch.index.value());
                }
                "Allocation" if self.registrations.contains_key(event.key.text()) => {
                    self.wanted.entry(event.key.text().to_owned()).or_default();
                }
                _ => {}
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    fn ask_again(&mut self) {
        self.is_urgent = true;
        self.is_again = self.is_reading;
    }

    fn pause(&mut self, now: Duration) {
        self.not_before = now + pause(self.failures);
        self.failures = self.failures.saturating_add(1);
    }
}

fn version(placed: &Placed) -> Version {
    let (namespace, job) = (placed.namespace.clone(), placed.job_id.clone());
    (namespace, job, placed.job_version)
}

fn pause(failures: u32) -> Duration {
    PAUSE * 2_u32.pow(failures.min(6))
}

#[cfg(test)]
mod tests;
