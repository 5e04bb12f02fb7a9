//! Routes of dynamic host volumes and claims.

use serde_json::json;

use super::{Client, Error, Reply, Request};
use crate::model::volume::{HostVolume, VolumeClaim, VolumeCreated};

impl Client {
    /// All dynamic host volumes of a namespace, `*` for all.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn host_volumes(&self, namespace: &str) -> Result<Reply<Vec<HostVolume>>, Error> {
        let request = Request::get(&["v1", "volumes"]).query("type", "host");
        self.fetch(&request.namespace(namespace)).await
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn host_volume(&self, namespace: &str, id: &str) -> Result<HostVolume, Error> {
        self.value(Request::get(&["v1", "volume", "host", id]).namespace(namespace))
            .await
    }

    /// Makes one.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn create_host_volume(&self, volume: &HostVolume) -> Result<VolumeCreated, Error> {
        let mut request = Request::put(&["v1", "volume", "host", "create"]);
        if let Some(namespace) = volume.namespace.get() {
            request = request.namespace(namespace);
        }
        self.value(request.json(&json!({ "Volume": volume }))?)
            .await
    }

    /// Removes one with what it holds.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn remove_host_volume(&self, namespace: &str, id: &str) -> Result<(), Error> {
        let request = Request::delete(&["v1", "volume", "host", id]);
        self.send(&request.namespace(namespace)).await?;
        Ok(())
    }

    /// Forgets one whose node is lost, which nobody else can remove; what it holds stays there.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn forget_host_volume(&self, namespace: &str, id: &str) -> Result<(), Error> {
        let request = Request::delete(&["v1", "volume", "host", id]).query("force", true);
        self.send(&request.namespace(namespace)).await?;
        Ok(())
    }

    /// Who claims which sticky volume.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn volume_claims(&self, namespace: &str) -> Result<Vec<VolumeClaim>, Error> {
        self.value(Request::get(&["v1", "volumes", "claims"]).namespace(namespace))
            .await
    }

    /// Gives up a claim, so that its group can take another volume.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn remove_volume_claim(&self, namespace: &str, id: &str) -> Result<(), Error> {
        let request = Request::delete(&["v1", "volumes", "claim", id]);
        self.send(&request.namespace(namespace)).await?;
        Ok(())
    }
}
