//! Looking inside: which proxies there are and how they stand, their configuration, and why a call
//! goes where it goes.
//!
//! The caller is a user of the API by its client certificate, and the API server says whether
//! that user may look into a namespace: verb `get`, group `mesh.dev`, resource `proxies`.

mod access;
mod explain;

use std::sync::Arc;

use kube::Client;
use mesh_model::{Namespace, WorkloadId};
use mesh_proto::mesh::agent::v1::introspection_server::Introspection;
use mesh_proto::mesh::agent::v1::type_status::State as WireState;
use mesh_proto::mesh::agent::v1::{
    ExplainRequest, ExplainResponse, GetProxyConfigRequest, GetProxyConfigResponse,
    ListProxiesRequest, ListProxiesResponse, Proxy, TypeStatus as WireStatus,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use self::access::Access;
use super::Resolved;
use super::ads::Sessions;
use super::caller;
use super::registry::agents::DumpError;
use super::registry::wire::{write_health, write_workload};
use super::registry::{AgentRegistry, Registered};
use super::session::{State, TypeStatus};

pub use self::explain::{Explanation, Question, Unanswered, explain};

/// Serves `mesh.agent.v1.Introspection`.
#[derive(Clone)]
pub struct IntrospectionService {
    access: Access,
    registry: AgentRegistry,
    sessions: Sessions,
    resolved: watch::Receiver<Option<Arc<Resolved>>>,
}

impl IntrospectionService {
    /// Asks the API server by `client` who may look.
    pub fn new(
        client: Client,
        registry: AgentRegistry,
        sessions: Sessions,
        resolved: watch::Receiver<Option<Arc<Resolved>>>,
    ) -> Self {
        Self {
            access: Access::new(client),
            registry,
            sessions,
            resolved,
        }
    }

    /// A proxy as others are told of it, where it is in the mesh already: a catalogue may know
    /// better than its agent where it is called.
    fn describe(&self, registered: &Registered) -> Proxy {
        let types = self.sessions.status(&registered.workload.id);
        let resolved = self.resolved.borrow().clone();
        let known = resolved
            .as_ref()
            .and_then(|resolved| resolved.mesh.workload(&registered.workload.id));
        let (workload, health) = match known {
            Some((workload, health)) => (workload, *health),
            None => (&registered.workload, registered.health),
        };
        Proxy {
            workload: Some(write_workload(workload)),
            health: write_health(health).into(),
            identity: registered.identity.to_string(),
            agent_version: registered.agent_version.clone(),
            types: types.into_iter().map(write_status).collect(),
        }
    }
}

#[tonic::async_trait]
impl Introspection for IntrospectionService {
    async fn list_proxies(
        &self,
        request: Request<ListProxiesRequest>,
    ) -> Result<Response<ListProxiesResponse>, Status> {
        let namespace = match request.get_ref().namespace.as_str() {
            "" => None,
            text => Some(parse::<Namespace>("namespace", text)?),
        };
        self.access
            .require(request.extensions(), namespace.as_ref())
            .await?;
        let proxies = self.registry.list(namespace.as_ref());
        let proxies = proxies.iter().map(|proxy| self.describe(proxy)).collect();
        Ok(Response::new(ListProxiesResponse { proxies }))
    }

    async fn get_proxy_config(
        &self,
        request: Request<GetProxyConfigRequest>,
    ) -> Result<Response<GetProxyConfigResponse>, Status> {
        let GetProxyConfigRequest {
            namespace,
            workload_id,
        } = request.get_ref();
        let namespace = parse::<Namespace>("namespace", namespace)?;
        let id = parse::<WorkloadId>("workload_id", workload_id)?;
        self.access
            .require(request.extensions(), Some(&namespace))
            .await?;
        // The id is found only where the caller may look.
        let registered = self.registry.find(&id);
        if registered.is_none_or(|found| found.workload.namespace != namespace) {
            return Err(Status::not_found(format!(
                "no workload `{id}` of namespace `{namespace}` is registered with this Pilot"
            )));
        }
        let json = self.registry.config_dump(&id).await.map_err(|error| {
            let message = error.to_string();
            match error {
                DumpError::Unknown { .. } => Status::not_found(message),
                DumpError::Failed { .. } => Status::failed_precondition(message),
                DumpError::Silent { .. } => Status::deadline_exceeded(message),
            }
        })?;
        Ok(Response::new(GetProxyConfigResponse { json }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        caller::user(request.extensions())?;
        let resolved = self.resolved.borrow().clone();
        let resolved = resolved
            .ok_or_else(|| Status::unavailable("Pilot has not read the API yet; try again"))?;
        let question = Question::read(request.get_ref(), &resolved.mesh)
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        // Routes and rules of both sides stand in the answer.
        let mut namespaces = vec![question.from.namespace.clone()];
        namespaces.extend(question.to_namespace(&resolved.mesh));
        namespaces.dedup();
        for namespace in &namespaces {
            self.access
                .require(request.extensions(), Some(namespace))
                .await?;
        }
        let explanation = explain(&resolved, &question)
            .map_err(|missing| Status::not_found(missing.to_string()))?;
        let json = serde_json::to_vec(&explanation)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ExplainResponse { json: json.into() }))
    }
}

impl std::fmt::Debug for IntrospectionService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IntrospectionService")
            .finish_non_exhaustive()
    }
}

fn parse<T>(field: &str, text: &str) -> Result<T, Status>
where
    T: std::str::FromStr<Err = mesh_model::Problem>,
{
    text.parse()
        .map_err(|problem| Status::invalid_argument(format!("{field}: {problem}")))
}

fn write_status(status: TypeStatus) -> WireStatus {
    let state = match status.state {
        State::Synced => WireState::Synced,
        State::Pending => WireState::Pending,
        State::Rejected => WireState::Rejected,
    };
    WireStatus {
        type_url: status.kind.url().to_owned(),
        state: state.into(),
        resources: status.resources as u64,
        error: status.error,
        sent: status.sent,
    }
}

#[cfg(test)]
mod tests;
