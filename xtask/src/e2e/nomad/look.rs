//! What Nomad says of jobs, and what the machine says of their tasks: read from Nomad's own HTTP
//! API and from `/proc`, not through the crate that the run is to prove.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mesh_tests::call::{self, Call};
use serde_json::Value;

use super::NODE;
use crate::e2e::world::{Step, ensure};

/// An allocation that is to run.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) id: String,
    /// What Nomad says of it, whole.
    pub(crate) says: Value,
}

/// Reads of Nomad's API.
pub(crate) async fn get(path: &str) -> Step<Value> {
    let url = format!("http://{NODE}:4646{path}");
    let outcome = call::once(Call::get(&url)).await;
    ensure(outcome.status == 200, || {
        let words = outcome.error.clone();
        format!(
            "Nomad, {path}: {} {}",
            outcome.status,
            words.unwrap_or_else(|| outcome.body.to_string())
        )
    })?;
    Ok(outcome.body)
}

/// The allocations of a group of a job that run and are to run, newest first.
pub(crate) async fn allocations(namespace: &str, job: &str, group: &str) -> Step<Vec<Allocation>> {
    let path = format!("/v1/job/{job}/allocations?namespace={namespace}");
    let all = get(&path).await?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut found: Vec<&Value> = all
        .as_array()
        .into_iter()
        .flatten()
        .filter(|stub| text(stub, "TaskGroup").as_deref() == Some(group))
        .filter(|stub| text(stub, "DesiredStatus").as_deref() == Some("run"))
        .filter(|stub| text(stub, "ClientStatus").as_deref() == Some("running"))
        .collect();
    let index = |stub: &&Value| stub.get("CreateIndex").and_then(Value::as_u64);
    found.sort_by_key(|stub| std::cmp::Reverse(index(stub)));
    let mut whole = Vec::new();
    for stub in found {
        let id = text(stub, "ID").ok_or("an allocation without ID")?;
        let says = get(&format!("/v1/allocation/{id}?namespace={namespace}")).await?;
        whole.push(Allocation { id, says });
    }
    Ok(whole)
}

/// The newest of them.
pub(crate) async fn allocation(namespace: &str, job: &str, group: &str) -> Step<Allocation> {
    let found = allocations(namespace, job, group).await?;
    let newest = found.into_iter().next();
    newest.ok_or_else(|| format!("no allocation of {job}.{group} runs"))
}

impl Allocation {
    /// The address of its network.
    pub(crate) fn address(&self) -> Step<IpAddr> {
        let text = self.says.pointer("/NetworkStatus/Address");
        let text = text.and_then(Value::as_str).unwrap_or_default();
        text.parse()
            .map_err(|_none| format!("allocation {} has no address", self.id))
    }

    /// The port of the host that was given to a label.
    pub(crate) fn port(&self, label: &str) -> Step<u64> {
        let ports = self.says.pointer("/AllocatedResources/Shared/Ports");
        let ports = ports.and_then(Value::as_array).into_iter().flatten();
        let named = |port: &&Value| port.get("Label").and_then(Value::as_str) == Some(label);
        let port = ports
            .filter(named)
            .find_map(|port| port.get("Value")?.as_u64());
        port.ok_or_else(|| format!("allocation {} has no port {label}", self.id))
    }

    /// When an event of a task happened, in seconds since 1970; the last of that kind.
    pub(crate) fn event(&self, task: &str, kind: &str) -> Step<f64> {
        let events = self.says.pointer(&format!("/TaskStates/{task}/Events"));
        let events = events.and_then(Value::as_array).into_iter().flatten();
        let of_kind =
            events.filter(|event| event.get("Type").and_then(Value::as_str) == Some(kind));
        let times = of_kind.filter_map(|event| event.get("Time")?.as_i64());
        #[expect(clippy::cast_precision_loss, reason = "microseconds are enough")]
        let time = times.max().map(|nanoseconds| nanoseconds as f64 / 1e9);
        time.ok_or_else(|| format!("allocation {}: task {task} has no event {kind}", self.id))
    }

    /// The process of a task whose program has this name.
    pub(crate) fn process(&self, task: &str, program: &str) -> Step<u64> {
        let wanted = [
            format!("NOMAD_ALLOC_ID={}", self.id),
            format!("NOMAD_TASK_NAME={task}"),
        ];
        let pids = fs::read_dir("/proc").map_err(|error| error.to_string())?;
        let pids = pids
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        let is_it = |pid: &u64| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let variables: Vec<_> = environment.split(|byte| *byte == 0).collect();
            let name = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            wanted
                .iter()
                .all(|variable| variables.contains(&variable.as_bytes()))
                && name.file_name().is_some_and(|name| name == program)
        };
        pids.filter(is_it)
            .min()
            .ok_or_else(|| format!("task {task} of {} has no process `{program}`", self.id))
    }

    /// The directory of a sidecar's own files, as this process sees it.
    pub(crate) fn sidecar_directory(&self) -> Step<PathBuf> {
        let pid = self.process("mesh-proxy", "mesh")?;
        let environment =
            fs::read(format!("/proc/{pid}/environ")).map_err(|error| error.to_string())?;
        let secrets = environment.split(|byte| *byte == 0).find_map(|variable| {
            std::str::from_utf8(variable)
                .ok()?
                .strip_prefix("NOMAD_SECRETS_DIR=")
        });
        let secrets = secrets.ok_or("the sidecar has no directory for secrets")?;
        let root = format!("/proc/{pid}/root{secrets}/mesh");
        Ok(root.into())
    }

    /// What a task wrote to its standard output.
    pub(crate) fn log(&self, home: &Path, task: &str) -> Step<String> {
        let directory = home.join("nomad/alloc").join(&self.id).join("alloc/logs");
        let entries = fs::read_dir(&directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let prefix = format!("{task}.stdout.");
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .collect();
        files.sort();
        let texts = files
            .iter()
            .map(|file| fs::read(file).unwrap_or_default())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(texts.collect())
    }
}
