//! `mesh nomad uninstall`: everything out again, the last first.

use std::time::Duration;

use mesh_nomad::client::Stop;
use mesh_nomad::inject::is_injected;
use mesh_nomad::install::node::manual_removal;
use mesh_nomad::install::{
    Component, RECORD, Settings, is_our_namespace, is_our_policy, is_ours, node_removal,
    variable_path,
};
use mesh_nomad::model::Job;
use mesh_nomad::model::node::Node;

use super::choice::Place;
use super::cluster::{Cluster, Found};
use super::failed;
use super::rollout::NODE_WORK;
use crate::exit::{Failure, OK, Outcome, REFUSED};

/// Take the control plane off the cluster: jobs, variables, policies, what nodes got, namespace.
///
/// The store stays where it is unless `--purge-data` is given: an install that follows finds it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    /// Also while injected jobs run, or end: they go on with what their sidecars know, and cannot
    /// start anew.
    #[arg(long)]
    force: bool,
    /// Remove the store as well: objects, the mesh's root, volumes and directories.
    #[arg(long)]
    purge_data: bool,
    /// How long to wait for injected groups that were told to stop and have not ended: their
    /// networks are taken down by what is on the nodes.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::commands::agent::duration)]
    wait: Duration,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let cluster = Cluster::open(&args.place)?;
    let (found, settings) = cluster.look_at_install().await?;
    let injected = injected_jobs(&cluster).await?;
    if !injected.is_empty() && !args.force {
        let message = format!("injected jobs run: {}", injected.join(", "));
        return Err(Failure::new(message).with_code(REFUSED).with_hint(
            "stop them or run them without the mesh (`mesh uninject`) first, or add --force",
        ));
    }
    let work = Work {
        cluster,
        found,
        settings,
        purge_data: args.purge_data,
    };
    let wait = (!args.force).then_some(args.wait);
    let removal = node_removal(&work.settings, work.purge_data, wait);
    if let (Some(wait), Some(_), Some(network)) = (wait, &removal, &work.settings.network) {
        work.cluster.quiet(network, wait).await?;
    }
    work.jobs().await?;
    work.nodes(removal, args.wait).await?;
    work.volumes().await?;
    work.rest().await?;
    println!("the mesh is gone from the cluster");
    Ok(OK.into())
}

/// The injected jobs of all namespaces, as `namespace/job`.
async fn injected_jobs(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let doing = |error| failed("looking for injected jobs", &error);
    let stubs = cluster.client.jobs("*").await.map_err(doing)?.value;
    let mut found = Vec::new();
    for stub in stubs.iter().filter(|stub| stub.status.text() != "dead") {
        let (namespace, id) = (stub.namespace.text(), stub.id.text());
        let job = match cluster.client.job(namespace, id).await {
            Ok(job) => job,
            // Gone since.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(doing(error)),
        };
        if job.task_groups.items().iter().any(is_injected) {
            found.push(format!("{namespace}/{id}"));
        }
    }
    Ok(found)
}

struct Work {
    cluster: Cluster,
    found: Found,
    settings: Settings,
    purge_data: bool,
}

impl Work {
    /// The pieces, the last started first.
    async fn jobs(&self) -> Result<(), Failure> {
        for component in Component::ALL.into_iter().rev() {
            let place = self.cluster.of(component, &self.settings);
            if place.end(component.job_id()).await? {
                println!("job {}: gone", component.job_id());
            }
        }
        Ok(())
    }

    /// What nodes got.
    async fn nodes(&self, removal: Option<Job>, wait: Duration) -> Result<(), Failure> {
        let Some(job) = removal else {
            self.tell_prepared();
            return Ok(());
        };
        let id = job.id.text();
        self.cluster.end(id).await?;
        self.cluster.bring_within(&job, NODE_WORK + wait).await?;
        let purge = Stop {
            purge: true,
            ..Stop::default()
        };
        let purged = self
            .cluster
            .client
            .stop_job(&self.cluster.namespace, id, purge)
            .await;
        purged.map_err(|error| failed(format!("removing job {id}"), &error))?;
        println!("nodes: as they were");
        for node in self.found.facts.nodes.iter().filter(|node| node.is_lost()) {
            println!(
                "node {}: lost; what it got stays there until somebody takes it away",
                node.name.text()
            );
        }
        Ok(())
    }

    /// What is left on nodes that somebody has prepared by hand.
    fn tell_prepared(&self) {
        let Some(network) = &self.settings.network else {
            return;
        };
        let is_prepared = |node: &&Node| {
            let attributes = node.attributes.get();
            attributes.is_some_and(|has| has.contains_key("plugins.cni.version.mesh-cni"))
        };
        let nodes = self.found.facts.nodes.iter().filter(is_prepared);
        let nodes: Vec<_> = nodes.map(|node| node.name.text()).collect();
        if nodes.is_empty() {
            return;
        }
        eprintln!(
            "prepared by hand, and as they were after these steps: {}",
            nodes.join(", ")
        );
        for step in manual_removal(network) {
            eprintln!("  {step}");
        }
    }

    async fn volumes(&self) -> Result<(), Failure> {
        for volume in &self.found.facts.volumes {
            let (id, name) = (volume.id.text(), volume.name.text());
            if !["mesh-etcd", "mesh-data"].contains(&name) {
                continue;
            }
            if !self.purge_data {
                println!("volume {name} on node {}: kept", volume.node_id.text());
                continue;
            }
            let client = &self.cluster.client;
            let doing = |error| failed(format!("removing volume {name}"), &error);
            let claims = client
                .volume_claims(&self.cluster.namespace)
                .await
                .map_err(doing)?;
            for claim in claims.iter().filter(|claim| claim.volume_id.text() == id) {
                let removed = client
                    .remove_volume_claim(&self.cluster.namespace, claim.id.text())
                    .await;
                removed.map_err(doing)?;
            }
            let mut nodes = self.found.facts.nodes.iter();
            let is_lost = nodes.any(|node| node.id == volume.node_id && node.is_lost());
            let namespace = &self.cluster.namespace;
            let removed = if is_lost {
                client.forget_host_volume(namespace, id).await
            } else {
                client.remove_host_volume(namespace, id).await
            };
            removed.map_err(doing)?;
            let what = if is_lost {
                "forgotten, for the node is lost; what it holds stays there"
            } else {
                "gone"
            };
            println!("volume {name} on node {}: {what}", volume.node_id.text());
        }
        Ok(())
    }

    /// Variables, policies, namespace.
    async fn rest(&self) -> Result<(), Failure> {
        let client = &self.cluster.client;
        let namespace = &self.cluster.namespace;
        let mut paths: Vec<_> = Component::ALL.into_iter().map(variable_path).collect();
        // The last: without it nobody knows that there was an install.
        paths.push(RECORD.to_owned());
        for policy in self
            .found
            .facts
            .policies
            .iter()
            .filter(|policy| is_our_policy(policy, &self.settings))
        {
            let name = policy.name.text();
            let removed = client.remove_policy(name).await;
            removed.map_err(|error| failed(format!("removing policy {name}"), &error))?;
            println!("policy {name}: gone");
        }
        for path in paths
            .iter()
            .filter(|path| self.found.variables.contains_key(*path))
        {
            let removed = client.remove_variable(namespace, path, None).await;
            removed.map_err(|error| failed(format!("removing variable {path}"), &error))?;
            println!("variable {path}: gone");
        }
        self.ingress_namespace().await?;
        let keeps = !self.purge_data && !self.found.facts.volumes.is_empty();
        let foreign: Vec<_> = self
            .found
            .facts
            .jobs
            .iter()
            .filter(|job| job.namespace.text() == namespace && !is_ours(job))
            .map(|job| job.id.text())
            .collect();
        if keeps || !foreign.is_empty() {
            let why = if keeps {
                "its volumes are kept".to_owned()
            } else {
                format!("it has {}", foreign.join(", "))
            };
            println!("namespace {namespace}: stays, for {why}");
            return Ok(());
        }
        let removed = client.remove_namespace(namespace).await;
        removed.map_err(|error| failed(format!("removing namespace {namespace}"), &error))?;
        println!("namespace {namespace}: gone");
        Ok(())
    }

    /// The namespace of the gateways, unless somebody has put a job of theirs there.
    async fn ingress_namespace(&self) -> Result<(), Failure> {
        let found = self.found.facts.ingress_namespace.as_ref();
        if !found.is_some_and(is_our_namespace) {
            return Ok(());
        }
        let place = self.cluster.of(Component::Ingress, &self.settings);
        let namespace = &place.namespace;
        let jobs = place.jobs().await?;
        let foreign: Vec<_> = jobs.iter().map(|job| job.id.text()).collect();
        if !foreign.is_empty() {
            println!(
                "namespace {namespace}: stays, for it has {}",
                foreign.join(", ")
            );
            return Ok(());
        }
        let removed = place.client.remove_namespace(namespace).await;
        removed.map_err(|error| failed(format!("removing namespace {namespace}"), &error))?;
        println!("namespace {namespace}: gone");
        Ok(())
    }
}
