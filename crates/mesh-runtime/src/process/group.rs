//! Groups of the process engine: a network namespace with a cable to the bridge.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::record::{self, GroupRecord, Layout, Phase};
use super::{Engine, ProcessEngine, address, cgroup, link, netns, now_millis};
use crate::redirect::{self, Policy};
use crate::{
    Addresses, Attachment, Creation, Dns, Group, GroupSpec, Name, NetworkSpec, Removal,
    RuntimeError, order,
};

impl ProcessEngine {
    /// Stops the units of a group, each before those that it depends on.
    pub(super) async fn stop_group(&self, name: &Name) -> Result<(), RuntimeError> {
        let group = name.clone();
        let units = self.blocking(move |engine| engine.units(&group)).await?;
        let ordered: Vec<Name> = match order(&units) {
            Ok(ordered) => ordered.iter().map(|unit| unit.name.clone()).collect(),
            // What cannot be started in order may still be stopped.
            Err(_problems) => units.iter().map(|unit| unit.name.clone()).collect(),
        };
        for unit in ordered.iter().rev() {
            self.stop(name, unit).await?;
        }
        Ok(())
    }
}

impl Engine {
    pub(super) fn create_group(&self, spec: &GroupSpec) -> Result<(Creation, Group), RuntimeError> {
        refuse_foreign(spec)?;
        let _lock = self.layout.lock()?;
        let found = self.group_record(&spec.name)?;
        if found.as_ref().is_some_and(|found| found.spec != *spec) {
            return Err(RuntimeError::Differs {
                kind: "group",
                name: spec.name.to_string(),
            });
        }
        let network = self.network_of(spec)?;
        let is_new = found.is_none();
        match self.make_group(spec, network.as_ref(), found) {
            Err(error) if is_new => match self.dismantle(&spec.name) {
                Ok(_) => Err(error),
                Err(undo) => Err(RuntimeError::Removal {
                    errors: vec![error, undo],
                }),
            },
            made => made,
        }
    }

    fn make_group(
        &self,
        spec: &GroupSpec,
        network: Option<&NetworkSpec>,
        found: Option<GroupRecord>,
    ) -> Result<(Creation, Group), RuntimeError> {
        for directory in [
            self.layout.groups(),
            self.layout.group(&spec.name),
            self.layout.files(&spec.name),
            self.layout.units(&spec.name),
        ] {
            record::make_directory(&directory)?;
        }
        if let Some(dns) = &spec.dns {
            let path = self.layout.resolv_conf(&spec.name);
            record::write_file(&path, resolv_conf(dns).as_bytes(), 0o644)?;
        }
        let is_new = found.is_none();
        let mut record = match found {
            Some(found) => found,
            None => self.plan(spec, network)?,
        };
        if is_new {
            record::write(&self.layout.group_record(&spec.name), &record)?;
        }
        let connected = match network {
            Some(network) => self.connect(&record, network)?,
            None => Creation::Exists,
        };
        if record.phase != Phase::Ready {
            record.phase = Phase::Ready;
            record::write(&self.layout.group_record(&spec.name), &record)?;
        }
        let creation = if is_new { Creation::Created } else { connected };
        Ok((creation, self.group_of(record)))
    }

    pub(super) fn group(&self, name: &Name) -> Result<Group, RuntimeError> {
        let record = self.group_record(name)?;
        let record = record.ok_or_else(|| RuntimeError::NotFound {
            kind: "group",
            name: name.to_string(),
        })?;
        Ok(self.group_of(record))
    }

    pub(super) fn redirect_group(
        &self,
        name: &Name,
        policy: &Policy,
    ) -> Result<Creation, RuntimeError> {
        let _lock = self.layout.lock()?;
        let group = self.group(name)?;
        let namespace = group.namespace.ok_or_else(|| RuntimeError::NotFound {
            kind: "network namespace of group",
            name: name.to_string(),
        })?;
        let creation =
            redirect::apply(&namespace, policy).map_err(|source| RuntimeError::Redirect {
                group: name.clone(),
                source,
            })?;
        if let Some(mut record) = self.group_record(name)?
            && (creation == Creation::Created || record.rules_applied_at_millis.is_none())
        {
            record.rules_applied_at_millis = Some(now_millis());
            record::write(&self.layout.group_record(name), &record)?;
        }
        Ok(creation)
    }

    pub(super) fn group_record(&self, name: &Name) -> Result<Option<GroupRecord>, RuntimeError> {
        record::read(&self.layout.group_record(name))
    }

    /// Removes a group whose units are stopped. Goes on after a failure and reports all.
    pub(super) fn remove_group(&self, name: &Name) -> Result<Removal, RuntimeError> {
        let _lock = self.layout.lock()?;
        self.dismantle(name)
    }

    /// What removing a group is, for those who hold the lock.
    fn dismantle(&self, name: &Name) -> Result<Removal, RuntimeError> {
        let directory = self.layout.group(name);
        if !directory.exists() {
            return Ok(Removal::Absent);
        }
        let mut errors = Vec::new();
        match self.group_record(name) {
            Ok(Some(mut record)) => {
                record.phase = Phase::Removing;
                errors.extend(record::write(&self.layout.group_record(name), &record).err());
            }
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        for cgroup in cgroup::existing(&self.cgroup().join(name)) {
            let removed = cgroup::kill(&cgroup).and_then(|()| cgroup::remove(&cgroup));
            errors.extend(removed.err().map(|error| {
                RuntimeError::system(format!("remove cgroup `{}`", cgroup.display()), error)
            }));
        }
        // The cable goes before the namespace: the kernel destroys a namespace some time later.
        let link = self.id.link(name);
        errors.extend(
            link::remove(&link)
                .err()
                .map(|error| RuntimeError::system(format!("remove link `{link}`"), error)),
        );
        errors.extend(netns::remove(&self.layout.namespace(name)).err());
        if errors.is_empty() {
            errors.extend(fs::remove_dir_all(&directory).err().map(|error| {
                RuntimeError::system(format!("remove `{}`", directory.display()), error)
            }));
        }
        if errors.is_empty() {
            Ok(Removal::Removed)
        } else {
            Err(RuntimeError::Removal { errors })
        }
    }

    fn network_of(&self, spec: &GroupSpec) -> Result<Option<NetworkSpec>, RuntimeError> {
        match &spec.attachment {
            Attachment::Host => Ok(None),
            Attachment::Network(name) => self.network(name).map(Some),
            Attachment::Container { id, .. } => Err(RuntimeError::Unsupported {
                engine: "process",
                what: format!("containers, and group `{}` is to join `{id}`", spec.name),
            }),
        }
    }

    /// Chooses what a new group gets.
    fn plan(
        &self,
        spec: &GroupSpec,
        network: Option<&NetworkSpec>,
    ) -> Result<GroupRecord, RuntimeError> {
        let mut record = GroupRecord {
            phase: Phase::Creating,
            spec: spec.clone(),
            host_number: None,
            addresses: None,
            link: None,
            rules_applied_at_millis: None,
        };
        let Some(network) = network else {
            return Ok(record);
        };
        let mut taken = BTreeSet::new();
        for name in Layout::entries(&self.layout.groups())? {
            if let Some(other) = self.group_record(&name)?
                && other.spec.attachment == spec.attachment
            {
                taken.extend(other.host_number);
            }
        }
        let number = address::choose(network, spec, &taken)?;
        let (v4, v6) = network.addresses(number);
        record.host_number = Some(number);
        record.addresses = Some(Addresses {
            v4,
            v6,
            gateways: network.gateways(),
        });
        record.link = Some(self.id.link(&spec.name));
        Ok(record)
    }

    /// Makes the namespace and its cable, or completes them.
    fn connect(
        &self,
        record: &GroupRecord,
        network: &NetworkSpec,
    ) -> Result<Creation, RuntimeError> {
        let (Some(addresses), Some(link)) = (record.addresses, &record.link) else {
            return Ok(Creation::Exists);
        };
        let name = &record.spec.name;
        record::make_directory(&self.layout.namespaces())?;
        let namespace = self.layout.namespace(name);
        let creation = netns::create(&namespace)?;
        if creation == Creation::Exists && record.phase == Phase::Ready {
            return Ok(Creation::Exists);
        }
        let failed = |error| RuntimeError::system(format!("connect group `{name}`"), error);
        netns::within(Some(&namespace), || settle(Path::new("/proc/sys/net")))
            .and_then(|done| done)
            .map_err(failed)?;
        let cable = link::Cable {
            name: link,
            bridge: &network.bridge,
            alias: name.as_str(),
            mac: address::mac(addresses.v4),
            addresses,
            prefix_lengths: (network.v4.prefix_len(), network.v6.prefix_len()),
        };
        link::connect(&cable, &namespace).map_err(failed)?;
        Ok(creation)
    }

    fn group_of(&self, record: GroupRecord) -> Group {
        let name = &record.spec.name;
        let namespace = record.addresses.map(|_| self.layout.namespace(name));
        Group {
            addresses: record.addresses,
            namespace,
            directory: self.layout.files(name),
            rules_applied_at_millis: record.rules_applied_at_millis,
            spec: record.spec,
        }
    }
}

/// Refuses what only a daemon with a resolver and a forwarder can do.
fn refuse_foreign(spec: &GroupSpec) -> Result<(), RuntimeError> {
    let what = if !spec.ports.is_empty() {
        "published ports: it forwards nothing"
    } else if !spec.aliases.is_empty() {
        "aliases: nothing answers names on its networks"
    } else {
        return Ok(());
    };
    Err(RuntimeError::Unsupported {
        engine: "process",
        what: what.to_owned(),
    })
}

/// Settings of a new namespace, before anything is in it.
fn settle(sysctl: &Path) -> io::Result<()> {
    // Nobody on the bridge may hand out routes; ours are set by hand.
    fs::write(sysctl.join("ipv6/conf/default/accept_ra"), "0")?;
    // All ports belong to the group alone, so no right is needed to listen on a low one.
    fs::write(sysctl.join("ipv4/ip_unprivileged_port_start"), "0")
}

/// Source: resolv.conf(5).
fn resolv_conf(dns: &Dns) -> String {
    let search = (!dns.search.is_empty()).then(|| format!("search {}\n", dns.search.join(" ")));
    let servers = dns
        .servers
        .iter()
        .map(|server| format!("nameserver {server}\n"));
    search.into_iter().chain(servers).collect()
}
