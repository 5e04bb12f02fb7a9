//! Routes of allocations.

use std::collections::BTreeMap;

use serde_json::json;

use super::log::{Frames, LogStream};
use super::{Client, Error, Reply, Request};
use crate::model::allocation::{Allocation, AllocationStats, CheckResult};
use crate::model::registration::Registration;
use crate::model::reply::AllocationStopped;

/// Which output of a task.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a process has two outputs")]
pub enum LogKind {
    /// The standard output.
    #[default]
    Stdout,
    /// The error output.
    Stderr,
}

/// What of a log, and for how long.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogOptions {
    /// Which output.
    pub kind: LogKind,
    /// Whether what is written later is wanted too.
    pub follow: bool,
    /// How many bytes before the end to begin; at the beginning if unset.
    pub tail: Option<u64>,
}

impl Client {
    /// All allocations of a namespace, `*` for all, with their ports and without task states.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`Error::NotAllowed`] when the token does not allow it.
    pub async fn allocations(&self, namespace: &str) -> Result<Reply<Vec<Allocation>>, Error> {
        self.fetch(&Self::allocations_request(namespace)).await
    }

    /// The request behind [`Self::allocations`], to watch or to page.
    pub fn allocations_request(namespace: &str) -> Request {
        Request::get(&["v1", "allocations"])
            .query("resources", true)
            .query("task_states", false)
            .namespace(namespace)
            .guarded()
    }

    /// One allocation, whole, with its job.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn allocation(&self, id: &str) -> Result<Reply<Allocation>, Error> {
        self.fetch(&Request::get(&["v1", "allocation", id])).await
    }

    /// Stops an allocation; another takes its place.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn stop_allocation(&self, id: &str) -> Result<AllocationStopped, Error> {
        let request = Request::post(&["v1", "allocation", id, "stop"]);
        self.value(request).await
    }

    /// Restarts one task, or all that run.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn restart_allocation(&self, id: &str, task: Option<&str>) -> Result<(), Error> {
        let body = json!({ "TaskName": task.unwrap_or_default() });
        let request = Request::put(&["v1", "client", "allocation", id, "restart"]);
        self.send(&request.json(&body)?).await?;
        Ok(())
    }

    /// Sends a signal, as `SIGHUP`, to one task.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn signal_task(&self, id: &str, task: &str, signal: &str) -> Result<(), Error> {
        let body = json!({ "Task": task, "Signal": signal });
        let request = Request::put(&["v1", "client", "allocation", id, "signal"]);
        self.send(&request.json(&body)?).await?;
        Ok(())
    }

    /// What an allocation registered in the catalogue.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn allocation_services(&self, id: &str) -> Result<Vec<Registration>, Error> {
        self.value(Request::get(&["v1", "allocation", id, "services"]))
            .await
    }

    /// The results of an allocation's checks, by ID; they are on its node only.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn checks(&self, id: &str) -> Result<BTreeMap<String, CheckResult>, Error> {
        let request = Request::get(&["v1", "client", "allocation", id, "checks"]);
        // Without checks the answer is `null`.
        let found: Option<_> = self.value(request).await?;
        Ok(found.unwrap_or_default())
    }

    /// What an allocation uses.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn allocation_stats(&self, id: &str) -> Result<AllocationStats, Error> {
        self.value(Request::get(&["v1", "client", "allocation", id, "stats"]))
            .await
    }

    /// The log of a task.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn logs(
        &self,
        id: &str,
        task: &str,
        options: LogOptions,
    ) -> Result<LogStream, Error> {
        let kind = match options.kind {
            LogKind::Stdout => "stdout",
            LogKind::Stderr => "stderr",
        };
        let origin = if options.tail.is_some() {
            "end"
        } else {
            "start"
        };
        let request = Request::get(&["v1", "client", "fs", "logs", id])
            .query("task", task)
            .query("type", kind)
            .query("follow", options.follow)
            .query("origin", origin)
            .query("offset", options.tail.unwrap_or(0));
        let answer = self.open_stream(&request).await?;
        Ok(LogStream {
            body: answer.body,
            path: request.path().to_owned(),
            frames: Frames::default(),
        })
    }
}
