//! What Nomad tells Consul's plugin for a group with `transparent_proxy`.

use mesh_netfilter::{
    DestinationSelect, Destinations, Dns, DnsTarget, IdRange, Identities, IdentitySelect, Inbound,
    Ipv6, NetworkSet, Outbound, Policy, Port, PortRange, PortSelect, PortSet, Problem,
    parse_network,
};
use serde::Deserialize;

use super::{CONSUL_KEY, CniError, Code};

/// The argument, as `consul-cni` reads it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default, rename = "ConsulDNSIP")]
    consul_dns_ip: String,
    #[serde(default, rename = "ConsulDNSPort")]
    consul_dns_port: u16,
    #[serde(rename = "ProxyUserID")]
    proxy_user_id: String,
    proxy_inbound_port: u16,
    proxy_outbound_port: u16,
    exclude_inbound_ports: Option<Vec<String>>,
    exclude_outbound_ports: Option<Vec<String>>,
    #[serde(rename = "ExcludeOutboundCIDRs")]
    exclude_outbound_cidrs: Option<Vec<String>>,
    #[serde(rename = "ExcludeUIDs")]
    exclude_uids: Option<Vec<String>>,
}

/// The policy that Consul's argument asks for. Its proxy has no IPv6, so that is refused instead
/// of let past.
///
/// # Errors
///
/// If it is no JSON of that form, or holds values that cannot be.
pub fn from_consul(text: &str) -> Result<Policy, CniError> {
    let wrong = |found: &dyn std::fmt::Display| {
        CniError::new(
            Code::InvalidEnvironment,
            format!("the argument {CONSUL_KEY} cannot be read"),
            found.to_string(),
        )
    };
    let config: Config = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    config.policy().map_err(|problem| wrong(&problem))
}

impl Config {
    fn policy(&self) -> Result<Policy, Box<dyn std::error::Error>> {
        let proxy: IdRange = self.proxy_user_id.parse()?;
        let inbound = Inbound::to(port(self.proxy_inbound_port)?).ports(PortSelect::AllExcept(
            ports(self.exclude_inbound_ports.as_deref())?,
        ));
        let excluded = Destinations {
            ports: ports(self.exclude_outbound_ports.as_deref())?,
            networks: networks(self.exclude_outbound_cidrs.as_deref())?,
            network_ports: Vec::new(),
        };
        let outbound = Outbound::to(port(self.proxy_outbound_port)?)
            .destinations(DestinationSelect::AllExcept(excluded));
        let users = self.exclude_uids.as_deref().unwrap_or_default();
        let users = users
            .iter()
            .map(|user| user.parse())
            .collect::<Result<Vec<IdRange>, _>>()?;
        let mut builder = Policy::builder(Identities::users([proxy]))
            .inbound(inbound)
            .outbound(outbound)
            .ipv6(Ipv6::Block);
        if !users.is_empty() {
            builder = builder.identities(IdentitySelect::Except(Identities::users(users)));
        }
        if !self.consul_dns_ip.is_empty() && self.consul_dns_port > 0 {
            let address = (
                self.consul_dns_ip.parse::<std::net::IpAddr>()?,
                self.consul_dns_port,
            );
            builder = builder.dns(Dns::to(DnsTarget::Forward(address.into())));
        }
        Ok(builder.build()?)
    }
}

fn port(number: u16) -> Result<Port, Problem> {
    let expected = "a port between 1 and 65535";
    Port::new(number).ok_or_else(|| Problem::new("", number.to_string(), expected))
}

fn ports(texts: Option<&[String]>) -> Result<PortSet, Problem> {
    let texts = texts.unwrap_or_default().iter();
    texts.map(|text| text.parse::<PortRange>()).collect()
}

fn networks(texts: Option<&[String]>) -> Result<NetworkSet, Problem> {
    texts
        .unwrap_or_default()
        .iter()
        .map(|text| parse_network(text))
        .collect()
}
