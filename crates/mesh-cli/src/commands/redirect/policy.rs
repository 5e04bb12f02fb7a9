//! The policy that a redirect verb works with: the sidecar's or a file's, and what flags change.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use ipnet::IpNet;
use mesh_netfilter::{
    DestinationSelect, Destinations, Guard, Identities, Inbound, InstanceName, Ipv6, Outbound,
    Plan, Policy, PortRange, PortSelect, PortSet, Problem, Problems, parse_network,
};

use crate::exit::Failure;

/// Which policy.
#[derive(Debug, Default, clap::Args)]
pub(super) struct PolicyArgs {
    /// A policy as JSON; without it the sidecar's: inbound to 15006 but for 15020, 15021 and
    /// 15090, outbound to 15001, DNS to 15053, user and group 1337 being the proxy.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The name of this set of rules.
    #[arg(long)]
    instance: Option<InstanceName>,
    /// The users that are the proxy, in place of the policy's.
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    proxy_uid: Vec<u32>,
    /// The groups that are the proxy, in place of the policy's.
    #[arg(long, value_name = "GID", value_delimiter = ',')]
    proxy_gid: Vec<u32>,
    /// Ports where arriving connections are left alone too.
    #[arg(long, value_name = "PORT|FIRST-LAST", value_delimiter = ',')]
    exclude_inbound_ports: Vec<PortRange>,
    /// Ports to which opened connections are left alone too.
    #[arg(long, value_name = "PORT|FIRST-LAST", value_delimiter = ',')]
    exclude_outbound_ports: Vec<PortRange>,
    /// Networks to which opened connections are left alone too.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_network)]
    exclude_outbound_cidrs: Vec<IpNet>,
    /// Leave DNS alone.
    #[arg(long)]
    no_dns: bool,
    /// What happens to IPv6.
    #[arg(long, value_parser = ipv6())]
    ipv6: Option<Ipv6>,
    /// Let traffic pass when something has removed the rules.
    #[arg(long)]
    no_guard: bool,
}

fn ipv6() -> impl clap::builder::TypedValueParser<Value = Ipv6> {
    PossibleValuesParser::new(["redirect", "block", "bypass"]).map(|text| match text.as_str() {
        "block" => Ipv6::Block,
        "bypass" => Ipv6::Bypass,
        _ => Ipv6::Redirect,
    })
}

// === impl PolicyArgs ===

impl PolicyArgs {
    /// The plan of the policy.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        let policy = match &self.policy {
            Some(path) => read(path)?,
            None => Policy::sidecar(),
        };
        let policy = self.change(&policy).map_err(|problems| {
            Failure::usage(format!("the flags make no valid policy: {problems}"))
        })?;
        Ok(Plan::compile(&policy))
    }

    /// The policy with what the flags say.
    fn change(&self, policy: &Policy) -> Result<Policy, Problems> {
        let mut problems = Problems::default();
        let mut builder = policy.to_builder();
        if let Some(instance) = &self.instance {
            builder = builder.instance(instance.clone());
        }
        if !self.proxy_uid.is_empty() || !self.proxy_gid.is_empty() {
            builder = builder.proxy(self.proxy(policy.proxy()));
        }
        if !self.exclude_inbound_ports.is_empty() {
            match policy.inbound() {
                Some(inbound) => builder = builder.inbound(self.inbound(inbound)),
                None => problems.push(off("--exclude-inbound-ports", "inbound")),
            }
        }
        if !self.exclude_outbound_ports.is_empty() || !self.exclude_outbound_cidrs.is_empty() {
            match policy.outbound() {
                Some(outbound) => match self.outbound(outbound) {
                    Ok(outbound) => builder = builder.outbound(outbound),
                    Err(problem) => problems.push(problem),
                },
                None => problems.push(off("--exclude-outbound-…", "outbound")),
            }
        }
        if self.no_dns {
            builder = builder.dns(None);
        }
        if let Some(ipv6) = self.ipv6 {
            builder = builder.ipv6(ipv6);
        }
        if self.no_guard {
            builder = builder.guard(Guard::Off);
        }
        problems.into_result(())?;
        builder.build()
    }

    fn proxy(&self, policy: &Identities) -> Identities {
        let or = |own: &[u32], policy: &std::collections::BTreeSet<u32>| -> Vec<u32> {
            if own.is_empty() {
                policy.iter().copied().collect()
            } else {
                own.to_vec()
            }
        };
        Identities::users(or(&self.proxy_uid, policy.user_ids()))
            .and_groups(or(&self.proxy_gid, policy.group_ids()))
            .and_marks(policy.mark_values().iter().copied())
    }

    fn inbound(&self, inbound: &Inbound) -> Inbound {
        let excluded: PortSet = self.exclude_inbound_ports.iter().copied().collect();
        let ports = match &inbound.ports {
            PortSelect::AllExcept(ports) => PortSelect::AllExcept(ports.union(&excluded)),
            PortSelect::Only(ports) => PortSelect::Only(ports.without(&excluded)),
            _ => PortSelect::AllExcept(excluded),
        };
        inbound.clone().ports(ports)
    }

    fn outbound(&self, outbound: &Outbound) -> Result<Outbound, Problem> {
        let mut destinations = match &outbound.destinations {
            DestinationSelect::AllExcept(destinations) => destinations.clone(),
            DestinationSelect::All => Destinations::default(),
            _ => {
                return Err(Problem::new(
                    "outbound.capture.destinations",
                    "only",
                    "a selection that --exclude-outbound-… can be added to",
                ));
            }
        };
        let ports: PortSet = self.exclude_outbound_ports.iter().copied().collect();
        let networks = self.exclude_outbound_cidrs.iter().copied().collect();
        destinations.ports = destinations.ports.union(&ports);
        destinations.networks = destinations.networks.union(&networks);
        Ok(outbound
            .clone()
            .destinations(DestinationSelect::AllExcept(destinations)))
    }
}

fn off(flag: &str, direction: &str) -> Problem {
    Problem::new(
        flag,
        format!("{direction} off"),
        format!("a policy that captures {direction}"),
    )
}

fn read(path: &Path) -> Result<Policy, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("`{}` is no policy: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        policy: PolicyArgs,
    }

    fn policy(flags: &str) -> Result<Policy, Problems> {
        let line = std::iter::once("plan").chain(flags.split_whitespace());
        let line = Line::try_parse_from(line).unwrap();
        line.policy.change(&Policy::sidecar())
    }

    #[test]
    fn without_flags_the_policy_is_the_sidecar_s() {
        assert_eq!(policy(""), Ok(Policy::sidecar()));
    }

    #[test]
    fn flags_add_exclusions_and_replace_identities() {
        let policy = policy(
            "--proxy-uid 101,102 --exclude-inbound-ports 22,8000-8010 --exclude-outbound-ports 9090 \
             --exclude-outbound-cidrs 10.0.0.0/8,fd00::/8 --no-dns --ipv6 block --no-guard \
             --instance blue",
        );
        let policy = policy.unwrap();
        assert_eq!(
            policy.proxy(),
            &Identities::users([101, 102]).and_groups([1337])
        );
        let PortSelect::AllExcept(ports) = &policy.inbound().unwrap().ports else {
            panic!("{policy:?}");
        };
        assert_eq!(ports.to_string(), "22, 8000-8010, 15020-15021, 15090");
        let DestinationSelect::AllExcept(excluded) = &policy.outbound().unwrap().destinations
        else {
            panic!("{policy:?}");
        };
        assert_eq!(excluded.ports.to_string(), "9090");
        assert_eq!(excluded.networks.to_string(), "10.0.0.0/8, fd00::/8");
        assert_eq!(policy.dns(), None);
        assert_eq!(policy.ipv6(), Ipv6::Block);
        assert_eq!(policy.guard(), Guard::Off);
        assert_eq!(policy.instance().as_str(), "blue");
    }

    #[test]
    fn flags_that_make_no_sense_are_named() {
        for line in [
            "--exclude-inbound-ports 0",
            "--exclude-inbound-ports 9-1",
            "--exclude-outbound-cidrs 10.0.0.1/8",
            "--proxy-uid root",
            "--instance a;b",
            "--ipv6 maybe",
        ] {
            let words = std::iter::once("plan").chain(line.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{line}");
        }
        let problems = policy("--exclude-inbound-ports 1-65535").unwrap_err();
        assert!(
            problems.to_string().contains("inbound.capture.ports"),
            "{problems}"
        );
    }
}
