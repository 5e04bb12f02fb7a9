//! Routes of jobs.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{Client, Error, Reply, Request};
use crate::model::Job;
use crate::model::allocation::Allocation;
use crate::model::deployment::Deployment;
use crate::model::evaluation::Evaluation;
use crate::model::reply::{
    Dispatched, JobStub, Plan, Registered, ScaleStatus, Submission, Summary, Validation, Versions,
};

/// How to register a job.
#[derive(Clone, Debug, Default)]
pub struct Register {
    /// The index that the stored job must have, from [`Plan`]; 0 means that there must be none.
    pub enforce_index: Option<u64>,
    /// The text it was made from, which the user interface shows.
    pub submission: Option<Submission>,
    /// Whether the counts of groups stay as they are stored.
    pub preserve_counts: bool,
}

/// How to stop a job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop {
    /// Whether it is forgotten at once.
    pub purge: bool,
    /// Whether tasks end without their shutdown delay.
    pub no_shutdown_delay: bool,
}

impl Client {
    /// Makes a job of HCL, on the server. Nothing is filled in where the text is silent, unless
    /// `canonicalize`. `variables` is the content of a file of variables.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; status 400 with the place when the text is wrong.
    pub async fn parse_job(
        &self,
        hcl: &str,
        variables: &str,
        canonicalize: bool,
    ) -> Result<Job, Error> {
        let body = json!({ "JobHCL": hcl, "Variables": variables, "Canonicalize": canonicalize });
        self.value(Request::post(&["v1", "jobs", "parse"]).json(&body)?)
            .await
    }

    /// Looks at a job without a plan. Configurations of drivers are not looked at: only a client
    /// can.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]. What is wrong with the job is no error here.
    pub async fn validate_job(&self, job: &Job) -> Result<Validation, Error> {
        let request = Request::post(&["v1", "validate", "job"]).namespace(job.namespace());
        self.value(request.json(&json!({ "Job": job }))?).await
    }

    /// What a register would do.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn plan_job(&self, job: &Job) -> Result<Plan, Error> {
        let request = Request::post(&["v1", "job", job.id.text(), "plan"]);
        let body = json!({ "Job": job, "Diff": true });
        self.value(request.namespace(job.namespace()).json(&body)?)
            .await
    }

    /// Registers a job.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`super::Reason::IndexEnforced`] when the stored job is not the expected one.
    pub async fn register_job(&self, job: &Job, how: &Register) -> Result<Registered, Error> {
        let mut body = json!({ "Job": job, "PreserveCounts": how.preserve_counts });
        if let Value::Object(body) = &mut body {
            if let Some(index) = how.enforce_index {
                body.insert("EnforceIndex".to_owned(), json!(true));
                body.insert("JobModifyIndex".to_owned(), json!(index));
            }
            if let Some(submission) = &how.submission {
                body.insert("Submission".to_owned(), json!(submission));
            }
        }
        let request = Request::post(&["v1", "jobs"]).namespace(job.namespace());
        self.value(request.json(&body)?).await
    }

    /// The job as it is stored.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job(&self, namespace: &str, id: &str) -> Result<Job, Error> {
        self.value(of_job(namespace, id, None)).await
    }

    /// All jobs of a namespace, `*` for all, with their meta.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`Error::NotAllowed`] when the token does not allow it.
    pub async fn jobs(&self, namespace: &str) -> Result<Reply<Vec<JobStub>>, Error> {
        self.fetch(&Self::jobs_request(namespace)).await
    }

    /// The request behind [`Self::jobs`], to watch or to page.
    pub fn jobs_request(namespace: &str) -> Request {
        Request::get(&["v1", "jobs"])
            .query("meta", true)
            .namespace(namespace)
            .guarded()
    }

    /// Stops a job.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]. A job that does not exist is no error, and has no evaluation.
    pub async fn stop_job(
        &self,
        namespace: &str,
        id: &str,
        how: Stop,
    ) -> Result<Registered, Error> {
        let request = Request::delete(&["v1", "job", id])
            .namespace(namespace)
            .query("purge", how.purge)
            .query("no_shutdown_delay", how.no_shutdown_delay);
        self.value(request).await
    }

    /// Sets the count of a group. Refused while a deployment runs.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn scale_job(
        &self,
        namespace: &str,
        id: &str,
        group: &str,
        count: u32,
        message: &str,
    ) -> Result<Registered, Error> {
        let body = json!({ "Count": count, "Target": { "Group": group }, "Message": message });
        let request = Request::post(&["v1", "job", id, "scale"]).namespace(namespace);
        self.value(request.json(&body)?).await
    }

    /// How a job's groups are scaled.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job_scale(&self, namespace: &str, id: &str) -> Result<ScaleStatus, Error> {
        self.value(of_job(namespace, id, Some("scale"))).await
    }

    /// Brings an earlier version back, as a new one.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn revert_job(
        &self,
        namespace: &str,
        id: &str,
        version: u64,
    ) -> Result<Registered, Error> {
        let body = json!({ "JobID": id, "JobVersion": version });
        let request = Request::post(&["v1", "job", id, "revert"]).namespace(namespace);
        self.value(request.json(&body)?).await
    }

    /// The versions that the servers still have.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job_versions(&self, namespace: &str, id: &str) -> Result<Versions, Error> {
        self.value(of_job(namespace, id, Some("versions"))).await
    }

    /// Starts a parameterized job. The same idempotency token starts it once.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn dispatch_job(
        &self,
        namespace: &str,
        id: &str,
        payload: &[u8],
        meta: &BTreeMap<String, String>,
        idempotency_token: Option<&str>,
    ) -> Result<Dispatched, Error> {
        let body = json!({ "Payload": BASE64.encode(payload), "Meta": meta });
        let request = Request::post(&["v1", "job", id, "dispatch"])
            .namespace(namespace)
            .query_if("idempotency_token", idempotency_token);
        self.value(request.json(&body)?).await
    }

    /// Has the scheduler look at a job again.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn evaluate_job(&self, namespace: &str, id: &str) -> Result<Registered, Error> {
        let request = Request::post(&["v1", "job", id, "evaluate"]).namespace(namespace);
        self.value(request.json(&json!({ "JobID": id }))?).await
    }

    /// The counts of a job's allocations.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job_summary(&self, namespace: &str, id: &str) -> Result<Summary, Error> {
        self.value(of_job(namespace, id, Some("summary"))).await
    }

    /// The text that a version was made from.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job_submission(
        &self,
        namespace: &str,
        id: &str,
        version: u64,
    ) -> Result<Submission, Error> {
        let request = of_job(namespace, id, Some("submission"));
        self.value(request.query("version", version)).await
    }

    /// A job's allocations.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job_allocations(
        &self,
        namespace: &str,
        id: &str,
    ) -> Result<Reply<Vec<Allocation>>, Error> {
        self.fetch(&of_job(namespace, id, Some("allocations")))
            .await
    }

    /// A job's evaluations.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job_evaluations(
        &self,
        namespace: &str,
        id: &str,
    ) -> Result<Vec<Evaluation>, Error> {
        self.value(of_job(namespace, id, Some("evaluations"))).await
    }

    /// A job's newest deployment, if it has one.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn job_deployment(
        &self,
        namespace: &str,
        id: &str,
    ) -> Result<Option<Deployment>, Error> {
        self.value(of_job(namespace, id, Some("deployment"))).await
    }

    /// A value alone, without what was said beside it.
    pub(super) async fn value<T: serde::de::DeserializeOwned>(
        &self,
        request: Request,
    ) -> Result<T, Error> {
        Ok(self.fetch(&request).await?.value)
    }
}

fn of_job(namespace: &str, id: &str, what: Option<&str>) -> Request {
    let request = match what {
        Some(what) => Request::get(&["v1", "job", id, what]),
        None => Request::get(&["v1", "job", id]),
    };
    request.namespace(namespace)
}
