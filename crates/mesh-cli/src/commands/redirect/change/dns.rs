//! What options change of DNS capture.

use std::net::{IpAddr, SocketAddr};

use mesh_netfilter::{Dns, DnsServers, DnsTarget, Port, Problem};

use super::Draft;
use crate::commands::redirect::option::{Given, Kind};

const DNS: Port = Port::of::<15053>();

impl Draft {
    pub(super) fn dns(&mut self, given: &Given) {
        match given.option.kind {
            Kind::DnsTo => {
                let to = self.one(given, dns_target);
                if let Some(to) = to {
                    let dns = self.dns.take().unwrap_or_else(|| Dns::to(to));
                    self.dns = Some(Dns { to, ..dns });
                }
            }
            Kind::NoDns | Kind::RedirectDns => {
                let is_on = self.switch(given);
                if is_on == (given.option.kind == Kind::NoDns) {
                    self.dns = None;
                } else if self.dns.is_none() && given.option.kind == Kind::RedirectDns {
                    self.dns = Some(Dns::to(DNS));
                }
            }
            _ => {
                let is_switch = given.option.kind == Kind::CaptureAllDns;
                let servers = match given.last() {
                    _ if is_switch && !self.switch(given) => return,
                    "all" => Some(DnsServers::All),
                    _ if is_switch => Some(DnsServers::All),
                    "resolv-conf" => Some(DnsServers::ResolvConf),
                    _ => {
                        let servers: Vec<IpAddr> = self.list(given, address);
                        Some(DnsServers::List(servers.into_iter().collect()))
                    }
                };
                match (&mut self.dns, servers) {
                    (Some(dns), Some(servers)) => dns.servers = servers,
                    (None, _) => self.off(given, "dns"),
                    (Some(_), None) => {}
                }
            }
        }
    }
}

fn address(text: &str) -> Result<IpAddr, Problem> {
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => Err(Problem::new("", text, "an address, `all` or `resolv-conf`")),
    }
}

fn dns_target(text: &str) -> Result<DnsTarget, Problem> {
    if let Ok(port) = text.parse::<Port>() {
        return Ok(DnsTarget::Port(port));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Ok(DnsTarget::Forward(address)),
        Err(_) => Err(Problem::new("", text, "a port, or an address and a port")),
    }
}
