//! Istio's rules for a `ServiceEntry`.

use std::collections::BTreeSet;

use super::{ServiceEntry, ServiceEntryResolution};
use crate::istio::report::{Report, WILDCARD_HOST};
use crate::istio::workload_entry::Addresses;
use crate::{ObjectMeta, Protocol, name};

/// What Istio knows as a protocol of a port, in upper case.
const PROTOCOLS: &[&str] = &[
    "HTTP", "HTTP2", "HTTPS", "GRPC", "GRPC-WEB", "MONGO", "MYSQL", "REDIS", "TCP", "TLS", "UDP",
];

impl ServiceEntry {
    /// Adds what is wrong with it and what may surprise.
    pub(in crate::istio) fn validate(&self, metadata: &ObjectMeta, report: &mut Report) {
        report.limit("spec.hosts", self.hosts.len(), 256);
        report.limit("spec.addresses", self.addresses.len(), 256);
        report.limit("spec.ports", self.ports.len(), 256);
        report.limit("spec.endpoints", self.endpoints.len(), 4096);
        self.validate_hosts(report);
        self.validate_addresses(report);
        self.validate_ports(report);
        self.validate_endpoints(report);
        if let Some(selector) = &self.workload_selector {
            if !self.endpoints.is_empty() {
                let expected = "only one of `endpoints` and `workloadSelector`";
                report.wrong("spec", "endpoints and workloadSelector", expected);
            }
            report.labels("spec.workloadSelector.labels", &selector.labels);
            if selector.labels.is_empty() {
                let text = "has no labels and selects every workload of the namespace";
                report.warn("spec.workloadSelector", text);
            }
            if self.resolution == ServiceEntryResolution::None {
                let text = "is without effect where `resolution` is `NONE`";
                report.warn("spec.workloadSelector", text);
            }
        }
        report.export_to(&metadata.namespace, &self.export_to, true);
    }

    fn validate_hosts(&self, report: &mut Report) {
        if self.hosts.is_empty() {
            report.wrong("spec.hosts", "", "at least one host");
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let path = format!("spec.hosts[{index}]");
            if host == "*" {
                report.wrong(path, host, "a host that is not every host");
            } else if name::is_wildcard_domain(host) {
                if host.starts_with('*') && !host.starts_with("*.") {
                    report.warn(&path, "has a `*` within a label, and is passed over");
                }
            } else {
                report.wrong(path, host, WILDCARD_HOST);
            }
        }
        // Bytes do not say which host they are for.
        let all_named = self.ports.iter().all(|port| {
            let protocol = port.protocol();
            protocol.is_http() || protocol == Protocol::Tls
        });
        if self.hosts.len() > 1 && self.resolution != ServiceEntryResolution::None && !all_named {
            let expected = "a single host, as ports of neither HTTP nor TLS need";
            report.wrong("spec.hosts", &self.hosts.join(", "), expected);
        }
    }

    fn validate_addresses(&self, report: &mut Report) {
        use ServiceEntryResolution::{None, Static};
        for (index, address) in self.addresses.iter().enumerate() {
            let path = format!("spec.addresses[{index}]");
            report.network(&path, address);
            if address.contains('/') && !matches!(self.resolution, None | Static) {
                let expected = "a single address (networks are for `NONE` and `STATIC`)";
                report.wrong(path, address, expected);
            }
        }
    }

    fn validate_ports(&self, report: &mut Report) {
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for (index, port) in self.ports.iter().enumerate() {
            let path = format!("spec.ports[{index}]");
            report.label(&format!("{path}.name"), &port.name);
            report.port(&format!("{path}.number"), port.number);
            if let Some(target) = port.target_port {
                report.port(&format!("{path}.targetPort"), target);
            }
            if !names.insert(&port.name) {
                let expected = "a name that no port before has";
                report.wrong(format!("{path}.name"), &port.name, expected);
            }
            if !numbers.insert(port.number) {
                let expected = "a number that no port before has";
                report.wrong(format!("{path}.number"), &port.number.to_string(), expected);
            }
            let protocol = port.protocol.to_ascii_uppercase();
            if protocol == "UDP" {
                report.warn(
                    &format!("{path}.protocol"),
                    "UDP is passed by, not through, the mesh",
                );
            } else if !protocol.is_empty() && !PROTOCOLS.contains(&protocol.as_str()) {
                let expected = format!("one of `{}`", PROTOCOLS.join("`, `"));
                report.wrong(format!("{path}.protocol"), &port.protocol, expected);
            }
        }
    }

    fn validate_endpoints(&self, report: &mut Report) {
        use ServiceEntryResolution::{Dns, DnsRoundRobin, DynamicDns, None, Static};
        let names: BTreeSet<_> = self.ports.iter().map(|port| port.name.as_str()).collect();
        let addresses = if self.resolution == Static {
            Addresses::Ip
        } else {
            Addresses::Any
        };
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            endpoint.validate_at(&format!("spec.endpoints[{index}]"), addresses, report);
            for name in endpoint
                .ports
                .keys()
                .filter(|name| !names.contains(name.as_str()))
            {
                let path = format!("spec.endpoints[{index}].ports");
                report.wrong(path, name, "the name of one of `spec.ports`");
            }
        }
        match self.resolution {
            None | DynamicDns if !self.endpoints.is_empty() => {
                let expected = "used with `STATIC` or `DNS`, the resolutions that have endpoints";
                report.wrong("spec.endpoints", "it", expected);
            }
            Dns | DnsRoundRobin
                if self.endpoints.is_empty() && self.workload_selector.is_none() =>
            {
                for (index, host) in self.hosts.iter().enumerate() {
                    let path = format!("spec.hosts[{index}]");
                    let expected = "a host that DNS can resolve, as there are no endpoints";
                    report.demand(name::is_domain(host), path, host, expected);
                }
            }
            DnsRoundRobin if self.endpoints.len() > 1 => {
                let count = self.endpoints.len().to_string();
                report.wrong(
                    "spec.endpoints",
                    &count,
                    "at most one, for `DNS_ROUND_ROBIN`",
                );
            }
            _ => {}
        }
        if self.resolution == DynamicDns {
            if let Some(host) = self.hosts.iter().find(|host| !host.starts_with('*')) {
                report.wrong("spec.hosts", host, "a host with `*`, for `DYNAMIC_DNS`");
            }
            if !self.addresses.is_empty() {
                report.wrong("spec.addresses", "it", "used with `DYNAMIC_DNS`");
            }
            let text = "`DYNAMIC_DNS` is not supported: the service has no endpoints";
            report.warn("spec.resolution", text);
        }
    }
}
