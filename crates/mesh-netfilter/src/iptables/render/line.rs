//! One line of `iptables-save`: its options, and their order.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::plan::Transport;
use crate::{IdRange, PortRange};

/// One line under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) source: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) in_interface: Option<String>,
    pub(super) out_interface: Option<String>,
    pub(super) transport: Option<Transport>,
    /// Options of the protocol's own module.
    pub(super) port: Option<String>,
    pub(super) is_first_packet: bool,
    /// Other modules with their options.
    pub(super) modules: Vec<String>,
}

/// `multiport` takes so many ports; a range takes two.
const MULTIPORT_SLOTS: usize = 15;

// === impl Line ===

impl Line {
    /// All options, with a space behind each.
    pub(super) fn text(&self) -> String {
        let mut words: Vec<&str> = Vec::new();
        let places = [
            ("-s", &self.source),
            ("-d", &self.destination),
            ("-i", &self.in_interface),
            ("-o", &self.out_interface),
        ];
        for (option, value) in places {
            let Some(value) = value else { continue };
            match value.strip_prefix("! ") {
                Some(value) => words.extend(["!", option, value]),
                None => words.extend([option, value]),
            }
        }
        let protocol = match self.transport {
            Some(Transport::Tcp) => Some("tcp"),
            Some(Transport::Udp) => Some("udp"),
            Some(Transport::TcpOrUdp) | None => None,
        };
        if let Some(protocol) = protocol {
            words.extend(["-p", protocol]);
            if self.port.is_some() || self.is_first_packet {
                words.extend(["-m", protocol]);
            }
        }
        words.extend(self.port.as_deref());
        if self.is_first_packet {
            words.push("--tcp-flags FIN,SYN,RST,ACK SYN");
        }
        words.extend(self.modules.iter().map(String::as_str));
        words.into_iter().flat_map(|word| [word, " "]).collect()
    }
}

/// Every line with each of several modules.
pub(super) fn alternatives(
    lines: &[Line],
    ranges: &[IdRange],
    module: impl Fn(&IdRange) -> String,
) -> Vec<Line> {
    let mut all = Vec::new();
    for text in ranges.iter().map(module) {
        for line in lines {
            let mut line = line.clone();
            line.modules.push(text.clone());
            all.push(line);
        }
    }
    all
}

/// Ranges as many together as `multiport` takes.
pub(super) fn chunks(ranges: &[PortRange]) -> Vec<&[PortRange]> {
    let slots = |range: &PortRange| if range.first() == range.last() { 1 } else { 2 };
    let mut all = Vec::new();
    let mut rest = ranges;
    while !rest.is_empty() {
        let mut taken = 0;
        let length = rest
            .iter()
            .take_while(|range| {
                taken += slots(range);
                taken <= MULTIPORT_SLOTS
            })
            .count();
        let (chunk, more) = rest.split_at(length);
        all.push(chunk);
        rest = more;
    }
    all
}

pub(super) fn ports_text(ranges: &[PortRange]) -> String {
    let texts: Vec<String> = ranges.iter().map(|range| port_text(*range)).collect();
    texts.join(",")
}

pub(super) fn port_text(range: PortRange) -> String {
    range.to_string().replace('-', ":")
}

pub(super) fn mark_text(mark: crate::Mark) -> String {
    match mark.mask() {
        u32::MAX => format!("{:#x}", mark.value()),
        bits => format!("{:#x}/{bits:#x}", mark.value()),
    }
}

/// First and last address of a network.
pub(super) fn range(network: IpNet) -> String {
    let (first, last) = match network {
        IpNet::V4(network) => {
            let host = u32::MAX
                .checked_shr(network.prefix_len().into())
                .unwrap_or(0);
            let first = network.network().to_bits();
            (
                Ipv4Addr::from_bits(first).to_string(),
                Ipv4Addr::from_bits(first | host).to_string(),
            )
        }
        IpNet::V6(network) => {
            let host = u128::MAX
                .checked_shr(network.prefix_len().into())
                .unwrap_or(0);
            let first = network.network().to_bits();
            (
                Ipv6Addr::from_bits(first).to_string(),
                Ipv6Addr::from_bits(first | host).to_string(),
            )
        }
    };
    format!("{first}-{last}")
}
