//! Hazards beyond the rules of others: missing routes, listeners that cannot be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::capture::{captures_outbound, inbound_ports};
use super::listener::{Reach, listeners, reach};
use super::{EngineError, local};
use crate::drift::{Hazard, Note};
use crate::{Family, Plan};

/// Addresses outside, of no host: TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849).
const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// What the thread's namespace lacks so that the rules of `plan` could do their work.
pub(super) fn look(plan: &Plan) -> Result<(Vec<Hazard>, Vec<Note>), EngineError> {
    let (mut hazards, mut notes) = (Vec::new(), Vec::new());
    let has_v6 = local::has_v6();
    let families = [Family::V4, Family::V6];
    let families = families
        .into_iter()
        .filter(|it| has_v6 || *it == Family::V4);
    for family in families.clone() {
        if captures_outbound(plan, family) && !local::has_route(outside(family))? {
            hazards.push(Hazard::NoRoute { family });
        }
    }
    let listeners = listeners().map_err(|source| EngineError::List {
        what: "listeners",
        source,
    })?;
    for port in inbound_ports(plan) {
        let reached: Vec<(Family, Reach)> = families
            .clone()
            .map(|family| (family, reach(&listeners, port.get(), family)))
            .collect();
        if reached.iter().all(|(_, reach)| *reach == Reach::Nobody) {
            notes.push(Note::NobodyListens { port });
        }
        let loopback = reached
            .iter()
            .filter(|(_, reach)| *reach == Reach::Loopback);
        hazards.extend(loopback.map(|(family, _)| Hazard::LoopbackOnly {
            port,
            family: *family,
        }));
    }
    Ok((hazards, notes))
}

fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => OUTSIDE_V4.into(),
        Family::V6 => OUTSIDE_V6.into(),
    }
}
