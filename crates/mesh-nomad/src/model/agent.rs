//! What an agent says of itself.

use std::collections::BTreeMap;

use serde_json::Value;

object! {
    /// An agent: how it is configured and how it is.
    pub struct Agent {
        /// Its configuration.
        config: Value = "config",
        /// It as a member of the gossip pool; servers only.
        member: Value = "member",
        /// Numbers, by area.
        stats: BTreeMap<String, Value> = "stats",
    }
}

object! {
    /// The members of the gossip pool.
    pub struct Members {
        /// This server.
        server_name: String = "ServerName",
        /// Its region.
        server_region: String = "ServerRegion",
        /// Its datacenter.
        server_datacenter: String = "ServerDC",
        /// All servers.
        members: Vec<Value> = "Members",
    }
}

object! {
    /// Whether an agent is well.
    pub struct AgentHealth {
        /// Its client side.
        client: RoleHealth = "client",
        /// Its server side.
        server: RoleHealth = "server",
    }
}

object! {
    /// Whether one side of an agent is well.
    #[derive(Eq)]
    pub struct RoleHealth {
        /// Whether it is.
        ok: bool = "ok",
        /// Why not.
        message: String = "message",
    }
}

object! {
    /// How the scheduler works.
    pub struct SchedulerReply {
        /// Its settings.
        config: SchedulerConfig = "SchedulerConfig",
    }
}

object! {
    /// Settings of the scheduler.
    pub struct SchedulerConfig {
        /// `binpack` or `spread`.
        algorithm: String = "SchedulerAlgorithm",
        /// Whether `memory_max` has an effect.
        memory_oversubscription: bool = "MemoryOversubscriptionEnabled",
    }
}

// === impl Agent ===

impl Agent {
    /// Nomad's version, as `2.0.5`; empty if it does not say.
    pub fn version(&self) -> &str {
        self.config
            .get()
            .and_then(|config| config.pointer("/Version/Version"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}
