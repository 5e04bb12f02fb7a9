//! `mesh nomad install` and `upgrade`: the plan step by step, each once the one before is well.

use std::path::PathBuf;

use mesh_control::api::backup::Backup;
use mesh_nomad::install::node::{Readiness, closed_directories, manual_steps};
use mesh_nomad::install::{
    Component, Facts, INGRESS_ACCOUNT, Plan, Settings, Shape, Step, is_ours, plan, roots_of,
    with_root_tags,
};
use mesh_nomad::model::Job;
use mesh_nomad::model::node::Node;
use mesh_nomad::model::volume::HostVolume;

use super::choice::{Extent, Place, Programs};
use super::cluster::{Cluster, Found};
use super::rollout::{Change, PAUSE, is_delivered_anew};
use super::{admin, failed, programs, restore, secret, trouble};
use crate::exit::{Failure, OK, Outcome, REFUSED};
use crate::join;

/// Put the control plane of a mesh on a Nomad cluster, as jobs.
///
/// Nomad is where `NOMAD_ADDR` and its kin say. Every step looks first, and waits until what it made
/// is healthy; a second run does what is left to do, and options that are not given stay as they
/// were. Nothing that bears the mesh's names and is not its own is touched.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    admin: Admin,
    /// Do not store the mesh-wide policy that refuses plaintext.
    #[arg(long)]
    permissive: bool,
    /// A backup (`mesh backup`) that fills the store of this new mesh before anything reads it: the
    /// mesh goes on with its roots and objects.
    #[arg(long, value_name = "FILE", conflicts_with = "only_secrets")]
    restore: Option<PathBuf>,
    /// Make namespace, policies, variables and volumes, and no job: for who registers the files of
    /// `mesh nomad render`.
    #[arg(long)]
    only_secrets: bool,
    /// Print the steps and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Bring every piece of an install to other programs, one after the other; stops at the first that
/// does not become healthy.
#[derive(Debug, clap::Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    admin: Admin,
    /// Print the steps and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Where the admin's kubeconfig goes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Admin {
    /// The admin's kubeconfig, which is written with mode 0600; `kubeconfig` in `MESH_HOME` unless
    /// given.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub(super) home: crate::connect::Home,
}

impl Admin {
    pub(super) fn file(&self) -> PathBuf {
        let own = || self.home.home.join("kubeconfig");
        self.kubeconfig.clone().unwrap_or_else(own)
    }
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let cluster = Cluster::open(&args.place)?;
    let found = cluster.look().await?;
    let settings = args
        .extent
        .settings(&args.place, &args.programs, found.settings.as_ref())?;
    let plan = plan(&settings, &found.facts)
        .map_err(|refusals| Failure::new(refusals.to_string()).with_code(REFUSED))?;
    let restore = args.restore.as_deref().map(restore::read).transpose()?;
    if restore.is_some() {
        restore::refuse_beside(&found.facts)?;
    }
    if args.dry_run {
        return print(&cluster, &plan, restore.as_ref()).await;
    }
    let work = Work {
        cluster,
        settings,
        found,
        admin: args.admin.clone(),
        permissive: args.permissive,
        restore,
    };
    work.carry_out(plan, args.only_secrets).await
}

pub(crate) async fn upgrade(args: &UpgradeArgs) -> Outcome {
    let cluster = Cluster::open(&args.place)?;
    let (found, before) = cluster.look_at_install().await?;
    if args.programs.is_empty() {
        return Err(Failure::usage("upgrade to what?").with_hint(
            "name the new programs as at `mesh nomad install`: --image, --artifact or --program",
        ));
    }
    let settings = Extent::default().settings(&args.place, &args.programs, Some(&before))?;
    if settings.delivery.runner != before.delivery.runner {
        return Err(Failure::new(
            "tasks that are processes do not become containers, nor the other way",
        )
        .with_code(REFUSED)
        .with_hint("their data is in other places: uninstall, and install anew"));
    }
    let plan = plan(&settings, &found.facts)
        .map_err(|refusals| Failure::new(refusals.to_string()).with_code(REFUSED))?;
    if args.dry_run {
        return print(&cluster, &plan, None).await;
    }
    let work = Work {
        cluster,
        settings,
        found,
        admin: args.admin.clone(),
        // Whoever took the policy away has decided.
        permissive: true,
        restore: None,
    };
    work.carry_out(plan, false).await
}

/// What would be done, jobs by the server's own plan.
async fn print(cluster: &Cluster, plan: &Plan, restore: Option<&Backup>) -> Outcome {
    let new: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Namespace(namespace) => Some(namespace.name.text()),
            _ => None,
        })
        .collect();
    if let Some(backup) = restore {
        println!(
            "fill the store with {} objects of revision {}",
            backup.len(),
            backup.revision()
        );
    }
    for step in &plan.steps {
        let verb = match step {
            Step::Job(job) if !new.contains(&job.namespace.text()) => {
                let found = cluster.client.plan_job(job).await;
                let found =
                    found.map_err(|error| failed(format!("planning {}", step.title()), &error))?;
                match found.diff.get().map_or("", |diff| diff.kind.text()) {
                    "None" => continue,
                    "Added" => "make",
                    _ => "change",
                }
            }
            Step::Job(_) | Step::Namespace(_) | Step::Volume(_) => "make",
            Step::End(_) => "end",
            _ => "write",
        };
        println!("{verb} {}", step.title());
    }
    Ok(OK.into())
}

/// One install.
struct Work {
    cluster: Cluster,
    settings: Settings,
    found: Found,
    admin: Admin,
    permissive: bool,
    restore: Option<Backup>,
}

impl Work {
    async fn carry_out(&self, plan: Plan, only_secrets: bool) -> Outcome {
        let mut changes = 0_usize;
        let (jobs, ground): (Vec<_>, Vec<_>) = plan
            .steps
            .into_iter()
            .partition(|step| matches!(step, Step::Job(_) | Step::End(_)));
        // The namespace first: what follows is in it.
        for step in &ground {
            if !matches!(step, Step::Variable { .. }) {
                self.lay(step).await?;
                println!("{}: made", step.title());
                changes += 1;
            }
        }
        let secrets =
            secret::make(&self.cluster, &self.settings, &plan.members, &self.found).await?;
        for path in &secrets.written {
            println!("variable {path}: written");
            changes += 1;
        }
        if only_secrets {
            println!("no job was registered, as asked");
            return Ok(OK.into());
        }
        let mut ended = Vec::new();
        let jobs: Vec<Job> = jobs
            .into_iter()
            .filter_map(|step| match step {
                Step::Job(job) => Some(*job),
                Step::End(component) => {
                    ended.push(component);
                    None
                }
                _ => None,
            })
            .collect();
        let facts = &self.found.facts;
        if jobs.iter().any(|job| is_delivered_anew(facts, job)) {
            programs::check(&self.cluster, &self.settings, &plan.members).await?;
            println!("programs: every node can get them");
        }
        // Gateways are told by the catalogue whom to trust, and have their rights from the API.
        let (late, first): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| {
            let late = [Component::Node, Component::Ingress];
            late.map(Component::job_id).contains(&job.id.text())
        });
        if let (Some(backup), Shape::Dev) = (&self.restore, self.settings.shape) {
            restore::beside(&self.cluster, &self.settings, &plan.members, backup).await?;
        }
        for job in first {
            changes += self.bring(job).await?;
            if let (Some(backup), true) = (&self.restore, job.id.text() == Component::Etcd.job_id())
            {
                let home = &self.admin.home.home;
                restore::into_etcd(home, secrets.etcd.as_ref(), &plan.members, backup).await?;
            }
        }
        changes += self.introduce(&secrets.authority).await?;
        for job in late {
            changes += self.bring(job).await?;
        }
        for component in ended {
            changes += self.end(component).await?;
        }
        self.tell_nodes().await?;
        for component in &secrets.renewed {
            eprintln!(
                "{}: its credentials were renewed; `nomad job restart -namespace {} {}` takes them into use",
                component.job_id(),
                self.cluster.namespace,
                component.job_id()
            );
        }
        if changes == 0 {
            println!("nothing was to be done");
        }
        println!("kubeconfig of the admin: {}", self.admin.file().display());
        Ok(OK.into())
    }

    /// Ends a piece; 1 if it was there.
    async fn end(&self, component: Component) -> Result<usize, Failure> {
        let place = self.cluster.of(component, &self.settings);
        let was_there = place.end(component.job_id()).await?;
        println!("job {}: gone", component.job_id());
        Ok(usize::from(was_there))
    }

    /// Makes what jobs stand on.
    async fn lay(&self, step: &Step) -> Result<(), Failure> {
        let client = &self.cluster.client;
        let made = match step {
            Step::Namespace(namespace) => client.write_namespace(namespace).await,
            Step::Policy(policy) => client.write_policy(policy).await,
            Step::Volume(volume) => match client.create_host_volume(volume).await {
                Ok(made) => return self.offered(made.volume.get().unwrap_or(volume)).await,
                Err(error) => Err(error),
            },
            _ => Ok(()),
        };
        made.map_err(|error| failed(step.title(), &error))
    }

    /// Waits until the node of a new volume has told that it has it: before, the scheduler finds no
    /// place for who asks for it.
    async fn offered(&self, volume: &HostVolume) -> Result<(), Failure> {
        let (name, node) = (volume.name.text(), volume.node_id.text());
        let start = std::time::Instant::now();
        loop {
            match self.cluster.client.node(node).await {
                Ok(found) if has_volume(&found.value, volume) => return Ok(()),
                Err(error) if !error.is_transient() => {
                    return Err(failed(format!("reading node {node}"), &error));
                }
                _ => {}
            }
            if start.elapsed() > OFFERED {
                let message =
                    format!("volume {name}: node {node} has not offered it within {OFFERED:?}");
                return Err(Failure::new(message).with_hint(format!(
                    "look at `nomad node status -verbose {node}`, and run the same command again"
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Brings a job; 1 if it was changed.
    async fn bring(&self, job: &Job) -> Result<usize, Failure> {
        let id = job.id.text();
        let place = Component::of_job(id).map(|it| self.cluster.of(it, &self.settings));
        let place = place.as_ref().unwrap_or(&self.cluster);
        // What nodes were found to be, somebody may have mended since.
        let looks_again = id == Component::Node.job_id() && self.has_complaints().await;
        if looks_again {
            place.end(id).await?;
        }
        Ok(match place.bring(job).await? {
            Change::None => 0,
            Change::Made if looks_again => 0,
            Change::Made => {
                println!("job {id}: healthy");
                1
            }
        })
    }

    /// Whether the preparation of a node has found something that it cannot mend.
    async fn has_complaints(&self) -> bool {
        let client = &self.cluster.client;
        let complaints = trouble::complaints(client, &self.cluster.namespace).await;
        let mut said = complaints.values();
        said.any(|said| closed_directories(said).next().is_some())
    }

    /// What only a running control plane can be told and tell: the admin's kubeconfig, the
    /// mesh-wide policy, the roots in the catalogue. The number of changes.
    async fn introduce(
        &self,
        authority: &mesh_control::api::bootstrap::Authority,
    ) -> Result<usize, Failure> {
        let mut changes = 0;
        let file = self.admin.file();
        let server = admin::server(&self.cluster).await?;
        if admin::write_kubeconfig(authority, &server, &file)? {
            println!("kubeconfig {}: written, for {server}", file.display());
            changes += 1;
        }
        let api = admin::client(&file).await?;
        let mesh = admin::published(&api).await?;
        let id = match self.settings.shape {
            Shape::Dev => Component::Dev.job_id(),
            Shape::Cluster(_) => Component::Ca.job_id(),
        };
        let stored = self.cluster.client.job(&self.cluster.namespace, id).await;
        let stored = stored.map_err(|error| failed(format!("reading job {id}"), &error))?;
        if !is_ours(&stored) {
            return Err(
                Failure::new(format!("job {id} is not of an install of the mesh"))
                    .with_code(REFUSED),
            );
        }
        if self.settings.ingress.count > 0 {
            changes += self.let_gateways_read(&api).await?;
        }
        // Once: whoever took the policy away since has decided, as has whoever made a backup. The
        // tags come last.
        let is_new = roots_of(&stored).is_empty();
        let decides = !self.permissive && self.restore.is_none();
        if is_new && decides && crate::commands::up::store_strict(&api).await? {
            println!(
                "stored PeerAuthentication default in istio-system: mutual TLS is STRICT in the whole mesh"
            );
            changes += 1;
        }
        let tagged = with_root_tags(stored.clone(), &mesh.root_hashes);
        if tagged != stored {
            self.bring(&tagged).await?;
            println!("service mesh-ca: tells {} root(s)", mesh.root_hashes.len());
            changes += 1;
        }
        Ok(changes)
    }

    /// Gives the account of the gateways what it may: Secrets of its namespace, and no other's.
    async fn let_gateways_read(&self, api: &kube::Client) -> Result<usize, Failure> {
        let namespace = self.settings.ingress_namespace();
        let wrong = |problem: mesh_model::Problem| Failure::new(problem.to_string());
        let made = join::ensure_gateway(
            api,
            &namespace.parse().map_err(wrong)?,
            &INGRESS_ACCOUNT.parse().map_err(wrong)?,
        )
        .await?;
        if made {
            println!(
                "service account {INGRESS_ACCOUNT} in {namespace}: may read the Secrets there"
            );
        }
        Ok(usize::from(made))
    }

    /// Which nodes can take injected groups, and what to do about the others.
    async fn tell_nodes(&self) -> Result<(), Failure> {
        let Some(network) = &self.settings.network else {
            return Ok(());
        };
        let start = std::time::Instant::now();
        let nodes = loop {
            let nodes = self.cluster.nodes().await?;
            let all_ready = nodes
                .iter()
                .all(|node| Readiness::of(node, network).is_ready());
            // A client looks at its plugins anew some seconds after it was told to.
            if all_ready || start.elapsed() > FINGERPRINT {
                break nodes;
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        };
        let facts = Facts {
            nodes,
            ..Facts::default()
        };
        let client = &self.cluster.client;
        let complaints = trouble::complaints(client, &self.cluster.namespace).await;
        let mut is_any_behind = false;
        for node in &facts.nodes {
            let readiness = Readiness::of(node, network);
            if readiness != Readiness::Ready {
                eprintln!("node {}: {readiness}", node.name.text());
            }
            let said = complaints.get(node.id.text()).map_or("", String::as_str);
            for line in closed_directories(said) {
                eprintln!("node {}: {line}", node.name.text());
            }
            is_any_behind |= !readiness.is_ready();
        }
        if is_any_behind {
            eprintln!(
                "injected groups in mode cni are not placed on such nodes; on each of them, as root:"
            );
            for step in manual_steps(network) {
                eprintln!("  {step}");
            }
        }
        Ok(())
    }
}

/// Whether a node tells of a volume.
fn has_volume(node: &Node, volume: &HostVolume) -> bool {
    let offered = node.host_volumes.get();
    let offered = offered.and_then(|volumes| volumes.get(volume.name.text()));
    let id = offered.and_then(|found| found.get("ID"));
    id.and_then(serde_json::Value::as_str) == Some(volume.id.text())
}

/// How long a node may take to tell of a volume that was made on it.
const OFFERED: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a client may take to see what was put on its node.
const FINGERPRINT: std::time::Duration = std::time::Duration::from_secs(15);
