//! Where the rules are, and the way to them.

use std::time::Duration;

use mesh_netfilter::{Backend, Engine, Facts, Netns, Plan, Policy};

use super::failure;
use super::policy::Wanted;
use crate::exit::Failure;

/// Where the rules are.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The network namespace: a name of `ip netns`, a path, or `pid:N`; the current one without.
    #[arg(long, value_name = "NAME|PATH|pid:N", env = "MESH_REDIRECT_NETNS")]
    netns: Option<Netns>,
    /// By which way rules get into the kernel: auto, netlink, iptables-nft or iptables-legacy.
    #[arg(long, default_value = "auto", env = "MESH_REDIRECT_BACKEND", value_parser = backend)]
    backend: Choice,
}

/// A backend, or the first that works.
#[derive(Clone, Copy, Debug)]
struct Choice(Option<Backend>);

fn backend(text: &str) -> Result<Choice, String> {
    if text == "auto" {
        return Ok(Choice(None));
    }
    match text.parse() {
        Ok(backend) => Ok(Choice(Some(backend))),
        Err(_) => Err("expected auto, netlink, iptables-nft or iptables-legacy".to_owned()),
    }
}

// === impl Place ===

impl Place {
    /// The engine of the place.
    pub(super) fn engine(&self) -> Result<Engine, Failure> {
        let netns = self.netns.as_ref().unwrap_or(&Netns::Current);
        Engine::detect(netns, self.backend.0).map_err(|error| failure(&error))
    }

    /// With what options of `istio-iptables` say, where those of ours say nothing.
    pub(super) fn or_as(mut self, wanted: &Wanted) -> Result<Self, Failure> {
        if self.netns.is_none()
            && let Some(text) = &wanted.netns
        {
            let netns = text
                .parse()
                .map_err(|problem| Failure::usage(format!("--network-namespace: {problem}")))?;
            self.netns = Some(netns);
        }
        self.backend = Choice(self.backend.0.or(wanted.backend));
        Ok(self)
    }

    /// Whether a namespace is named.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.netns.is_some()
    }
    /// What a plan depends on in the engine's namespace.
    pub(super) fn facts(engine: &Engine) -> Result<Facts, Failure> {
        engine.facts().map_err(|error| failure(&error))
    }

    /// The plan of a policy in the engine's namespace.
    pub(super) fn plan(engine: &Engine, policy: &Policy) -> Result<Plan, Failure> {
        Ok(Plan::compile(policy, &Self::facts(engine)?))
    }
}

/// A duration such as `1s`, `500ms` or `2m`; never nothing.
pub(in crate::commands) fn duration(text: &str) -> Result<Duration, String> {
    let (unit, millis) = [("ms", 1), ("s", 1000), ("m", 60_000)]
        .into_iter()
        .find(|(unit, _)| text.ends_with(unit))
        .ok_or_else(|| format!("`{text}` has no unit (ms, s or m)"))?;
    let number = text.strip_suffix(unit).unwrap_or(text);
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis))
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration such as `1s` or `500ms`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "1", "0s", "s", "-1s", "1h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
