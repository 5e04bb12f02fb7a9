//! The mesh as it was assembled last, for the publisher and for those who ask why.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::{Health, Host, Mode, Namespace, Workload};
use tokio::sync::watch;
use tracing::warn;

use super::mesh::{Config, CredentialKey, Mesh, Warning};
use super::publisher::Assembly;
use super::resource::Layer;
use super::snapshot;

/// A mesh, and what it was assembled from.
#[derive(Debug, Default)]
pub struct Resolved {
    /// The objects of the API.
    pub config: Arc<Config>,
    /// The mesh.
    pub mesh: Mesh,
}

/// Assembles meshes and makes snapshots of them.
#[derive(Debug)]
pub(super) struct MeshAssembly {
    resolved: Arc<Resolved>,
    /// What was assembled before that.
    before: Arc<Resolved>,
    current: watch::Sender<Option<Arc<Resolved>>>,
    /// What was warned of already.
    warnings: BTreeSet<Warning>,
}

impl MeshAssembly {
    /// Shows each mesh to `current`'s receivers.
    pub(super) fn new(current: watch::Sender<Option<Arc<Resolved>>>) -> Self {
        Self {
            resolved: Arc::default(),
            before: Arc::default(),
            current,
            warnings: BTreeSet::new(),
        }
    }
}

impl Assembly for MeshAssembly {
    fn assemble(&mut self, config: &Arc<Config>, workloads: &[(Workload, Health)]) {
        let mut mesh = Mesh::assemble(config, workloads);
        mesh.remember_nodes(&self.resolved.mesh);
        let resolved = Arc::new(Resolved {
            config: Arc::clone(config),
            mesh,
        });
        self.before = std::mem::replace(&mut self.resolved, resolved);
        let warnings: BTreeSet<_> = self.resolved.mesh.warnings.iter().cloned().collect();
        for Warning { source, message } in warnings.difference(&self.warnings) {
            warn!(source, message, "part of the mesh is not used");
        }
        self.warnings = warnings;
        self.current.send_replace(Some(Arc::clone(&self.resolved)));
    }

    fn unaddressed(&self) -> BTreeSet<Host> {
        self.resolved.mesh.unaddressed.clone()
    }

    fn credentials(&self) -> BTreeSet<CredentialKey> {
        self.resolved.mesh.wanted_credentials()
    }

    fn nodes(&self) -> &BTreeSet<IpAddr> {
        &self.resolved.mesh.nodes
    }

    fn shared(&self, namespace: &Namespace, mode: Mode, before: Option<&Layer>) -> Layer {
        let mesh = &self.resolved.mesh;
        match before {
            Some(layer) => snapshot::shared_after(mesh, namespace, mode, &self.before.mesh, layer),
            None => snapshot::shared(mesh, namespace, mode),
        }
    }

    fn own(&self, workload: &Workload) -> Layer {
        snapshot::own(&self.resolved.mesh, workload)
    }
}
