//! `istio-iptables`, the command that sets up a pod for Istio's sidecar.
//!
//! Its flags are those of `tools/istio-iptables/pkg/cmd/root.go`, with the names of the versions
//! before it that are still met; each but `--envoy-port` may also stand in the environment.

mod outbound;
mod settings;

use self::outbound::{dns, outbound};
use self::settings::Settings;
use super::value::{each, ids, interface, number, port, ports};
use super::{Imported, RemarkKind, Task};
use crate::{
    Backend, DropInvalid, IdRange, Identities, IdentitySelect, Inbound, InboundMode, InterfaceName,
    Ipv6, Policy, PortSelect, PortSet, Problem, Problems, Tproxy, VirtualInterface,
};

/// Istio's user and group of the proxy, unless it is said otherwise.
const PROXY_ID: &str = "1337";
const OUTBOUND_PORT: &str = "15001";
const INBOUND_PORT: &str = "15006";
const TUNNEL_PORT: &str = "15008";
const TPROXY_MARK: &str = "1337";
const TPROXY_TABLE: &str = "133";

const ALL: &str = "*";

/// The policy of a command line and environment of `istio-iptables`.
///
/// As in the tool, nothing is captured that is not asked for: `-b` and `-i` are empty unless they
/// are set, the proxy's groups are its users unless they are set, and `*` in a list means all.
///
/// What the tool does wrong is done right, whatever the options:
/// - IPv6 is redirected like IPv4, whichever address the namespace has first.
/// - All users and groups of the proxy are one set; a call of the second one to its own workload
///   goes through the inbound listener as one of the first does.
/// - A call of the proxy to its own workload is judged by the ports that inbound captures, as a
///   call from outside is, whatever ports outbound excludes.
/// - All of 127.0.0.0/8 is loopback to the proxy's calls to its own workload.
/// - A process of the proxy's user that is also in an excluded group is excluded.
/// - Packets without a socket have no owner and are captured, unless only some owners are.
///
/// ```
/// use mesh_netfilter::import::istio_iptables;
///
/// let environment = [("ISTIO_META_DNS_CAPTURE", "true")];
/// let imported = istio_iptables(&["-i", "*", "-b", "*", "-d", "15020,15090"], environment)?;
/// assert!(imported.policy().unwrap().dns().is_some());
/// # Ok::<(), mesh_netfilter::Problems>(())
/// ```
///
/// # Errors
/// Everything that is wrong, by the names of flags and variables as they were written.
pub fn istio_iptables<S, K, V>(
    arguments: &[S],
    environment: impl IntoIterator<Item = (K, V)>,
) -> Result<Imported, Problems>
where
    S: AsRef<str>,
    K: AsRef<str>,
    V: AsRef<str>,
{
    let mut settings = Settings::read(arguments, environment);
    let netns = settings.get("network-namespace");
    let backend = backend(&mut settings);
    let task = task(&mut settings);
    settings.problems.into_result(())?;
    Ok(Imported {
        task: task?,
        netns: netns.map(|netns| netns.value),
        backend,
        remarks: settings.remarks,
    })
}

/// The problems of single values stay in `settings`; those of the whole are the error.
fn task(settings: &mut Settings) -> Result<Task, Problems> {
    let is_cleanup = settings.is_on("cleanup-only");
    let is_print = settings.is_on("dry-run");
    let is_probe = settings.is_on("run-validation");
    let is_apply = !settings.is_on("skip-rule-apply");
    if is_cleanup {
        return Ok(Task::Remove);
    }
    let policy = policy(settings)?;
    Ok(match (is_print, is_apply, is_probe) {
        (true, ..) | (false, false, false) => Task::Print(policy),
        (false, true, true) => Task::ApplyAndProbe(policy),
        (false, true, false) => Task::Apply(policy),
        (false, false, true) => Task::Probe(policy),
    })
}

fn backend(settings: &mut Settings) -> Option<Backend> {
    let native = settings
        .is_on("native-nftables")
        .then_some(Backend::Netlink);
    let legacy = settings.is_on("force-legacy-iptables");
    let legacy = legacy.then_some(Backend::IptablesLegacy);
    let binary = settings.get("force-iptables-binary").and_then(|setting| {
        settings.read_one(&setting, |text| match text {
            "nft" => Ok(Backend::IptablesNft),
            "legacy" => Ok(Backend::IptablesLegacy),
            _ => Err(Problem::new("", text, "`nft` or `legacy`")),
        })
    });
    let backends: Vec<Backend> = [native, legacy, binary].into_iter().flatten().collect();
    if let [first, rest @ ..] = backends.as_slice()
        && rest.iter().any(|other| other != first)
    {
        let expected = "one way into the kernel (also --force-…-iptables is set)";
        settings
            .problems
            .push(Problem::new("--native-nftables", "true", expected));
    }
    backends.first().copied()
}

fn policy(settings: &mut Settings) -> Result<Policy, Problems> {
    let proxy = proxy(settings);
    let identities = identities(settings, &proxy);
    let inbound = inbound(settings);
    let outbound = outbound(settings);
    let dns = dns(settings);
    let excluded = interfaces(settings, "istio-exclude-interfaces");
    let virtual_interfaces = interfaces(settings, "kube-virt-interfaces");
    let drop_invalid = if settings.is_on("drop-invalid") {
        DropInvalid::Yes
    } else {
        DropInvalid::No
    };
    // The default is what the tool has a switch for.
    settings.is_on("dual-stack");
    if !settings.problems.0.is_empty() {
        return Err(std::mem::take(&mut settings.problems));
    }
    Policy::builder(proxy)
        .inbound(inbound)
        .outbound(outbound)
        .dns(dns)
        .identities(identities)
        .ipv6(Ipv6::Redirect)
        .drop_invalid(drop_invalid)
        .excluded_interfaces(excluded)
        .virtual_interfaces(virtual_interfaces.into_iter().map(VirtualInterface::new))
        .build()
        .map_err(in_the_tools_words)
}

fn proxy(settings: &mut Settings) -> Identities {
    if settings.get("proxy-uid").is_none()
        && let Some(user) = settings.get(settings::ENVOY_USER)
    {
        let expected = "looked up here: give its number in --proxy-uid";
        settings
            .problems
            .push(Problem::new(&user.origin, &user.value, expected));
    }
    let users = settings.get_or("proxy-uid", PROXY_ID);
    let groups = settings.get("proxy-gid");
    let read = |setting: &settings::Setting, problems: &mut Problems| {
        each(&setting.origin, &setting.value, problems, ids)
    };
    let problems = &mut settings.problems;
    let users = read(&users, problems);
    let groups = groups.map_or_else(|| users.clone(), |groups| read(&groups, problems));
    Identities::users(users).and_groups(groups)
}

/// The owner groups. The tool asks for the proxy before it asks for groups, so those of the proxy
/// in either list say nothing.
fn identities(settings: &mut Settings, proxy: &Identities) -> IdentitySelect {
    let included = settings
        .get_even_empty(settings::OWNER_GROUPS)
        .filter(|included| included.value != ALL);
    let excluded = settings.get(settings::OWNER_GROUPS_EXCLUDED);
    let list = match (&included, &excluded) {
        (Some(included), excluded) => {
            if let Some(excluded) = excluded {
                let text = "only the groups of ISTIO_OUTBOUND_OWNER_GROUPS are captured anyway";
                settings.remark(&excluded.origin, RemarkKind::Ignored, text);
            }
            included
        }
        (None, Some(excluded)) => excluded,
        (None, None) => return IdentitySelect::Everyone,
    };
    let own = proxy.group_ids();
    let groups: Vec<IdRange> = each(&list.origin, &list.value, &mut settings.problems, ids)
        .into_iter()
        .filter(|groups| !own.ranges().contains(groups))
        .collect();
    if included.is_none() {
        return if groups.is_empty() {
            IdentitySelect::Everyone
        } else {
            IdentitySelect::Except(Identities::groups(groups))
        };
    }
    if groups.is_empty() && settings.problems.0.is_empty() {
        let expected = "`*` or groups other than the proxy's";
        let problem = Problem::new(&list.origin, &list.value, expected);
        settings.problems.push(problem);
    }
    IdentitySelect::Only(Identities::groups(groups))
}

fn inbound(settings: &mut Settings) -> Option<Inbound> {
    let to = settings.get_or("inbound-capture-port", INBOUND_PORT);
    let to = settings.read_one(&to, port);
    let tunnel = settings.get_or("inbound-tunnel-port", TUNNEL_PORT);
    let tunnel = settings.read_one(&tunnel, port);
    let mode = mode(settings);
    let excluded = settings.get("istio-local-exclude-ports");
    let excluded_ports = port_list(settings, excluded.as_ref());
    let included = settings.get("istio-inbound-ports");
    let select = match &included {
        None => {
            if let Some(excluded) = &excluded {
                let text = "no inbound port is captured (-b is empty)";
                settings.remark(&excluded.origin, RemarkKind::Ignored, text);
            }
            return None;
        }
        Some(included) if included.value == ALL && excluded_ports.is_empty() => PortSelect::All,
        Some(included) if included.value == ALL => PortSelect::AllExcept(excluded_ports),
        Some(included) => {
            if let Some(excluded) = &excluded {
                let text = "the ports of -b are captured, also those that are listed here";
                settings.remark(&excluded.origin, RemarkKind::Ignored, text);
            }
            PortSelect::Only(port_list(settings, Some(included)))
        }
    };
    Some(Inbound {
        mode,
        tunnel,
        ..Inbound::to(to?).ports(select)
    })
}

fn mode(settings: &mut Settings) -> InboundMode {
    let mark = settings.get_or("istio-inbound-tproxy-mark", TPROXY_MARK);
    let table = settings.get_or("istio-inbound-tproxy-route-table", TPROXY_TABLE);
    let read = |text: &str| {
        let value = number(text).filter(|value| *value > 0_u32);
        value.ok_or_else(|| Problem::new("", text, "a number between 1 and 4294967295"))
    };
    let values = (
        settings.read_one(&mark, read),
        settings.read_one(&table, read),
    );
    let Some(mode) = settings.get("istio-inbound-interception-mode") else {
        return InboundMode::Redirect;
    };
    match (mode.value.as_str(), values) {
        ("TPROXY", (Some(mark), Some(table))) => InboundMode::Tproxy(Tproxy {
            mark,
            table,
            ..Tproxy::default()
        }),
        ("REDIRECT" | "TPROXY", _) => InboundMode::Redirect,
        _ => {
            let expected = "`REDIRECT` or `TPROXY`";
            let problem = Problem::new(&mode.origin, &mode.value, expected);
            settings.problems.push(problem);
            InboundMode::Redirect
        }
    }
}

fn port_list(settings: &mut Settings, setting: Option<&settings::Setting>) -> PortSet {
    let Some(setting) = setting else {
        return PortSet::default();
    };
    each(
        &setting.origin,
        &setting.value,
        &mut settings.problems,
        ports,
    )
    .into_iter()
    .collect()
}

fn interfaces(settings: &mut Settings, key: &str) -> Vec<InterfaceName> {
    let Some(setting) = settings.get(key) else {
        return Vec::new();
    };
    each(
        &setting.origin,
        &setting.value,
        &mut settings.problems,
        interface,
    )
}

/// What is wrong with the whole, under the names of the flags.
fn in_the_tools_words(mut problems: Problems) -> Problems {
    const NAMES: &[(&str, &str)] = &[
        ("proxy", "--proxy-uid"),
        ("identities", settings::OWNER_GROUPS),
        ("inbound.capture.tunnel", "--inbound-tunnel-port"),
        ("inbound.capture.ports", "--istio-local-exclude-ports"),
        ("inbound.capture.mode", "--istio-inbound-interception-mode"),
        ("inbound", "--istio-inbound-ports"),
        ("outbound", "--istio-service-cidr"),
        ("dns.capture.to", "--envoy-port"),
        ("dns", "--redirect-dns"),
        ("excluded_interfaces", "--istio-exclude-interfaces"),
        ("virtual_interfaces", "--kube-virt-interfaces"),
        ("", "--istio-inbound-ports, --istio-service-cidr"),
    ];
    for problem in &mut problems.0 {
        let name = NAMES
            .iter()
            .find(|(path, _)| problem.path.starts_with(path));
        if let Some((_, name)) = name {
            problem.path = (*name).to_owned();
        }
    }
    problems
}

#[cfg(test)]
mod tests;
