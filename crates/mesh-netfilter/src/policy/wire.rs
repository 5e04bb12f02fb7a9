//! The serde form of a policy: every value as text, so that all of them can be judged at once.

mod read;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::read::Reader;
use super::{
    DestinationSelect, Destinations, DnsServers, DnsTcp, DnsZones, DropInvalid, Existing, Guard,
    IdentitySelect, InboundMode, Ipv6, Loopback, Policy, PolicyBuilder, PortSelect, Tproxy,
};
use crate::{Identities, InterfaceName, Problems, Transport};

/// What is written where a policy is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<Scalar>,
    proxy: WireIdentities,
    #[serde(default)]
    inbound: Switch<WireInbound>,
    #[serde(default)]
    outbound: Switch<WireOutbound>,
    #[serde(default)]
    dns: Switch<WireDns>,
    #[serde(default)]
    identities: WireIdentitySelect,
    #[serde(default)]
    ipv6: Ipv6,
    #[serde(default)]
    guard: Guard,
    #[serde(default)]
    existing: Existing,
    #[serde(default)]
    drop_invalid: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    excluded_interfaces: Vec<Scalar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    virtual_interfaces: Vec<WireVirtualInterface>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    per_identity: Vec<WireIdentityPorts>,
}

/// A number or a string, kept as text until all of them are judged.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Scalar(String);

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Switch<T> {
    #[default]
    Off,
    Capture(T),
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireIdentities {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    uids: Vec<Scalar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gids: Vec<Scalar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    marks: Vec<WireMark>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireMark {
    value: u32,
    #[serde(default = "WireMark::all_bits")]
    mask: u32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireInbound {
    to: Scalar,
    #[serde(default)]
    mode: WireMode,
    #[serde(default)]
    ports: Select<Vec<Scalar>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel: Option<Scalar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    excluded_sources: Vec<Scalar>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum WireMode {
    #[default]
    Redirect,
    Tproxy(Tproxy),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireVirtualInterface {
    name: Scalar,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    direct: Vec<Scalar>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireIdentityPorts {
    identities: WireIdentities,
    #[serde(default)]
    transport: Transport,
    ports: Vec<Scalar>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireOutbound {
    to: Scalar,
    #[serde(default)]
    destinations: Select<WireDestinations>,
    #[serde(default)]
    loopback: WireLoopback,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Select<T> {
    #[default]
    All,
    AllExcept(T),
    Only(T),
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireDestinations {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Scalar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    networks: Vec<Scalar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    network_ports: Vec<WireNetworkPorts>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireNetworkPorts {
    networks: Vec<Scalar>,
    ports: Vec<Scalar>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum WireLoopback {
    #[default]
    Direct,
    Capture(Vec<Scalar>),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireDns {
    to: Scalar,
    #[serde(default)]
    servers: WireServers,
    #[serde(default = "yes")]
    tcp: bool,
    #[serde(default = "yes")]
    zones: bool,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum WireServers {
    #[default]
    All,
    ResolvConf,
    List(Vec<Scalar>),
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum WireIdentitySelect {
    #[default]
    Everyone,
    Except(WireIdentities),
    Only(WireIdentities),
}

// === impl Policy ===

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Wire::deserialize(deserializer)?
            .validate()
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for Policy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire::from(self).serialize(serializer)
    }
}

// === impl Wire ===

impl Wire {
    fn validate(self) -> Result<Policy, Problems> {
        let mut reader = Reader::default();
        let proxy = reader.identities("proxy", &self.proxy);
        let mut builder = PolicyBuilder::new(proxy)
            .ipv6(self.ipv6)
            .guard(self.guard)
            .existing(self.existing)
            .drop_invalid(if self.drop_invalid {
                DropInvalid::Yes
            } else {
                DropInvalid::No
            })
            .virtual_interfaces(reader.virtual_interfaces(&self.virtual_interfaces))
            .per_identity(reader.per_identity(&self.per_identity))
            .excluded_interfaces(
                reader.many::<InterfaceName>("excluded_interfaces", &self.excluded_interfaces),
            )
            .identities(match &self.identities {
                WireIdentitySelect::Everyone => IdentitySelect::Everyone,
                WireIdentitySelect::Except(wire) => {
                    IdentitySelect::Except(reader.identities("identities.except", wire))
                }
                WireIdentitySelect::Only(wire) => {
                    IdentitySelect::Only(reader.identities("identities.only", wire))
                }
            });
        if let Some(instance) = &self.instance
            && let Some(instance) = reader.one("instance", instance)
        {
            builder = builder.instance(instance);
        }
        if let Switch::Capture(wire) = &self.inbound {
            builder = builder.inbound(reader.inbound(wire));
        }
        if let Switch::Capture(wire) = &self.outbound {
            builder = builder.outbound(reader.outbound(wire));
        }
        if let Switch::Capture(wire) = &self.dns {
            builder = builder.dns(reader.dns(wire));
        }
        // A value that could not be read leaves a hole, and what the whole makes of a hole is
        // not the user's mistake: cross-checks come when every value is good.
        if reader.problems.0.is_empty() {
            builder.build()
        } else {
            Err(reader.problems)
        }
    }
}

impl From<&Policy> for Wire {
    fn from(policy: &Policy) -> Self {
        Self {
            instance: Some(Scalar::of(policy.instance())),
            proxy: policy.proxy().into(),
            inbound: policy.inbound().map_or(Switch::Off, |inbound| {
                Switch::Capture(WireInbound {
                    to: Scalar::of(inbound.to),
                    mode: match inbound.mode {
                        InboundMode::Redirect => WireMode::Redirect,
                        InboundMode::Tproxy(tproxy) => WireMode::Tproxy(tproxy),
                    },
                    ports: match &inbound.ports {
                        PortSelect::All => Select::All,
                        PortSelect::AllExcept(ports) => Select::AllExcept(scalars(ports.ranges())),
                        PortSelect::Only(ports) => Select::Only(scalars(ports.ranges())),
                    },
                    tunnel: inbound.tunnel.map(Scalar::of),
                    excluded_sources: scalars(inbound.excluded_sources.iter()),
                })
            }),
            outbound: policy.outbound().map_or(Switch::Off, |outbound| {
                Switch::Capture(WireOutbound {
                    to: Scalar::of(outbound.to),
                    destinations: match &outbound.destinations {
                        DestinationSelect::All => Select::All,
                        DestinationSelect::AllExcept(wire) => Select::AllExcept(wire.into()),
                        DestinationSelect::Only(wire) => Select::Only(wire.into()),
                    },
                    loopback: match &outbound.loopback {
                        Loopback::Direct => WireLoopback::Direct,
                        Loopback::Capture(networks) => {
                            WireLoopback::Capture(scalars(networks.iter()))
                        }
                    },
                })
            }),
            dns: policy.dns().map_or(Switch::Off, |dns| {
                Switch::Capture(WireDns {
                    to: Scalar::of(dns.to),
                    servers: match &dns.servers {
                        DnsServers::All => WireServers::All,
                        DnsServers::ResolvConf => WireServers::ResolvConf,
                        DnsServers::List(servers) => WireServers::List(scalars(servers)),
                    },
                    tcp: dns.tcp == DnsTcp::Capture,
                    zones: dns.zones == DnsZones::Split,
                })
            }),
            identities: match policy.identities() {
                IdentitySelect::Everyone => WireIdentitySelect::Everyone,
                IdentitySelect::Except(identities) => WireIdentitySelect::Except(identities.into()),
                IdentitySelect::Only(identities) => WireIdentitySelect::Only(identities.into()),
            },
            ipv6: policy.ipv6(),
            guard: policy.guard(),
            existing: policy.existing(),
            drop_invalid: policy.drop_invalid() == DropInvalid::Yes,
            excluded_interfaces: scalars(policy.excluded_interfaces()),
            virtual_interfaces: policy
                .virtual_interfaces()
                .iter()
                .map(|interface| WireVirtualInterface {
                    name: Scalar::of(&interface.name),
                    direct: scalars(interface.direct.iter()),
                })
                .collect(),
            per_identity: policy
                .per_identity()
                .iter()
                .map(|exclusion| WireIdentityPorts {
                    identities: (&exclusion.identities).into(),
                    transport: exclusion.transport,
                    ports: scalars(exclusion.ports.ranges()),
                })
                .collect(),
        }
    }
}

impl From<&Identities> for WireIdentities {
    fn from(identities: &Identities) -> Self {
        Self {
            uids: scalars(identities.user_ids().ranges()),
            gids: scalars(identities.group_ids().ranges()),
            marks: identities
                .mark_values()
                .iter()
                .map(|mark| WireMark {
                    value: mark.value(),
                    mask: mark.mask(),
                })
                .collect(),
        }
    }
}

impl From<&Destinations> for WireDestinations {
    fn from(destinations: &Destinations) -> Self {
        Self {
            ports: scalars(destinations.ports.ranges()),
            networks: scalars(destinations.networks.iter()),
            network_ports: destinations
                .network_ports
                .iter()
                .map(|pair| WireNetworkPorts {
                    networks: scalars(pair.networks.iter()),
                    ports: scalars(pair.ports.ranges()),
                })
                .collect(),
        }
    }
}

impl WireMark {
    fn all_bits() -> u32 {
        u32::MAX
    }
}

fn yes() -> bool {
    true
}

// === impl Scalar ===

impl Scalar {
    fn of(value: impl fmt::Display) -> Self {
        Self(value.to_string())
    }
}

impl Serialize for Scalar {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u32>() {
            Ok(number) if number.to_string() == self.0 => serializer.serialize_u32(number),
            _ => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::of(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::of(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::of(value))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

fn scalars<T: fmt::Display>(values: impl IntoIterator<Item = T>) -> Vec<Scalar> {
    values.into_iter().map(Scalar::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dns, Port};

    fn problems(json: &str) -> String {
        serde_json::from_str::<Policy>(json)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_sidecar_policy_survives_json() {
        let json = serde_json::to_string(&Policy::sidecar()).unwrap();
        assert_eq!(
            serde_json::from_str::<Policy>(&json).unwrap(),
            Policy::sidecar()
        );
    }

    #[test]
    fn every_bad_value_is_reported_with_its_path() {
        let text = problems(
            r#"{
                "instance": "a b",
                "proxy": {"uids": [1337, "root", -1]},
                "inbound": {"capture": {"to": 0, "ports": {"only": ["80", "90-80"]}}},
                "outbound": {"capture": {"to": 15001, "destinations": {"all_except": {
                    "networks": ["10.0.0.1/8"],
                    "network_ports": [{"networks": ["x"], "ports": [70000]}]}}}},
                "dns": {"capture": {"to": 15053, "servers": {"list": ["dns.example"]}}},
                "excluded_interfaces": ["eth0; flush ruleset"]
            }"#,
        );
        for part in [
            "instance: `a b` is not",
            "proxy.uids[1]: `root` is not",
            "proxy.uids[2]: `-1` is not",
            "inbound.capture.to: `0` is not",
            "inbound.capture.ports.only[1]: `90-80` is not",
            "outbound.capture.destinations.all_except.networks[0]: `10.0.0.1/8` is not",
            "outbound.capture.destinations.all_except.network_ports[0].networks[0]: `x` is not",
            "outbound.capture.destinations.all_except.network_ports[0].ports[0]: `70000` is not",
            "dns.capture.servers.list[0]: `dns.example` is not",
            "excluded_interfaces[0]: `eth0; flush ruleset` is not",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn an_unknown_field_is_an_error_at_every_depth() {
        assert!(problems(r#"{"proxy": {"uids": [1]}, "inbund": "off"}"#).contains("inbund"));
        assert!(problems(r#"{"proxy": {"uid": [1]}}"#).contains("uid"));
        assert!(
            problems(r#"{"proxy": {"uids": [1]}, "dns": {"capture": {"to": 1, "udp": true}}}"#)
                .contains("udp")
        );
    }

    #[test]
    fn nothing_is_captured_that_was_not_said() {
        let policy: Policy =
            serde_json::from_str(r#"{"proxy": {"uids": [1]}, "dns": {"capture": {"to": 15053}}}"#)
                .unwrap();
        assert_eq!(policy.inbound(), None);
        assert_eq!(policy.outbound(), None);
        assert_eq!(policy.dns(), Some(&Dns::to(Port::of::<15053>())));
    }
}
