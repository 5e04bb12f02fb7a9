//! Outbound connections and DNS queries in the words of `istio-iptables`.

use ipnet::IpNet;

use super::settings::{self, Settings};
use super::{ALL, OUTBOUND_PORT, port_list};
use crate::import::RemarkKind;
use crate::import::value::{each, network, port};
use crate::{
    DestinationSelect, Destinations, Dns, DnsServers, Family, Loopback, NetworkPorts, NetworkSet,
    Outbound, Port, PortSet, Problem,
};

const DNS_PORT: Port = Port::of::<53>();
/// Where Istio's agent answers queries; the tool has no option for it.
const DNS_LISTENER: Port = Port::of::<15053>();

/// What is captured of the connections that the workload opens.
pub(super) fn outbound(settings: &mut Settings) -> Option<Outbound> {
    let to = settings.get_or("envoy-port", OUTBOUND_PORT);
    let to = settings.read_one(&to, port);
    let loopback = loopback(settings);
    let excluded = Destinations {
        ports: excluded_ports(settings),
        networks: networks(settings, "istio-service-exclude-cidr"),
        network_ports: Vec::new(),
    };
    let ports = settings.get("istio-outbound-ports");
    let included_ports = port_list(settings, ports.as_ref());
    let included = settings.get("istio-service-cidr");
    if included.as_ref().is_some_and(|all| all.value == ALL) {
        if let Some(ports) = &ports {
            let text = "every port is captured anyway (-i is `*`)";
            settings.remark(&ports.origin, RemarkKind::Ignored, text);
        }
        let destinations = if excluded.is_empty() {
            DestinationSelect::All
        } else {
            DestinationSelect::AllExcept(excluded)
        };
        return Some(Outbound::to(to?).destinations(destinations));
    }
    let networks = networks(settings, "istio-service-cidr");
    if networks.is_empty() && included_ports.is_empty() {
        for key in [
            "istio-service-exclude-cidr",
            "istio-local-outbound-ports-exclude",
        ] {
            if let Some(setting) = settings.get(key) {
                let text = "no outbound connection is captured (-i and -q are empty)";
                settings.remark(&setting.origin, RemarkKind::Ignored, text);
            }
        }
        return None;
    }
    let captured = captured_loopback(&networks, &included_ports, &loopback);
    let only = only(networks, included_ports, &excluded);
    if only.is_empty() {
        let text = "no outbound connection is captured (everything in it is excluded)";
        settings.remark("--istio-service-cidr", RemarkKind::Ignored, text);
        return None;
    }
    Some(Outbound {
        loopback: captured,
        ..Outbound::to(to?).destinations(DestinationSelect::Only(only))
    })
}

/// Capture of queries. An excluded port 53 stands before it in the tool's rules.
pub(super) fn dns(settings: &mut Settings) -> Option<Dns> {
    let all = settings.get("capture-all-dns");
    let is_all = settings.is_on("capture-all-dns");
    if !settings.is_on("redirect-dns") {
        if let Some(all) = all {
            let text = "no query is captured (--redirect-dns is off)";
            settings.remark(&all.origin, RemarkKind::Ignored, text);
        }
        return None;
    }
    let mut quiet = Settings::default();
    let excluded = settings.get("istio-local-outbound-ports-exclude");
    if port_list(&mut quiet, excluded.as_ref()).contains(DNS_PORT) {
        let text = "port 53 is excluded (-o), and the tool then captures no query either";
        settings.remark("--redirect-dns", RemarkKind::Ignored, text);
        return None;
    }
    Some(Dns {
        servers: if is_all {
            DnsServers::All
        } else {
            DnsServers::ResolvConf
        },
        ..Dns::to(DNS_LISTENER)
    })
}

/// The tool asks for excluded ports and networks first, then for included ones.
fn only(networks: NetworkSet, ports: PortSet, excluded: &Destinations) -> Destinations {
    if excluded.is_empty() {
        return Destinations {
            ports,
            networks,
            network_ports: Vec::new(),
        };
    }
    let everywhere = NetworkSet::everything([Family::V4, Family::V6]);
    let pair = |networks: NetworkSet, ports: PortSet| NetworkPorts { networks, ports };
    let pairs = [
        pair(
            everywhere.without(&excluded.networks),
            ports.without(&excluded.ports),
        ),
        pair(
            networks.without(&excluded.networks),
            PortSet::everything().without(&excluded.ports),
        ),
    ];
    let named = |pair: &NetworkPorts| !pair.networks.is_empty() && !pair.ports.is_empty();
    Destinations {
        network_ports: pairs.into_iter().filter(named).collect(),
        ..Destinations::default()
    }
}

/// With a loopback network among those of `-i`, loopback is captured like anything else, but for
/// the addresses that are the application's.
fn captured_loopback(networks: &NetworkSet, ports: &PortSet, own: &NetworkSet) -> Loopback {
    let is_loopback = |network: IpNet| network.addr().is_loopback();
    if !networks.iter().any(is_loopback) {
        return Loopback::Direct;
    }
    let captured = if ports.is_empty() {
        networks.without(own)
    } else {
        NetworkSet::everything([Family::V4, Family::V6]).without(own)
    };
    if captured.is_empty() {
        Loopback::Direct
    } else {
        Loopback::Capture(captured)
    }
}

/// The addresses that mean the application itself: `::1`, and 127.0.0.1 unless it is said.
fn loopback(settings: &mut Settings) -> NetworkSet {
    let setting = settings.get_or(settings::LOOPBACK, "127.0.0.1/32");
    let v4 = settings.read_one(&setting, |text| {
        network(text)
            .ok()
            .filter(|network| {
                matches!(network, IpNet::V4(network)
                    if network.addr().is_loopback() && network.prefix_len() >= 8)
            })
            .ok_or_else(|| Problem::new("", text, "a network within 127.0.0.0/8"))
    });
    if settings.get(settings::LOOPBACK).is_some() {
        let text = "to the proxy's calls to its own workload all of 127.0.0.0/8 is loopback";
        settings.remark(settings::LOOPBACK, RemarkKind::Changed, text);
    }
    v4.into_iter()
        .chain(network("::1").ok())
        .collect::<NetworkSet>()
}

/// Excluded ports, for which the tool also spares the proxy's calls to its own workload.
fn excluded_ports(settings: &mut Settings) -> PortSet {
    let setting = settings.get("istio-local-outbound-ports-exclude");
    if let Some(setting) = &setting {
        let text = "the proxy's calls to its own workload are captured at these ports too";
        settings.remark(&setting.origin, RemarkKind::Changed, text);
    }
    port_list(settings, setting.as_ref())
}

fn networks(settings: &mut Settings, key: &str) -> NetworkSet {
    let Some(setting) = settings.get(key) else {
        return NetworkSet::default();
    };
    each(
        &setting.origin,
        &setting.value,
        &mut settings.problems,
        network,
    )
    .into_iter()
    .collect()
}
