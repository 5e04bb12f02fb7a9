//! The mesh on the run's Nomad, and jobs in it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{Agent, Allocation, Job, Lab, NODE, allocation, config, get};
use crate::e2e::ground::{self, IMAGE};
use crate::e2e::world::{Step, World, ensure, eventually};

/// Nomad's namespace of the control plane, and its job.
pub(crate) const SYSTEM: (&str, &str) = ("mesh-system", "mesh");

/// How long all jobs together may take to end, each with its delays.
const ENDING: Duration = Duration::from_secs(90);
/// How long what ends may take to be gone.
const PATIENCE: Duration = Duration::from_secs(40);

impl World {
    /// Boots the machine and starts its daemons; whatever becomes of it, the machine is in `lab`.
    pub(crate) async fn open_nomad(&self, lab: &mut Option<Lab>) -> Step<()> {
        let lab = lab.insert(Lab::start(self).await?);
        lab.start_docker().await?;
        self.build_image(IMAGE, &ground::PROGRAMS.map(|name| self.bin(name)), &[])
            .await?;
        let sleep = PathBuf::from("/usr/bin/sleep");
        let words = ["/usr/bin/sleep", "infinity"];
        self.build_image(config::PAUSE, &[sleep], &words).await?;
        let built = self.mesh_json(&["image", "build", "mesh"]).await?;
        let image = built.pointer("/0/image").and_then(Value::as_str);
        let image = image.ok_or_else(|| format!("`mesh image build` made no image: {built}"))?;
        fs::write(self.home().join("image"), image).map_err(|error| error.to_string())?;
        lab.start_agent(Agent::Server).await?;
        lab.start_agent(Agent::Client).await
    }

    /// Installs the control plane as a person does on a single node.
    pub(crate) async fn install_on_nomad(&self) -> Step<()> {
        let (program, directory) = (self.bin("mesh"), self.nomad_state());
        let (program, directory) = (
            program.display().to_string(),
            directory.display().to_string(),
        );
        // Everything of the run is below its own directory.
        let program = format!("{program} --directory {directory}");
        let values = [("/usr/local/bin/mesh", &program[..])];
        let command = "mesh nomad install --dev --program /usr/local/bin/mesh";
        self.as_the_page_says(&[command], &values).await.map(drop)
    }

    /// Where the install keeps the store on the node.
    pub(crate) fn nomad_state(&self) -> PathBuf {
        self.home().join("kept")
    }

    /// Stops the control plane's job.
    pub(crate) async fn stop_control_plane(&self) -> Step<()> {
        let (namespace, job) = SYSTEM;
        let stop = ["job", "stop", "-namespace", namespace, job];
        self.nomad(&stop).await.map(drop)
    }

    /// Starts it again, as it was.
    pub(crate) async fn start_control_plane(&self) -> Step<()> {
        let (namespace, job) = SYSTEM;
        let start = ["job", "start", "-namespace", namespace, job];
        self.nomad(&start).await.map(drop)
    }

    /// When the CNI chain of an allocation had ended, in seconds since 1970: CNI keeps its result.
    pub(crate) fn chain_ended(&self, allocation: &Allocation) -> Step<f64> {
        let init = self.first_process()?;
        let name = format!("mesh-{}-eth0", allocation.id);
        let file = format!("/proc/{init}/root/var/lib/cni/results/{name}");
        let modified = fs::metadata(&file).and_then(|found| found.modified());
        let modified = modified.map_err(|error| format!("{file}: {error}"))?;
        let since = modified.duration_since(std::time::UNIX_EPOCH);
        since
            .map(|since| since.as_secs_f64())
            .map_err(|error| error.to_string())
    }

    /// Injects a job as a person does, runs it, and waits for its deployment.
    pub(crate) async fn run_job(&self, job: &Job, mode: &str) -> Step<()> {
        let file = self.inject_job(job, mode).await?;
        self.nomad(&["job", "run", &file]).await.map(drop)
    }

    /// The file of an injected job.
    pub(crate) async fn inject_job(&self, job: &Job, mode: &str) -> Step<String> {
        let file = self.job_file(job)?;
        let image = fs::read_to_string(self.home().join("image"));
        let image = image.map_err(|error| error.to_string())?;
        let program = self.bin("mesh").display().to_string();
        let injected = self
            .mesh(&[
                "inject",
                "--mode",
                mode,
                "--image",
                &image,
                "--program",
                &program,
                &file,
            ])
            .await?;
        let file = file.replace(".nomad.hcl", ".injected.nomad.hcl");
        fs::write(&file, injected).map_err(|error| format!("{file}: {error}"))?;
        Ok(file)
    }

    /// The file of a job as it is written.
    pub(crate) fn job_file(&self, job: &Job) -> Step<String> {
        let directory = self.home().join("jobs");
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let file = directory.join(format!("{}.nomad.hcl", job.id));
        fs::write(&file, job.to_string()).map_err(|error| error.to_string())?;
        Ok(file.display().to_string())
    }

    /// Runs Nomad's own command line tool and wants it to succeed.
    pub(crate) async fn nomad(&self, arguments: &[&str]) -> Step<String> {
        let said = self.says("nomad", arguments).await?;
        if said.code == 0 {
            return Ok(said.stdout);
        }
        Err(format!(
            "`nomad {}` exited with {}: {} {}",
            arguments.join(" "),
            said.code,
            said.stdout.trim(),
            said.stderr.trim()
        ))
    }

    /// Takes every job and the mesh away, and looks for what is left.
    pub(crate) async fn uninstall_from_nomad(&self) -> Step<String> {
        let jobs = get("/v1/jobs?namespace=default").await?;
        let ids = jobs.as_array().into_iter().flatten();
        let ids: Vec<_> = ids
            .filter_map(|job| job.get("ID")?.as_str())
            .map(str::to_owned)
            .collect();
        for id in &ids {
            self.nomad(&["job", "stop", "-detach", id]).await?;
        }
        // What Nomad forgets while it runs is ended one after the other.
        eventually(ENDING, ended).await?;
        for id in &ids {
            self.nomad(&["job", "stop", "-purge", id]).await?;
        }
        let said = self.mesh(&["nomad", "uninstall", "--purge-data"]).await?;
        let gone = || async {
            let left = self.left_by_mesh().await?;
            ensure(left.is_empty(), || format!("left: {}", left.join(", ")))
        };
        eventually(PATIENCE, gone).await?;
        Ok(format!(
            "{} jobs stopped; {}; no job, service, namespace, variable, rule, bridge, user, plugin, network or store is left",
            ids.len(),
            said.trim().replace('\n', "; ")
        ))
    }

    /// What of the mesh is in Nomad and on its node.
    async fn left_by_mesh(&self) -> Step<Vec<String>> {
        let mut left = Vec::new();
        for (path, name) in [
            ("/v1/jobs?namespace=*", "/ID"),
            ("/v1/services?namespace=*", "/Services"),
            ("/v1/vars?namespace=*", "/Path"),
            ("/v1/namespaces", "/Name"),
        ] {
            let listed = get(path).await?;
            for item in listed.as_array().into_iter().flatten() {
                let name = item.pointer(name).cloned().unwrap_or_default();
                if name != "default" && !name.as_array().is_some_and(Vec::is_empty) {
                    left.push(format!("{path}: {name}"));
                }
            }
        }
        let rules = tokio::process::Command::new("nft")
            .args(["list", "tables"])
            .output()
            .await
            .map_err(|error| error.to_string())?;
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        left.extend(
            rules
                .lines()
                .filter(|line| line.contains("mesh"))
                .map(str::to_owned),
        );
        let files = [
            PathBuf::from("/sys/class/net").join(self.bridge()),
            self.nomad_state(),
            self.home().join(config::PLUGINS).join("mesh-cni"),
            self.home().join(config::NETWORKS).join("mesh.conflist"),
        ];
        let there = files.iter().filter(|file| file.exists());
        left.extend(there.map(|file| file.display().to_string()));
        let users = format!("/proc/{}/root/etc/passwd", self.first_process()?);
        let users = fs::read_to_string(users).map_err(|error| error.to_string())?;
        let user = users.lines().find(|line| line.starts_with("mesh"));
        left.extend(user.map(|user| format!("user {user}")));
        Ok(left)
    }

    /// The first process of the machine, as the scenario sees it.
    fn first_process(&self) -> Step<String> {
        let init = fs::read_to_string(self.home().join("init"));
        init.map(|pid| pid.trim().to_owned())
            .map_err(|error| error.to_string())
    }
}

/// Every task of the default namespace has ended.
async fn ended() -> Step<()> {
    let allocations = get("/v1/allocations?namespace=default").await?;
    let status = |stub: &Value| {
        stub.get("ClientStatus")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let all = allocations.as_array().into_iter().flatten();
    let running = all.filter(|stub| {
        matches!(
            status(stub).as_deref(),
            Some("pending" | "running" | "unknown")
        )
    });
    let running = running.count();
    ensure(running == 0, || format!("{running} allocations run"))
}

/// Where the control plane tells its metrics.
pub(crate) async fn metrics() -> Step<String> {
    let (namespace, job) = SYSTEM;
    let found = allocation(namespace, job, job).await?;
    let port = found.port("metrics")?;
    Ok(format!("http://{NODE}:{port}/metrics"))
}

/// The job and group of an instance of the sample: `reviews-v1` is group `v1` of job `reviews`.
fn place(instance: &str) -> (&str, &str) {
    instance.rsplit_once('-').unwrap_or((instance, instance))
}

/// The allocation of an instance of the sample.
pub(crate) async fn instance(name: &str) -> Step<Allocation> {
    let (job, group) = place(name);
    allocation("default", job, group).await
}

/// The process of the control plane, or of the sidecar or application of an instance.
pub(crate) async fn pid(group: &str, unit: &str) -> Step<u64> {
    let (namespace, job) = SYSTEM;
    if group == job {
        let found = allocation(namespace, job, job).await?;
        return found.process("server", "mesh");
    }
    let found = instance(group).await?;
    match unit {
        "sidecar" => found.process("mesh-proxy", "mesh"),
        _ => found.process("app", "mesh-echo"),
    }
}
