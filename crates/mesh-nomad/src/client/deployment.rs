//! Routes of deployments and evaluations, and waiting for them.

use futures_util::StreamExt as _;
use serde_json::json;
use std::pin::pin;

use super::{Client, Error, Reply, Request};
use crate::model::allocation::Allocation;
use crate::model::deployment::{Deployment, DeploymentChanged};
use crate::model::evaluation::{Evaluation, EvaluationCount};

/// What somebody says of allocations whose deployment asks for it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Health {
    /// IDs of those that are healthy.
    pub healthy: Vec<String>,
    /// IDs of those that are not.
    pub unhealthy: Vec<String>,
}

impl Client {
    /// All deployments of a namespace, `*` for all.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`Error::NotAllowed`] when the token does not allow it.
    pub async fn deployments(&self, namespace: &str) -> Result<Reply<Vec<Deployment>>, Error> {
        let request = Request::get(&["v1", "deployments"]).namespace(namespace);
        self.fetch(&request.guarded()).await
    }

    /// One deployment.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn deployment(&self, id: &str) -> Result<Reply<Deployment>, Error> {
        self.fetch(&Request::get(&["v1", "deployment", id])).await
    }

    /// A deployment's allocations.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn deployment_allocations(&self, id: &str) -> Result<Vec<Allocation>, Error> {
        self.value(Request::get(&["v1", "deployment", "allocations", id]))
            .await
    }

    /// Promotes the canaries of some groups, or of all if none is named.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn promote(&self, id: &str, groups: &[&str]) -> Result<DeploymentChanged, Error> {
        let body = if groups.is_empty() {
            json!({ "DeploymentID": id, "All": true })
        } else {
            json!({ "DeploymentID": id, "Groups": groups })
        };
        let request = Request::put(&["v1", "deployment", "promote", id]);
        self.value(request.json(&body)?).await
    }

    /// Makes a deployment fail.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn fail_deployment(&self, id: &str) -> Result<DeploymentChanged, Error> {
        self.value(Request::put(&["v1", "deployment", "fail", id]))
            .await
    }

    /// Holds a deployment, or lets it go on.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn pause_deployment(
        &self,
        id: &str,
        pause: bool,
    ) -> Result<DeploymentChanged, Error> {
        let request = Request::put(&["v1", "deployment", "pause", id]);
        let body = json!({ "DeploymentID": id, "Pause": pause });
        self.value(request.json(&body)?).await
    }

    /// Says how allocations are, to a deployment with `health_check = "manual"`.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn set_health(&self, id: &str, health: &Health) -> Result<DeploymentChanged, Error> {
        let body = json!({
            "DeploymentID": id,
            "HealthyAllocationIDs": health.healthy,
            "UnhealthyAllocationIDs": health.unhealthy,
        });
        let request = Request::put(&["v1", "deployment", "allocation-health", id]);
        self.value(request.json(&body)?).await
    }

    /// Waits until nothing more will happen to a deployment. Failures that pass are waited out;
    /// bound it with a timeout.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`], when the failure does not pass by itself.
    pub async fn wait_for_deployment(&self, id: &str) -> Result<Deployment, Error> {
        let request = Request::get(&["v1", "deployment", id]);
        self.wait_until(request, Deployment::is_done).await
    }

    /// All evaluations of a namespace, `*` for all.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`Error::NotAllowed`] when the token does not allow it.
    pub async fn evaluations(&self, namespace: &str) -> Result<Reply<Vec<Evaluation>>, Error> {
        let request = Request::get(&["v1", "evaluations"]).namespace(namespace);
        self.fetch(&request.guarded()).await
    }

    /// One evaluation.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn evaluation(&self, id: &str) -> Result<Reply<Evaluation>, Error> {
        self.fetch(&Request::get(&["v1", "evaluation", id])).await
    }

    /// The allocations that an evaluation placed.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn evaluation_allocations(&self, id: &str) -> Result<Vec<Allocation>, Error> {
        self.value(Request::get(&["v1", "evaluation", id, "allocations"]))
            .await
    }

    /// How many evaluations there are.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn evaluation_count(&self) -> Result<EvaluationCount, Error> {
        self.value(Request::get(&["v1", "evaluations", "count"]))
            .await
    }

    /// Waits until the scheduler is through with an evaluation, as [`Self::wait_for_deployment`].
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`], when the failure does not pass by itself.
    pub async fn wait_for_evaluation(&self, id: &str) -> Result<Evaluation, Error> {
        let request = Request::get(&["v1", "evaluation", id]);
        self.wait_until(request, Evaluation::is_done).await
    }

    async fn wait_until<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        request: Request,
        is_done: impl Fn(&T) -> bool,
    ) -> Result<T, Error> {
        let path = request.path().to_owned();
        let mut watch = pin!(self.watch::<T>(request));
        while let Some(item) = watch.next().await {
            match item {
                Ok(reply) if is_done(&reply.value) => return Ok(reply.value),
                Ok(_) => {}
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        // A watch does not end; its type does not say so.
        Err(Error::Protocol {
            path,
            found: "the end of a watch".to_owned(),
        })
    }
}
