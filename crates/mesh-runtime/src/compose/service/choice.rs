//! Values of services that are one of a few, or a few numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::json;

use crate::compose::port::number;
use crate::compose::problem::Located;
use crate::{Capability, Condition};

/// What a service has instead of networks.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NetworkMode {
    /// The network of the host.
    Host,
    /// The network namespace of another service.
    Service(String),
}

/// A capability, or all of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CapabilityChoice {
    /// Every capability.
    All,
    /// This one.
    One(Capability),
}

/// A user by numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group; 0 when absent.
    pub gid: Option<u32>,
}

/// What happens when a service ends by itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Restart {
    /// It stays ended.
    #[default]
    No,
    /// It is started again.
    Always,
    /// It is started again, unless somebody stopped it.
    UnlessStopped,
    /// It is started again unless it ended with code 0, at most so often.
    OnFailure(Option<u32>),
}

impl NetworkMode {
    pub(super) const EXPECTED: &str =
        "a network mode that is supported here (`host`, `service:NAME`)";

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => (text == "host").then_some(Self::Host),
            Some(("service", name)) if !name.is_empty() => Some(Self::Service(name.to_owned())),
            Some(_) => None,
        }
    }
}

impl Serialize for NetworkMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Host => serializer.serialize_str("host"),
            Self::Service(name) => serializer.collect_str(&format_args!("service:{name}")),
        }
    }
}

impl CapabilityChoice {
    pub(super) const EXPECTED: &str = "a capability (as in `NET_ADMIN`) or `ALL`";

    pub(super) fn parse(text: &str) -> Option<Self> {
        let name = text.to_ascii_uppercase();
        if name == "ALL" {
            return Some(Self::All);
        }
        let full = if name.starts_with("CAP_") {
            name
        } else {
            format!("CAP_{name}")
        };
        full.parse().ok().map(Self::One)
    }
}

impl Serialize for CapabilityChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("ALL"),
            Self::One(capability) => serializer.collect_str(capability),
        }
    }
}

impl User {
    pub(super) const EXPECTED: &str = "a numeric user (`UID` or `UID:GID`; names are the image's)";

    pub(super) fn parse(text: &str) -> Option<Self> {
        let id = |text: &str| number(text).filter(|id| *id < u32::MAX);
        match text.split_once(':') {
            None => Some(Self {
                uid: id(text)?,
                gid: None,
            }),
            Some((uid, gid)) => Some(Self {
                uid: id(uid)?,
                gid: Some(id(gid)?),
            }),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uid)?;
        match self.gid {
            Some(gid) => write!(f, ":{gid}"),
            None => Ok(()),
        }
    }
}

impl Serialize for User {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Restart {
    pub(super) const EXPECTED: &str =
        "`no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`";

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            // An unquoted `no` is `false` to some.
            "no" | "false" => Some(Self::No),
            "always" => Some(Self::Always),
            "unless-stopped" => Some(Self::UnlessStopped),
            "on-failure" => Some(Self::OnFailure(None)),
            _ => {
                let times = text.strip_prefix("on-failure:")?;
                Some(Self::OnFailure(Some(number(times)?)))
            }
        }
    }
}

impl Serialize for Restart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_str("no"),
            Self::Always => serializer.serialize_str("always"),
            Self::UnlessStopped => serializer.serialize_str("unless-stopped"),
            Self::OnFailure(None) => serializer.serialize_str("on-failure"),
            Self::OnFailure(Some(times)) => {
                serializer.collect_str(&format_args!("on-failure:{times}"))
            }
        }
    }
}

pub(super) const CONDITION: &str =
    "a condition (`service_started`, `service_healthy`, `service_completed_successfully`)";

pub(super) fn parse_condition(text: &str) -> Option<Condition> {
    match text {
        "service_started" => Some(Condition::Started),
        "service_healthy" => Some(Condition::Ready),
        "service_completed_successfully" => Some(Condition::Finished),
        _ => None,
    }
}

pub(super) fn write_depends_on<S: Serializer>(
    depends_on: &BTreeMap<String, Located<Condition>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(depends_on.iter().map(|(name, condition)| {
        let condition = match condition.value {
            Condition::Started => "service_started",
            Condition::Ready => "service_healthy",
            Condition::Finished => "service_completed_successfully",
        };
        (name, json!({ "condition": condition }))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_with_and_without_their_prefix() {
        let admin = Some(CapabilityChoice::One(Capability::NetAdmin));
        assert_eq!(CapabilityChoice::parse("NET_ADMIN"), admin);
        assert_eq!(CapabilityChoice::parse("cap_net_admin"), admin);
        assert_eq!(CapabilityChoice::parse("all"), Some(CapabilityChoice::All));
        assert_eq!(CapabilityChoice::parse("CAP_"), None);
    }

    #[test]
    fn users_are_numbers() {
        let user = User {
            uid: 1000,
            gid: Some(0),
        };
        assert_eq!(User::parse("1000:0"), Some(user));
        for text in ["", "root", "1:", ":1", "-1", "4294967295", "1:2:3", "+1"] {
            assert_eq!(User::parse(text), None, "{text}");
        }
    }

    #[test]
    fn restart_policies_are_known() {
        assert_eq!(
            Restart::parse("on-failure:3"),
            Some(Restart::OnFailure(Some(3)))
        );
        assert_eq!(Restart::parse("no"), Some(Restart::No));
        for text in ["", "yes", "on-failure:", "on-failure:-1", "Always"] {
            assert_eq!(Restart::parse(text), None, "{text}");
        }
    }
}
