//! Routes of Nomad's own service catalogue.

use super::{Client, Error, Reply, Request};
use crate::model::registration::{NamespaceServices, Registration};

impl Client {
    /// The names of all services of a namespace, `*` for all.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`Error::NotAllowed`] for what a workload identity without policy gets
    /// for `*`.
    pub async fn services(&self, namespace: &str) -> Result<Reply<Vec<NamespaceServices>>, Error> {
        self.fetch(&Self::services_request(namespace)).await
    }

    /// The request behind [`Self::services`], to watch. It wakes for every registration.
    pub fn services_request(namespace: &str) -> Request {
        Request::get(&["v1", "services"])
            .namespace(namespace)
            .guarded()
    }

    /// Where a service is served; nothing if there is none of that name. The namespace is one, not
    /// `*`, which this route does not know.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; [`Error::NotAllowed`] when the token does not allow it.
    pub async fn service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Reply<Vec<Registration>>, Error> {
        self.fetch(&Self::service_request(namespace, name)).await
    }

    /// The request behind [`Self::service`], to watch. It wakes for that name only, once it has
    /// instances.
    pub fn service_request(namespace: &str, name: &str) -> Request {
        Request::get(&["v1", "service", name])
            .namespace(namespace)
            .guarded()
    }

    /// Removes a registration. Its client does not register it again while the allocation lives.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn remove_registration(
        &self,
        namespace: &str,
        name: &str,
        id: &str,
    ) -> Result<(), Error> {
        let request = Request::delete(&["v1", "service", name, id]).namespace(namespace);
        self.send(&request).await?;
        Ok(())
    }
}
