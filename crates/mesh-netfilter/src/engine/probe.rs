//! Probing: real packets show that the kernel does what the plan says.

mod case;
mod stage;
mod wire;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::case::{Case, Ends, Fate, Item, Over, cases, is_captured};
use self::stage::Stage;
use self::wire::Seen;
use super::{Engine, EngineError, local};
use crate::{Family, InterfaceName, Owner, Plan};

/// How to probe.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Who plays the application; none for somebody whom the plan captures.
    pub app: Option<Owner>,
    /// How long a packet that nobody answers is waited for.
    pub patience: Duration,
}

/// What a probe found.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use]
pub struct ProbeReport {
    /// Each check, in the order in which they were made.
    pub checks: Vec<Check>,
}

/// One check: one packet of one family.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Check {
    /// What was sent.
    pub name: String,
    /// Its family.
    pub family: Family,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a check.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Outcome {
    /// A packet was sent, and the kernel did with it what the plan says.
    Passed {
        /// What that was.
        how: String,
    },
    /// A packet was sent, and the kernel did something else.
    Failed {
        /// What the plan says.
        expected: String,
        /// What happened.
        found: String,
    },
    /// No packet was sent, so nothing is known.
    NotProbed {
        /// Why not.
        reason: String,
    },
}

/// Addresses of no host (RFC 5737, RFC 3849): if everything goes wrong nobody is disturbed.
const NETWORKS_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(192, 0, 2, 0),
    Ipv4Addr::new(198, 51, 100, 0),
    Ipv4Addr::new(203, 0, 113, 0),
];
const NETWORK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x6d65, 0x7368, 0, 0, 0, 0);
/// Pairs of addresses in a network of 256.
const SLOTS: u32 = 63;

/// The first number for links of probes.
const LINKS: u32 = 0x4000_0000;

/// Probes of this process, so that two at the same time have links of their own.
static COUNT: AtomicU32 = AtomicU32::new(0);

impl Engine {
    /// Sends packets through the rules and compares what becomes of them with the plan: calls and
    /// queries of the application and of each kind of proxy, calls from outside, in both families.
    ///
    /// All packets go between the namespace and another one that is made for the probe and gone
    /// after it; the proxy gets none of them, running or not. The rules are not touched.
    ///
    /// # Requirements
    /// `CAP_SYS_ADMIN` besides those of the engine, veth links and TPROXY of nftables.
    ///
    /// # Errors
    /// [`EngineError::Probe`] if the stage for the packets could not be built. What a packet did
    /// is no error but part of the report.
    pub fn probe(&self, plan: &Plan, options: &ProbeOptions) -> Result<ProbeReport, EngineError> {
        self.namespace.enter(|| probe(plan, options))
    }
}

fn probe(plan: &Plan, options: &ProbeOptions) -> Result<ProbeReport, EngineError> {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let slot = std::process::id().wrapping_mul(7).wrapping_add(number) % SLOTS;
    let name = format!(
        "mshp{:x}-{:x}",
        std::process::id() & 0xff_ffff,
        number & 0xff
    );
    let link: InterfaceName = name.parse().map_err(|_problem| EngineError::Answer {
        what: "the name of a link",
    })?;
    let mut ends = vec![ends_v4(plan, &link, slot)];
    let has_v6 = local::has_v6();
    if has_v6 {
        ends.push(ends_v6(slot));
    }
    // Far above what the kernel gives by itself, which counts from 1.
    let index = LINKS + ((std::process::id() & 0x1f_ffff) << 8) + (number & 0xff);
    let mut stage = Stage::build(plan.instance(), (&name, index), &ends)?;
    let mut checks = Vec::new();
    for ends in ends {
        let family = Family::of(ends.near);
        for (index, item) in cases(plan, ends, &link, options.app)
            .into_iter()
            .enumerate()
        {
            let (name, outcome) = match item {
                Item::Not { name, reason } => (name, Outcome::NotProbed { reason }),
                Item::Case(case) => {
                    // Somebody else's packet, or a late one of ours, is not taken for this one.
                    let token = format!("mesh probe {name} {index}");
                    let seen = stage.play(&case, token.as_bytes(), options.patience)?;
                    let outcome = judge(&case, ends, seen);
                    (case.name, outcome)
                }
            };
            checks.push(Check {
                name,
                family,
                outcome,
            });
        }
    }
    stage.close()?;
    if !has_v6 {
        checks.push(Check {
            name: "everything".to_owned(),
            family: Family::V6,
            outcome: Outcome::NotProbed {
                reason: "IPv6 is off in this namespace".to_owned(),
            },
        });
    }
    checks.push(Check {
        name: "guard".to_owned(),
        family: Family::V4,
        outcome: Outcome::NotProbed {
            reason: "it acts only where the rules that capture are gone".to_owned(),
        },
    });
    Ok(ProbeReport { checks })
}

/// The first network of which the plan captures something; else the first.
fn ends_v4(plan: &Plan, link: &InterfaceName, slot: u32) -> Ends {
    let all = NETWORKS_V4.map(|network| {
        let at = |host: u32| IpAddr::from(Ipv4Addr::from_bits(network.to_bits() + slot * 4 + host));
        Ends {
            near: at(1),
            far: at(2),
        }
    });
    let [first, ..] = all;
    all.into_iter()
        .find(|ends| is_captured(plan, *ends, link))
        .unwrap_or(first)
}

fn ends_v6(slot: u32) -> Ends {
    let at = |host: u32| {
        IpAddr::from(Ipv6Addr::from_bits(
            NETWORK_V6.to_bits() + u128::from(slot * 4 + host),
        ))
    };
    Ends {
        near: at(1),
        far: at(2),
    }
}

/// Compares what was seen with what was expected.
fn judge(case: &Case, ends: Ends, seen: Seen) -> Outcome {
    let found = words(&seen);
    let is_right = match (case.expected, &seen) {
        // A datagram tells no destination; one with another port would not have been taken.
        (Fate::Captured(_), Seen::Here { .. }) if case.over == Over::Udp => true,
        (Fate::Captured(port), Seen::Here { local, original }) => {
            local.port() == port.get() && *original == Some(case.to)
        }
        (Fate::Direct, Seen::There) => case.to.ip() == ends.far,
        (Fate::Direct, Seen::Here { local, .. }) => *local == case.to,
        (Fate::Refused, Seen::Refused) => true,
        _ => false,
    };
    let expected = match case.expected {
        Fate::Captured(port) => format!("captured to port {port}"),
        Fate::Direct => format!("delivered to {}", case.to),
        Fate::Refused => "refused".to_owned(),
    };
    match seen {
        Seen::Unsent(reason) => Outcome::NotProbed { reason },
        _ if is_right => Outcome::Passed {
            how: match case.over {
                Over::Tcp => found,
                Over::Udp => expected,
            },
        },
        _ => Outcome::Failed { expected, found },
    }
}

fn words(seen: &Seen) -> String {
    match seen {
        Seen::Here {
            local,
            original: Some(original),
        } if local != original => {
            format!("arrived at {local}, sent to {original}")
        }
        Seen::Here { local, .. } => format!("arrived at {local}"),
        Seen::There => "delivered to the other end".to_owned(),
        Seen::Refused => "refused".to_owned(),
        Seen::Nowhere => "nobody got it".to_owned(),
        Seen::Unsent(reason) => format!("not sent: {reason}"),
    }
}

// === impl ProbeOptions ===

impl Default for ProbeOptions {
    /// Somebody whom the plan captures, and a second of patience.
    fn default() -> Self {
        Self {
            app: None,
            patience: Duration::from_secs(1),
        }
    }
}

// === impl ProbeReport ===

impl ProbeReport {
    /// Whether the kernel did something else than the plan says.
    pub fn has_failed(&self) -> bool {
        let is_failed = |check: &Check| matches!(check.outcome, Outcome::Failed { .. });
        self.checks.iter().any(is_failed)
    }
}

// === impl Check ===

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        write!(f, "{family} {}: {}", self.name, self.outcome)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { how } => write!(f, "passed ({how})"),
            Self::Failed { expected, found } => {
                write!(f, "failed: should be {expected}, was {found}")
            }
            Self::NotProbed { reason } => write!(f, "not probed: {reason}"),
        }
    }
}
