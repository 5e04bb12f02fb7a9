//! Routes of access control and namespaces.

use serde_json::json;

use super::{Client, Error, Request};
use crate::model::acl::{AclToken, Policy, Role};
use crate::model::namespace::Namespace;

impl Client {
    /// Makes the first token of a cluster, which may do everything. Works once.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; status 400 when it was done before, or access control is off.
    pub async fn bootstrap_acl(&self) -> Result<AclToken, Error> {
        self.value(Request::post(&["v1", "acl", "bootstrap"])).await
    }

    /// All policies, without their rules.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn policies(&self) -> Result<Vec<Policy>, Error> {
        self.value(Request::get(&["v1", "acl", "policies"])).await
    }

    /// One policy.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn policy(&self, name: &str) -> Result<Policy, Error> {
        self.value(Request::get(&["v1", "acl", "policy", name]))
            .await
    }

    /// Writes a policy.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn write_policy(&self, policy: &Policy) -> Result<(), Error> {
        let request = Request::put(&["v1", "acl", "policy", policy.name.text()]);
        self.send(&request.json(policy)?).await?;
        Ok(())
    }

    /// Removes a policy.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn remove_policy(&self, name: &str) -> Result<(), Error> {
        self.send(&Request::delete(&["v1", "acl", "policy", name]))
            .await?;
        Ok(())
    }

    /// All tokens, without their secrets.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn tokens(&self) -> Result<Vec<AclToken>, Error> {
        self.value(Request::get(&["v1", "acl", "tokens"])).await
    }

    /// The token that asks.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; 404 for a workload identity, which is no token.
    pub async fn own_token(&self) -> Result<AclToken, Error> {
        self.value(Request::get(&["v1", "acl", "token", "self"]))
            .await
    }

    /// Makes a token.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn create_token(&self, token: &AclToken) -> Result<AclToken, Error> {
        self.value(Request::put(&["v1", "acl", "token"]).json(token)?)
            .await
    }

    /// Ends a token.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn remove_token(&self, accessor: &str) -> Result<(), Error> {
        self.send(&Request::delete(&["v1", "acl", "token", accessor]))
            .await?;
        Ok(())
    }

    /// All roles.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn roles(&self) -> Result<Vec<Role>, Error> {
        self.value(Request::get(&["v1", "acl", "roles"])).await
    }

    /// All namespaces that the token may see.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        self.value(Request::get(&["v1", "namespaces"])).await
    }

    /// One namespace.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn namespace(&self, name: &str) -> Result<Namespace, Error> {
        self.value(Request::get(&["v1", "namespace", name])).await
    }

    /// Writes a namespace.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn write_namespace(&self, namespace: &Namespace) -> Result<(), Error> {
        let request = Request::put(&["v1", "namespace", namespace.name.text()]);
        self.send(&request.json(&json!(namespace))?).await?;
        Ok(())
    }

    /// Removes an empty namespace.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn remove_namespace(&self, name: &str) -> Result<(), Error> {
        self.send(&Request::delete(&["v1", "namespace", name]))
            .await?;
        Ok(())
    }
}
