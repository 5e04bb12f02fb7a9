//! Networks of the Docker engine: the daemon's own, with a bridge and subnets that were asked for.

use bollard::errors::Error;

use super::daemon::{found, message};
use super::{Engine, label, plan};
use crate::{Creation, Name, NetworkSpec, Removal, RuntimeError};

impl Engine {
    pub(super) async fn create_network(
        &self,
        spec: &NetworkSpec,
    ) -> Result<Creation, RuntimeError> {
        let sound = spec.check().into_result(());
        sound.map_err(RuntimeError::invalid("network", &spec.name))?;
        if let Some(there) = self.find_network(&spec.name).await? {
            return same(&there, spec);
        }
        let request = plan::network(&self.names, spec)?;
        let Err(refused) = self.daemon.api.create_network(request).await else {
            return Ok(Creation::Created);
        };
        // Somebody of ours made it since we looked.
        if let Some(there) = self.find_network(&spec.name).await? {
            return same(&there, spec);
        }
        Err(self.why_no_network(spec, refused))
    }

    fn why_no_network(&self, spec: &NetworkSpec, refused: Error) -> RuntimeError {
        let said = message(&refused).unwrap_or_default();
        if said.contains("overlaps") || said.contains("already used on the host") {
            RuntimeError::SubnetClash {
                subnet: format!("{}` or `{}", spec.v4, spec.v6),
                with: "another network of the daemon or a route of its host".to_owned(),
            }
        } else if said.contains("same bridge name") || said.contains("already in use") {
            RuntimeError::LinkTaken {
                link: spec.bridge.clone(),
            }
        } else {
            self.daemon
                .failed(format!("make network `{}`", spec.name), refused)
        }
    }

    pub(super) async fn network(&self, name: &Name) -> Result<NetworkSpec, RuntimeError> {
        let there = self.find_network(name).await?;
        there.ok_or_else(|| RuntimeError::NotFound {
            kind: "network",
            name: name.to_string(),
        })
    }

    pub(super) async fn remove_network(&self, name: &Name) -> Result<Removal, RuntimeError> {
        if self.find_network(name).await?.is_none() {
            return Ok(Removal::Absent);
        }
        let in_use = |by: String| RuntimeError::InUse {
            kind: "network",
            name: name.to_string(),
            by,
        };
        for (group, _) in self.groups().await? {
            if group.attachment.network() == Some(name) {
                return Err(in_use(format!("group `{}`", group.name)));
            }
        }
        let network = self.names.network(name);
        match found(self.daemon.api.remove_network(&network).await) {
            Ok(Some(())) => Ok(Removal::Removed),
            Ok(None) => Ok(Removal::Absent),
            Err(error) if message(&error).is_some_and(|it| it.contains("active endpoints")) => {
                Err(in_use("containers of others".to_owned()))
            }
            Err(error) => Err(self
                .daemon
                .failed(format!("remove network `{name}`"), error)),
        }
    }

    /// A network of ours, as it was asked for.
    async fn find_network(&self, name: &Name) -> Result<Option<NetworkSpec>, RuntimeError> {
        let network = self.names.network(name);
        let looked = self.daemon.api.inspect_network(&network, None).await;
        let there = found(looked).map_err(|error| {
            self.daemon
                .failed(format!("look at network `{network}`"), error)
        })?;
        let Some(there) = there else {
            return Ok(None);
        };
        if !self.names.own(there.labels.as_ref(), "network") {
            return Err(RuntimeError::NameTaken {
                kind: "network",
                name: network,
            });
        }
        label::read(there.labels.as_ref(), label::SPEC, &network).map(Some)
    }
}

fn same(there: &NetworkSpec, asked: &NetworkSpec) -> Result<Creation, RuntimeError> {
    if there == asked {
        return Ok(Creation::Exists);
    }
    Err(RuntimeError::Differs {
        kind: "network",
        name: asked.name.to_string(),
    })
}
