//! Access control: policies, tokens, roles.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

object! {
    /// A policy.
    pub struct Policy {
        /// Its name.
        name: String = "Name",
        /// What it is for.
        description: String = "Description",
        /// The rules, HCL.
        rules: String = "Rules",
        /// The rules as JSON, for tools; the server makes it.
        rules_json: Value = "RulesJSON",
        /// The workload that has it without being told, if one does.
        job_acl: JobAcl = "JobACL",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// The workload that a policy belongs to.
    #[derive(Eq)]
    pub struct JobAcl {
        /// The namespace.
        namespace: String = "Namespace",
        /// The job.
        job_id: String = "JobID",
        /// The group; all if unset.
        group: String = "Group",
        /// The task; all if unset.
        task: String = "Task",
    }
}

object! {
    /// A token; lists leave the secret out.
    pub struct AclToken {
        /// Its public name.
        accessor_id: String = "AccessorID",
        /// The secret itself.
        secret_id: SecretText = "SecretID",
        /// What people call it.
        name: String = "Name",
        /// `client` or `management`.
        kind: String = "Type",
        /// The policies of a client token.
        policies: Vec<String> = "Policies",
        /// Its roles.
        roles: Vec<Value> = "Roles",
        /// Whether every region has it.
        global: bool = "Global",
        /// How long it lives, as Go writes durations.
        expiration_ttl: String = "ExpirationTTL",
        /// When it ends, RFC 3339.
        expiration_time: String = "ExpirationTime",
    }
}

object! {
    /// A set of policies.
    pub struct Role {
        /// Its UUID.
        id: String = "ID",
        /// Its name.
        name: String = "Name",
        /// What it is for.
        description: String = "Description",
        /// Links to policies.
        policies: Vec<Value> = "Policies",
    }
}

/// A secret. Its `Debug` shows nothing.
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct SecretText(String);

// === impl SecretText ===

impl SecretText {
    /// Hides a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret, to be sent and not to be shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}
