//! Istio's rules for a `PeerAuthentication`.

use super::PeerAuthentication;
use crate::istio::report::Report;
use crate::{Namespace, ObjectMeta};

impl PeerAuthentication {
    /// Adds what is wrong with it and what may surprise.
    pub(in crate::istio) fn validate(&self, metadata: &ObjectMeta, report: &mut Report) {
        report.selector(self.selector.as_ref());
        for port in self.port_level_mtls.keys() {
            report.port("spec.portLevelMtls", *port);
        }
        if !self.port_level_mtls.is_empty() && !self.selects_workloads() {
            let expected = "used with a selector of workloads, which have the ports";
            report.wrong("spec.portLevelMtls", "it", expected);
        }
        if self.selects_workloads() && metadata.namespace == Namespace::root().as_str() {
            report.warn(
                "spec.selector",
                "is in the root namespace, whose policies with a selector have no effect",
            );
        }
    }
}
