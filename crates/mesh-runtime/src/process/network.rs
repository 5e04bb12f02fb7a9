//! Networks of the process engine: a bridge that carries the gateway addresses.

use std::fs;
use std::io;

use ipnet::IpNet;

use super::record::{self, NetworkRecord, Phase};
use super::{Engine, address, link};
use crate::{Attachment, Creation, Name, NetworkSpec, Removal, RuntimeError};

impl Engine {
    pub(super) fn create_network(&self, spec: &NetworkSpec) -> Result<Creation, RuntimeError> {
        let sound = spec.check().into_result(());
        sound.map_err(RuntimeError::invalid("network", &spec.name))?;
        let _lock = self.layout.lock()?;
        record::make_directory(&self.layout.networks())?;
        let path = self.layout.network(&spec.name);
        let found: Option<NetworkRecord> = record::read(&path)?;
        if found.as_ref().is_some_and(|found| found.spec != *spec) {
            return Err(RuntimeError::Differs {
                kind: "network",
                name: spec.name.to_string(),
            });
        }
        refuse_clash(spec)?;
        let mut record = NetworkRecord {
            phase: Phase::Creating,
            spec: spec.clone(),
        };
        if found.is_none() {
            record::write(&path, &record)?;
        }
        let made = self.bridge(spec);
        if let (Err(_), None) = (&made, &found) {
            // Nothing of ours is there that the record would have to tell of.
            remove_file(&path)?;
        }
        let creation = made?;
        record.phase = Phase::Ready;
        record::write(&path, &record)?;
        Ok(creation)
    }

    pub(super) fn network(&self, name: &Name) -> Result<NetworkSpec, RuntimeError> {
        let record = self.network_record(name)?;
        record
            .map(|record| record.spec)
            .ok_or_else(|| RuntimeError::NotFound {
                kind: "network",
                name: name.to_string(),
            })
    }

    pub(super) fn remove_network(&self, name: &Name) -> Result<Removal, RuntimeError> {
        let _lock = self.layout.lock()?;
        let Some(record) = self.network_record(name)? else {
            return Ok(Removal::Absent);
        };
        for group in record::Layout::entries(&self.layout.groups())? {
            let attached = self.group_record(&group)?.is_some_and(|group| {
                matches!(&group.spec.attachment, Attachment::Network(network) if network == name)
            });
            if attached {
                return Err(RuntimeError::InUse {
                    kind: "network",
                    name: name.to_string(),
                    by: format!("group `{group}`"),
                });
            }
        }
        let bridge = &record.spec.bridge;
        link::remove_bridge(bridge, self.id.bridge_mac(name))
            .map_err(|error| RuntimeError::system(format!("remove bridge `{bridge}`"), error))?;
        remove_file(&self.layout.network(name))?;
        Ok(Removal::Removed)
    }

    pub(super) fn network_record(
        &self,
        name: &Name,
    ) -> Result<Option<NetworkRecord>, RuntimeError> {
        record::read(&self.layout.network(name))
    }

    fn bridge(&self, spec: &NetworkSpec) -> Result<Creation, RuntimeError> {
        let (v4, v6) = spec.gateways();
        let gateway = |address, prefix| {
            IpNet::new(address, prefix)
                .map_err(|error| RuntimeError::system("compute a gateway", io::Error::other(error)))
        };
        let bridge = link::Bridge {
            name: &spec.bridge,
            mac: self.id.bridge_mac(&spec.name),
            addresses: [
                gateway(v4.into(), spec.v4.prefix_len())?,
                gateway(v6.into(), spec.v6.prefix_len())?,
            ],
        };
        link::create_bridge(&bridge).map_err(|error| match error {
            link::BridgeError::Taken => RuntimeError::LinkTaken {
                link: spec.bridge.clone(),
            },
            link::BridgeError::Failed(error) => {
                RuntimeError::system(format!("make bridge `{}`", spec.bridge), error)
            }
        })
    }
}

/// Looks at everything but the bridge itself, which may be ours from before.
fn refuse_clash(spec: &NetworkSpec) -> Result<(), RuntimeError> {
    let occupied = link::occupied(&spec.bridge)
        .map_err(|error| RuntimeError::system("read addresses and routes", error))?;
    let subnets = [IpNet::from(spec.v4), IpNet::from(spec.v6)];
    match address::clash(subnets, &occupied) {
        Some((subnet, with)) => Err(RuntimeError::SubnetClash {
            subnet: subnet.to_string(),
            with: format!("{} `{}` of link `{}`", with.what, with.net, with.link),
        }),
        None => Ok(()),
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove_file(path: &std::path::Path) -> Result<(), RuntimeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let action = format!("remove `{}`", path.display());
            Err(RuntimeError::system(action, error))
        }
        _ => Ok(()),
    }
}
