//! One view of two registries: what the catalogue lists and what agents say of themselves.
//!
//! The same id is one workload. Where it is called is the catalogue's word, for an agent sees its
//! own network only; whether it may be called, who it is and what its sidecar listens at is the
//! agent's, for it stands beside the application and has proven its account.
//!
//! A job's account is a claim of whoever submitted the job. It is believed if it is the job's own
//! ID, which Nomad vouches for and the CA would issue; one that the job asks for counts only once
//! an agent has proven it with a certificate. So no lie of a job makes callers trust anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::{Health, Workload, WorkloadId, WorkloadPort};
use mesh_nomad::catalogue::Instance;
use mesh_nomad::identity::Account;

/// Instances of the catalogue by the ids of their workloads.
pub type Instances = BTreeMap<WorkloadId, Arc<Instance>>;

/// What the catalogue says.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue<'a> {
    /// What it lists.
    pub listed: &'a Instances,
    /// What it listed once and does not any more: an allocation that ends is taken from the
    /// catalogue first, and its agent stays until the application has ended.
    pub departed: &'a Instances,
    /// What it listed when this Pilot began to read it, and whose agents have not been here since:
    /// they may be on their way back, and their applications are called meanwhile.
    pub inherited: &'a BTreeSet<WorkloadId>,
    /// What it lists again after it had dropped it: a restart of an allocation does that before its
    /// tasks end, so that the agent which is still here is about to leave.
    pub restarting: &'a BTreeSet<WorkloadId>,
}

/// The workloads of both, in the order of ids.
///
/// - What both know is called where the catalogue says, under the agent's health and identity.
/// - What only the catalogue knows is called if it has no sidecar. If one was injected, it is not
///   ready before its agent is here, unless it was there before this Pilot.
/// - What only agents know is as they say.
/// - What the catalogue has dropped is not called any more, and what it lists again not before it
///   has restarted.
pub fn merge(
    agents: impl IntoIterator<Item = (Workload, Health)>,
    catalogue: Catalogue<'_>,
) -> Vec<(Workload, Health)> {
    let listed = catalogue.listed.iter();
    let mut all: BTreeMap<_, _> = listed
        .map(|(id, instance)| {
            let is_inherited = catalogue.inherited.contains(id);
            (id.clone(), alone(instance, is_inherited))
        })
        .collect();
    for (agent, health) in agents {
        let id = agent.id.clone();
        let (instance, is_called) = match catalogue.listed.get(&id) {
            Some(instance) => {
                let is_restarting = catalogue.restarting.contains(&id);
                (Some(instance), !instance.is_leaving && !is_restarting)
            }
            None => (catalogue.departed.get(&id), false),
        };
        let merged = match instance {
            None => (agent, health),
            Some(instance) if !is_agent_of(instance, &agent) => continue,
            Some(instance) if is_called => (both(agent, instance), health),
            Some(instance) => (both(agent, instance), Health::Unhealthy),
        };
        all.insert(id, merged);
    }
    all.into_values().collect()
}

/// Whether an agent can be the one of an allocation: it runs in the allocation's namespace, under
/// the account that the allocation runs as, and a sidecar was injected there.
///
/// An agent proves its namespace and account, not its id. Without this anybody with a certificate
/// could speak for another's allocation.
pub fn is_agent_of(instance: &Instance, agent: &Workload) -> bool {
    let known = &instance.workload;
    known.sidecar.is_present()
        && known.namespace == agent.namespace
        && known.service_account == agent.service_account
}

/// What is known of an instance whose agent is not here.
fn alone(instance: &Instance, is_inherited: bool) -> (Workload, Health) {
    let mut workload = instance.workload.clone();
    if !workload.sidecar.is_present() {
        return (workload, instance.health);
    }
    if !matches!(instance.account, Some(Account::OfJob(_))) {
        // Nobody has proven the account: its services are there, and it serves none of them.
        workload.addresses.clear();
    } else if is_inherited && !instance.is_leaving {
        return (workload, instance.health);
    }
    (workload, Health::Starting)
}

/// What both know.
fn both(agent: Workload, instance: &Instance) -> Workload {
    let mut labels = instance.workload.labels.clone();
    labels.extend(agent.labels.clone());
    let mut services = instance.workload.services.clone();
    for service in &mut services {
        let told = agent.services.iter().find(|told| told.name == service.name);
        for port in &mut service.ports {
            refine(port, &agent, told.map_or(&[], |told| &told.ports));
        }
    }
    Workload {
        addresses: instance.workload.addresses.clone(),
        labels,
        services,
        ..agent
    }
}

/// Takes what the agent knows better of a port of a service: which of the application's own it
/// leads to, what is spoken there, and what callers know it by. The catalogue finds that out from
/// the job, unless another release has injected the sidecar.
fn refine(port: &mut WorkloadPort, agent: &Workload, told: &[WorkloadPort]) {
    let taken = port.own();
    let own = agent.explicit.as_ref().and_then(|explicit| {
        let mut inbound = explicit.inbound.iter();
        inbound.find_map(|(own, at)| (*at == taken).then_some(*own))
    });
    let own = own.unwrap_or(taken);
    port.inside = (own != port.target).then_some(own);
    let mut told = told.iter().filter(|told| told.own() == own);
    // One that is served under several numbers is what the catalogue says that it is.
    if let (Some(told), None) = (told.next(), told.next()) {
        port.name.clone_from(&told.name);
        port.number = told.number;
        port.protocol = told.protocol;
    }
}

#[cfg(test)]
mod tests;
