//! `mesh nomad check`: what a job would lack on the cluster once it is injected.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mesh_nomad::check::{Cluster, EligibleNode, Finding, Severity, check, is_eligible, of_plan};
use mesh_nomad::client::{Address, Client, Config};
use mesh_nomad::inject::inject;
use mesh_nomad::install::node::closed_directories;
use mesh_nomad::model::agent::Agent;
use mesh_nomad::model::node::Node;
use mesh_nomad::model::{Job, TaskGroup};
use serde::Serialize;

use super::super::inject::{Wishes, document, is_json, read, refused, tell};
use super::{answered, client, config, trouble};
use crate::exit::{FAILURE, Failure, OK, Outcome};
use crate::output::{Format, print_json, write_out};

/// Tell what a job would lack on this cluster once a sidecar is injected.
///
/// Looks for the control plane, and on every node that may take the job for plugins, networks,
/// drivers and capabilities; asks the scheduler for a plan; and finds who calls the job's services
/// past the mesh, whom mutual TLS STRICT would refuse. Nothing is registered. The exit code is 1 if
/// the job would not run in the mesh.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job file, injected or not; `-` for standard input.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    format: Format,
}

/// A finding as JSON has it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    severity: &'static str,
    path: &'a str,
    reason: &'a str,
    hint: &'a str,
}

/// Questions to the cluster at once.
const CONCURRENT: usize = 8;
/// An agent that does not answer by then is not asked for the configuration of its plugins.
const AGENT: Duration = Duration::from_secs(3);

pub(crate) async fn run(args: Args) -> Outcome {
    let text = read(&args.file)?;
    let config = config()?;
    let client = client(config.clone())?;
    let job = if is_json(&text) {
        document(&text, &args.file)?.job().clone()
    } else {
        let what = format!("having the server read {}", args.file.display());
        answered(&what, client.parse_job(&text, "", false).await)?
    };
    let nodes = nodes(&client, &job).await?;
    let mut options = args.wishes.options();
    options.every_node_has_cni = Some(nodes.iter().all(has_plugin));
    let mesh_namespace = options.mesh_namespace.clone();
    let injection = inject(&job, &options).map_err(|refusals| refused(&refusals))?;
    tell(&injection.report);
    let job = injection.job;
    let complaints = trouble::complaints(&client, &mesh_namespace).await;
    let cluster = Cluster {
        nodes: with_agents(&config, nodes, &job, &complaints).await,
        namespace: namespace(&client, job.namespace()).await?,
        jobs: jobs(&client, job.namespace()).await?,
        pilots: services(&client, &mesh_namespace, "mesh-pilot").await?,
        authorities: services(&client, &mesh_namespace, "mesh-ca").await?,
    };
    let mut findings = check(&job, &cluster);
    if cluster.namespace.is_some() {
        let plan = answered("planning the job", client.plan_job(&job).await)?;
        findings.extend(of_plan(&plan));
        findings.sort_by_key(|finding| finding.severity);
    }
    print(&findings, args.format)?;
    let has_problem = findings
        .iter()
        .any(|finding| finding.severity == Severity::Problem);
    Ok(ExitCode::from(if has_problem { FAILURE } else { OK }))
}

fn print(findings: &[Finding], format: Format) -> Result<(), Failure> {
    if format.json {
        let lines = findings.iter().map(|finding| Line {
            severity: finding.severity.as_str(),
            path: &finding.path,
            reason: &finding.reason,
            hint: &finding.hint,
        });
        return print_json(&lines.collect::<Vec<_>>());
    }
    if findings.is_empty() {
        write_out(format_args!("nothing is missing\n"));
    }
    for finding in findings {
        write_out(format_args!("{}: {finding}\n", finding.severity.as_str()));
        if !finding.hint.is_empty() {
            write_out(format_args!("  hint: {}\n", finding.hint));
        }
    }
    Ok(())
}

/// The nodes that may take the job, whole.
async fn nodes(client: &Client, job: &Job) -> Result<Vec<Node>, Failure> {
    let listed = answered("listing the nodes", client.nodes().await)?.value;
    let eligible = listed.into_iter().filter(|node| is_eligible(node, job));
    let read = eligible.map(|node| async move {
        let read = client.node(node.id.text()).await;
        answered("reading a node", read).map(|reply| reply.value)
    });
    stream::iter(read).buffered(CONCURRENT).try_collect().await
}

fn has_plugin(node: &Node) -> bool {
    let attributes = node.attributes.get();
    attributes.is_some_and(|has| has.contains_key("plugins.cni.version.mesh-cni"))
}

/// The nodes with what their agents say, as far as the job needs to know how drivers are
/// configured and the token allows to ask; and with what their preparation complained of.
async fn with_agents(
    config: &Config,
    nodes: Vec<Node>,
    job: &Job,
    complaints: &BTreeMap<String, String>,
) -> Vec<EligibleNode> {
    let is_asked = job.task_groups.items().iter().any(wants_capabilities);
    let all = nodes.into_iter().map(|node| async move {
        let agent = if is_asked {
            agent(config, &node).await
        } else {
            None
        };
        let said = complaints.get(node.id.text()).map_or("", String::as_str);
        let closed = closed_directories(said).map(str::to_owned).collect();
        EligibleNode {
            node,
            agent,
            closed,
        }
    });
    stream::iter(all).buffered(CONCURRENT).collect().await
}

fn wants_capabilities(group: &TaskGroup) -> bool {
    let mut tasks = group.tasks.items().iter();
    tasks.any(|task| {
        let config = task.config.get();
        config.is_some_and(|config| config.contains_key("cap_add"))
    })
}

/// What a node's own agent says; nothing if it cannot be asked, which the check tells.
async fn agent(config: &Config, node: &Node) -> Option<Agent> {
    let scheme = match config.address {
        Address::Https { .. } => "https",
        Address::Http { .. } | Address::Unix(_) => "http",
    };
    let address = format!("{scheme}://{}", node.http_addr.text());
    let client = Client::new(Config {
        address: address.parse().ok()?,
        timeout: AGENT,
        ..config.clone()
    });
    match tokio::time::timeout(AGENT, client.ok()?.agent()).await {
        Ok(Ok(agent)) => Some(agent),
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::info!(
                node = node.name.text(),
                error,
                "the node's agent does not tell its configuration"
            );
            None
        }
        Err(_elapsed) => {
            tracing::info!(node = node.name.text(), "the node's agent does not answer");
            None
        }
    }
}

async fn namespace(
    client: &Client,
    name: &str,
) -> Result<Option<mesh_nomad::model::namespace::Namespace>, Failure> {
    match client.namespace(name).await {
        Err(error) if error.is_not_found() => Ok(None),
        answer => answered("reading the job's namespace", answer).map(Some),
    }
}

/// The jobs of a namespace, whole; one that goes meanwhile is left out.
async fn jobs(client: &Client, namespace: &str) -> Result<Vec<Job>, Failure> {
    let listed = answered("listing the jobs", client.jobs(namespace).await)?.value;
    let read = listed.into_iter().map(|stub| async move {
        match client.job(namespace, stub.id.text()).await {
            Err(error) if error.is_not_found() => Ok(None),
            answer => answered("reading a job", answer).map(Some),
        }
    });
    let read = stream::iter(read).buffered(CONCURRENT);
    let read: Vec<Option<Job>> = read.try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

async fn services(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Vec<mesh_nomad::model::registration::Registration>, Failure> {
    let found = client.service(namespace, name).await;
    answered(&format!("looking for the service `{name}`"), found).map(|reply| reply.value)
}
