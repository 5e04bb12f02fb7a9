//! Values as the tools write them: lists with commas, numbers, networks.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::{IdRange, InterfaceName, Port, PortRange, Problem, Problems};

/// The parts of a list with commas; empty ones are nothing.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}

/// Each part of a list, read by `read`; those that it refuses are problems of `option`.
pub(super) fn each<T>(
    option: &str,
    text: &str,
    problems: &mut Problems,
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Vec<T> {
    list(text)
        .filter_map(|part| one(option, part, problems, &read))
        .collect()
}

/// A value, read by `read`; if it refuses, that is a problem of `option`.
pub(super) fn one<T>(
    option: &str,
    text: &str,
    problems: &mut Problems,
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Option<T> {
    match read(text) {
        Ok(value) => Some(value),
        Err(problem) => {
            problems.push(Problem::new(option, text, problem.expected));
            None
        }
    }
}

/// A port.
pub(super) fn port(text: &str) -> Result<Port, Problem> {
    text.parse()
}

/// A port, or a range in the manner of iptables (`8000:8010`), to which the tools hand the text.
pub(super) fn ports(text: &str) -> Result<PortRange, Problem> {
    let Some((first, last)) = text.split_once(':') else {
        return port(text).map(PortRange::from);
    };
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => PortRange::new(first, last),
        _ => None,
    }
    .ok_or_else(|| Problem::new("", text, "a port or a range such as `8000:8010`"))
}

/// A network. Bits beyond the prefix are dropped, as iptables does.
pub(super) fn network(text: &str) -> Result<IpNet, Problem> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse().ok(),
    };
    network
        .map(|network: IpNet| network.trunc())
        .ok_or_else(|| Problem::new("", text, "a network such as `10.0.0.0/8` or `fd00::/8`"))
}

/// Users or groups by number, or a range of them, which iptables takes too. Names are not looked
/// up: they belong to a machine.
pub(super) fn ids(text: &str) -> Result<IdRange, Problem> {
    text.parse()
}

/// A number without sign.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// An interface by its whole name: a `+` at the end, which means many to iptables, is refused.
pub(super) fn interface(text: &str) -> Result<InterfaceName, Problem> {
    text.parse()
}

/// Yes or no, in the words of Go's `strconv.ParseBool`.
pub(super) fn switch(text: &str) -> Result<bool, Problem> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Problem::new("", text, "`true` or `false`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_iptables_reads_them() {
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(ports("8000:8010").unwrap().to_string(), "8000-8010");
        assert_eq!(list("1,,2,").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(ids("0-99").unwrap().to_string(), "0-99");
    }

    #[test]
    fn what_is_no_value_of_its_type_is_refused() {
        for bad in ["", "http", "80-90", "0", "1:2:3", "9:1", "+80"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
        for bad in ["", "root", "-1", "+1", "4294967295", "1;2"] {
            assert!(ids(bad).is_err(), "{bad}");
        }
        for bad in ["", "*", "localhost", "10.0.0.0/33", "10.0.0.0/8 -j ACCEPT"] {
            assert!(network(bad).is_err(), "{bad}");
        }
        assert!(interface("eth+").is_err());
        assert!(switch("yes").is_err());
    }
}
