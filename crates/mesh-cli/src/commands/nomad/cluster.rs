//! A Nomad cluster: what it has, asked once per run.

use std::collections::BTreeMap;

use mesh_nomad::client::{Client, TokenSource};
use mesh_nomad::install::{Component, Facts, RECORD, Settings};
use mesh_nomad::model::acl::SecretText;
use mesh_nomad::model::namespace::Namespace;
use mesh_nomad::model::variable::Variable;
use serde_json::Value;

use super::choice::Place;
use super::failed;
use crate::exit::Failure;

/// The item of the record with the settings.
pub(super) const SETTINGS_ITEM: &str = "settings.json";

/// A cluster, and where the mesh is in it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
}

/// What the cluster has, secrets included.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) facts: Facts,
    /// The settings of an earlier install.
    pub(super) settings: Option<Settings>,
    /// The variables in the namespace that are ours to read.
    pub(super) variables: BTreeMap<String, Variable>,
}

impl Cluster {
    /// The cluster that the environment names.
    pub(super) fn open(place: &Place) -> Result<Self, Failure> {
        let mut config = super::config()?;
        if let Some(token) = &place.token {
            config.token = TokenSource::Fixed(SecretText::new(token));
        }
        Ok(Self {
            client: super::client(config)?,
            namespace: place.namespace.clone(),
        })
    }

    /// The same, where a piece of the mesh is.
    pub(super) fn of(&self, component: Component, settings: &Settings) -> Self {
        Self {
            client: self.client.clone(),
            namespace: match component {
                Component::Ingress => settings.ingress_namespace(),
                _ => self.namespace.clone(),
            },
        }
    }

    /// What it has.
    pub(super) async fn look(&self) -> Result<Found, Failure> {
        let agent = self.client.agent().await;
        let agent = agent.map_err(|error| failed("asking the Nomad agent about itself", &error))?;
        let acl = agent
            .config
            .get()
            .and_then(|config| config.pointer("/ACL/Enabled"));
        let acl = acl.and_then(Value::as_bool).unwrap_or(false);
        let namespace = self.namespace().await?;
        let mut facts = Facts {
            acl,
            nodes: self.nodes().await?,
            ..Facts::default()
        };
        if acl {
            let policies = self.client.policies().await;
            let policies = policies.map_err(|error| failed("reading policies", &error))?;
            for policy in policies {
                let policy = self.client.policy(policy.name.text()).await;
                facts
                    .policies
                    .push(policy.map_err(|error| failed("reading a policy", &error))?);
            }
        }
        let mut variables = BTreeMap::new();
        if namespace.is_some() {
            facts.jobs = self.jobs().await?;
            let volumes = self.client.host_volumes(&self.namespace).await;
            facts.volumes = volumes
                .map_err(|error| failed("reading volumes", &error))?
                .value;
            variables = self.variables().await?;
        }
        facts.namespace = namespace;
        let place = Settings {
            namespace: self.namespace.clone(),
            ..Settings::default()
        };
        let gateways = self.of(Component::Ingress, &place);
        facts.ingress_namespace = gateways.namespace().await?;
        if facts.ingress_namespace.is_some() {
            let found = gateways.jobs().await?.into_iter();
            facts
                .jobs
                .extend(found.filter(|job| job.id.text() == Component::Ingress.job_id()));
        }
        for (path, variable) in &variables {
            let items = variable.items.get();
            let names = items.into_iter().flat_map(|items| items.0.keys().cloned());
            facts.variables.insert(path.clone(), names.collect());
        }
        let settings = variables
            .get(RECORD)
            .and_then(|record| record.item(SETTINGS_ITEM));
        let settings = settings
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| {
                Failure::doing(
                    format!("reading the settings in the variable `{RECORD}`"),
                    &error,
                )
            })?;
        Ok(Found {
            facts,
            settings,
            variables,
        })
    }

    /// What it has, of an install that must be there.
    pub(super) async fn look_at_install(&self) -> Result<(Found, Settings), Failure> {
        let found = self.look().await?;
        let settings = found.settings.clone().ok_or_else(|| {
            Failure::new(format!(
                "there is no mesh in Nomad's namespace `{}`",
                self.namespace
            ))
            .with_hint("`mesh nomad install` makes one; --namespace names another")
        })?;
        Ok((found, settings))
    }

    /// Its namespace, if there is one.
    async fn namespace(&self) -> Result<Option<Namespace>, Failure> {
        match self.client.namespace(&self.namespace).await {
            Ok(namespace) => Ok(Some(namespace)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(
                format!("reading the namespace {}", self.namespace),
                &error,
            )),
        }
    }

    pub(super) async fn nodes(&self) -> Result<Vec<mesh_nomad::model::node::Node>, Failure> {
        let stubs = self.client.nodes().await;
        let stubs = stubs
            .map_err(|error| failed("reading nodes", &error))?
            .value;
        let mut nodes = Vec::with_capacity(stubs.len());
        for stub in stubs {
            let node = self.client.node(stub.id.text()).await;
            nodes.push(
                node.map_err(|error| failed("reading a node", &error))?
                    .value,
            );
        }
        Ok(nodes)
    }

    pub(super) async fn jobs(&self) -> Result<Vec<mesh_nomad::model::Job>, Failure> {
        let stubs = self.client.jobs(&self.namespace).await;
        let stubs = stubs.map_err(|error| failed("reading jobs", &error))?.value;
        let mut jobs = Vec::with_capacity(stubs.len());
        for stub in stubs {
            let job = self.client.job(&self.namespace, stub.id.text()).await;
            jobs.push(job.map_err(|error| failed("reading a job", &error))?);
        }
        Ok(jobs)
    }

    async fn variables(&self) -> Result<BTreeMap<String, Variable>, Failure> {
        let doing = |error| failed("reading variables", &error);
        let mut found = BTreeMap::new();
        for prefix in ["nomad/jobs/mesh", RECORD] {
            for stub in self
                .client
                .variables(&self.namespace, prefix)
                .await
                .map_err(doing)?
            {
                let path = stub.path.text().to_owned();
                let variable = self
                    .client
                    .variable(&self.namespace, &path)
                    .await
                    .map_err(doing)?;
                found.extend(variable.map(|variable| (path, variable)));
            }
        }
        Ok(found)
    }
}
