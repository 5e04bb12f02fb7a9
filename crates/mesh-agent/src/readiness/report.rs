//! Whether a sidecar is ready, and what is missing: a decision on facts.

use std::time::{Duration, SystemTime};

use mesh_model::Health;
use mesh_netfilter::{RuleState, Verdict};

/// What was found out.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The current certificate, if there is one.
    pub(crate) certificate: Option<CertificateFacts>,
    /// Why Envoy is not `LIVE`, if it is not.
    pub(crate) envoy: Result<(), String>,
    /// Of the redirect rules; absent when there are none.
    pub(crate) rules: Option<RulesFacts>,
    /// Whether the agent ends.
    pub(crate) leaving: bool,
}

/// Of the current certificate.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFacts {
    /// Its serial number.
    pub(crate) serial: String,
    /// From when it holds.
    pub(crate) not_before: SystemTime,
    /// Until when.
    pub(crate) not_after: SystemTime,
}

/// Of the redirect rules.
#[derive(Clone, Debug)]
pub(crate) struct RulesFacts {
    /// What their watcher wrote, or why that is not known.
    pub(crate) verdict: Result<Verdict, String>,
    /// Whether a call to the workload's own address arrived at Envoy, or why that is not known.
    pub(crate) self_call: Result<(), String>,
}

/// What readiness consists of, each part with what is missing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Report {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Part {
    name: &'static str,
    /// Details when it is well, what is missing when not.
    state: Result<String, String>,
}

/// Health as it follows from one look after the other.
#[derive(Debug, Default)]
pub(crate) struct HealthTracker {
    health: Health,
    /// Looks in a row that found something missing.
    misses: u32,
}

impl Report {
    /// Judges the facts.
    pub(crate) fn new(facts: &Facts, now: SystemTime, verdict_age: Duration) -> Self {
        let mut parts = vec![
            Part {
                name: "certificate",
                state: certificate(facts.certificate.as_ref(), now),
            },
            Part {
                name: "envoy",
                state: facts.envoy.clone().map(|()| "live".to_owned()),
            },
        ];
        if let Some(rules) = &facts.rules {
            parts.push(Part {
                name: "rules",
                state: verdict(&rules.verdict, now, verdict_age),
            });
            parts.push(Part {
                name: "inbound",
                state: rules
                    .self_call
                    .clone()
                    .map(|()| "a call to the own address arrives at envoy".to_owned()),
            });
        }
        if facts.leaving {
            parts.push(Part {
                name: "agent",
                state: Err("it is leaving".to_owned()),
            });
        }
        Self { parts }
    }

    /// Whether nothing is missing. A report without parts is one that was never made.
    pub(crate) fn is_ready(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.state.is_ok())
    }

    /// For people: a line for each part.
    pub(crate) fn text(&self, verbose: bool) -> String {
        let mut text = if self.is_ready() {
            "ready\n".to_owned()
        } else {
            "not ready\n".to_owned()
        };
        for Part { name, state } in &self.parts {
            let line = match state {
                Ok(details) if verbose => format!("{name}: ok, {details}\n"),
                Ok(_) => format!("{name}: ok\n"),
                Err(missing) => format!("{name}: missing, {missing}\n"),
            };
            text.push_str(&line);
        }
        text
    }
}

impl HealthTracker {
    /// Takes one look in. One miss after a time of health may be a slow answer: the second counts.
    pub(crate) fn look(&mut self, ready: bool, leaving: bool) -> Health {
        self.misses = if ready { 0 } else { self.misses + 1 };
        self.health = match self.health {
            _ if leaving => Health::Unhealthy,
            _ if ready => Health::Healthy,
            Health::Healthy if self.misses < MISSES => Health::Healthy,
            Health::Healthy | Health::Unhealthy => Health::Unhealthy,
            Health::Starting => Health::Starting,
        };
        self.health
    }

    /// Whether the last look found something missing.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.misses > 0
    }
}

fn certificate(facts: Option<&CertificateFacts>, now: SystemTime) -> Result<String, String> {
    let facts = facts.ok_or("there is none yet")?;
    if now < facts.not_before {
        return Err("it is not valid yet (is the clock right?)".to_owned());
    }
    match facts.not_after.duration_since(now) {
        Ok(left) if !left.is_zero() => Ok(format!(
            "serial {}, {} s left",
            facts.serial,
            left.as_secs()
        )),
        _ => Err("it has expired".to_owned()),
    }
}

fn verdict(
    verdict: &Result<Verdict, String>,
    now: SystemTime,
    verdict_age: Duration,
) -> Result<String, String> {
    let verdict = verdict.as_ref().map_err(Clone::clone)?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(verdict.at);
    // A verdict from the future is as new as can be.
    let age = now.duration_since(at).unwrap_or_default();
    if age > verdict_age {
        let age = age.as_secs();
        return Err(format!(
            "the last verdict is {age} s old, nobody watches them"
        ));
    }
    let state = verdict.state.as_str();
    match verdict.state {
        RuleState::Intact => Ok(state.to_owned()),
        _ if verdict.drifts.is_empty() => Err(format!("they are {state}")),
        _ => Err(format!("they are {state}: {}", verdict.drifts.join("; "))),
    }
}

/// Looks in a row after which health is lost.
const MISSES: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use Health::{Healthy, Starting, Unhealthy};

    const AGE: Duration = Duration::from_secs(10);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn well() -> Facts {
        Facts {
            certificate: Some(CertificateFacts {
                serial: "1a".to_owned(),
                not_before: now() - Duration::from_secs(60),
                not_after: now() + Duration::from_secs(60),
            }),
            envoy: Ok(()),
            rules: Some(RulesFacts {
                verdict: Ok(Verdict::next(None, RuleState::Intact, Vec::new(), 999_999)),
                self_call: Ok(()),
            }),
            leaving: false,
        }
    }

    fn missing(change: impl FnOnce(&mut Facts)) -> String {
        let mut facts = well();
        change(&mut facts);
        let report = Report::new(&facts, now(), AGE);
        assert!(!report.is_ready());
        let text = report.text(false);
        text.lines()
            .filter(|line| line.contains("missing"))
            .collect()
    }

    #[test]
    fn everything_well_is_ready() {
        let report = Report::new(&well(), now(), AGE);
        assert!(report.is_ready());
        let text = report.text(false);
        assert_eq!(
            text,
            "ready\ncertificate: ok\nenvoy: ok\nrules: ok\ninbound: ok\n"
        );
        assert!(report.text(true).contains("serial 1a, 60 s left"));
    }

    #[test]
    fn a_report_that_was_never_made_is_not_ready() {
        assert!(!Report::default().is_ready());
    }

    #[test]
    fn each_part_can_be_missing() {
        let rules =
            |change: fn(&mut RulesFacts)| missing(|facts| change(facts.rules.as_mut().unwrap()));
        assert_eq!(
            missing(|facts| facts.certificate = None),
            "certificate: missing, there is none yet"
        );
        assert_eq!(
            missing(|facts| facts.certificate.as_mut().unwrap().not_after = now()),
            "certificate: missing, it has expired"
        );
        assert_eq!(
            missing(|facts| facts.envoy = Err("it is INITIALIZING".to_owned())),
            "envoy: missing, it is INITIALIZING"
        );
        assert_eq!(
            rules(|rules| rules.verdict.as_mut().unwrap().state = RuleState::Drifted),
            "rules: missing, they are drifted"
        );
        assert_eq!(
            rules(|rules| rules.verdict.as_mut().unwrap().at = 999_989),
            "rules: missing, the last verdict is 11 s old, nobody watches them"
        );
        assert_eq!(
            rules(|rules| rules.self_call = Err("it went past envoy".to_owned())),
            "inbound: missing, it went past envoy"
        );
        assert_eq!(
            missing(|facts| facts.leaving = true),
            "agent: missing, it is leaving"
        );
    }

    #[test]
    fn health_begins_at_the_first_readiness_and_outlives_one_miss() {
        let mut tracker = HealthTracker::default();
        let looks = [false, true, false, true, false, false, true];
        let healths: Vec<_> = looks
            .iter()
            .map(|&ready| tracker.look(ready, false))
            .collect();
        assert_eq!(
            healths,
            [
                Starting, Healthy, Healthy, Healthy, Healthy, Unhealthy, Healthy
            ]
        );
        assert!(!tracker.is_in_doubt());
        assert_eq!(tracker.look(false, false), Healthy);
        assert!(tracker.is_in_doubt());
        assert_eq!(tracker.look(true, true), Unhealthy);
    }
}
