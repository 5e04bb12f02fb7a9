//! What a cluster has, as far as an install looks at it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Job;
use crate::model::acl::Policy;
use crate::model::namespace::Namespace;
use crate::model::node::Node;
use crate::model::volume::HostVolume;

/// What a cluster has. The default is an empty one.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Whether access control is on.
    pub acl: bool,
    /// The nodes, as single reads return them.
    pub nodes: Vec<Node>,
    /// The namespace of the control plane, if there is one.
    pub namespace: Option<Namespace>,
    /// The namespace of the gateways, if there is one.
    pub ingress_namespace: Option<Namespace>,
    /// The jobs in the namespace of the control plane, and that of the gateways in theirs.
    pub jobs: Vec<Job>,
    /// The policies of the cluster.
    pub policies: Vec<Policy>,
    /// The volumes in that namespace.
    pub volumes: Vec<HostVolume>,
    /// The names of the items of each variable in that namespace, by path.
    pub variables: BTreeMap<String, BTreeSet<String>>,
}

impl Facts {
    /// The job of this name.
    pub fn job(&self, id: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id.text() == id)
    }

    /// Nodes that take work now, in the order of their names.
    pub(super) fn ready_nodes(&self) -> Vec<&Node> {
        let mut nodes: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| node.status.text() == "ready" && node.eligibility.text() != "ineligible")
            .collect();
        nodes.sort_by_key(|node| (node.name.text(), node.id.text()));
        nodes
    }
}
