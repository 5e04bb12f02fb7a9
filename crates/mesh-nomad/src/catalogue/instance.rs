//! One allocation with its registrations, as a workload.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::{
    Capture, Health, Problem, Problems, Protocol, Workload, WorkloadPort, WorkloadService, label,
};

use super::listed::Listed;
use crate::identity::{self, Account};
use crate::model::Job;
use crate::model::allocation::{AllocatedPort, TaskState};
use crate::model::registration::Registration;
use crate::model::reply::JobStub;
use crate::sidecar::{PortRef, Sidecar, SidecarService, usual_number, variable};

/// An allocation whose services are in Nomad's catalogue.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Instance {
    /// It as a workload, whose ports callers dial where the catalogue lists them: at a group with
    /// a network of its own, ports of the host.
    ///
    /// It has a sidecar if one was injected into its group. What that one listens at is the
    /// agent's to say, so it is never explicit.
    pub workload: Workload,
    /// What Nomad thinks of it; an agent knows better.
    pub health: Health,
    /// Whether Nomad wants it to end.
    pub is_leaving: bool,
    /// Whether a task of it was ended to be started again, and was not yet.
    pub is_restarting: bool,
    /// Its account, and whether its job asked for it: the word of whoever submitted the job, for
    /// the identity authority to judge. None if the job's ID is no name of an account, which is a
    /// problem only where there is a sidecar.
    pub account: Option<Account>,
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
    pub(super) is_leaving: bool,
    /// Unknown where it was read without its tasks, as lists are.
    pub(super) is_restarting: Option<bool>,
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
    /// What the group's proxy is told, if there is one.
    pub(super) sidecar: Option<Arc<Sidecar>>,
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
            sidecar: None,
        }
    }

    /// What a job says of each of its groups.
    pub(super) fn of_groups(job: &Job) -> BTreeMap<String, Self> {
        let groups = job.task_groups.items().iter();
        let says = groups.map(|group| {
            let says = Self {
                origin: origin(job.id.text(), job.parent_id.text()),
                meta: identity::annotations(job.meta.get(), group.meta.get()),
                sidecar: Sidecar::of_group(group).map(Arc::new),
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
            ..Self::new(Listed::default())
        }
    }

    /// Whether a sidecar was injected into its group.
    pub(super) fn has_sidecar(&self) -> bool {
        self.ports
            .iter()
            .any(|port| port.label.text() == SIDECAR_PORT)
    }

    pub(super) fn new(listed: Listed) -> Self {
        Self {
            create_index: listed.create_index,
            modify_index: listed.modify_index,
            is_terminal: listed.is_terminal(),
            health: health(&listed),
            is_leaving: listed.desired_status != "run",
            is_restarting: listed.task_states.as_ref().map(is_restarting),
            job_version: listed.job_version,
            job: None,
            namespace: listed.namespace.clone(),
            job_id: listed.job_id.clone(),
            group: listed.task_group.clone(),
            node: listed.node_id.clone(),
            ports: listed.into_ports(),
        }
    }
}

/// Whether any of these tasks ended last, or was told to, and is to start again.
fn is_restarting(tasks: &BTreeMap<String, TaskState>) -> bool {
    let waits = |task: &TaskState| {
        let events = task.events.items().iter().rev();
        let mut kinds = events.map(|event| event.kind.text());
        let last = kinds.find_map(|kind| match kind {
            "Started" => Some(false),
            "Restart Signaled" | "Killing" | "Killed" | "Terminated" | "Restarting" => Some(true),
            _ => None,
        });
        task.state.text() != "dead" && last == Some(true)
    };
    tasks.values().any(waits)
}

/// What Nomad thinks of an allocation. One whose client is out of reach stays as it was: its tasks
/// may well run, and callers find out by themselves.
fn health(listed: &Listed) -> Health {
    let status = (
        listed.desired_status.as_str(),
        listed.client_status.as_str(),
    );
    match status {
        ("run", "pending") => Health::Starting,
        ("run", _) if listed.verdict() != Some(false) => Health::Healthy,
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
    let sidecar = if placed.has_sidecar() {
        mesh_model::Sidecar::Present
    } else {
        mesh_model::Sidecar::Absent
    };
    let account = match Account::of_job(&says.origin, &says.meta) {
        Ok(account) => Some(account),
        Err(problem) => {
            // Nobody proves who answers where there is no sidecar.
            if sidecar.is_present() {
                problems.push(problem);
            }
            None
        }
    };
    let service_account = match &account {
        Some(account) => Some(account.service_account().clone()),
        None => ok(NOBODY.parse(), &mut problems),
    };
    let namespace = ok(identity::namespace(&placed.namespace), &mut problems);
    let workload_id = ok(identity::workload_id(id, &placed.group), &mut problems);
    let mut joined = Joined::new(says);
    for registration in registrations {
        joined.add(placed, says, registration, &mut problems);
    }
    // A group that only calls others is registered for its sidecar's sake alone.
    if joined.services.is_empty() && !sidecar.is_present() && problems.0.is_empty() {
        problems.add("Services", "", "a registration with a port");
    }
    let (Some(service_account), Some(namespace), Some(workload_id)) =
        (service_account, namespace, workload_id)
    else {
        return Err(problems);
    };
    let workload = Workload {
        explicit: None,
        capture: Capture::default(),
        gateway: false,
        id: workload_id,
        namespace,
        service_account,
        addresses: joined.addresses,
        labels: joined.labels,
        services: joined.services,
        sidecar,
    };
    workload.validate("", &mut problems);
    problems.into_result(Instance {
        workload,
        health: placed.health,
        is_leaving: placed.is_leaving,
        is_restarting: placed.is_restarting.unwrap_or_default(),
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
    datacenter: String,
}

impl Joined {
    /// What the job says for all its services.
    fn new(says: &JobSays) -> Self {
        let mut joined = Self::default();
        let said = says.meta.get("mesh.labels").map_or("", String::as_str);
        for (key, value) in said.split(',').filter_map(|item| item.split_once('=')) {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            joined.labels.insert(key, value);
        }
        if let Some(sidecar) = &says.sidecar {
            joined.labels.extend(sidecar.labels.clone());
        }
        joined
    }

    /// Takes an address of the group.
    fn be_at(&mut self, address: &str, path: &str, problems: &mut Problems) {
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
    }

    /// Takes labels from tags.
    fn take_tags(&mut self, registration: &Registration) {
        for tag in registration.tags.items() {
            if let Some((key, value)) = tag.split_once('=')
                && label::is_key(key)
                && label::is_value(value)
            {
                // What the job says of the whole group comes first.
                let place = self.labels.entry(key.to_owned());
                place.or_insert_with(|| value.to_owned());
            }
        }
    }

    fn add(
        &mut self,
        placed: &Placed,
        says: &JobSays,
        registration: &Registration,
        problems: &mut Problems,
    ) {
        let name = registration.service_name.text();
        let path = format!("Services[{name}]");
        self.be_at(registration.address.text(), &path, problems);
        registration
            .datacenter
            .text()
            .clone_into(&mut self.datacenter);
        let target = registration.port.value();
        let allocated = allocated(&placed.ports, registration);
        let port_label = allocated.map_or("", |port| port.label.text());
        let taken = allocated.and_then(inside).unwrap_or(target);
        let said = says.sidecar.as_deref();
        let said = said.and_then(|sidecar| told(sidecar, name, taken, port_label));
        let is_gateway = says.sidecar.as_deref().is_some_and(|it| it.gateway);
        if port_label == SIDECAR_PORT || is_gateway {
            // By this Nomad checks the proxy; nobody calls it. A gateway is for the outside.
            return;
        }
        // A proxy that calls come to without rules passes them on to the application.
        let own = match said.filter(|said| said.listen.is_some()) {
            Some(said) => number_of(&said.port, &placed.ports),
            None => Some(taken),
        };
        self.take_tags(registration);
        let protocol = match said {
            Some(said) => said.protocol,
            None => protocol(says, port_label),
        };
        let number = match said {
            Some(said) => own.and_then(|own| said.number_at(own)),
            None => number(says, name, port_label, allocated, protocol),
        };
        let Some(number) = number else {
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
        let name = match said {
            // What its agent calls it.
            Some(_) => format!("port-{number}"),
            None => port_name(port_label, number),
        };
        let declared = WorkloadPort {
            name,
            number,
            target,
            inside: own.filter(|own| *own != target),
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

/// What the proxy was told of the service whose calls arrive in the group's network at `taken`.
fn told<'a>(
    sidecar: &'a Sidecar,
    service: &str,
    taken: u16,
    port_label: &str,
) -> Option<&'a SidecarService> {
    let is_it = |port: &PortRef| match port {
        PortRef::Number(number) => *number == taken,
        PortRef::Label(label) => *label == variable(port_label),
    };
    let mut services = sidecar.services.iter();
    services.find(|said| said.name == service && is_it(said.listen.as_ref().unwrap_or(&said.port)))
}

/// The number of a port in the group's network.
fn number_of(port: &PortRef, ports: &[AllocatedPort]) -> Option<u16> {
    match port {
        PortRef::Number(number) => Some(*number),
        PortRef::Label(label) => {
            let mut ports = ports.iter();
            let found = ports.find(|found| variable(found.label.text()) == *label)?;
            Some(inside(found).unwrap_or_else(|| found.value.value()))
        }
    }
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
    let value = allocated.map_or(0, |allocated| allocated.value.value());
    let to = allocated.and_then(inside).filter(|to| *to != value);
    to.or_else(|| usual_number(value, protocol))
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

/// Who runs what nobody vouches for: the account of whoever names none.
const NOBODY: &str = "default";
