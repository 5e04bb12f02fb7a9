//! Facts: what a plan depends on besides its policy.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// What a plan depends on besides its policy: the state of the machine, as somebody found it.
///
/// The default knows nothing. With feature `apply`, an engine finds the facts of its namespace.
///
/// ```
/// # use mesh_netfilter::Facts;
/// let facts = Facts::default().resolv_conf("nameserver 10.0.0.53\nsearch example\n");
/// assert_eq!(facts.resolvers.len(), 1);
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Facts {
    /// The servers that the C library asks, as `/etc/resolv.conf` names them. If it names none,
    /// the C library asks 127.0.0.1, and so does a plan take it.
    pub resolvers: BTreeSet<IpAddr>,
    /// Whether the namespace has no IPv6 at all, so that nothing can be added to it.
    pub lacks_ipv6: bool,
}

// === impl Facts ===

impl Facts {
    /// With the servers of this `resolv.conf`, as resolv.conf(5) describes it. Lines that the C
    /// library would pass over are passed over.
    #[must_use]
    pub fn resolv_conf(self, text: &str) -> Self {
        let resolvers = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_ascii_whitespace();
                words.next().filter(|word| *word == "nameserver")?;
                // A link-local server has its interface behind a percent sign.
                words.next()?.split('%').next()?.parse().ok()
            })
            .collect();
        Self { resolvers, ..self }
    }

    /// With or without IPv6 in the namespace.
    #[must_use]
    pub fn without_ipv6(self, lacks_ipv6: bool) -> Self {
        Self { lacks_ipv6, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nnameserver 10.0.0.53\n\
                    nameserver\tfe80::53%eth0 \nnameserver dns.example\nnameserver\n\
                    options ndots:5\nnameservers 3.3.3.3";
        let facts = Facts::default().resolv_conf(text);
        let found: Vec<String> = facts.resolvers.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53", "fe80::53"]);
    }
}
