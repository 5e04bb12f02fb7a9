//! What options change of one direction: inbound, outbound.

use mesh_netfilter::{
    DestinationSelect, Destinations, Inbound, InboundMode, Loopback, NetworkSet, Outbound, Port,
    PortRange, PortSelect, PortSet, Tproxy, parse_network,
};

use super::{ALL, Draft};
use crate::commands::redirect::option::{Given, Kind};

const OUTBOUND: Port = Port::of::<15001>();
const INBOUND: Port = Port::of::<15006>();

impl Draft {
    pub(super) fn inbound(&mut self, given: &Given) {
        match given.option.kind {
            Kind::InboundPort => {
                let port = self.one(given, str::parse);
                let inbound = self.inbound.take();
                self.inbound = port.map(|to| Inbound {
                    to,
                    ..inbound.unwrap_or_else(|| Inbound::to(to))
                });
                return;
            }
            Kind::InboundPorts => {
                self.inbound = match given.last() {
                    "" => None,
                    ALL => Some(all_inbound(self.inbound.take())),
                    _ => {
                        let ports: Vec<PortRange> = self.list(given, str::parse);
                        let inbound = self.inbound.take();
                        let inbound = inbound.unwrap_or_else(|| Inbound::to(INBOUND));
                        Some(inbound.ports(PortSelect::Only(ports.into_iter().collect())))
                    }
                };
                return;
            }
            _ => {}
        }
        let Some(inbound) = self.inbound.clone() else {
            self.off(given, "inbound");
            return;
        };
        self.inbound = Some(self.inbound_of(given, inbound));
    }

    fn inbound_of(&mut self, given: &Given, mut inbound: Inbound) -> Inbound {
        match given.option.kind {
            Kind::TunnelPort if given.last().is_empty() => inbound.tunnel = None,
            Kind::TunnelPort => inbound.tunnel = self.one(given, str::parse),
            Kind::ExcludedInboundPorts => {
                let ports: Vec<PortRange> = self.list(given, str::parse);
                let ports: PortSet = ports.into_iter().collect();
                inbound.ports = match &inbound.ports {
                    PortSelect::AllExcept(before) => PortSelect::AllExcept(before.union(&ports)),
                    PortSelect::Only(only) => PortSelect::Only(only.without(&ports)),
                    _ if ports.is_empty() => PortSelect::All,
                    _ => PortSelect::AllExcept(ports),
                };
            }
            Kind::ExcludedSources => {
                let sources: NetworkSet = self.list(given, parse_network).into_iter().collect();
                inbound.excluded_sources = inbound.excluded_sources.union(&sources);
            }
            Kind::InboundMode => match given.last().to_ascii_lowercase().as_str() {
                "redirect" => inbound.mode = InboundMode::Redirect,
                "tproxy" => {
                    let tproxy = inbound.tproxy().unwrap_or_default();
                    inbound.mode = InboundMode::Tproxy(tproxy);
                }
                _ => self.wrong(given, "`redirect` or `tproxy`"),
            },
            // The mark and the table come after the mode.
            _ => {
                let Some(tproxy) = inbound.tproxy() else {
                    self.wrong(given, "of any use without --inbound-mode tproxy");
                    return inbound;
                };
                let expected = "a number between 1 and 4294967295";
                let number = given.last().parse().ok().filter(|number| *number > 0);
                match number {
                    None => self.wrong(given, expected),
                    Some(mark) if given.option.kind == Kind::TproxyMark => {
                        inbound.mode = InboundMode::Tproxy(Tproxy { mark, ..tproxy });
                    }
                    Some(table) => {
                        inbound.mode = InboundMode::Tproxy(Tproxy { table, ..tproxy });
                    }
                }
            }
        }
        inbound
    }

    pub(super) fn outbound(&mut self, given: &Given) {
        match given.option.kind {
            Kind::OutboundPort => {
                let port = self.one(given, str::parse);
                let outbound = self.outbound.take();
                self.outbound = port.map(|to| Outbound {
                    to,
                    ..outbound.unwrap_or_else(|| Outbound::to(to))
                });
                return;
            }
            Kind::OutboundNetworks if given.last().is_empty() => {
                self.outbound = None;
                return;
            }
            Kind::OutboundNetworks | Kind::OutboundPorts if self.outbound.is_none() => {
                self.outbound = Some(Outbound::to(OUTBOUND));
            }
            _ => {}
        }
        let Some(outbound) = self.outbound.clone() else {
            self.off(given, "outbound");
            return;
        };
        self.outbound = Some(self.outbound_of(given, outbound));
    }

    fn outbound_of(&mut self, given: &Given, mut outbound: Outbound) -> Outbound {
        let selected = &outbound.destinations;
        outbound.destinations = match given.option.kind {
            Kind::OutboundNetworks if given.last() == ALL => match selected {
                DestinationSelect::Only(_) => DestinationSelect::All,
                others => others.clone(),
            },
            Kind::OutboundNetworks => {
                let networks = self.list(given, parse_network).into_iter().collect();
                DestinationSelect::Only(Destinations {
                    networks,
                    ..Destinations::default()
                })
            }
            Kind::OutboundPorts => {
                let ports: Vec<PortRange> = self.list(given, str::parse);
                let mut only = match selected {
                    DestinationSelect::Only(only) => only.clone(),
                    _ => Destinations::default(),
                };
                only.ports = ports.into_iter().collect();
                DestinationSelect::Only(only)
            }
            Kind::CapturedLoopback => {
                let networks: NetworkSet = self.list(given, parse_network).into_iter().collect();
                outbound.loopback = Loopback::Capture(networks);
                return outbound;
            }
            _ => {
                let mut excluded = match selected {
                    DestinationSelect::AllExcept(excluded) => excluded.clone(),
                    DestinationSelect::All => Destinations::default(),
                    _ => {
                        self.wrong(given, "of any use with a list of what is captured");
                        return outbound;
                    }
                };
                if given.option.kind == Kind::ExcludedOutboundNetworks {
                    let networks: NetworkSet =
                        self.list(given, parse_network).into_iter().collect();
                    excluded.networks = excluded.networks.union(&networks);
                } else {
                    let ports: Vec<PortRange> = self.list(given, str::parse);
                    excluded.ports = excluded.ports.union(&ports.into_iter().collect());
                }
                if excluded.is_empty() {
                    DestinationSelect::All
                } else {
                    DestinationSelect::AllExcept(excluded)
                }
            }
        };
        outbound
    }
}

/// All ports, but for those that were excluded before.
fn all_inbound(inbound: Option<Inbound>) -> Inbound {
    let mut inbound = inbound.unwrap_or_else(|| Inbound::to(INBOUND));
    if matches!(inbound.ports, PortSelect::Only(_)) {
        inbound.ports = PortSelect::All;
    }
    inbound
}
