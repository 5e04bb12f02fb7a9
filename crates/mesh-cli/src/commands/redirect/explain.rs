//! `mesh redirect explain`: what becomes of a packet, and because of which rule.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_netfilter::{Content, Direction, InterfaceName, Owner, Packet, Plan, Trace, Transport};
use serde_json::json;

use super::Run;
use super::option::PolicyArgs;
use super::place::Place;
use super::policy::{environment, tell};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, print_json, print_table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    /// The packet: protocol and destination, such as `tcp:10.0.0.5:80` or `udp:[fd00::53]:53`.
    #[arg(long, value_name = "tcp|udp:ADDRESS:PORT", value_parser = target)]
    packet: Target,
    /// Which way it goes: a process of the namespace sends it, or it arrives.
    #[arg(long, default_value = "out", value_parser = ["out", "in"])]
    direction: String,
    /// Whose it is: the user of the socket; `none` for a packet without one.
    #[arg(long, value_name = "UID|none", default_value = "1000")]
    uid: String,
    /// The group of the socket; that of the same number as the user without.
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,
    /// The mark of the packet.
    #[arg(long, value_name = "MARK", default_value_t = 0)]
    mark: u32,
    /// The interface through which it leaves or arrives; `lo` for a loopback address, else `eth0`.
    #[arg(long, value_name = "NAME")]
    interface: Option<InterfaceName>,
    /// Where it comes from; an address and port that stand for any without.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = source)]
    source: Option<SocketAddr>,
    /// What it is to its flow: the first packet, one of a connection that was open before there
    /// were rules, one of no connection at all, or the answer to a datagram.
    #[arg(long, default_value = "first", value_parser = ["first", "later", "invalid", "reply"])]
    state: String,
    /// Suppose that something has removed the NAT rules, so that only the guard is there.
    #[arg(long)]
    without_nat: bool,
    #[command(flatten)]
    format: Format,
}

/// Protocol and destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Target {
    transport: Transport,
    destination: SocketAddr,
}

impl Run for Args {
    fn run(mut self, _: &[OsString]) -> Outcome {
        let policy = std::mem::take(&mut self.policy);
        let wanted = policy.wanted(&environment())?;
        tell(&wanted.remarks);
        let packet = self.packet()?;
        let place = self.place.or_as(&wanted)?;
        let facts = if place.is_elsewhere() {
            Place::facts(&place.engine()?)?
        } else {
            super::plan::own_facts()
        };
        let plan = Plan::compile(wanted.policy()?, &facts);
        let trace = if self.without_nat {
            plan.evaluate_guard(&packet)
        } else {
            plan.evaluate(&packet)
        };
        if self.format.json {
            print_json(&json!({
                "decision": trace.decision,
                "words": words(&trace),
                "trace": trace,
            }))?;
        } else {
            println!("{}", described(&packet));
            print_trace(&trace);
        }
        Ok(OK.into())
    }
}

impl Args {
    fn packet(&self) -> Result<Packet, Failure> {
        let Target {
            transport,
            destination,
        } = self.packet;
        let source = self.source.unwrap_or_else(|| anybody(destination.ip()));
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(Failure::usage(format!(
                "--source `{source}` is not of the family of `{destination}`"
            )));
        }
        let content = match (transport, self.state.as_str()) {
            (Transport::Tcp, "first") => Content::TcpFirst,
            (Transport::Tcp, "later") => Content::TcpLater,
            (Transport::Tcp, "invalid") => Content::TcpInvalid,
            (_, "first") => Content::Udp,
            (Transport::Udp, "reply") => Content::UdpReply,
            (_, state) => {
                return Err(Failure::usage(format!(
                    "--state `{state}` is not one of this protocol (tcp: first, later, \
                     invalid; udp: first, reply)"
                )));
            }
        };
        let interface = match &self.interface {
            Some(interface) => interface.clone(),
            None if destination.ip().is_loopback() => InterfaceName::loopback(),
            None => "eth0"
                .parse()
                .map_err(|problem| Failure::usage(format!("--interface: {problem}")))?,
        };
        let mut packet = if self.direction == "in" {
            Packet::incoming(content, source, destination, interface)
        } else {
            let owner = self.owner()?.unwrap_or(Owner { user: 0, group: 0 });
            Packet::outgoing(content, source, destination, interface, owner)
        };
        if self.uid == "none" {
            packet.owner = None;
        }
        packet.mark = self.mark;
        Ok(packet)
    }

    fn owner(&self) -> Result<Option<Owner>, Failure> {
        if self.uid == "none" {
            return Ok(None);
        }
        let Ok(user) = self.uid.parse() else {
            let uid = &self.uid;
            return Err(Failure::usage(format!(
                "--uid `{uid}` is not a number, nor `none`"
            )));
        };
        let group = self.gid.unwrap_or(user);
        Ok(Some(Owner { user, group }))
    }
}

/// A source that stands for any: of the machine itself on loopback, else of the documentation.
fn anybody(destination: IpAddr) -> SocketAddr {
    let address = match destination {
        address if address.is_loopback() => address,
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    SocketAddr::new(address, 40_000)
}

fn target(text: &str) -> Result<Target, String> {
    let expected = || format!("`{text}` is not like `tcp:10.0.0.5:80` or `udp:[fd00::53]:53`");
    let (protocol, destination) = text.split_once(':').ok_or_else(expected)?;
    let transport = match protocol {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return Err(expected()),
    };
    match destination.parse::<SocketAddr>() {
        Ok(destination) if destination.port() != 0 => Ok(Target {
            transport,
            destination,
        }),
        _ => Err(expected()),
    }
}

fn source(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(SocketAddr::new(address, 40_000));
    }
    match text.parse() {
        Ok(source) => Ok(source),
        Err(_) => Err(format!(
            "`{text}` is not an address, nor an address and a port"
        )),
    }
}

fn described(packet: &Packet) -> String {
    let protocol = match packet.content {
        Content::TcpFirst => "the first packet of a TCP connection",
        Content::TcpLater => "a packet of a TCP connection that was open before",
        Content::TcpInvalid => "a TCP packet of no connection",
        Content::Udp => "a UDP datagram",
        _ => "a UDP datagram that answers one",
    };
    let (way, interface) = match packet.direction {
        Direction::In => ("arrives through", &packet.interface),
        _ => ("leaves through", &packet.interface),
    };
    let owner = match packet.owner {
        Some(owner) => format!(", of user {} and group {}", owner.user, owner.group),
        None => ", of no socket".to_owned(),
    };
    let mark = if packet.mark == 0 {
        String::new()
    } else {
        format!(", with mark {:#x}", packet.mark)
    };
    format!(
        "{protocol} {way} {interface}, from {} to {}{owner}{mark}",
        packet.source, packet.destination
    )
}

/// The decision and the rule that made it, in a sentence.
fn words(trace: &Trace) -> String {
    match trace.deciding() {
        Some(step) => format!(
            "the packet {}: {} ({} {}, rule {})",
            trace.decision, step.why, step.table, step.chain, step.index
        ),
        None => format!("the packet {}: no rule speaks about it", trace.decision),
    }
}

/// Every rule that was asked, and why the packet passed it by; the one that decided has a star.
fn print_trace(trace: &Trace) {
    let deciding = trace.deciding();
    print_table(
        &["", "TABLE", "CHAIN", "RULE", "ANSWER", "WHY IT IS THERE"],
        trace.steps.iter().map(|step| {
            let is_deciding = deciding.is_some_and(|other| std::ptr::eq(other, step));
            let answer = match &step.missed {
                Some(condition) => format!("not {condition}"),
                None => "it holds".to_owned(),
            };
            [
                if is_deciding { "*" } else { "" }.to_owned(),
                step.table.clone(),
                step.chain.to_owned(),
                step.index.to_string(),
                answer,
                step.why.to_string(),
            ]
        }),
    );
    println!("{}", words(trace));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_written_in_a_word() {
        let tcp = target("tcp:10.0.0.5:80").unwrap();
        assert_eq!(tcp.destination, "10.0.0.5:80".parse().unwrap());
        assert_eq!(
            target("udp:[fd00::53]:53").unwrap().transport,
            Transport::Udp
        );
        for bad in [
            "",
            "tcp",
            "tcp:80",
            "icmp:10.0.0.5:80",
            "tcp:10.0.0.5:0",
            "tcp:host:80",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
        assert_eq!(source("10.0.0.1").unwrap().port(), 40_000);
        assert_eq!(source("10.0.0.1:7").unwrap().port(), 7);
        assert!(source("a;b").is_err());
    }
}
