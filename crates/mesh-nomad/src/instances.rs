//! Where one service is: followed by blocking queries, and kept on disk over outages of Nomad.
//!
//! For programs that must find a few others, whatever happens to Nomad's servers: what was known
//! last holds until something else is known. The whole [catalogue](crate::catalogue) is for those
//! who need all services.

#[cfg(feature = "client")]
mod follow;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::model::registration::Registration;

#[cfg(feature = "client")]
pub use self::follow::{Following, KeepError};

/// Where a service is served, and its tags.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Instances {
    /// Addresses with their ports, each once, in order.
    pub addresses: BTreeSet<SocketAddr>,
    /// The tags of all instances.
    #[serde(default)]
    pub tags: BTreeSet<String>,
}

impl Instances {
    /// Where registrations say that it is. One without an address that can be dialled is left out.
    ///
    /// ```
    /// use mesh_nomad::instances::Instances;
    ///
    /// let answer = r#"[{"Address":"10.0.0.5","Port":24411,"Tags":["v1"]},{"Address":"","Port":1}]"#;
    /// let found = Instances::of(&serde_json::from_str::<Vec<_>>(answer)?);
    /// assert_eq!(found.addresses, ["10.0.0.5:24411".parse()?].into());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(registrations: &[Registration]) -> Self {
        let mut instances = Self::default();
        for registration in registrations {
            let Ok(address) = registration.address.text().parse::<IpAddr>() else {
                continue;
            };
            let address = SocketAddr::new(address, registration.port.value());
            if address.ip().is_unspecified() || address.port() == 0 {
                continue;
            }
            instances.addresses.insert(address);
            instances
                .tags
                .extend(registration.tags.items().iter().cloned());
        }
        instances
    }

    /// Whether no instance is known.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The rest of each tag that begins with `prefix`.
    pub fn tagged<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let tags = self.tags.iter();
        tags.filter_map(move |tag| tag.strip_prefix(prefix))
    }

    /// What holds after an answer: the answer, unless it is empty. A service that has no instance
    /// for a moment, as between two allocations of a job, is most likely to come back where it was.
    #[must_use]
    pub fn after(&self, answer: Self) -> Self {
        if answer.is_empty() {
            self.clone()
        } else {
            answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addresses: &[&str]) -> Instances {
        Instances {
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
            tags: BTreeSet::new(),
        }
    }

    #[test]
    fn an_empty_answer_takes_nothing_away() {
        let known = at(&["10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(known.after(Instances::default()), known);
        let moved = at(&["10.0.0.3:1"]);
        assert_eq!(known.after(moved.clone()), moved);
    }

    #[test]
    fn tags_are_found_by_what_they_begin_with() {
        let instances = Instances {
            tags: ["mesh.root=ab", "v1"].map(str::to_owned).into(),
            ..Instances::default()
        };
        let found: Vec<_> = instances.tagged("mesh.root=").collect();
        assert_eq!(found, ["ab"]);
    }
}
