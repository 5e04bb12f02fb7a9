//! From one rule of a plan to its lines.

use ipnet::IpNet;

use super::line::{Line, alternatives, chunks, mark_text, port_text, ports_text, range};
use super::{MARK, own_name};
use crate::iptables::{IptablesError, chain_name};
use crate::plan::{Action, Match, Rule, Transport};
use crate::{Family, InstanceName, InterfaceName, Networks, PortSet};

/// A rule in its place, for errors.
pub(super) struct Context<'a> {
    pub(super) instance: &'a InstanceName,
    pub(super) family: Family,
    pub(super) chain: &'static str,
    pub(super) index: usize,
}

/// A rule may not be longer than 64 KiB in the kernel; this many modules fit.
const MODULES: usize = 400;

/// The target that marks packets.
pub(super) fn mark_target(mark: u32) -> String {
    format!("-j MARK --set-xmark {mark:#x}/0xffffffff")
}

// === impl Context ===

impl Context<'_> {
    /// The lines of one rule; none if it is not about this family.
    pub(super) fn rule(&self, rule: &Rule) -> Result<Vec<String>, IptablesError> {
        let mut lines = vec![Line::default()];
        // The protocol is needed before ports are.
        let (transports, others): (Vec<&Match>, Vec<&Match>) = rule
            .matches
            .iter()
            .partition(|part| matches!(part, Match::Transport(_)));
        for part in transports.into_iter().chain(others) {
            lines = self.join(lines, part)?;
        }
        let Some(target) = self.target(&rule.action)? else {
            return Ok(Vec::new());
        };
        let comment = rule.why.as_str().replace('\'', "\\'");
        lines
            .into_iter()
            .map(|line| {
                if line.modules.len() > MODULES {
                    return Err(self.unsupported("it has too many conditions"));
                }
                Ok(format!(
                    "{}-m comment --comment \"{comment}\" {target}",
                    line.text()
                ))
            })
            .collect()
    }

    /// Every line with every way in which `part` can hold.
    fn join(&self, lines: Vec<Line>, part: &Match) -> Result<Vec<Line>, IptablesError> {
        let each = |change: &dyn Fn(&mut Line)| {
            let mut lines = lines.clone();
            lines.iter_mut().for_each(change);
            lines
        };
        let module = |text: &str| each(&|line| line.modules.push(text.to_owned()));
        Ok(match part {
            Match::Family(family) if *family == self.family => lines,
            Match::Family(_) => Vec::new(),
            Match::Transport(Transport::TcpOrUdp) => {
                let mut both = each(&|line| line.transport = Some(Transport::Tcp));
                both.extend(each(&|line| line.transport = Some(Transport::Udp)));
                both
            }
            Match::Transport(transport) => each(&|line| line.transport = Some(*transport)),
            Match::InInterface(names) => {
                return self.interfaces(&lines, names, |line| &mut line.in_interface);
            }
            Match::OutInterface(names) => {
                return self.interfaces(&lines, names, |line| &mut line.out_interface);
            }
            Match::Source(networks) => {
                self.networks(&lines, networks, "src", |line| &mut line.source)
            }
            Match::Destination(networks) => {
                self.networks(&lines, networks, "dst", |line| &mut line.destination)
            }
            Match::SourceNot(networks) => {
                self.outside(lines, networks, "src", |line| &mut line.source)
            }
            Match::DestinationNot(networks) => {
                self.outside(lines, networks, "dst", |line| &mut line.destination)
            }
            Match::DestinationPort(ports) => return self.ports(&lines, ports),
            Match::DestinationPortNot(ports) => return self.ports_not(lines, ports),
            Match::FirstPacket => {
                if lines
                    .iter()
                    .any(|line| line.transport != Some(Transport::Tcp))
                {
                    return Err(self.unsupported("a first packet of no protocol"));
                }
                each(&|line| line.is_first_packet = true)
            }
            Match::User(ids) => alternatives(&lines, ids.ranges(), |range| {
                format!("-m owner --uid-owner {range}")
            }),
            Match::Group(ids) => alternatives(&lines, ids.ranges(), |range| {
                format!("-m owner --gid-owner {range}")
            }),
            Match::Mark(mark) => module(&format!("-m mark --mark {}", mark_text(*mark))),
            Match::MarkNot(mark) => module(&format!("-m mark ! --mark {}", mark_text(*mark))),
            Match::ConnectionMark(mark) => {
                module(&format!("-m connmark --mark {}", mark_text(*mark)))
            }
            Match::Translated => module("-m conntrack --ctstate DNAT"),
            Match::Reply => module("-m conntrack --ctdir REPLY"),
            Match::Invalid => module("-m conntrack --ctstate INVALID"),
            Match::TransparentSocket => {
                // First packets are the listener's, whatever connection had these addresses
                // before. Without `--nowildcard`, listeners on the wildcard address are left out.
                module("-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m socket --transparent")
            }
        })
    }

    fn interfaces<'a>(
        &self,
        lines: &[Line],
        names: impl IntoIterator<Item = &'a InterfaceName>,
        place: impl Fn(&mut Line) -> &mut Option<String>,
    ) -> Result<Vec<Line>, IptablesError> {
        let mut all = Vec::new();
        for name in names {
            for line in lines {
                let mut line = line.clone();
                if place(&mut line).replace(name.to_string()).is_some() {
                    return Err(self.unsupported("two conditions on one interface"));
                }
                all.push(line);
            }
        }
        Ok(all)
    }

    fn networks(
        &self,
        lines: &[Line],
        networks: &Networks,
        side: &str,
        place: impl Fn(&mut Line) -> &mut Option<String>,
    ) -> Vec<Line> {
        let mut all = Vec::new();
        for network in self.of_family(networks) {
            for line in lines {
                let mut line = line.clone();
                let slot = place(&mut line);
                // A line has one place for a network; more are ranges.
                if slot.is_none() {
                    *slot = Some(network.to_string());
                } else {
                    let range = range(network);
                    line.modules
                        .push(format!("-m iprange --{side}-range {range}"));
                }
                all.push(line);
            }
        }
        all
    }

    /// Lines for addresses outside all of these networks.
    fn outside(
        &self,
        mut lines: Vec<Line>,
        networks: &Networks,
        side: &str,
        place: impl Fn(&mut Line) -> &mut Option<String>,
    ) -> Vec<Line> {
        if networks.family() != self.family {
            return Vec::new();
        }
        for network in self.of_family(networks) {
            for line in &mut lines {
                let slot = place(line);
                if slot.is_none() {
                    *slot = Some(format!("! {network}"));
                } else {
                    let range = range(network);
                    line.modules
                        .push(format!("-m iprange ! --{side}-range {range}"));
                }
            }
        }
        lines
    }

    /// The networks, if they are of this family.
    fn of_family(&self, networks: &Networks) -> Vec<IpNet> {
        match networks {
            Networks::V4(networks) if self.family == Family::V4 => {
                networks.iter().copied().map(IpNet::V4).collect()
            }
            Networks::V6(networks) if self.family == Family::V6 => {
                networks.iter().copied().map(IpNet::V6).collect()
            }
            Networks::V4(_) | Networks::V6(_) => Vec::new(),
        }
    }

    fn ports(&self, lines: &[Line], ports: &PortSet) -> Result<Vec<Line>, IptablesError> {
        let mut all = Vec::new();
        for line in lines {
            if line.transport.is_none() {
                return Err(self.unsupported("ports of no protocol"));
            }
            for chunk in chunks(ports.ranges()) {
                let mut line = line.clone();
                match chunk {
                    [one] if line.port.is_none() => {
                        line.port = Some(format!("--dport {}", port_text(*one)));
                    }
                    more => line
                        .modules
                        .push(format!("-m multiport --dports {}", ports_text(more))),
                }
                all.push(line);
            }
        }
        Ok(all)
    }

    fn ports_not(&self, mut lines: Vec<Line>, ports: &PortSet) -> Result<Vec<Line>, IptablesError> {
        for line in &mut lines {
            if line.transport.is_none() {
                return Err(self.unsupported("ports of no protocol"));
            }
            for chunk in chunks(ports.ranges()) {
                match chunk {
                    [one] if line.port.is_none() => {
                        line.port = Some(format!("! --dport {}", port_text(*one)));
                    }
                    more => line
                        .modules
                        .push(format!("-m multiport ! --dports {}", ports_text(more))),
                }
            }
        }
        Ok(lines)
    }

    /// What a line ends with; none if the action is not for this family.
    fn target(&self, action: &Action) -> Result<Option<String>, IptablesError> {
        let is_v4 = self.family == Family::V4;
        Ok(Some(match action {
            // Chains of ours are called by base chains alone, so both are the end of ours. ACCEPT
            // would end those of everybody else in the table too.
            Action::Return | Action::Accept => "-j RETURN".to_owned(),
            Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
            Action::Dnat(to) if to.is_ipv4() == is_v4 => format!("-j DNAT --to-destination {to}"),
            Action::Dnat(_) => return Ok(None),
            // Without a listener TPROXY drops the packet: it asks no rule below.
            Action::Tproxy { to, mark } => {
                let any = if is_v4 { "0.0.0.0" } else { "::" };
                format!("-j TPROXY --on-port {to} --on-ip {any} --tproxy-mark {mark:#x}/0xffffffff")
            }
            Action::Reset => "-j REJECT --reject-with tcp-reset".to_owned(),
            Action::Unreachable if is_v4 => {
                "-j REJECT --reject-with icmp-port-unreachable".to_owned()
            }
            Action::Unreachable => "-j REJECT --reject-with icmp6-port-unreachable".to_owned(),
            Action::Drop => "-j DROP".to_owned(),
            Action::Goto(chain) => format!("-g {}", own_name(self.instance, chain)?),
            Action::Zone(zone) => format!("-j CT --zone-orig {zone}"),
            Action::SetMark(mark) => mark_target(*mark),
            Action::MarkAndAccept(_) => format!("-g {}", chain_name(self.instance, MARK)),
            Action::SaveMark => {
                "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned()
            }
            Action::RestoreMark => {
                "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned()
            }
        }))
    }

    fn unsupported(&self, what: &'static str) -> IptablesError {
        IptablesError::Rule {
            chain: self.chain,
            index: self.index,
            what,
        }
    }
}
