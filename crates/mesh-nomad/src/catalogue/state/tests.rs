//! A server in memory that answers late, wrongly and not at all, and what the catalogue makes of
//! it.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What is true, at every index so far.
#[derive(Clone, Debug, Default)]
struct Server {
    history: Vec<(u64, State)>,
}

/// Registrations by allocation, with the service; and all allocations.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    /// Allocation to the index of its creation.
    allocations: BTreeMap<u8, u64>,
    /// Allocation and service to the index of the registration.
    registrations: BTreeMap<(u8, u8), u64>,
}

/// Something that happens between reads.
#[derive(Clone, Debug)]
enum Op {
    /// An allocation starts, with a service.
    Start { allocation: u8, service: u8 },
    /// An allocation ends; with or without an event of it.
    Stop { allocation: u8, is_heard: bool },
    /// A list comes, this many changes old.
    List { which: u8, age: usize },
    /// One read ends: with an answer this many changes old, or not at all.
    Answer { nth: usize, age: usize, fails: bool },
    /// Time passes.
    Wait { milliseconds: u64 },
    /// The event stream was lost and is open again.
    Reopen,
}

impl Server {
    fn new() -> Self {
        Self {
            history: vec![(10, State::default())],
        }
    }

    fn now(&self) -> &(u64, State) {
        self.history.last().unwrap()
    }

    fn ago(&self, age: usize) -> &(u64, State) {
        let last = self.history.len() - 1;
        &self.history[last - age.min(last)]
    }

    fn change(&mut self, change: impl FnOnce(&mut State, u64)) -> u64 {
        let (index, mut state) = self.now().clone();
        change(&mut state, index + 1);
        self.history.push((index + 1, state));
        index + 1
    }
}

impl State {
    fn services(&self) -> Vec<NamespaceServices> {
        let names: BTreeSet<_> = self
            .registrations
            .keys()
            .map(|(_, service)| service)
            .collect();
        let stubs: Vec<_> = names
            .iter()
            .map(|service| json!({ "ServiceName": format!("s{service}"), "Tags": [] }))
            .collect();
        serde_json::from_value(json!([{ "Namespace": "default", "Services": stubs }])).unwrap()
    }

    fn of_service(&self, name: &str) -> Vec<Registration> {
        let found = self.registrations.iter();
        let found = found.filter(|((_, service), _)| format!("s{service}") == name);
        let list: Vec<_> = found
            .map(|((allocation, service), index)| {
                let id = uuid(*allocation);
                json!({
                    "ID": format!("_nomad-task-{id}-group-g-s{service}-http"),
                    "ServiceName": name, "Namespace": "default", "JobID": "web", "AllocID": id,
                    "NodeID": "n", "Datacenter": "dc1", "Tags": [],
                    "Address": format!("10.0.0.{allocation}"), "Port": 25000 + u16::from(*service),
                    "CreateIndex": index, "ModifyIndex": index,
                })
            })
            .collect();
        serde_json::from_value(json!(list)).unwrap()
    }

    fn allocation(&self, allocation: u8) -> Option<Allocation> {
        let index = self.allocations.get(&allocation)?;
        Some(placed(&uuid(allocation), *index, "running"))
    }

    fn all_allocations(&self) -> Vec<Allocation> {
        let all = self.allocations.keys();
        all.filter_map(|allocation| self.allocation(*allocation))
            .collect()
    }

    /// The ids of the instances that there have to be, each with the number of its services.
    fn expected(&self) -> BTreeMap<String, usize> {
        let mut expected = BTreeMap::new();
        for (allocation, _) in self.registrations.keys() {
            *expected
                .entry(format!("{}/g", uuid(*allocation)))
                .or_default() += 1;
        }
        expected
    }
}

fn uuid(allocation: u8) -> String {
    format!("00000000-0000-0000-0000-0000000000{allocation:02x}")
}

fn placed(id: &str, index: u64, status: &str) -> Allocation {
    let ports: Vec<_> = (0..4)
        .map(|n| json!({ "Label": "http", "Value": 25000 + n, "To": 8080 + n, "HostIP": "" }))
        .collect();
    serde_json::from_value(json!({
        "ID": id, "Namespace": "default", "JobID": "web", "TaskGroup": "g", "NodeID": "n",
        "DesiredStatus": "run", "ClientStatus": status,
        "AllocatedResources": { "Shared": { "Ports": ports } },
        "Job": { "ID": "web", "Namespace": "default", "TaskGroups": [{ "Name": "g" }] },
        "CreateIndex": index, "ModifyIndex": index,
    }))
    .unwrap()
}

fn jobs() -> Vec<JobStub> {
    let stub =
        json!([{ "ID": "web", "Namespace": "default", "ParentID": "", "JobModifyIndex": 9 }]);
    serde_json::from_value(stub).unwrap()
}

/// The catalogue between a server and the one who looks at its snapshots.
struct World {
    server: Server,
    catalogue: Catalogue,
    now: Duration,
    reading: Vec<Read>,
    instances: BTreeMap<mesh_model::WorkloadId, Arc<Instance>>,
    sequence: u64,
}

impl World {
    fn new(server: Server) -> Self {
        Self {
            server,
            catalogue: Catalogue::new(),
            now: Duration::from_secs(1),
            reading: Vec::new(),
            instances: BTreeMap::new(),
            sequence: 0,
        }
    }

    fn take(&mut self, input: Input) {
        self.catalogue.take(input, self.now);
    }

    fn list(&mut self, which: u8, age: usize) {
        let (index, state) = self.server.ago(age).clone();
        self.take(match which % 3 {
            0 => Input::Services {
                index,
                list: state.services(),
            },
            1 => Input::Allocations {
                index,
                list: state.all_allocations().iter().map(Listed::from).collect(),
            },
            _ => Input::Jobs {
                index,
                list: jobs(),
            },
        });
    }

    fn answer(&mut self, read: Read, age: usize, fails: bool) {
        if fails {
            return self.take(Input::Failed(read));
        }
        let (index, state) = self.server.ago(age).clone();
        self.take(match read {
            Read::Service(name) => Input::Service {
                registrations: state.of_service(&name.service),
                name,
                index,
            },
            Read::Allocation(id) => {
                let number = u8::from_str_radix(&id[id.len() - 2..], 16).unwrap();
                let allocation = state.allocation(number).map(Box::new);
                Input::Allocation { id, allocation }
            }
        });
    }

    fn event(&mut self, index: u64, kind: &str, service: u8) {
        let batch = json!({ "Index": index, "Events": [{
            "Topic": "Service", "Type": kind, "Key": "k", "Namespace": "default", "Index": index,
            "Payload": { "Service": { "ServiceName": format!("s{service}") } },
        }] });
        self.take(Input::Events(serde_json::from_value(batch).unwrap()));
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Start {
                allocation,
                service,
            } => {
                let index = self.server.change(|state, index| {
                    state.allocations.entry(allocation).or_insert(index);
                });
                let index = index.max(self.server.change(|state, index| {
                    state
                        .registrations
                        .entry((allocation, service))
                        .or_insert(index);
                }));
                self.event(index, "ServiceRegistration", service);
            }
            Op::Stop {
                allocation,
                is_heard,
            } => {
                let index = self.server.change(|state, _| {
                    state.allocations.remove(&allocation);
                    state
                        .registrations
                        .retain(|(found, _), _| *found != allocation);
                });
                if is_heard {
                    self.event(index, "AllocationUpdated", 0);
                }
            }
            Op::List { which, age } => self.list(which, age),
            Op::Answer { nth, age, fails } => {
                if !self.reading.is_empty() {
                    let read = self.reading.remove(nth % self.reading.len());
                    self.answer(read, age, fails);
                }
            }
            Op::Wait { milliseconds } => self.now += Duration::from_millis(milliseconds),
            Op::Reopen => self.take(Input::StreamOpened),
        }
        self.settle();
    }

    /// Publishes, as the shell does after every input, and holds the deltas against the snapshot.
    fn settle(&mut self) {
        if let Some(delta) = self.catalogue.publish() {
            assert_eq!(delta.sequence, self.sequence + 1, "deltas are in order");
            self.sequence = delta.sequence;
            delta.apply(&mut self.instances);
            assert_eq!(self.instances, self.catalogue.snapshot().instances);
        }
        self.reading.extend(self.catalogue.reads(self.now));
    }

    /// The faults end: everything is answered truthfully.
    fn calm(&mut self) {
        for _ in 0..60 {
            for which in 0..3 {
                self.list(which, 0);
            }
            self.settle();
            for _ in 0..64 {
                let Some(read) = self.reading.pop() else {
                    break;
                };
                self.answer(read, 0, false);
                self.settle();
            }
            self.now += Duration::from_millis(600);
        }
    }

    fn found(&self) -> BTreeMap<String, usize> {
        let all = self.catalogue.snapshot().instances.iter();
        all.map(|(id, instance)| (id.to_string(), instance.workload.services.len()))
            .collect()
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..4_u8, 0..4_u8).prop_map(|(allocation, service)| Op::Start {
            allocation,
            service
        }),
        (0..3_u8, any::<bool>()).prop_map(|(allocation, is_heard)| Op::Stop {
            allocation,
            is_heard
        }),
        (0..3_u8, 0..6_usize).prop_map(|(which, age)| Op::List { which, age }),
        (any::<usize>(), 0..6_usize, any::<bool>()).prop_map(|(nth, age, fails)| Op::Answer {
            nth,
            age,
            fails
        }),
        (any::<usize>()).prop_map(|nth| Op::Answer {
            nth,
            age: 0,
            fails: false
        }),
        // 60 of them are less than what makes an old answer believed.
        (0..150_u64).prop_map(|milliseconds| Op::Wait { milliseconds }),
        Just(Op::Reopen),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #[test]
    fn whatever_goes_wrong_the_truth_is_found(ops in ops()) {
        let mut world = World::new(Server::new());
        for op in &ops {
            world.run(op);
        }
        world.calm();
        prop_assert_eq!(world.found(), world.server.now().1.expected());
        prop_assert!(world.catalogue.snapshot().problems.is_empty());
    }

    #[test]
    fn an_endpoint_that_lives_is_never_forgotten(ops in ops()) {
        let mut server = Server::new();
        // Allocation 9 lives from before the first read to the end; answers that are old enough do
        // not have it.
        server.change(|state, index| {
            state.allocations.insert(9, index);
            state.registrations.insert((9, 1), index);
        });
        server.change(|_, _| {});
        let mut world = World::new(server);
        world.calm();
        let id: mesh_model::WorkloadId = format!("{}/g", uuid(9)).parse().unwrap();
        prop_assert!(world.instances.contains_key(&id));
        for op in &ops {
            world.run(op);
            prop_assert!(world.instances.contains_key(&id), "forgotten at {:?}", op);
        }
    }

    #[test]
    fn servers_that_were_restored_are_believed_in_the_end(ops in ops(), later in ops()) {
        let mut world = World::new(Server::new());
        for op in &ops {
            world.run(op);
        }
        world.calm();
        // As from a backup: indexes far below what was seen, and other contents.
        let mut restored = Server::new();
        restored.history = vec![(3, State::default())];
        world.server = restored;
        for op in &later {
            world.run(op);
        }
        world.calm();
        world.calm();
        prop_assert_eq!(world.found(), world.server.now().1.expected());
    }
}

#[test]
fn nothing_is_published_before_everything_was_read() {
    let mut server = Server::new();
    server.change(|state, index| {
        state.allocations.insert(1, index);
        state.registrations.insert((1, 1), index);
        state.registrations.insert((1, 2), index);
    });
    let mut world = World::new(server);
    for which in 0..3 {
        world.list(which, 0);
        world.settle();
    }
    assert_eq!(world.reading.len(), 2);
    let first = world.reading.remove(0);
    world.answer(first, 0, false);
    world.settle();
    assert_eq!(world.sequence, 0, "one service is still to be read");
    let second = world.reading.remove(0);
    world.answer(second, 0, false);
    world.settle();
    assert_eq!(world.sequence, 1);
    assert_eq!(world.instances.len(), 1);
}

#[test]
fn a_registration_whose_allocation_is_gone_is_no_endpoint() {
    let mut server = Server::new();
    server.change(|state, index| {
        state.registrations.insert((1, 1), index);
    });
    let mut world = World::new(server);
    world.calm();
    assert_eq!(world.sequence, 1);
    assert!(world.instances.is_empty());
}

#[test]
fn a_removal_without_event_is_seen_by_the_list() {
    let mut world = World::new(Server::new());
    world.run(&Op::Start {
        allocation: 1,
        service: 1,
    });
    world.calm();
    assert_eq!(world.instances.len(), 1);
    world.run(&Op::Stop {
        allocation: 1,
        is_heard: false,
    });
    world.calm();
    assert!(world.instances.is_empty());
}

#[test]
fn an_event_is_followed_by_one_read_of_its_service() {
    let mut world = World::new(Server::new());
    for service in 0..4 {
        world.run(&Op::Start {
            allocation: 1,
            service,
        });
    }
    world.calm();
    assert!(world.reading.is_empty());
    world.run(&Op::Start {
        allocation: 2,
        service: 3,
    });
    let expected = Read::Service(Name {
        namespace: "default".to_owned(),
        service: "s3".to_owned(),
    });
    assert_eq!(world.reading, [expected]);
}

#[test]
fn meta_of_the_job_names_account_protocol_and_port() {
    let mut server = Server::new();
    server.change(|state, index| {
        state.allocations.insert(1, index);
        state.registrations.insert((1, 1), index);
    });
    let mut world = World::new(server);
    let meta = json!([{
        "ID": "web", "Namespace": "default", "ParentID": "", "JobModifyIndex": 9,
        "Meta": {
            "mesh.service_account": "front", "mesh.protocol.http": "grpc", "mesh.port.s1": "81",
            "mesh_labels": "version=v2", "other": "x",
        },
    }]);
    world.take(Input::Jobs {
        index: 9,
        list: serde_json::from_value(meta).unwrap(),
    });
    for which in [0, 1] {
        world.list(which, 0);
    }
    world.settle();
    let read = world.reading.remove(0);
    world.answer(read, 0, false);
    world.settle();
    let instance = world.instances.values().next().unwrap();
    assert_eq!(instance.workload.service_account.as_str(), "front");
    assert_eq!(instance.workload.labels["version"], "v2");
    let port = &instance.workload.services[0].ports[0];
    assert_eq!((port.number, port.target), (81, 25001));
    assert_eq!(port.protocol, mesh_model::Protocol::Grpc);
    assert_eq!(port.inside, Some(8081));
    assert_eq!(instance.workload.sidecar, mesh_model::Sidecar::Absent);
}

#[test]
fn what_a_group_says_counts_more_than_its_job() {
    let mut server = Server::new();
    server.change(|state, index| {
        state.allocations.insert(1, index);
        state.registrations.insert((1, 1), index);
    });
    let mut world = World::new(server);
    for which in 0..3 {
        world.list(which, 0);
    }
    // A sidecar was injected, so the group has meta, which no list has.
    let mut allocation = placed(&uuid(1), 11, "running");
    let shared = allocation
        .allocated_resources
        .or_default()
        .shared
        .or_default();
    shared.ports.items_mut()[3].label = "mesh_health".into();
    let list = vec![Listed::from(&allocation)];
    world.take(Input::Allocations { index: 11, list });
    world.settle();
    let read = world.reading.remove(0);
    world.answer(read, 0, false);
    world.settle();
    let id = uuid(1);
    assert_eq!(world.reading, [Read::Allocation(id.clone())]);
    let group = json!([{ "Name": "g", "Meta": { "mesh.service_account": "front" } }]);
    allocation.job.or_default().task_groups = serde_json::from_value(group).unwrap();
    let allocation = Some(Box::new(allocation));
    world.take(Input::Allocation { id, allocation });
    world.settle();
    let instance = world.instances.values().next().unwrap();
    assert_eq!(instance.workload.service_account.as_str(), "front");
    assert!(instance.workload.sidecar.is_present());
}
