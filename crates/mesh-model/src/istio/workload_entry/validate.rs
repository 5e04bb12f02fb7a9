//! Istio's rules for a `WorkloadEntry`.

use std::net::IpAddr;

use super::WorkloadEntry;
use crate::istio::report::{ADDRESS, Report};
use crate::{ObjectMeta, name};

/// Which addresses an endpoint may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::istio) enum Addresses {
    /// IP addresses.
    Ip,
    /// IP addresses and names.
    Any,
}

impl WorkloadEntry {
    /// Adds what is wrong with it and what may surprise.
    pub(in crate::istio) fn validate(&self, _: &ObjectMeta, report: &mut Report) {
        self.validate_at("spec", Addresses::Any, report);
    }

    /// The same, for an entry at `path`.
    pub(in crate::istio) fn validate_at(
        &self,
        path: &str,
        addresses: Addresses,
        report: &mut Report,
    ) {
        self.validate_address(&format!("{path}.address"), addresses, report);
        for (name, port) in &self.ports {
            if !name::is_label(name) {
                report.wrong(
                    format!("{path}.ports"),
                    name,
                    "the name of a port (a DNS label)",
                );
            }
            report.port(&format!("{path}.ports[{name}]"), *port);
        }
        report.labels(&format!("{path}.labels"), &self.labels);
        report.limit(format!("{path}.address"), self.address.len(), 256);
        report.limit(format!("{path}.ports"), self.ports.len(), 128);
        report.limit(format!("{path}.labels"), self.labels.len(), 256);
        report.limit(format!("{path}.network"), self.network.len(), 2048);
        report.limit(format!("{path}.locality"), self.locality.len(), 2048);
        if !self.service_account.is_empty() && !name::is_subdomain(&self.service_account) {
            let expected = "the name of a service account (a DNS subdomain)";
            report.wrong(
                format!("{path}.serviceAccount"),
                &self.service_account,
                expected,
            );
        }
    }

    fn validate_address(&self, path: &str, addresses: Addresses, report: &mut Report) {
        let address = self.address.as_str();
        if let Some(socket) = address.strip_prefix("unix://") {
            let absolute = socket.starts_with('/') && !socket.ends_with('/');
            let right = absolute || socket.starts_with('@');
            report.demand(
                right,
                path,
                address,
                "a socket, by an absolute path or `@name`",
            );
            if !self.ports.is_empty() {
                report.wrong(path, address, "a socket of an entry without `ports`");
            }
            report.warn(path, "sockets are not supported: the entry is no endpoint");
        } else if address.is_empty() {
            report.demand(
                !self.network.is_empty(),
                path,
                "",
                "an IP address or a DNS name",
            );
            report.warn(path, "is empty, so the entry is no endpoint");
        } else if address.parse::<IpAddr>().is_err() {
            match addresses {
                Addresses::Ip => report.wrong(path, address, ADDRESS),
                Addresses::Any => report.demand(
                    name::is_domain(address),
                    path,
                    address,
                    "an IP address or a DNS name",
                ),
            }
        }
    }
}
