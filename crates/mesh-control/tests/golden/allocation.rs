//! Jobs as Nomad places them: the real injection, what a catalogue then lists, and what the agents
//! of the allocations say of themselves.
//!
//! Only the placing is done here: which ports of a host Nomad gives, and what it tells tasks and
//! its catalogue of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::Workload;
use mesh_nomad::catalogue::{Catalogue, Input, Name, Read, Snapshot};
use mesh_nomad::inject::{ModeChoice, Options, inject};
use mesh_nomad::model::Job;
use mesh_nomad::sidecar::{self, ControlPlane, Mode, Sidecar};
use serde::Deserialize;
use serde_json::{Value, json};

/// A job to be placed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Placing {
    /// The job as somebody writes it, in Nomad's JSON.
    pub(crate) job: Value,
    /// How a sidecar is injected; none is when absent.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// Whether the agents have connected.
    #[serde(default)]
    pub(crate) is_away: bool,
    /// What allocations say that differs from what Nomad says of every other.
    #[serde(default)]
    pub(crate) allocation: BTreeMap<String, Value>,
    /// The tags of its registrations.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
}

/// An allocation, in all eyes.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// As the server lists it.
    pub(crate) allocation: Value,
    /// Its registrations.
    registrations: Vec<Value>,
    /// What its agent registers, if it has one and that is connected.
    pub(crate) agent: Option<Workload>,
}

/// A port as Nomad gives it.
struct Port {
    label: String,
    value: u16,
    to: u16,
}

/// Places the groups of jobs, each allocation on a node of its own.
pub(crate) fn place(jobs: &[Placing]) -> Vec<Placed> {
    let mut all = Vec::new();
    for placing in jobs {
        let job = job(placing);
        for group in job["TaskGroups"].as_array().unwrap() {
            for _ in 0..group["Count"].as_u64().unwrap_or(1) {
                let number = u8::try_from(all.len() + 1).unwrap();
                all.push(allocate(placing, &job, group, number));
            }
        }
    }
    all
}

/// What a catalogue says that has read all this.
pub(crate) fn snapshot(placed: &[Placed]) -> Arc<Snapshot> {
    let mut catalogue = Catalogue::new();
    for step in reads(placed) {
        catalogue.take(step, Duration::from_secs(1));
    }
    let now = Duration::from_secs(2);
    loop {
        catalogue.publish();
        let reads = catalogue.reads(now);
        if reads.is_empty() {
            break;
        }
        for read in reads {
            catalogue.take(answer(placed, read), now);
        }
    }
    let snapshot = catalogue.snapshot();
    assert!(snapshot.sequence > 0, "the catalogue is not whole");
    Arc::new(snapshot.clone())
}

fn job(placing: &Placing) -> Value {
    let job: Job = serde_json::from_value(placing.job.clone()).unwrap();
    let Some(mode) = placing.mode else {
        return placing.job.clone();
    };
    let options = Options {
        mode: ModeChoice::Mode(mode),
        image: Some("mesh/sidecar:1".to_owned()),
        ..Options::default()
    };
    serde_json::to_value(inject(&job, &options).unwrap().job).unwrap()
}

fn allocate(placing: &Placing, job: &Value, group: &Value, number: u8) -> Placed {
    let id = format!("00000000-0000-0000-0000-0000000000{number:02x}");
    let host = IpAddr::from([10, 20, 0, number]);
    let own = IpAddr::from([172, 26, 64, number]);
    let network = &group["Networks"][0];
    let is_host = matches!(network["Mode"].as_str(), None | Some("" | "host"));
    let ports = ports(network, is_host, u16::from(number));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = match job["Namespace"].as_str() {
        None | Some("") => "default".to_owned(),
        Some(namespace) => namespace.to_owned(),
    };
    let listed: Vec<_> = ports
        .iter()
        .map(|port| {
            let to = if is_host { 0 } else { port.to };
            json!({ "Label": port.label, "Value": port.value, "To": to, "HostIP": host })
        })
        .collect();
    let mut allocation = json!({
        "ID": id, "Namespace": namespace, "JobID": job["ID"], "TaskGroup": group["Name"],
        "NodeID": format!("node-{number}"), "DesiredStatus": "run", "ClientStatus": "running",
        "AllocatedResources": { "Shared": { "Ports": listed } },
        "Job": job, "CreateIndex": 10, "ModifyIndex": 10,
    });
    for (key, value) in &placing.allocation {
        allocation[key] = value.clone();
    }
    let services = group["Services"].as_array().cloned().unwrap_or_default();
    let registrations = services.iter().map(|service| {
        let (name, label) = (text(&service["Name"]), text(&service["PortLabel"]));
        let port = ports.iter().find(|port| port.label == label).unwrap();
        let (address, number) = match service["AddressMode"].as_str() {
            Some("alloc") => (own, port.to),
            _ => (host, port.value),
        };
        json!({
            "ID": format!("_nomad-task-{id}-group-{}-{name}-{label}", text(&group["Name"])),
            "ServiceName": name, "Namespace": namespace, "JobID": job["ID"], "AllocID": id,
            "NodeID": format!("node-{}", host), "Datacenter": "dc1", "Tags": placing.tags,
            "Address": address, "Port": number, "CreateIndex": 10, "ModifyIndex": 10,
        })
    });
    let registrations = registrations.collect();
    let group_model = serde_json::from_value(group.clone()).unwrap();
    let agent = Sidecar::of_group(&group_model).filter(|_| !placing.is_away);
    let agent = agent.map(|sidecar| {
        let mut variables = vec![
            ("NOMAD_ALLOC_ID".to_owned(), id.clone()),
            ("NOMAD_GROUP_NAME".to_owned(), text(&group["Name"])),
            ("NOMAD_NAMESPACE".to_owned(), namespace.clone()),
            ("NOMAD_SECRETS_DIR".to_owned(), "/secrets".to_owned()),
        ];
        for port in &ports {
            let seen = if is_host { port.value } else { port.to };
            let label = &port.label;
            variables.push((format!("NOMAD_PORT_{label}"), seen.to_string()));
            variables.push((format!("NOMAD_HOST_PORT_{label}"), port.value.to_string()));
            variables.push((format!("NOMAD_IP_{label}"), host.to_string()));
            if !is_host {
                variables.push((format!("NOMAD_ALLOC_IP_{label}"), own.to_string()));
            }
        }
        let allocation = sidecar::Allocation::from_variables(variables);
        let control = ControlPlane {
            pilots: vec!["10.20.0.1:15012".parse().unwrap()],
            cas: vec!["10.20.0.1:15012".parse().unwrap()],
            root_hashes: vec!["ab".repeat(32)],
        };
        let config = sidecar.config(&allocation, &control, Vec::new());
        config.unwrap().workload
    });
    Placed {
        allocation,
        registrations,
        agent,
    }
}

/// The ports of a group: those that the job names, then others of the host.
fn ports(network: &Value, is_host: bool, number: u16) -> Vec<Port> {
    let list = |kind: &str| network[kind].as_array().cloned().unwrap_or_default();
    let mut free = 24000 + 100 * number;
    let mut ports = Vec::new();
    for (declared, is_fixed) in list("ReservedPorts")
        .iter()
        .map(|port| (port, true))
        .chain(list("DynamicPorts").iter().map(|port| (port, false)))
    {
        let value = if is_fixed {
            u16::try_from(declared["Value"].as_u64().unwrap()).unwrap()
        } else {
            free += 1;
            free
        };
        let to = declared["To"]
            .as_i64()
            .and_then(|to| u16::try_from(to).ok());
        ports.push(Port {
            label: declared["Label"].as_str().unwrap().to_owned(),
            value,
            to: to.filter(|to| *to != 0 && !is_host).unwrap_or(value),
        });
    }
    ports
}

/// The lists with which a catalogue begins.
fn reads(placed: &[Placed]) -> Vec<Input> {
    let mut services: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    let mut jobs = BTreeMap::new();
    for one in placed {
        for registration in &one.registrations {
            let (namespace, name) = name(registration);
            let stub = json!({ "ServiceName": name, "Tags": [] });
            services.entry(namespace).or_default().insert(name, stub);
        }
        let job = &one.allocation["Job"];
        let stub = json!({
            "ID": job["ID"], "Namespace": one.allocation["Namespace"], "ParentID": "",
            "JobModifyIndex": 9, "Meta": job["Meta"],
        });
        jobs.insert(one.allocation["JobID"].to_string(), stub);
    }
    let services: Vec<_> = services
        .into_iter()
        .map(|(namespace, services)| {
            let services: Vec<_> = services.into_values().collect();
            json!({ "Namespace": namespace, "Services": services })
        })
        .collect();
    let allocations = placed.iter().map(|one| {
        let mut stub = one.allocation.clone();
        // Lists have no jobs.
        stub.as_object_mut().unwrap().remove("Job");
        stub
    });
    let allocations: Vec<_> = allocations.collect();
    let jobs: Vec<_> = jobs.into_values().collect();
    let index = 10;
    vec![
        Input::Jobs {
            index,
            list: serde_json::from_value(json!(jobs)).unwrap(),
        },
        Input::Allocations {
            index,
            list: serde_json::from_value(json!(allocations)).unwrap(),
        },
        Input::Services {
            index,
            list: serde_json::from_value(json!(services)).unwrap(),
        },
    ]
}

fn answer(placed: &[Placed], read: Read) -> Input {
    match read {
        Read::Service(asked) => {
            let all = placed.iter().flat_map(|one| &one.registrations);
            let found: Vec<_> = all
                .filter(|found| name(found) == (asked.namespace.clone(), asked.service.clone()))
                .cloned()
                .collect();
            Input::Service {
                name: Name { ..asked },
                index: 10,
                registrations: serde_json::from_value(json!(found)).unwrap(),
            }
        }
        Read::Allocation(id) => {
            let found = placed
                .iter()
                .find(|one| one.allocation["ID"] == id.as_str());
            let allocation = found.map(|one| one.allocation.clone());
            Input::Allocation {
                id,
                allocation: allocation.map(|found| serde_json::from_value(found).unwrap()),
            }
        }
        other => panic!("a read that nobody answers: {other:?}"),
    }
}

fn name(registration: &Value) -> (String, String) {
    let text = |key: &str| registration[key].as_str().unwrap().to_owned();
    (text("Namespace"), text("ServiceName"))
}
