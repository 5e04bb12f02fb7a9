//! From what is written to what is meant, with every mistake on the way.

use std::str::FromStr;

use ipnet::IpNet;

use super::{
    Scalar, Select, WireDestinations, WireDns, WireIdentities, WireIdentityPorts, WireInbound,
    WireLoopback, WireMode, WireOutbound, WireServers, WireVirtualInterface,
};
use crate::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTarget, DnsTcp, DnsZones, IdRange,
    Identities, IdentityPorts, Inbound, InboundMode, Loopback, Mark, NetworkPorts, Outbound, Port,
    PortRange, PortSelect, PortSet, Problem, Problems, VirtualInterface, parse_network,
};

/// Reads scalars and remembers what was wrong, and where.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Problems,
}

// === impl Reader ===

impl Reader {
    fn note<T>(&mut self, path: &str, result: Result<T, Problem>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(Problem {
                    path: path.to_owned(),
                    ..problem
                });
                None
            }
        }
    }

    pub(super) fn one<T: FromStr<Err = Problem>>(
        &mut self,
        path: &str,
        scalar: &Scalar,
    ) -> Option<T> {
        self.note(path, scalar.0.parse())
    }

    pub(super) fn many<T: FromStr<Err = Problem>>(
        &mut self,
        path: &str,
        scalars: &[Scalar],
    ) -> Vec<T> {
        self.each(path, scalars, str::parse)
    }

    fn each<T>(
        &mut self,
        path: &str,
        scalars: &[Scalar],
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> Vec<T> {
        let mut values = Vec::with_capacity(scalars.len());
        for (index, scalar) in scalars.iter().enumerate() {
            values.extend(self.note(&format!("{path}[{index}]"), read(&scalar.0)));
        }
        values
    }

    fn networks(&mut self, path: &str, scalars: &[Scalar]) -> Vec<IpNet> {
        self.each(path, scalars, parse_network)
    }

    fn ports(&mut self, path: &str, scalars: &[Scalar]) -> PortSet {
        self.many::<PortRange>(path, scalars).into_iter().collect()
    }

    fn port(&mut self, path: &str, scalar: &Scalar) -> Port {
        // The placeholder never leaves: a problem was noted.
        self.one(path, scalar).unwrap_or(Port::of::<1>())
    }

    pub(super) fn identities(&mut self, path: &str, wire: &WireIdentities) -> Identities {
        let users = self.many::<IdRange>(&format!("{path}.uids"), &wire.uids);
        let groups = self.many::<IdRange>(&format!("{path}.gids"), &wire.gids);
        let mut marks = Vec::with_capacity(wire.marks.len());
        for (index, mark) in wire.marks.iter().enumerate() {
            let read = Mark::new(mark.value, mark.mask);
            marks.extend(self.note(&format!("{path}.marks[{index}]"), read));
        }
        Identities::users(users).and_groups(groups).and_marks(marks)
    }

    pub(super) fn inbound(&mut self, wire: &WireInbound) -> Inbound {
        let path = "inbound.capture";
        Inbound {
            to: self.port(&format!("{path}.to"), &wire.to),
            mode: match wire.mode {
                WireMode::Redirect => InboundMode::Redirect,
                WireMode::Tproxy(tproxy) => InboundMode::Tproxy(tproxy),
            },
            ports: match &wire.ports {
                Select::All => PortSelect::All,
                Select::AllExcept(ports) => {
                    PortSelect::AllExcept(self.ports(&format!("{path}.ports.all_except"), ports))
                }
                Select::Only(ports) => {
                    PortSelect::Only(self.ports(&format!("{path}.ports.only"), ports))
                }
            },
            tunnel: wire
                .tunnel
                .as_ref()
                .map(|port| self.port(&format!("{path}.tunnel"), port)),
            excluded_sources: self
                .networks(&format!("{path}.excluded_sources"), &wire.excluded_sources)
                .into_iter()
                .collect(),
        }
    }

    pub(super) fn outbound(&mut self, wire: &WireOutbound) -> Outbound {
        let path = "outbound.capture";
        Outbound {
            to: self.port(&format!("{path}.to"), &wire.to),
            destinations: match &wire.destinations {
                Select::All => DestinationSelect::All,
                Select::AllExcept(wire) => DestinationSelect::AllExcept(
                    self.destinations(&format!("{path}.destinations.all_except"), wire),
                ),
                Select::Only(wire) => DestinationSelect::Only(
                    self.destinations(&format!("{path}.destinations.only"), wire),
                ),
            },
            loopback: match &wire.loopback {
                WireLoopback::Direct => Loopback::Direct,
                WireLoopback::Capture(networks) => Loopback::Capture(
                    self.networks(&format!("{path}.loopback.capture"), networks)
                        .into_iter()
                        .collect(),
                ),
            },
        }
    }

    fn destinations(&mut self, path: &str, wire: &WireDestinations) -> Destinations {
        Destinations {
            ports: self.ports(&format!("{path}.ports"), &wire.ports),
            networks: self
                .networks(&format!("{path}.networks"), &wire.networks)
                .into_iter()
                .collect(),
            network_ports: wire
                .network_ports
                .iter()
                .enumerate()
                .map(|(index, pair)| {
                    let path = format!("{path}.network_ports[{index}]");
                    NetworkPorts {
                        networks: self
                            .networks(&format!("{path}.networks"), &pair.networks)
                            .into_iter()
                            .collect(),
                        ports: self.ports(&format!("{path}.ports"), &pair.ports),
                    }
                })
                .collect(),
        }
    }

    pub(super) fn dns(&mut self, wire: &WireDns) -> Dns {
        let address = |text: &str| {
            let address = text.parse().ok();
            address.ok_or_else(|| Problem::new("", text, "an IP address"))
        };
        Dns {
            to: self
                .note("dns.capture.to", dns_target(&wire.to.0))
                .unwrap_or(DnsTarget::Port(Port::of::<1>())),
            servers: match &wire.servers {
                WireServers::All => DnsServers::All,
                WireServers::ResolvConf => DnsServers::ResolvConf,
                WireServers::List(servers) => DnsServers::List(
                    self.each("dns.capture.servers.list", servers, address)
                        .into_iter()
                        .collect(),
                ),
            },
            tcp: if wire.tcp {
                DnsTcp::Capture
            } else {
                DnsTcp::Ordinary
            },
            zones: if wire.zones {
                DnsZones::Split
            } else {
                DnsZones::Shared
            },
        }
    }

    pub(super) fn virtual_interfaces(
        &mut self,
        wire: &[WireVirtualInterface],
    ) -> Vec<VirtualInterface> {
        let mut interfaces = Vec::with_capacity(wire.len());
        for (index, wire) in wire.iter().enumerate() {
            let path = format!("virtual_interfaces[{index}]");
            let name = self.one(&format!("{path}.name"), &wire.name);
            let direct = self.networks(&format!("{path}.direct"), &wire.direct);
            interfaces.extend(name.map(|name| VirtualInterface {
                name,
                direct: direct.into_iter().collect(),
            }));
        }
        interfaces
    }

    pub(super) fn per_identity(&mut self, wire: &[WireIdentityPorts]) -> Vec<IdentityPorts> {
        wire.iter()
            .enumerate()
            .map(|(index, wire)| {
                let path = format!("per_identity[{index}]");
                IdentityPorts {
                    identities: self.identities(&format!("{path}.identities"), &wire.identities),
                    transport: wire.transport,
                    ports: self.ports(&format!("{path}.ports"), &wire.ports),
                }
            })
            .collect()
    }
}

fn dns_target(text: &str) -> Result<DnsTarget, Problem> {
    let port = || text.parse::<Port>().ok().map(DnsTarget::Port);
    let address = || text.parse().ok().map(DnsTarget::Forward);
    port().or_else(address).ok_or_else(|| {
        let expected =
            "a port between 1 and 65535, or an address and port such as `127.0.0.1:8600`";
        Problem::new("", text, expected)
    })
}
