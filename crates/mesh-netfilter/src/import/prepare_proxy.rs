//! `prepare_proxy.sh`, the script of Istio 0.4 (`pilot/docker/prepare_proxy.sh`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::arguments::{Flag, Given, Takes, split};
use super::value::{each, ids, network, one, port};
use super::{Imported, Remark, RemarkKind, Task};
use crate::{
    DestinationSelect, Destinations, Family, Identities, Inbound, Ipv6, Loopback, NetworkSet,
    Outbound, Policy, Problem, Problems,
};

const PORT: usize = 0;
const USER: usize = 1;
const EXCLUDED: usize = 2;
const INCLUDED: usize = 3;
const HELP: usize = 4;

const FLAGS: &[Flag] = &[
    letter('p', Takes::Value),
    letter('u', Takes::Value),
    letter('e', Takes::Value),
    letter('i', Takes::Value),
    letter('h', Takes::Switch),
];

const USAGE: &str = "\
prepare_proxy.sh -p PORT -u UID [-i CIDR,…] [-h]

  -p PORT    the port of the proxy, for connections in both directions
  -u UID     the user whose connections are left alone: the proxy
  -i CIDR,…  redirect opened connections to these networks only
  -h         print this
";

/// The policy of a command line of `prepare_proxy.sh`.
///
/// Connections of both directions go to the port of `-p`. As in the script, a connection of the
/// application to an address of its own workload, other than 127.0.0.1, goes to the proxy too.
/// Unlike the script, IPv6 is redirected like IPv4: for the script's IPv4 alone, change the policy
/// to [`Ipv6::Bypass`].
///
/// ```
/// use mesh_netfilter::import::prepare_proxy;
///
/// let imported = prepare_proxy(&["-p", "15001", "-u", "1337", "-i", "10.0.0.0/8"])?;
/// let policy = imported.policy().unwrap();
/// assert_eq!(policy.inbound().unwrap().to, policy.outbound().unwrap().to);
/// # Ok::<(), mesh_netfilter::Problems>(())
/// ```
///
/// # Errors
/// Everything that is wrong with the command line, by the names of its options. What the script
/// overlooked (words after the first that is no option, an option without its value) is among it.
pub fn prepare_proxy<S: AsRef<str>>(arguments: &[S]) -> Result<Imported, Problems> {
    let mut problems = Problems::default();
    let given = split(FLAGS, arguments, &mut problems);
    if last(&given, HELP).is_some() {
        return Ok(imported(Task::Help(USAGE), Vec::new()));
    }
    let to = required(&given, PORT, "-p", "the port of the proxy", &mut problems)
        .and_then(|text| one("-p", text, &mut problems, port));
    let user = required(
        &given,
        USER,
        "-u",
        "the user id of the proxy",
        &mut problems,
    )
    .and_then(|text| one("-u", text, &mut problems, ids));
    let included = last(&given, INCLUDED).filter(|given| !given.value.is_empty());
    let included: NetworkSet = included.map_or_else(NetworkSet::default, |given| {
        each("-i", &given.value, &mut problems, network)
            .into_iter()
            .collect()
    });
    let (Some(to), Some(user)) = (to, user) else {
        return Err(problems);
    };
    problems.into_result(())?;

    let mut remarks = vec![Remark {
        option: "prepare_proxy.sh".to_owned(),
        kind: RemarkKind::Mended,
        text: "IPv6 is redirected too; the script left it alone",
    }];
    let mut outbound = Outbound {
        loopback: Loopback::Capture(not_localhost()),
        ..Outbound::to(to)
    };
    if !included.is_empty() {
        outbound.destinations = DestinationSelect::Only(Destinations {
            networks: included,
            ..Destinations::default()
        });
        remarks.push(Remark {
            option: "-i".to_owned(),
            kind: RemarkKind::Changed,
            text: "a call of the application to its own address is captured only if the address \
                   is in one of these networks; it does not leave the workload",
        });
    }
    if last(&given, EXCLUDED).is_some() {
        remarks.push(Remark {
            option: "-e".to_owned(),
            kind: RemarkKind::Ignored,
            text: "the script took this option and did nothing with it",
        });
    }
    let policy = Policy::builder(Identities::users([user]))
        .inbound(Inbound::to(to))
        .outbound(outbound)
        .ipv6(Ipv6::Redirect)
        .build()?;
    Ok(imported(Task::Apply(policy), remarks))
}

const fn letter(letter: char, takes: Takes) -> Flag {
    Flag {
        long: "",
        letter: Some(letter),
        takes,
    }
}

fn imported(task: Task, remarks: Vec<Remark>) -> Imported {
    Imported {
        task,
        netns: None,
        backend: None,
        remarks,
    }
}

/// The option as it was given last, which is the one that counts.
fn last(given: &[Given], flag: usize) -> Option<&Given> {
    given.iter().rfind(|given| given.flag == flag)
}

fn required<'a>(
    given: &'a [Given],
    flag: usize,
    name: &str,
    expected: &str,
    problems: &mut Problems,
) -> Option<&'a str> {
    let value = last(given, flag).map(|given| given.value.as_str());
    if value.is_none() && !problems.0.iter().any(|problem| problem.path == name) {
        problems.push(Problem::new(name, "", expected));
    }
    value
}

/// All addresses but 127.0.0.1 and `::1`.
fn not_localhost() -> NetworkSet {
    let localhost = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    let localhost: NetworkSet = localhost.into_iter().map(IpNet::from).collect();
    NetworkSet::everything([Family::V4, Family::V6]).without(&localhost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;

    fn policy(line: &str) -> Policy {
        let words: Vec<&str> = line.split_whitespace().collect();
        prepare_proxy(&words).unwrap().policy().unwrap().clone()
    }

    #[test]
    fn both_directions_go_to_one_port() {
        let policy = policy("-p 15001 -u 1337");
        assert_eq!(policy.inbound().unwrap().to, Port::of::<15001>());
        assert_eq!(policy.outbound().unwrap().to, Port::of::<15001>());
        assert_eq!(policy.proxy(), &Identities::users([1337]));
        assert_eq!(policy.dns(), None);
        assert_eq!(policy.ipv6(), Ipv6::Redirect);
    }

    #[test]
    fn networks_are_all_that_is_captured_on_the_way_out() {
        let policy = policy("-p15001 -u1337 -i 10.0.0.1/8,192.168.0.0/16");
        let DestinationSelect::Only(only) = &policy.outbound().unwrap().destinations else {
            panic!("{policy:?}");
        };
        assert_eq!(only.networks.to_string(), "10.0.0.0/8, 192.168.0.0/16");
    }

    #[test]
    fn an_option_without_effect_is_named() {
        let imported = prepare_proxy(&["-p", "1", "-u", "2", "-e", "10.0.0.0/8"]).unwrap();
        let last = imported.remarks.last().unwrap();
        assert_eq!(
            (last.option.as_str(), last.kind),
            ("-e", RemarkKind::Ignored)
        );
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let problems =
            prepare_proxy(&["-p", "70000", "-i", "10.0.0.0/8,x;y", "-z", "1"]).unwrap_err();
        let text = problems.to_string();
        for part in ["`-z` is not", "-p: `70000`", "-u: ``", "-i: `x;y`", "`1`"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn help_needs_nothing_else() {
        let imported = prepare_proxy(&["-h"]).unwrap();
        assert!(matches!(imported.task, Task::Help(text) if text.contains("-p PORT")));
    }
}
