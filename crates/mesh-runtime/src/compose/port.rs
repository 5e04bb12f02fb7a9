//! Published ports, in both notations of a file.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::problem::Located;
use super::reader::{Field, Reader};
use crate::Protocol;

/// Ports of a service that are reached at the host: as many there as here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Port {
    /// The address of the host; all of them when absent.
    pub address: Option<IpAddr>,
    /// The ports of the host; when absent, any that is free.
    pub published: Option<PortRange>,
    /// The ports of the service.
    pub target: PortRange,
    /// How they are spoken to.
    pub protocol: Protocol,
}

/// Ports from 1, the first to the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// A range, if `first` is a port and `last` is not below it.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Its ports.
    pub fn ports(self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(number(first)?, number(last)?)
    }
}

/// Decimal digits and nothing else: no sign.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Port {
    /// `[[ADDRESS:]HOST:]TARGET[/PROTOCOL]`, each of HOST and TARGET a port or a range.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (text, protocol) = match text.rsplit_once('/') {
            Some((text, protocol)) => (text, parse_protocol(protocol)?),
            None => (text, Protocol::Tcp),
        };
        let (rest, target) = match text.rsplit_once(':') {
            Some((rest, target)) => (Some(rest), target),
            None => (None, text),
        };
        let (address, published) = match rest.map(|rest| rest.rsplit_once(':')) {
            None => (None, None),
            Some(None) => (None, rest),
            Some(Some((address, published))) => (Some(address), Some(published)),
        };
        let port = Self {
            address: match address {
                Some(address) => Some(parse_address(address)?),
                None => None,
            },
            published: match published {
                // `127.0.0.1::80`: any port of that address.
                Some("") if address.is_some() => None,
                Some(published) => Some(PortRange::parse(published)?),
                None => None,
            },
            target: PortRange::parse(target)?,
            protocol,
        };
        port.pairs_up().then_some(port)
    }

    fn pairs_up(&self) -> bool {
        let length = |range: PortRange| range.last - range.first;
        self.published
            .is_none_or(|published| length(published) == length(self.target))
    }
}

fn parse_protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

fn parse_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

const EXPECTED: &str =
    "a port (`[[ADDRESS:]HOST:]PORT[/udp]`, ports from 1 to 65535, ranges of the same length)";

/// An item of `ports`.
pub(super) fn read<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Option<Located<Port>> {
    if !field.is_map() {
        return reader.parsed(field, EXPECTED, Port::parse);
    }
    let (mut address, mut published, mut target) = (None, None, None);
    let mut protocol = Protocol::Tcp;
    let before = reader.problems.len();
    for (key, value) in reader.entries(field) {
        const RANGE: &str = "a port or a range of ports, from 1 to 65535";
        match key.value.as_str() {
            "target" => target = reader.parsed(&value, RANGE, PortRange::parse),
            "published" => published = reader.parsed(&value, RANGE, PortRange::parse),
            "host_ip" => address = reader.parsed(&value, "an IP address", |it| it.parse().ok()),
            "protocol" => {
                let found = reader.parsed(&value, "`tcp` or `udp`", parse_protocol);
                protocol = found.map_or(protocol, |it| it.value);
            }
            // Without a swarm both are the same.
            "mode" => reader.only(&value, &["host", "ingress"]),
            "name" => drop(reader.text(&value)),
            _ => reader.unsupported(&key, &value, "a port"),
        }
    }
    if reader.problems.len() > before {
        return None;
    }
    let Some(target) = target else {
        reader.problem(field, "found no `target`, expected the port of the service");
        return None;
    };
    let port = Port {
        address: address.map(|it| it.value),
        published: published.map(|it| it.value),
        target: target.value,
        protocol,
    };
    if !port.pairs_up() {
        reader.problem(field, "`published` and `target` are not of the same length");
        return None;
    }
    Some(field.located(port))
}

/// The short notation.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        match (self.published, self.address) {
            (Some(published), _) => write!(f, "{published}:")?,
            (None, Some(_)) => f.write_str(":")?,
            (None, None) => {}
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{protocol}", self.target)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_notation_reads_and_prints() {
        for (text, expected) in [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("8080-8082:80-82/udp", "8080-8082:80-82/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
        ] {
            let port = Port::parse(text).unwrap();
            assert_eq!(port.to_string(), expected);
            assert_eq!(Port::parse(expected), Some(port));
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "80/icmp",
            "a:80",
            ":80",
            "8080:",
            "8080-8081:80",
            "90-80",
            "+80",
            "::1:8080:80",
            "1.2.3:8080:80",
            "8080:80:80",
            "80-",
            "99999999999999999999",
        ] {
            assert_eq!(Port::parse(text), None, "{text}");
        }
    }
}
