//! `mesh nomad status`: each piece, the roots, the nodes.

use std::collections::BTreeSet;
use std::process::ExitCode;

use mesh_nomad::install::node::Readiness;
use mesh_nomad::install::{Component, Counts, Settings, Shape, is_ours};
use mesh_nomad::model::Job;
use mesh_nomad::model::allocation::Allocation;
use mesh_nomad::model::node::Node;
use mesh_nomad::sidecar::ROOT_TAG;
use serde::Serialize;

use super::choice::Place;
use super::cluster::{Cluster, Found};
use super::install::Admin;
use super::{admin, failed};
use crate::exit::{DRIFT, Failure, OK, Outcome};
use crate::join;
use crate::output::{Format, print_json, print_table};

/// Tell how the control plane on Nomad is: each job, the roots in the catalogue, the nodes.
///
/// Exits with 3 when something is not as it should be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    format: Format,
}

/// How everything is.
#[derive(Debug, Serialize)]
struct Report {
    namespace: String,
    components: Vec<ComponentReport>,
    roots: RootReport,
    nodes: Vec<NodeReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ComponentReport {
    job: String,
    desired: i64,
    running: usize,
    healthy: usize,
    /// Nomad's number of the job's version.
    version: u64,
    /// Where its programs come from.
    programs: String,
    /// How its last deployment went.
    deployment: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RootReport {
    /// In the tags of the service `mesh-ca`, which joining agents trust.
    catalogue: Vec<String>,
    /// As the CA publishes them; none when the API was not asked or did not answer.
    published: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct NodeReport {
    name: String,
    status: String,
    ready: bool,
    why: String,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let cluster = Cluster::open(&args.place)?;
    let (found, settings) = cluster.look_at_install().await?;
    let mut allocations = Vec::new();
    let report = Report {
        namespace: cluster.namespace.clone(),
        components: components(&cluster, &found, &settings, &mut allocations).await?,
        roots: roots(&cluster, &args.admin).await?,
        nodes: nodes(&found, &settings, &allocations),
    };
    if args.format.json {
        print_json(&report)?;
    } else {
        print(&report);
    }
    Ok(if report.is_well() {
        OK.into()
    } else {
        ExitCode::from(DRIFT)
    })
}

impl Report {
    fn is_well(&self) -> bool {
        let is_well = |found: &ComponentReport| {
            let wanted = usize::try_from(found.desired).unwrap_or(0);
            found.healthy >= wanted && found.deployment != "failed"
        };
        self.components.iter().all(is_well)
            && !self.roots.catalogue.is_empty()
            && self.roots.is_in_step()
    }
}

impl RootReport {
    fn is_in_step(&self) -> bool {
        self.published
            .as_ref()
            .is_none_or(|published| *published == self.catalogue)
    }
}

/// How the pieces are; their allocations are added to `all`.
async fn components(
    cluster: &Cluster,
    found: &Found,
    settings: &Settings,
    all: &mut Vec<Allocation>,
) -> Result<Vec<ComponentReport>, Failure> {
    let wanted: Vec<(Component, u16)> = match settings.shape {
        Shape::Dev => vec![(Component::Dev, 1)],
        Shape::Cluster(Counts {
            etcd,
            api,
            ca,
            pilot,
            mixer,
        }) => Component::CLUSTER
            .into_iter()
            .zip([etcd, api, ca, pilot, mixer])
            .collect(),
    };
    let gateways = settings.ingress.count;
    let gateways = (gateways > 0).then_some((Component::Ingress, gateways));
    let mut reports = Vec::new();
    for (component, count) in wanted.into_iter().chain(gateways) {
        let id = component.job_id();
        let cluster = &cluster.of(component, settings);
        let Some(job) = found.facts.job(id).filter(|job| is_ours(job)) else {
            reports.push(ComponentReport {
                job: id.to_owned(),
                desired: i64::from(count),
                running: 0,
                healthy: 0,
                version: 0,
                programs: String::new(),
                deployment: "no such job".to_owned(),
            });
            continue;
        };
        let doing = |error| failed(format!("reading job {id}"), &error);
        let allocations = cluster
            .client
            .job_allocations(&cluster.namespace, id)
            .await
            .map_err(doing)?
            .value;
        let running: Vec<_> = allocations
            .iter()
            .filter(|found| found.is_live() && found.client_status.text() == "running")
            .collect();
        let mut healthy = 0;
        for allocation in &running {
            healthy += usize::from(passes(cluster, allocation).await);
        }
        let deployment = cluster
            .client
            .job_deployment(&cluster.namespace, id)
            .await
            .map_err(doing)?;
        reports.push(ComponentReport {
            job: id.to_owned(),
            desired: job
                .task_groups
                .items()
                .iter()
                .map(|group| group.count.value())
                .sum(),
            running: running.len(),
            healthy,
            version: job.version.value(),
            programs: programs(job),
            deployment: deployment.map_or_else(String::new, |found| found.status.text().to_owned()),
        });
        all.extend(allocations);
    }
    Ok(reports)
}

/// Whether all checks of an allocation pass, as its node sees it; not when the node is silent.
async fn passes(cluster: &Cluster, allocation: &Allocation) -> bool {
    let checks = cluster.client.checks(allocation.id.text());
    let checks = tokio::time::timeout(PATIENCE, checks).await;
    checks.is_ok_and(|checks| {
        let checks = checks.unwrap_or_default();
        !checks.is_empty()
            && checks
                .values()
                .all(|check| check.status.text() == "success")
    })
}

/// Where the main task's programs come from.
fn programs(job: &Job) -> String {
    let mut tasks = job
        .task_groups
        .items()
        .iter()
        .flat_map(|group| group.tasks.items());
    let Some(task) = tasks.rfind(|task| task.is_main()) else {
        return String::new();
    };
    let sources: Vec<_> = task
        .artifacts
        .items()
        .iter()
        .map(|artifact| artifact.source.text())
        .collect();
    if !sources.is_empty() {
        return sources.join(" ");
    }
    let config = task.config.get();
    let of = |key: &str| config.and_then(|config| config.get(key)?.as_str());
    of("image")
        .or_else(|| of("command"))
        .unwrap_or_default()
        .to_owned()
}

async fn roots(cluster: &Cluster, admin: &Admin) -> Result<RootReport, Failure> {
    let service = Component::Ca.job_id();
    let found = cluster.client.service(&cluster.namespace, service).await;
    let found = found.map_err(|error| failed("asking for the roots in the catalogue", &error))?;
    let tags = found
        .value
        .iter()
        .flat_map(|registration| registration.tags.items());
    let mut catalogue: Vec<_> = tags
        .filter_map(|tag| tag.strip_prefix(ROOT_TAG))
        .map(str::to_owned)
        .collect();
    catalogue.sort_unstable();
    catalogue.dedup();
    let file = admin.file();
    let published = if file.is_file() {
        let asked = async { join::facts(&admin::client(&file).await?).await };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(facts)) => {
                let mut hashes = facts.root_hashes;
                hashes.sort_unstable();
                Some(hashes)
            }
            Ok(Err(failure)) => {
                eprintln!("the API server does not tell the roots: {failure}");
                None
            }
            Err(_elapsed) => {
                eprintln!("the API server does not answer");
                None
            }
        }
    } else {
        None
    };
    Ok(RootReport {
        catalogue,
        published,
    })
}

fn nodes(found: &Found, settings: &Settings, allocations: &[Allocation]) -> Vec<NodeReport> {
    let report = |node: &Node| {
        let (ready, why) = match &settings.network {
            _ if node.is_lost() => (false, loss(node, allocations)),
            Some(network) => {
                let readiness = Readiness::of(node, network);
                (readiness.is_ready(), readiness.to_string())
            }
            None => (false, "left as it is, as `--no-nodes` said".to_owned()),
        };
        NodeReport {
            name: node.name.text().to_owned(),
            status: node.status.text().to_owned(),
            ready,
            why,
        }
    };
    let mut nodes: Vec<_> = found.facts.nodes.iter().map(report).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

/// What a lost node means to the control plane: who went elsewhere, and who waits for it.
fn loss(node: &Node, allocations: &[Allocation]) -> String {
    let here = |found: &&Allocation| found.node_id == node.id;
    let jobs = |is_wanted: bool| -> BTreeSet<&str> {
        let there = allocations.iter().filter(here);
        let there = there.filter(|found| match found.client_status.text() {
            "lost" => !is_wanted,
            "unknown" | "running" | "pending" => is_wanted,
            _ => false,
        });
        there.map(|found| found.job_id.text()).collect()
    };
    let mut why = vec!["lost: nomad hears nothing of it".to_owned()];
    for (is_wanted, words) in [(false, "placed anew"), (true, "waiting for it")] {
        let jobs: Vec<_> = jobs(is_wanted).into_iter().collect();
        if !jobs.is_empty() {
            why.push(format!("{words}: {}", jobs.join(", ")));
        }
    }
    why.join("; ")
}

fn print(report: &Report) {
    let header = [
        "JOB",
        "DESIRED",
        "RUNNING",
        "HEALTHY",
        "VERSION",
        "DEPLOYMENT",
        "PROGRAMS",
    ];
    let rows = report.components.iter().map(|found| {
        [
            found.job.clone(),
            found.desired.to_string(),
            found.running.to_string(),
            found.healthy.to_string(),
            found.version.to_string(),
            found.deployment.clone(),
            found.programs.clone(),
        ]
    });
    print_table(&header, rows);
    println!();
    for root in &report.roots.catalogue {
        println!("root: {root}");
    }
    if report.roots.catalogue.is_empty() {
        println!(
            "root: none in the catalogue; no agent can join until `mesh nomad install` has put it there"
        );
    } else if !report.roots.is_in_step() {
        println!(
            "root: the CA publishes others; `mesh nomad install` brings the catalogue in step"
        );
    }
    println!();
    let rows = report.nodes.iter().map(|node| {
        let ready = if node.ready { "yes" } else { "no" };
        [
            node.name.clone(),
            node.status.clone(),
            ready.to_owned(),
            node.why.clone(),
        ]
    });
    print_table(&["NODE", "STATUS", "MODE CNI", "WHY"], rows);
}

/// How long the API may take: a status is wanted when something is wrong, too.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_node_is_told_with_what_it_means() {
        let node = Node {
            id: "n2".into(),
            status: "down".into(),
            ..Node::default()
        };
        let allocation = |job: &str, node: &str, status: &str| Allocation {
            job_id: job.into(),
            node_id: node.into(),
            client_status: status.into(),
            ..Allocation::default()
        };
        let all = [
            allocation("mesh-etcd", "n2", "unknown"),
            allocation("mesh-pilot", "n2", "lost"),
            allocation("mesh-pilot", "n1", "running"),
            allocation("mesh-ca", "n2", "complete"),
        ];
        assert_eq!(
            loss(&node, &all),
            "lost: nomad hears nothing of it; placed anew: mesh-pilot; waiting for it: mesh-etcd"
        );
    }
}
