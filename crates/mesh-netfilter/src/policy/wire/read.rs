//! From what is written to what is meant, with every mistake on the way.

use std::str::FromStr;

use ipnet::IpNet;

use super::{
    Scalar, Select, WireDestinations, WireDns, WireIdentities, WireInbound, WireLoopback,
    WireOutbound, WireServers,
};
use crate::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTcp, Identities, Inbound, Loopback, Mark,
    NetworkPorts, Outbound, Port, PortRange, PortSelect, PortSet, Problem, Problems, parse_network,
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
        let id = |text: &str| {
            Some(text)
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<u32>().ok())
                .ok_or_else(|| Problem::new("", text, "a numeric id between 0 and 4294967294"))
        };
        let users = self.each(&format!("{path}.uids"), &wire.uids, id);
        let groups = self.each(&format!("{path}.gids"), &wire.gids, id);
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
            to: self.port("dns.capture.to", &wire.to),
            servers: match &wire.servers {
                WireServers::All => DnsServers::All,
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
        }
    }
}
