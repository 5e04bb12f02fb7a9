//! Rules that others have in legacy iptables, listed with the crate `iptables`.

use ::iptables::IPTables;

use crate::Family;

/// Whether legacy iptables has rules in its NAT table for `family`, in the thread's namespace; none
/// if that is not to be known now.
///
/// Without waiting for the lock of all iptables: it may be held for long, and this is a question
/// that is asked every second.
pub(crate) fn has_nat_rules(family: Family) -> Option<bool> {
    let legacy = IPTables {
        cmd: match family {
            Family::V4 => "iptables-legacy",
            Family::V6 => "ip6tables-legacy",
        },
        has_check: true,
        has_wait: false,
        is_numeric: false,
    };
    let lines = legacy.list_table("nat").ok()?;
    // The crate does not tell failure from silence, but every table has policies.
    lines
        .iter()
        .any(|line| line.starts_with("-P "))
        .then(|| lines.iter().any(|line| line.starts_with("-A ")))
}
