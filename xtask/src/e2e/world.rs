//! The ground on which the scenario stands: the programs, the state directory, and ways to ask.

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh_tests::call::{Call, Load, LoadReport, Outcome};
use mesh_tests::control::{self, Command};
use serde_json::Value;
use tokio::process::Command as Process;

use super::row::Row;
use super::{daemon, nomad};
use crate::Ground;

/// What a step of the scenario fails with: a sentence that becomes the row's evidence.
pub(crate) type Step<T> = Result<T, String>;

/// The ground.
#[derive(Debug)]
pub(crate) struct World {
    /// The workspace, for the sample's files.
    root: PathBuf,
    /// The run's directory.
    home: PathBuf,
    /// What the mesh is installed on.
    ground: Ground,
    /// The table so far; rows of phases that run at the same time come as they are known.
    rows: RefCell<Vec<Row>>,
    began: Instant,
    /// README's commands for a Nomad.
    page: nomad::Page,
}

/// The groups that are not the sample's, on whatever ground.
const CONTROL_PLANE: [&str; 6] = ["control-plane", "etcd", "apiserver", "ca", "pilot", "mixer"];

/// How long a program may run: an upgrade of a cluster takes the longest.
const PROGRAM: Duration = Duration::from_secs(400);

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code; -1 after a signal.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

impl World {
    pub(crate) fn new(root: &Path, home: &Path, ground: Ground) -> Self {
        Self {
            root: root.to_owned(),
            home: home.to_owned(),
            ground,
            rows: RefCell::default(),
            began: Instant::now(),
            page: nomad::Page::open(root),
        }
    }

    /// The mesh's own state directory.
    pub(crate) fn mesh_home(&self) -> PathBuf {
        self.home.join("state")
    }

    /// The run's directory.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// What the mesh is installed on.
    pub(crate) fn ground(&self) -> Ground {
        self.ground
    }

    /// README's commands for a Nomad.
    pub(crate) fn page(&self) -> &nomad::Page {
        &self.page
    }

    /// The directory of control sockets.
    pub(crate) fn control(&self) -> PathBuf {
        self.home.join("control")
    }

    /// A program of the run.
    pub(crate) fn bin(&self, name: &str) -> PathBuf {
        self.home.join("bin").join(name)
    }

    /// A file of the sample.
    pub(crate) fn sample(&self, name: &str) -> String {
        self.root
            .join("tests/samples")
            .join(name)
            .display()
            .to_string()
    }

    /// Records a promise and prints it.
    pub(crate) fn record(&self, promise: &str, result: Step<String>) -> bool {
        let row = match result {
            Ok(evidence) => Row::pass(promise, evidence),
            Err(why) => Row::fail(promise, why),
        };
        eprintln!(
            "{:>5.1} s  {}",
            self.began.elapsed().as_secs_f64(),
            row.line()
        );
        let kept = row.is_pass();
        self.rows.borrow_mut().push(row);
        kept
    }

    /// Prints what the control plane and the instances that a failed row names said last. Everything
    /// they said stays in the run's directory.
    pub(crate) async fn print_logs_of_failures(&self) {
        const LINES: usize = 20;
        let failed: Vec<Row> = {
            let rows = self.rows.borrow();
            rows.iter().filter(|row| !row.is_pass()).cloned().collect()
        };
        if failed.is_empty() {
            return;
        }
        let status = self.mesh_json(&["status"]).await.unwrap_or_default();
        let groups = status.get("groups").and_then(Value::as_array);
        for group in groups.into_iter().flatten() {
            let name = |value: &Value| value.get("name")?.as_str().map(str::to_owned);
            let Some(group_name) = name(group) else {
                continue;
            };
            let is_named = failed.iter().any(|row| row.line().contains(&group_name));
            if !CONTROL_PLANE.contains(&group_name.as_str()) && !is_named {
                continue;
            }
            let units = group.get("units").and_then(Value::as_array);
            for unit in units.into_iter().flatten().filter_map(name) {
                let log = self.mesh(&["logs", &group_name, &unit]).await;
                let log = log.unwrap_or_else(|why| why);
                let skip = log.lines().count().saturating_sub(LINES);
                eprintln!("--- {group_name}/{unit}, its last lines");
                log.lines().skip(skip).for_each(|line| eprintln!("{line}"));
            }
        }
    }

    /// The table.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.rows.into_inner()
    }

    /// Runs `mesh` and wants it to succeed.
    pub(crate) async fn mesh(&self, arguments: &[&str]) -> Step<String> {
        let said = self.mesh_says(arguments).await?;
        if said.code == 0 {
            return Ok(said.stdout);
        }
        Err(format!(
            "`mesh {}` exited with {}: {}",
            arguments.join(" "),
            said.code,
            said.stderr.trim()
        ))
    }

    /// Runs `mesh`, however it ends.
    pub(crate) async fn mesh_says(&self, arguments: &[&str]) -> Step<Said> {
        self.says("mesh", arguments).await
    }

    /// Runs `mesh … --json` and reads what it prints.
    pub(crate) async fn mesh_json(&self, arguments: &[&str]) -> Step<Value> {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let text = self.mesh(&with_json).await?;
        serde_json::from_str(&text)
            .map_err(|error| format!("mesh {}: {error}", arguments.join(" ")))
    }

    /// Runs the real kubectl as the admin and wants it to succeed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Step<String> {
        let config = self.mesh_home().join("kubeconfig").display().to_string();
        let said = self.kubectl_says(&config, arguments).await?;
        if said.code == 0 {
            return Ok(said.stdout);
        }
        Err(format!(
            "`kubectl {}`: {}",
            arguments.join(" "),
            said.stderr.trim()
        ))
    }

    /// Runs the real kubectl with a kubeconfig, however it ends.
    pub(crate) async fn kubectl_says(&self, config: &str, arguments: &[&str]) -> Step<Said> {
        let mut all = vec!["--kubeconfig", config];
        all.extend(arguments);
        self.says("kubectl", &all).await
    }

    pub(crate) async fn says(&self, program: &str, arguments: &[&str]) -> Step<Said> {
        let mut process = Process::new(self.bin(program));
        let words = format!("{program} {}", arguments.join(" "));
        self.run(process.args(arguments), &words).await
    }

    /// Runs a script in the directory of job files, however it ends.
    pub(crate) async fn shell(&self, script: &str) -> Step<Said> {
        let directory = self.jobs()?;
        let mut process = Process::new("sh");
        process.args(["-e", "-c", script]).current_dir(directory);
        self.run(&mut process, script.trim()).await
    }

    /// The directory of job files.
    pub(crate) fn jobs(&self) -> Step<PathBuf> {
        let directory = self.home.join("jobs");
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        Ok(directory)
    }

    async fn run(&self, process: &mut Process, words: &str) -> Step<Said> {
        let output = process
            .env("MESH_HOME", self.mesh_home())
            .env(
                "DOCKER_HOST",
                format!("unix://{}", daemon::socket(&self.home).display()),
            )
            .env("NOMAD_ADDR", format!("http://{}:4646", nomad::NODE))
            .env("HOME", &self.home)
            .env(
                "PATH",
                format!(
                    "{}:/usr/sbin:/usr/bin:/sbin:/bin",
                    self.home.join("bin").display()
                ),
            )
            .stdin(Stdio::null())
            .output();
        let output = tokio::time::timeout(PROGRAM, output)
            .await
            .map_err(|_elapsed| format!("`{words}` took more than {} s", PROGRAM.as_secs()))?
            .map_err(|error| format!("`{words}`: {error}"))?;
        Ok(Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The control socket of an instance of the sample.
    pub(crate) fn socket(&self, instance: &str) -> PathBuf {
        self.control().join(format!("{instance}.sock"))
    }

    /// Tells an instance to do something.
    pub(crate) async fn tell(&self, instance: &str, command: &Command) -> Step<Value> {
        let socket = self.socket(instance);
        control::send(&socket, command)
            .await
            .map_err(|error| format!("{}: {error}", socket.display()))
    }

    /// Has an instance make a call.
    pub(crate) async fn call(&self, instance: &str, call: Call) -> Step<Outcome> {
        let answer = self.tell(instance, &Command::Call(call)).await?;
        serde_json::from_value(answer).map_err(|error| error.to_string())
    }

    /// Has an instance make many calls.
    pub(crate) async fn load(&self, instance: &str, load: Load) -> Step<LoadReport> {
        let answer = self.tell(instance, &Command::Load(load)).await?;
        serde_json::from_value(answer).map_err(|error| error.to_string())
    }
}

/// Asks again until it succeeds or the time is over; gives the last answer and how long it took.
pub(crate) async fn eventually<T, F>(
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Step<(T, Duration)>
where
    F: Future<Output = Step<T>>,
{
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(why) if start.elapsed() > patience => {
                return Err(format!("not within {} s: {why}", patience.as_secs()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A condition as a step.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Step<()> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
