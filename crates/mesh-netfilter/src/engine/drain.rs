//! Removing, at once or when the last connection that was redirected has ended.

use std::time::{Duration, Instant};

use super::conntrack::{self, Keep};
use super::read::existing;
use super::socket::Socket;
use super::unconfirmed::forget_prior;
use super::{Engine, EngineError, Removed};
use crate::InstanceName;
use crate::bytecode::{
    Ct, Expression, NF_ACCEPT, NFT_RETURN, ProgramBase, ProgramChain, ProgramRule, ProgramTable,
};
use crate::netlink::{table_addition, table_removal};

/// What removing does with connections that were redirected and are open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "they are waited for or not")]
pub enum Drain {
    /// They end, unless somebody else in the namespace uses conntrack and NAT.
    Off,
    /// New connections are not redirected any more, open ones go on until they end by themselves
    /// or this time has passed. Connections that were taken by TPROXY end: they are not
    /// translated, so there is nothing that could be kept.
    AtMost(Duration),
}

/// From one look at open connections to the next. A look walks the kernel's whole table.
const TICK: Duration = Duration::from_millis(100);
/// Where the keep-alive chains stand among those of others does not matter.
const PRIORITY: i32 = 100;
/// `enum nf_inet_hooks`.
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

impl Engine {
    /// Removes the instance's rules, whatever plan they are of, with all that they depend on, and
    /// forgets the DNS flows that conntrack still sends to the proxy.
    ///
    /// With [`Drain::AtMost`] blocks until the connections that were redirected have ended.
    ///
    /// # Errors
    /// What the kernel said. After [`EngineError::Conntrack`] the rules are gone.
    pub fn remove(&self, instance: &InstanceName, drain: Drain) -> Result<Removed, EngineError> {
        self.remove_and_end(instance, drain, || {})
    }

    /// The same, and calls `end` when open connections have had their time.
    ///
    /// With [`Drain::AtMost`], a time of zero included, those that are left are still translated
    /// then: whoever stops the proxy in `end` lets both sides of each see its end. Of a proxy that
    /// is stopped later they hear nothing, and wait.
    ///
    /// # Errors
    /// As [`remove`](Self::remove); `end` may not have been called then.
    pub fn remove_and_end(
        &self,
        instance: &InstanceName,
        drain: Drain,
        end: impl FnOnce() + Send,
    ) -> Result<Removed, EngineError> {
        self.namespace.enter(|| {
            let socket = Socket::open()?;
            match sweep(&socket, instance) {
                // A kernel without nftables has none of these tables.
                Err(error) if error.is_unsupported() => {}
                swept => swept?,
            }
            let found = self.driver.read(&socket, instance)?;
            let ports = found.listing.redirect_ports();
            let limit = match drain {
                Drain::AtMost(limit) if conntrack::count_redirected(&socket, &ports)? > 0 => {
                    Some(limit)
                }
                _ => None,
            };
            if limit.is_some() {
                socket.commit(&table_addition(&keep_alive(instance)))?;
            }
            let removed = self.driver.remove(&socket, instance)?;
            forget_prior(&socket, instance)?;
            if removed == Removed::Removed {
                conntrack::forget_dns(&socket, Keep::Untranslated)?;
            }
            let mut cut = 0;
            if let Some(limit) = limit {
                let deadline = Instant::now() + limit;
                loop {
                    cut = conntrack::count_redirected(&socket, &ports)?;
                    if cut == 0 || Instant::now() >= deadline {
                        break;
                    }
                    std::thread::sleep(TICK.min(limit));
                }
            }
            end();
            if limit.is_some() {
                socket.commit(&table_removal(&instance.drain_table()))?;
            }
            // After the last connection that may have needed it.
            self.release_local(&socket, instance, &[])?;
            Ok(match (removed, drain) {
                (Removed::Removed, Drain::AtMost(_)) => Removed::Drained { cut },
                (removed, _) => removed,
            })
        })
    }
}

/// Removes tables that somebody who was killed left behind.
pub(super) fn sweep(socket: &Socket, instance: &InstanceName) -> Result<(), EngineError> {
    for name in existing(socket, &instance.passing_tables())? {
        socket.commit(&table_removal(&name))?;
    }
    Ok(())
}

/// The table that keeps connections translated which have no rule any more.
///
/// Without a rule that asks conntrack and without a NAT chain in the namespace, the kernel turns
/// both off, and packets of connections that were translated arrive as they were sent.
fn keep_alive(instance: &InstanceName) -> ProgramTable {
    let chain = |name: &str, kind: &str, hook, rules| ProgramChain {
        name: name.to_owned(),
        base: Some(ProgramBase {
            kind: kind.to_owned(),
            hook,
            priority: PRIORITY,
            policy: NF_ACCEPT,
        }),
        rules,
    };
    let asks = ProgramRule {
        expressions: vec![
            Expression::Ct(Ct::Status),
            Expression::Verdict {
                code: NFT_RETURN,
                chain: None,
            },
        ],
        comment: Some("keeps redirected connections alive".into()),
        counter: None,
    };
    ProgramTable {
        name: instance.drain_table(),
        flags: 0,
        chains: vec![
            chain("nat_pre", "nat", PREROUTING, Vec::new()),
            chain("nat_in", "nat", INPUT, Vec::new()),
            chain("nat_out", "nat", OUTPUT, Vec::new()),
            chain("nat_post", "nat", POSTROUTING, Vec::new()),
            chain("keep", "filter", OUTPUT, vec![asks]),
        ],
    }
}
