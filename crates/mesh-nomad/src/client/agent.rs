//! Routes of agents and of the cluster as a whole.

use bytes::Bytes;

use super::{Client, Error, Request};
use crate::model::agent::{Agent, AgentHealth, Members, SchedulerConfig, SchedulerReply};

impl Client {
    /// What the agent says of itself.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn agent(&self) -> Result<Agent, Error> {
        self.value(Request::get(&["v1", "agent", "self"])).await
    }

    /// Whether the agent is well.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; status 500 when it is not, with the same as text.
    pub async fn agent_health(&self) -> Result<AgentHealth, Error> {
        self.value(Request::get(&["v1", "agent", "health"])).await
    }

    /// The servers of the gossip pool.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn members(&self) -> Result<Members, Error> {
        self.value(Request::get(&["v1", "agent", "members"])).await
    }

    /// The leader's address; empty when there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn leader(&self) -> Result<String, Error> {
        self.value(Request::get(&["v1", "status", "leader"])).await
    }

    /// The names of all regions.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn regions(&self) -> Result<Vec<String>, Error> {
        self.value(Request::get(&["v1", "regions"])).await
    }

    /// How the scheduler works.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn scheduler(&self) -> Result<SchedulerConfig, Error> {
        let request = Request::get(&["v1", "operator", "scheduler", "configuration"]);
        let reply: SchedulerReply = self.value(request).await?;
        Ok(reply.config.into_option().unwrap_or_default())
    }

    /// Has the servers forget what is dead.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn collect_garbage(&self) -> Result<(), Error> {
        self.send(&Request::put(&["v1", "system", "gc"])).await?;
        Ok(())
    }

    /// The public keys of workload identities, JSON (RFC 7517).
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn jwks(&self) -> Result<Bytes, Error> {
        Ok(self
            .fetch_bytes(&Request::get(&[".well-known", "jwks.json"]))
            .await?
            .1)
    }
}
