//! The options that say or change a policy: one table for flags, environment and help.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::error::Error;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// Which policy: a file or another tool's command line, and what options change.
#[derive(Debug, Default)]
pub(super) struct PolicyArgs {
    pub(super) file: Option<PathBuf>,
    pub(super) compat: Option<Compat>,
    pub(super) given: Vec<Given>,
}

/// A tool whose meaning the options have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compat {
    PrepareProxy,
    IstioIptables,
}

/// An option as it was given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) option: &'static PolicyOption,
    /// The flag or the variable.
    pub(super) origin: String,
    /// Each time it was given.
    pub(super) values: Vec<String>,
}

/// An option that says something about a policy.
#[derive(Debug)]
pub(super) struct PolicyOption {
    pub(super) kind: Kind,
    pub(super) long: &'static str,
    /// Its name in `istio-iptables`; empty if it has none.
    pub(super) istio: &'static str,
    letter: Option<char>,
    /// What its value is called; empty for a switch.
    value: &'static str,
    help: &'static str,
}

/// What an option is about, in the order in which they change a policy: what turns a direction on
/// comes before what is excluded from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Instance,
    ProxyUids,
    ProxyGids,
    ProxyMarks,
    InboundPort,
    InboundPorts,
    TunnelPort,
    ExcludedInboundPorts,
    ExcludedSources,
    InboundMode,
    TproxyMark,
    TproxyTable,
    OutboundPort,
    OutboundNetworks,
    OutboundPorts,
    ExcludedOutboundNetworks,
    ExcludedOutboundPorts,
    CapturedLoopback,
    IncludedUids,
    IncludedGids,
    ExcludedUids,
    ExcludedGids,
    ExcludedPortsForUids,
    DnsTo,
    RedirectDns,
    NoDns,
    DnsServers,
    CaptureAllDns,
    ExcludedInterfaces,
    VirtualInterfaces,
    Ipv6,
    Guard,
    NoGuard,
    Existing,
    DropInvalid,
    /// How `istio-iptables` works rather than what it captures.
    Tool,
}

/// The prefix of the variables.
const VARIABLE: &str = "MESH_REDIRECT_";

#[rustfmt::skip] // A table is read by its columns.
const OPTIONS: &[PolicyOption] = &[
    row(Kind::Instance, "instance", "", None, "NAME", "The name of this set of rules [default: mesh]"),
    row(Kind::ProxyUids, "proxy-uid", "proxy-uid", Some('u'), "UID,…", "The users that are the proxy, in place of the policy's"),
    row(Kind::ProxyGids, "proxy-gid", "proxy-gid", Some('g'), "GID,…", "The groups that are the proxy, in place of the policy's"),
    row(Kind::ProxyMarks, "proxy-mark", "", None, "VALUE[/MASK],…", "The socket marks that are the proxy's, in place of the policy's"),
    row(Kind::InboundPort, "inbound-port", "inbound-capture-port", Some('z'), "PORT", "Where the proxy takes arriving connections [default: 15006]"),
    row(Kind::TunnelPort, "tunnel-port", "inbound-tunnel-port", Some('e'), "PORT", "Where the proxy takes tunnels, which are never captured"),
    row(Kind::InboundPorts, "inbound-ports", "istio-inbound-ports", Some('b'), "*|PORTS", "Ports where arriving connections are captured; `` for none"),
    row(Kind::ExcludedInboundPorts, "exclude-inbound-ports", "istio-local-exclude-ports", Some('d'), "PORTS", "Ports where arriving connections are left alone too"),
    row(Kind::ExcludedSources, "exclude-inbound-cidrs", "", None, "CIDR,…", "Callers whose connections are left alone too"),
    row(Kind::InboundMode, "inbound-mode", "istio-inbound-interception-mode", Some('m'), "redirect|tproxy", "How the proxy gets arriving connections"),
    row(Kind::TproxyMark, "tproxy-mark", "istio-inbound-tproxy-mark", Some('t'), "MARK", "The mark of TPROXY [default: 1337]"),
    row(Kind::TproxyTable, "tproxy-table", "istio-inbound-tproxy-route-table", Some('r'), "TABLE", "The routing table of TPROXY [default: 133]"),
    row(Kind::OutboundPort, "outbound-port", "envoy-port", Some('p'), "PORT", "Where the proxy takes opened connections [default: 15001]"),
    row(Kind::OutboundNetworks, "outbound-cidrs", "istio-service-cidr", Some('i'), "*|CIDR,…", "Networks to which opened connections are captured; `` for none"),
    row(Kind::OutboundPorts, "outbound-ports", "istio-outbound-ports", Some('q'), "PORTS", "Ports to which opened connections are captured, besides --outbound-cidrs"),
    row(Kind::ExcludedOutboundNetworks, "exclude-outbound-cidrs", "istio-service-exclude-cidr", Some('x'), "CIDR,…", "Networks to which opened connections are left alone too"),
    row(Kind::ExcludedOutboundPorts, "exclude-outbound-ports", "istio-local-outbound-ports-exclude", Some('o'), "PORTS", "Ports to which opened connections are left alone too"),
    row(Kind::CapturedLoopback, "capture-loopback", "", None, "CIDR,…", "Networks to which the application's calls over loopback are captured"),
    row(Kind::IncludedUids, "include-uids", "", None, "UID,…", "Capture what these users open, and nobody else"),
    row(Kind::IncludedGids, "include-gids", "", None, "GID,…", "Capture what these groups open, and nobody else"),
    row(Kind::ExcludedUids, "exclude-uids", "", None, "UID,…", "Leave alone what these users open too"),
    row(Kind::ExcludedGids, "exclude-gids", "", None, "GID,…", "Leave alone what these groups open too"),
    row(Kind::ExcludedPortsForUids, "exclude-outbound-ports-for-uids", "", None, "tcp|udp:PORTS:UIDS", "Leave alone what these users open to these ports; may be repeated"),
    row(Kind::DnsTo, "dns-to", "", None, "PORT|ADDRESS:PORT", "Who answers DNS queries [default: 15053]"),
    row(Kind::DnsServers, "dns-servers", "", None, "all|resolv-conf|IP,…", "The servers whose queries are captured"),
    row(Kind::RedirectDns, "redirect-dns", "redirect-dns", None, "", "Capture DNS queries"),
    row(Kind::CaptureAllDns, "capture-all-dns", "capture-all-dns", None, "", "Capture the queries to all servers"),
    row(Kind::NoDns, "no-dns", "", None, "", "Leave DNS alone"),
    row(Kind::ExcludedInterfaces, "exclude-interfaces", "istio-exclude-interfaces", Some('c'), "NAME,…", "Interfaces whose traffic is left alone too"),
    row(Kind::VirtualInterfaces, "virtual-interfaces", "kube-virt-interfaces", Some('k'), "NAME,…", "Interfaces behind which guests are, whose traffic is outbound"),
    row(Kind::Ipv6, "ipv6", "", None, "redirect|block|bypass", "What happens to IPv6 [default: redirect]"),
    row(Kind::Guard, "guard", "", None, "off|reject|drop", "What happens to traffic that slips past [default: reject]"),
    row(Kind::NoGuard, "no-guard", "", None, "", "Let traffic pass when something has removed the rules"),
    row(Kind::Existing, "existing", "", None, "keep|break", "What happens to connections that are open [default: keep]"),
    row(Kind::DropInvalid, "drop-invalid", "drop-invalid", None, "", "Drop packets that belong to no connection"),
    tool("network-namespace", None, "NETNS"),
    tool("dry-run", Some('n'), ""),
    tool("cleanup-only", None, ""),
    tool("skip-rule-apply", None, ""),
    tool("run-validation", None, ""),
    tool("native-nftables", None, ""),
    tool("force-legacy-iptables", None, ""),
    tool("force-iptables-binary", None, "nft|legacy"),
    tool("dual-stack", None, ""),
    tool("iptables-probe-port", None, "PORT"),
    tool("probe-timeout", None, "TIME"),
    tool("reconcile", None, ""),
    tool("force-apply", None, ""),
    tool("cni-mode", None, ""),
    tool("host-nsenter-exec", None, ""),
    tool("iptables-trace-logging", None, ""),
    tool("restore-format", Some('f'), ""),
];

const fn row(
    kind: Kind,
    long: &'static str,
    istio: &'static str,
    letter: Option<char>,
    value: &'static str,
    help: &'static str,
) -> PolicyOption {
    PolicyOption {
        kind,
        long,
        istio,
        letter,
        value,
        help,
    }
}

const fn tool(long: &'static str, letter: Option<char>, value: &'static str) -> PolicyOption {
    row(Kind::Tool, long, long, letter, value, "")
}

// === impl PolicyArgs ===

impl PolicyArgs {
    /// With what `variable` tells about options that are not on the command line.
    #[must_use]
    pub(super) fn with_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        for option in OPTIONS.iter().filter(|option| option.kind != Kind::Tool) {
            let name = option.variable();
            let is_given = self
                .given
                .iter()
                .any(|given| given.option.kind == option.kind);
            if !is_given && let Some(value) = variable(&name) {
                self.given.push(Given {
                    option,
                    origin: name,
                    values: vec![value],
                });
            }
        }
        self
    }
}

impl clap::Args for PolicyArgs {
    fn augment_args(command: Command) -> Command {
        let command = command
            .arg(
                Arg::new("policy")
                    .long("policy")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help_heading("Policy")
                    .help("A policy as JSON, in place of the sidecar's"),
            )
            .arg(
                Arg::new("compat")
                    .long("compat")
                    .value_name("TOOL")
                    .value_parser(PossibleValuesParser::new([
                        "prepare_proxy",
                        "istio-iptables",
                    ]))
                    .conflicts_with("policy")
                    .help_heading("Policy")
                    .help("Let options and defaults mean what they mean to this tool"),
            );
        command.args(OPTIONS.iter().map(PolicyOption::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for PolicyArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.file = matches.get_one("policy").cloned();
        self.compat = matches.get_one::<String>("compat").map(|tool| {
            if tool == "prepare_proxy" {
                Compat::PrepareProxy
            } else {
                Compat::IstioIptables
            }
        });
        for option in OPTIONS {
            let values = matches.get_many::<String>(option.long);
            if let Some(values) = values {
                self.given.push(Given {
                    option,
                    origin: format!("--{}", option.long),
                    values: values.cloned().collect(),
                });
            }
        }
        Ok(())
    }
}

// === impl Given ===

impl Given {
    /// The value that counts where only one can.
    pub(super) fn last(&self) -> &str {
        self.values.last().map_or("", String::as_str)
    }

    /// The parts of a list, however often it was given.
    pub(super) fn list(&self) -> impl Iterator<Item = &str> {
        let parts = self.values.iter().flat_map(|value| value.split(','));
        parts.map(str::trim).filter(|part| !part.is_empty())
    }
}

// === impl PolicyOption ===

impl PolicyOption {
    /// The variable that says the same.
    fn variable(&self) -> String {
        let name = self.long.replace('-', "_").to_ascii_uppercase();
        format!("{VARIABLE}{name}")
    }

    fn argument(&self) -> Arg {
        let mut argument = Arg::new(self.long)
            .long(self.long)
            .action(ArgAction::Append)
            .help_heading("Policy")
            .help(self.help)
            .hide(self.kind == Kind::Tool);
        if let Some(letter) = self.letter {
            argument = argument.short(letter);
        }
        if !self.istio.is_empty() && self.istio != self.long {
            argument = argument.visible_alias(self.istio);
        }
        if self.value.is_empty() {
            argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_name("true|false")
        } else {
            argument.value_name(self.value)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_options_share_a_name_or_a_letter() {
        let names: Vec<&str> = OPTIONS
            .iter()
            .flat_map(|option| [option.long, option.istio])
            .filter(|name| !name.is_empty())
            .collect();
        let both = OPTIONS.iter().filter(|option| option.long == option.istio);
        let distinct: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(distinct.len() + both.count(), names.len());
        let letters: Vec<char> = OPTIONS.iter().filter_map(|option| option.letter).collect();
        let distinct: BTreeSet<char> = letters.iter().copied().collect();
        assert_eq!(distinct.len(), letters.len());
    }

    #[test]
    fn every_option_that_clap_takes_is_well_formed() {
        let command = <PolicyArgs as clap::Args>::augment_args(Command::new("plan"));
        command.debug_assert();
    }
}
