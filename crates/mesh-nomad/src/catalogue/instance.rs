//! One allocation with its registrations, as a workload.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_model::{
    Health, Problem, Problems, Protocol, Workload, WorkloadPort, WorkloadService, label,
};

use crate::identity::{self, Account};
use crate::model::Job;
use crate::model::allocation::{AllocatedPort, Allocation};
use crate::model::registration::Registration;
use crate::model::reply::JobStub;

/// An allocation whose services are in Nomad's catalogue.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Instance {
    /// It as a workload. The targets of its ports are where callers reach it, which in a network
    /// namespace are ports of the host; see [`Self::inside`].
    pub workload: Workload,
    /// What Nomad thinks of it; an agent knows better.
    pub health: Health,
    /// Whether a sidecar was injected into its group.
    pub has_sidecar: bool,
    /// Ports of the host to the ports inside its network namespace that they lead to; only those
    /// that differ.
    pub inside: BTreeMap<u16, u16>,
    /// Its account, and whether its job asked for it.
    pub account: Account,
    /// The allocation.
    pub allocation: String,
    /// Its job.
    pub job: String,
    /// Its node.
    pub node: String,
    /// Its node's datacenter.
    pub datacenter: String,
}

/// What of an allocation matters here.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) namespace: String,
    pub(super) job_id: String,
    pub(super) group: String,
    pub(super) node: String,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
    pub(super) is_terminal: bool,
    pub(super) health: Health,
    pub(super) ports: Vec<AllocatedPort>,
    pub(super) job_version: u64,
    /// What its job says, as it was when this was placed; unset until that is known. A change of
    /// meta replaces allocations, so it never changes.
    pub(super) job: Option<JobSays>,
}

/// What a job says of the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct JobSays {
    /// The job itself, or that which it was dispatched from.
    pub(super) origin: String,
    pub(super) meta: BTreeMap<String, String>,
}

/// A group has this port if and only if a sidecar was injected.
const SIDECAR_PORT: &str = "mesh_health";

// === impl JobSays ===

impl JobSays {
    /// What a list says: nothing of the groups.
    pub(super) fn of_stub(stub: &JobStub) -> Self {
        Self {
            origin: origin(stub.id.text(), stub.parent_id.text()),
            meta: identity::annotations(stub.meta.get(), None),
        }
    }

    /// What a job says of each of its groups.
    pub(super) fn of_groups(job: &Job) -> BTreeMap<String, Self> {
        let groups = job.task_groups.items().iter();
        let says = groups.map(|group| {
            let says = Self {
                origin: origin(job.id.text(), job.parent_id.text()),
                meta: identity::annotations(job.meta.get(), group.meta.get()),
            };
            (group.name.text().to_owned(), says)
        });
        says.collect()
    }
}

fn origin(id: &str, parent: &str) -> String {
    if parent.is_empty() { id } else { parent }.to_owned()
}

// === impl Placed ===

impl Placed {
    /// An allocation that is not there any more.
    pub(super) fn gone() -> Self {
        Self {
            is_terminal: true,
            ..Self::new(&Allocation::default())
        }
    }

    /// Whether a sidecar was injected into its group.
    pub(super) fn has_sidecar(&self) -> bool {
        self.ports
            .iter()
            .any(|port| port.label.text() == SIDECAR_PORT)
    }

    pub(super) fn new(allocation: &Allocation) -> Self {
        Self {
            namespace: allocation.namespace.text().to_owned(),
            job_id: allocation.job_id.text().to_owned(),
            group: allocation.task_group.text().to_owned(),
            node: allocation.node_id.text().to_owned(),
            create_index: allocation.create_index.value(),
            modify_index: allocation.modify_index.value(),
            is_terminal: allocation.is_terminal(),
            health: health(allocation),
            ports: allocation.ports().to_vec(),
            job_version: allocation.job_version.value(),
            job: None,
        }
    }
}

/// What Nomad thinks of an allocation. One whose client is out of reach stays as it was: its tasks
/// may well run, and callers find out by themselves.
fn health(allocation: &Allocation) -> Health {
    let status = allocation.deployment_status.get();
    let verdict = status.and_then(|status| status.healthy.get());
    match (
        allocation.desired_status.text(),
        allocation.client_status.text(),
    ) {
        ("run", "pending") => Health::Starting,
        ("run", _) if verdict != Some(&false) => Health::Healthy,
        _ => Health::Unhealthy,
    }
}

/// The instance that an allocation and its registrations make.
pub(super) fn join<'a>(
    id: &str,
    placed: &Placed,
    says: &JobSays,
    registrations: impl Iterator<Item = &'a Registration>,
) -> Result<Instance, Problems> {
    let mut problems = Problems::default();
    let account = ok(Account::of_job(&says.origin, &says.meta), &mut problems);
    let namespace = ok(identity::namespace(&placed.namespace), &mut problems);
    let workload_id = ok(identity::workload_id(id, &placed.group), &mut problems);
    let mut joined = Joined::default();
    for registration in registrations {
        joined.add(placed, says, registration, &mut problems);
    }
    if joined.services.is_empty() && problems.0.is_empty() {
        problems.add("Services", "", "a registration with a port");
    }
    let (Some(account), Some(namespace), Some(workload_id)) = (account, namespace, workload_id)
    else {
        return Err(problems);
    };
    let workload = Workload {
        explicit: None,
        id: workload_id,
        namespace,
        service_account: account.service_account().clone(),
        addresses: joined.addresses,
        labels: joined.labels,
        services: joined.services,
    };
    workload.validate("", &mut problems);
    problems.into_result(Instance {
        workload,
        health: placed.health,
        has_sidecar: placed.has_sidecar(),
        inside: joined.inside,
        account,
        allocation: id.to_owned(),
        job: says.origin.clone(),
        node: placed.node.clone(),
        datacenter: joined.datacenter,
    })
}

fn ok<T>(result: Result<T, Problem>, problems: &mut Problems) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

#[derive(Default)]
struct Joined {
    addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
    services: Vec<WorkloadService>,
    inside: BTreeMap<u16, u16>,
    datacenter: String,
}

impl Joined {
    fn add(
        &mut self,
        placed: &Placed,
        says: &JobSays,
        registration: &Registration,
        problems: &mut Problems,
    ) {
        let name = registration.service_name.text();
        let path = format!("Services[{name}]");
        let address = registration.address.text();
        match address.parse() {
            Ok(address) if self.addresses.contains(&address) => {}
            // A workload is at one place; a second address of the other family is the same place.
            Ok(address)
                if self
                    .addresses
                    .iter()
                    .all(|known| known.is_ipv4() != address.is_ipv4()) =>
            {
                self.addresses.push(address);
            }
            Ok(_) => problems.add(
                format!("{path}.Address"),
                address,
                "the address of the group's other services (set the same address_mode)",
            ),
            Err(_) => problems.add(format!("{path}.Address"), address, "an IP address"),
        }
        registration
            .datacenter
            .text()
            .clone_into(&mut self.datacenter);
        let port = registration.port.value();
        let allocated = allocated(&placed.ports, registration);
        let port_label = allocated.map_or("", |port| port.label.text());
        if let Some(to) = allocated.and_then(inside)
            && to != port
            && allocated.is_some_and(|allocated| allocated.value.value() == port)
        {
            self.inside.insert(port, to);
        }
        for tag in registration.tags.items() {
            if let Some((key, value)) = tag.split_once('=')
                && label::is_key(key)
                && label::is_value(value)
            {
                self.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        let said = says.meta.get("mesh.labels").map_or("", String::as_str);
        for (key, value) in said.split(',').filter_map(|item| item.split_once('=')) {
            self.labels
                .insert(key.trim().to_owned(), value.trim().to_owned());
        }
        let protocol = protocol(says, port_label);
        let Some(number) = number(says, name, port_label, allocated, protocol) else {
            let expected = format!(
                "the port at which callers reach it (job meta `mesh.port.{name}`, or `to` of the port)"
            );
            problems.add(format!("{path}.PortLabel"), port_label, expected);
            return;
        };
        let Ok(service_name) = name.parse() else {
            problems.add(path, name, "a DNS label (a-z, 0-9, `-`; at most 63)");
            return;
        };
        let declared = WorkloadPort {
            name: port_name(port_label, number),
            number,
            target: port,
            protocol,
        };
        match self
            .services
            .iter_mut()
            .find(|service| service.name == service_name)
        {
            Some(service) => service.ports.push(declared),
            None => self.services.push(WorkloadService {
                name: service_name,
                ports: vec![declared],
            }),
        }
    }
}

/// The port of the group that a registration is of: its ID ends with the service and the label,
/// and with nothing that says where the one ends.
fn allocated<'a>(
    ports: &'a [AllocatedPort],
    registration: &Registration,
) -> Option<&'a AllocatedPort> {
    let port = registration.port.value();
    let is_at =
        |found: &&AllocatedPort| found.value.value() == port || found.to.value() == i64::from(port);
    let fits = |found: &&AllocatedPort| {
        let end = format!(
            "-{}-{}",
            registration.service_name.text(),
            found.label.text()
        );
        registration.id.text().ends_with(&end)
    };
    ports
        .iter()
        .find(|found| is_at(found) && fits(found))
        .or_else(|| ports.iter().find(is_at))
}

/// The port inside the group's network namespace.
fn inside(port: &AllocatedPort) -> Option<u16> {
    u16::try_from(port.to.value()).ok().filter(|to| *to != 0)
}

/// What is spoken: job meta, else how the label begins, as Istio reads names of ports.
fn protocol(says: &JobSays, port_label: &str) -> Protocol {
    let said = says.meta.get(&format!("mesh.protocol.{port_label}"));
    let said = said
        .map(String::as_str)
        .or_else(|| port_label.split(['-', '_']).next());
    match said {
        Some("http") => Protocol::Http,
        Some("http2") => Protocol::Http2,
        Some("grpc") => Protocol::Grpc,
        Some("tls" | "https") => Protocol::Tls,
        _ => Protocol::Tcp,
    }
}

/// The port at which callers reach a service. Nomad has none: its instances are at ports of their
/// own. So it is what the job's meta says, else the port inside, else a static port, else what the
/// protocol is usually reached at.
fn number(
    says: &JobSays,
    service: &str,
    port_label: &str,
    allocated: Option<&AllocatedPort>,
    protocol: Protocol,
) -> Option<u16> {
    let said = [service, port_label]
        .iter()
        .find_map(|name| says.meta.get(&format!("mesh.port.{name}")));
    if let Some(said) = said {
        return said.parse().ok().filter(|number| *number != 0);
    }
    if let Some(allocated) = allocated {
        let value = allocated.value.value();
        let to = inside(allocated).filter(|to| *to != value);
        let fixed = Some(value).filter(|value| !DYNAMIC_PORTS.contains(value) && *value != 0);
        if let Some(number) = to.or(fixed) {
            return Some(number);
        }
    }
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Some(80),
        Protocol::Tls => Some(443),
        _ => None,
    }
}

/// A label as a name of a port: of what DNS labels have.
fn port_name(port_label: &str, number: u16) -> String {
    let clean = |char: char| match char.to_ascii_lowercase() {
        char if char.is_ascii_alphanumeric() => char,
        _ => '-',
    };
    let name: String = port_label.chars().map(clean).take(63).collect();
    match name.trim_matches('-') {
        "" => format!("port-{number}"),
        name => name.to_owned(),
    }
}

/// What Nomad gives to ports that name none, unless a client is configured otherwise.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 20_000..=32_000;
