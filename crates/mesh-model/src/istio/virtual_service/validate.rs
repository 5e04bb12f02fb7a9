//! Istio's rules for a `VirtualService`.

mod action;
mod header;

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{
    Destination, HttpMatch, HttpRoute, L4Match, RouteDestination, TcpRoute, TlsMatch, TlsRoute,
    VirtualService,
};
use crate::ObjectMeta;
use crate::host::HostPattern;
use crate::istio::StringMatch;
use crate::istio::report::Report;
use crate::name;

impl VirtualService {
    /// Adds what is wrong with it and what may surprise.
    pub(in crate::istio) fn validate(&self, metadata: &ObjectMeta, report: &mut Report) {
        gateways("spec.gateways", &self.gateways, report);
        self.validate_hosts(report);
        if self.http.is_empty() && self.tls.is_empty() && self.tcp.is_empty() {
            report.wrong("spec", "", "`http`, `tcp` or `tls`");
        }
        for (index, route) in self.http.iter().enumerate() {
            http_route(route, &format!("spec.http[{index}]"), report);
        }
        for (index, route) in self.tls.iter().enumerate() {
            tls_route(route, &format!("spec.tls[{index}]"), report);
        }
        for (index, route) in self.tcp.iter().enumerate() {
            tcp_route(route, &format!("spec.tcp[{index}]"), report);
        }
        report.export_to(&metadata.namespace, &self.export_to, false);
        self.warn_of_unreachable(report);
    }

    fn validate_hosts(&self, report: &mut Report) {
        if self.hosts.is_empty() {
            report.warn(
                "spec.hosts",
                "is empty, as in a delegate, so the object has no effect",
            );
        }
        let gateway = self.gateways.iter().any(|gateway| gateway != "mesh");
        let mut before: Vec<(&str, HostPattern)> = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let path = format!("spec.hosts[{index}]");
            if host == "*" && !gateway {
                report.wrong(&path, host, "a host of the mesh (`*` is for gateways)");
            } else if host.parse::<IpAddr>().is_err() {
                report.wildcard_host(&path, host);
            }
            let pattern = HostPattern::verbatim(host);
            if let Some((other, _)) = before
                .iter()
                .find(|(_, other)| other.covers(&pattern) || pattern.covers(other))
            {
                let expected = format!("a host apart from `{other}`, which is in the list as well");
                report.wrong(&path, host, expected);
            }
            before.push((host, pattern));
        }
    }

    fn warn_of_unreachable(&self, report: &mut Report) {
        let http = self.http.iter().map(|route| route.matches.is_empty());
        let tcp = self.tcp.iter().map(|route| route.matches.is_empty());
        for (name, everything) in [("http", http.collect::<Vec<_>>()), ("tcp", tcp.collect())] {
            if let Some(index) = everything.iter().position(|all| *all)
                && index + 1 < everything.len()
            {
                report.warn(
                    &format!("spec.{name}[{index}]"),
                    "has no match and takes everything, so the routes after it are never reached",
                );
            }
        }
    }
}

fn http_route(route: &HttpRoute, path: &str, report: &mut Report) {
    for (index, condition) in route.matches.iter().enumerate() {
        http_match(condition, &format!("{path}.match[{index}]"), report);
    }
    action::validate(route, path, report);
    if let Some(headers) = &route.headers {
        header::operations(headers, &format!("{path}.headers"), report);
    }
    header::authority_once(route, path, report);
    for (index, target) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        destination(target.destination.as_ref(), &path, report);
        if let Some(headers) = &target.headers {
            header::operations(headers, &format!("{path}.headers"), report);
        }
    }
    let weights: Vec<_> = route.route.iter().map(|target| target.weight).collect();
    validate_weights(&weights, path, report);
    report.duration(&format!("{path}.timeout"), route.timeout);
    mirrors(route, path, report);
}

/// Envoy's limit for the name of a parameter that is matched, in bytes.
const LONGEST_PARAMETER: usize = 1024;

fn http_match(condition: &HttpMatch, path: &str, report: &mut Report) {
    if let Some(uri) = &condition.uri
        && uri.prefix.as_deref() != Some("")
    {
        report.string_match(&format!("{path}.uri"), uri);
    }
    for (name, string) in [
        ("scheme", &condition.scheme),
        ("method", &condition.method),
        ("authority", &condition.authority),
    ] {
        if let Some(string) = string {
            report.string_match(&format!("{path}.{name}"), string);
        }
    }
    header::matches(&condition.headers, &format!("{path}.headers"), report);
    let without: BTreeMap<_, _> = condition
        .without_headers
        .iter()
        .map(|(name, string)| match string.regex.as_deref() {
            // Istio's other way to say that the header must not be there.
            Some("*") => (name.clone(), StringMatch::default()),
            _ => (name.clone(), string.clone()),
        })
        .collect();
    header::matches(&without, &format!("{path}.withoutHeaders"), report);
    for (name, string) in &condition.query_params {
        let right = (1..=LONGEST_PARAMETER).contains(&name.len());
        let expected = "the name of a parameter (1 to 1024 bytes)";
        report.demand(right, format!("{path}.queryParams"), name, expected);
        report.string_match(&format!("{path}.queryParams[{name}]"), string);
    }
    source(
        &condition.source_labels,
        &condition.source_namespace,
        path,
        report,
    );
    port(condition.port, path, report);
    gateways(&format!("{path}.gateways"), &condition.gateways, report);
}

fn tcp_route(route: &TcpRoute, path: &str, report: &mut Report) {
    for (index, condition) in route.matches.iter().enumerate() {
        l4_match(condition, &format!("{path}.match[{index}]"), report);
    }
    l4_destinations(&route.route, path, report);
}

fn l4_match(condition: &L4Match, path: &str, report: &mut Report) {
    for (index, network) in condition.destination_subnets.iter().enumerate() {
        report.network(&format!("{path}.destinationSubnets[{index}]"), network);
    }
    source(
        &condition.source_labels,
        &condition.source_namespace,
        path,
        report,
    );
    port(condition.port, path, report);
    gateways(&format!("{path}.gateways"), &condition.gateways, report);
}

fn tls_route(route: &TlsRoute, path: &str, report: &mut Report) {
    if route.matches.is_empty() {
        report.wrong(format!("{path}.match"), "", "at least one condition");
    }
    for (index, condition) in route.matches.iter().enumerate() {
        tls_match(condition, &format!("{path}.match[{index}]"), report);
    }
    l4_destinations(&route.route, path, report);
}

fn tls_match(condition: &TlsMatch, path: &str, report: &mut Report) {
    if condition.sni_hosts.is_empty() {
        report.wrong(format!("{path}.sniHosts"), "", "at least one server name");
    }
    for (index, host) in condition.sni_hosts.iter().enumerate() {
        report.wildcard_host(&format!("{path}.sniHosts[{index}]"), host);
    }
    for (index, network) in condition.destination_subnets.iter().enumerate() {
        report.network(&format!("{path}.destinationSubnets[{index}]"), network);
    }
    source(
        &condition.source_labels,
        &condition.source_namespace,
        path,
        report,
    );
    port(condition.port, path, report);
    gateways(&format!("{path}.gateways"), &condition.gateways, report);
}

fn l4_destinations(route: &[RouteDestination], path: &str, report: &mut Report) {
    if route.is_empty() {
        report.wrong(format!("{path}.route"), "", "at least one destination");
    }
    for (index, target) in route.iter().enumerate() {
        destination(
            target.destination.as_ref(),
            &format!("{path}.route[{index}]"),
            report,
        );
    }
    let weights: Vec<_> = route.iter().map(|target| target.weight).collect();
    validate_weights(&weights, path, report);
}

fn destination(destination: Option<&Destination>, path: &str, report: &mut Report) {
    let path = format!("{path}.destination");
    let Some(destination) = destination else {
        return report.wrong(path, "", "a destination");
    };
    let host = &destination.host;
    if host == "*" {
        report.wrong(format!("{path}.host"), host, "the host of one service");
    } else {
        report.wildcard_host(&format!("{path}.host"), host);
    }
    if !destination.subset.is_empty() {
        report.label(&format!("{path}.subset"), &destination.subset);
    }
    if let Some(port) = &destination.port {
        report.port(&format!("{path}.port.number"), port.number);
    }
}

/// Shares are relative to each other: only their sum must not be 0, nor more than Envoy counts.
fn validate_weights(weights: &[u32], path: &str, report: &mut Report) {
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    if weights.len() > 1 && sum == 0 {
        report.wrong(format!("{path}.route"), "0", "a sum of weights above 0");
    }
    if sum > u64::from(u32::MAX) {
        let expected = "a sum of weights of at most 4294967295";
        report.wrong(format!("{path}.route"), &sum.to_string(), expected);
    }
}

fn mirrors(route: &HttpRoute, path: &str, report: &mut Report) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        report.wrong(
            path,
            "mirror and mirrors",
            "only one of `mirror` and `mirrors`",
        );
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        destination(
            mirror.destination.as_ref(),
            &format!("{path}.mirrors[{index}]"),
            report,
        );
    }
}

fn source(labels: &BTreeMap<String, String>, namespace: &str, path: &str, report: &mut Report) {
    report.labels(&format!("{path}.sourceLabels"), labels);
    if !namespace.is_empty() {
        report.label(&format!("{path}.sourceNamespace"), namespace);
    }
}

fn port(port: Option<u16>, path: &str, report: &mut Report) {
    if let Some(port) = port {
        report.port(&format!("{path}.port"), port);
    }
}

/// Names of gateways, `<namespace>/<name>` or a host of old; `mesh` is every sidecar.
fn gateways(path: &str, gateways: &[String], report: &mut Report) {
    for (index, gateway) in gateways.iter().enumerate() {
        let right = match gateway.split_once('/') {
            Some((namespace, name)) => name::is_label(namespace) && name::is_label(name),
            None => name::is_domain(gateway),
        };
        let path = format!("{path}[{index}]");
        report.demand(
            right,
            path,
            gateway,
            "`mesh`, or a gateway as `<namespace>/<name>`",
        );
    }
}
