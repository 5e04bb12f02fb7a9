//! Local state: the policy rules, routes and addresses that rules depend on.
//!
//! What we add bears our protocol number (`ip rule show`, `ip route show` and `ip address show`
//! print it as `proto 77`), so that it can be removed without knowing the plan, and what was there
//! before us never is.

use std::fs;
use std::io;
use std::net::IpAddr;

use super::EngineError;
use super::route::RouteSocket;
use crate::rtnetlink::{Entry, LOOPBACK, route_to};
use crate::{Family, LocalState, Plan};

/// What the rules of a plan depend on.
pub(super) fn entries(plan: &Plan) -> Vec<Entry> {
    of(plan.local())
}

pub(super) fn of(local: &LocalState) -> Vec<Entry> {
    let routes = local.routes.iter().map(|route| Entry::LocalDefault {
        family: route.family,
        table: route.table,
    });
    let rules = local.rules.iter().map(|rule| Entry::Rule {
        family: rule.family,
        mark: rule.mark,
        mask: rule.mask,
        table: rule.table,
        priority: rule.priority,
    });
    let addresses = local.addresses.iter().map(|address| Entry::Address {
        address: address.addr(),
        prefix: address.prefix_len(),
        link: LOOPBACK,
    });
    routes.chain(rules).chain(addresses).collect()
}

/// Adds what is not there yet. Gives whether there may be something of ours that is not `wanted`.
pub(super) fn add(wanted: &[Entry]) -> Result<bool, EngineError> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let socket = open()?;
    let found = listed(&socket)?;
    let is_there = |entry: &Entry| found.iter().any(|listed| listed.0 == *entry);
    for entry in wanted.iter().filter(|entry| !is_there(entry)) {
        put(&socket, entry)?;
    }
    let is_left = |(entry, is_ours): &(Entry, bool)| *is_ours && !wanted.contains(entry);
    Ok(found.iter().any(is_left))
}

/// Adds what is wanted where nothing of ours has been: without looking first.
pub(super) fn add_first(wanted: &[Entry]) -> Result<(), EngineError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let socket = open()?;
    wanted.iter().try_for_each(|entry| put(&socket, entry))
}

/// What the kernel refuses of IPv6 is no error where the namespace has none: then there is nothing
/// that could go astray either, and verifying asks again.
fn put(socket: &RouteSocket, entry: &Entry) -> Result<(), EngineError> {
    match socket.add(entry) {
        Err(_) if entry.family() == Family::V6 && !has_v6() => Ok(()),
        result => result.map_err(|source| EngineError::Local {
            what: entry.describe(),
            source,
        }),
    }
}

/// Removes what is ours and not `wanted`.
pub(super) fn remove_others(wanted: &[Entry]) -> Result<(), EngineError> {
    let socket = open()?;
    for (entry, is_ours) in listed(&socket)? {
        if is_ours && !wanted.contains(&entry) {
            socket.delete(&entry).map_err(|source| EngineError::Local {
                what: entry.describe(),
                source,
            })?;
        }
    }
    Ok(())
}

/// What is wanted and not there, whoever made it.
pub(super) fn missing(wanted: &[Entry]) -> Result<Vec<Entry>, EngineError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let found = listed(&open()?)?;
    let has_v6 = has_v6();
    let is_missing = |entry: &Entry| {
        (has_v6 || entry.family() == Family::V4) && !found.iter().any(|listed| listed.0 == *entry)
    };
    Ok(wanted.iter().copied().filter(is_missing).collect())
}

/// What is ours, of whatever plan.
pub(super) fn ours() -> Result<Vec<Entry>, EngineError> {
    let listed = listed(&open()?)?.into_iter();
    Ok(listed
        .filter_map(|(entry, is_ours)| is_ours.then_some(entry))
        .collect())
}

/// Whether the kernel would route a packet to an address outside.
pub(super) fn has_route(to: IpAddr) -> Result<bool, EngineError> {
    let socket = open()?;
    // ENETUNREACH, EHOSTUNREACH, and EACCES for a route that prohibits.
    Ok(socket.ask(&route_to(to), |_, _| {}).is_ok())
}

/// Whether the thread's namespace has IPv6 at all.
pub(super) fn has_v6() -> bool {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    disabled.is_ok_and(|text| text.trim() == "0")
}

fn open() -> Result<RouteSocket, EngineError> {
    RouteSocket::open().map_err(|source| EngineError::Socket {
        operation: "open",
        source,
    })
}

fn listed(socket: &RouteSocket) -> Result<Vec<(Entry, bool)>, EngineError> {
    let entries = socket
        .entries()
        .map_err(|source: io::Error| EngineError::List {
            what: "policy rules, routes and addresses",
            source,
        })?;
    Ok(entries
        .into_iter()
        .map(|listed| (listed.entry, listed.is_ours))
        .collect())
}
