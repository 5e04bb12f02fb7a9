//! Routes of nodes.

use serde_json::json;

use super::{Client, Error, Reply, Request};
use crate::model::allocation::Allocation;
use crate::model::node::{DrainSpec, Node, NodeChanged, NodePool};

impl Client {
    /// All nodes, with what they have.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`Error::NotAllowed`] when the token does not allow it.
    pub async fn nodes(&self) -> Result<Reply<Vec<Node>>, Error> {
        self.fetch(&Self::nodes_request().query("resources", true))
            .await
    }

    /// The request behind [`Self::nodes`], without what they have; to watch or to page.
    pub fn nodes_request() -> Request {
        Request::get(&["v1", "nodes"]).guarded()
    }

    /// One node, whole.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn node(&self, id: &str) -> Result<Reply<Node>, Error> {
        self.fetch(&Request::get(&["v1", "node", id])).await
    }

    /// A node's allocations.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn node_allocations(&self, id: &str) -> Result<Vec<Allocation>, Error> {
        self.value(Request::get(&["v1", "node", id, "allocations"]))
            .await
    }

    /// Drains a node, or ends that; a node whose drain is ended here becomes eligible again.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn drain_node(
        &self,
        id: &str,
        drain: Option<&DrainSpec>,
    ) -> Result<NodeChanged, Error> {
        let body = json!({ "DrainSpec": drain, "MarkEligible": drain.is_none() });
        let request = Request::put(&["v1", "node", id, "drain"]);
        self.value(request.json(&body)?).await
    }

    /// Says whether anything new is placed on a node.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn set_eligibility(&self, id: &str, eligible: bool) -> Result<NodeChanged, Error> {
        let eligibility = if eligible { "eligible" } else { "ineligible" };
        let body = json!({ "Eligibility": eligibility });
        let request = Request::put(&["v1", "node", id, "eligibility"]);
        self.value(request.json(&body)?).await
    }

    /// Forgets a node that is down.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn purge_node(&self, id: &str) -> Result<NodeChanged, Error> {
        self.value(Request::put(&["v1", "node", id, "purge"])).await
    }

    /// All node pools.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn node_pools(&self) -> Result<Vec<NodePool>, Error> {
        self.value(Request::get(&["v1", "node", "pools"])).await
    }
}
