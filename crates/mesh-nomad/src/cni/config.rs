//! The configuration on standard input: what of it is ours.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What the runtime and the plugins before tell.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// The version of the protocol; the first one did not say it.
    pub(super) version: Option<String>,
    /// What the plugin before answered, byte for byte.
    pub(super) previous: Option<String>,
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

/// Reads keys in any case, and the last of two that are the same, as Go does and with it all other
/// plugins.
struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Config;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration of a plugin")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Config, A::Error> {
        let mut config = Config::default();
        while let Some(key) = map.next_key::<String>()? {
            if key.eq_ignore_ascii_case("cniVersion") {
                config.version = map.next_value()?;
            } else if key.eq_ignore_ascii_case("prevResult") {
                let previous: Option<&RawValue> = map.next_value()?;
                config.previous = previous.map(|it| it.get().to_owned());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(config)
    }
}
