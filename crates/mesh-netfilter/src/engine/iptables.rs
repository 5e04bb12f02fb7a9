//! The engines that use iptables: read with `iptables-save`, write with one `iptables-restore` for
//! each family.

pub(super) mod foreign;
mod lock;
mod owner;
mod tool;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use self::lock::Lock;
use self::tool::Tools;
use super::read::{Found, base_chains, foreign_nat, generation};
use super::socket::Socket;
use super::{ATTEMPTS, Applied, EngineError, Removed};
use crate::bytecode::Fingerprint;
use crate::iptables::{
    ABOUT, ABOUT_MADE, Ruleset, Save, TABLE, TABLES, chain_name, fingerprint, rulesets, save,
    transition,
};
use crate::listing::{Code, ListedChain, ListedRule, ListedTable, Listing};
use crate::netlink::{NFPROTO_IPV4, NFPROTO_IPV6, chain_removal};
use crate::{Backend, Family, InstanceName, Plan};

/// One variant of iptables.
#[derive(Debug)]
pub(super) struct Iptables {
    backend: Backend,
    tools: Tools,
}

/// Both families as they were found.
type Both = [(Family, Save); 2];

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// There if the kernel has IPv6, in use or not.
const IPV6: &str = "/proc/thread-self/net/if_inet6";
/// The priority of NAT in iptables.
const NAT_PRIORITY: i32 = -100;

// === impl Iptables ===

impl Iptables {
    /// The variant of `backend`, with programs out of the folders of `path`.
    pub(super) fn find(backend: Backend, path: &OsStr) -> Result<Self, EngineError> {
        let tools = Tools::find(backend, path)?;
        Ok(Self { backend, tools })
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// The version of the programs.
    pub(super) fn version(&self) -> &str {
        self.tools.version()
    }

    /// Whether the thread's namespace can be read at all.
    pub(super) fn probe(&self) -> Result<(), EngineError> {
        for table in ["nat", "filter"] {
            // A transaction that changes nothing and yet needs the table.
            let input = format!("*{table}\nCOMMIT\n");
            self.tools.test(Family::V4, &input)?;
        }
        Ok(())
    }

    pub(super) fn planned(plan: &Plan) -> Result<Listing, EngineError> {
        let mut tables = Vec::new();
        for (family, rules) in rulesets(plan)? {
            tables.extend(listed(family, &rules, plan.instance()));
        }
        Ok(Listing { tables })
    }

    /// The instances that have chains in the thread's namespace.
    pub(super) fn instances(&self) -> Result<Vec<InstanceName>, EngineError> {
        let mut instances = BTreeSet::new();
        for (_, save) in self.read_both()? {
            instances.extend(save.instances());
        }
        Ok(instances.into_iter().collect())
    }

    pub(super) fn read(
        &self,
        socket: &Socket,
        instance: &InstanceName,
    ) -> Result<Found, EngineError> {
        let both = self.read_both()?;
        let tables = both
            .iter()
            .flat_map(|(family, save)| save.listed(*family, instance));
        let is_own = |family: u8, table: &str| {
            self.backend == Backend::IptablesNft
                && [NFPROTO_IPV4, NFPROTO_IPV6].contains(&family)
                && table == "nat"
        };
        Ok(Found {
            listing: Listing {
                tables: tables.collect(),
            },
            fingerprint: found_fingerprint(&both, instance),
            // A kernel without nftables has no such chains.
            hazards: foreign_nat(socket, NAT_PRIORITY, is_own).unwrap_or_default(),
            unconfirmed: None,
        })
    }

    pub(super) fn commit(&self, socket: &Socket, plan: &Plan) -> Result<Applied, EngineError> {
        let wanted = rulesets(plan)?;
        let lock = Lock::take(self.backend)?;
        let mut done = Applied::Unchanged;
        for _ in 0..ATTEMPTS {
            let both = self.read_both()?;
            let is_absent = both
                .iter()
                .all(|(_, save)| save.found(plan.instance()).tables.is_empty());
            if !self.change(socket, &both, &wanted, plan.instance())? {
                drop(lock);
                return Ok(done);
            }
            match done {
                Applied::Unchanged if is_absent => done = Applied::Created,
                Applied::Unchanged => done = Applied::Replaced,
                _ => {}
            }
            // Legacy tables are read, changed and written back as a whole: what others write at
            // the same time may undo it. With nftables underneath a change is a change.
            if self.backend == Backend::IptablesNft {
                return Ok(done);
            }
        }
        Err(EngineError::Busy)
    }

    pub(super) fn remove(
        &self,
        socket: &Socket,
        instance: &InstanceName,
    ) -> Result<Removed, EngineError> {
        let wanted = FAMILIES.map(|family| (family, Ruleset::default()));
        let _lock = Lock::take(self.backend)?;
        let mut done = Removed::Absent;
        let before = self.read_both()?;
        let mut both = before.clone();
        for _ in 0..ATTEMPTS {
            if !self.change(socket, &both, &wanted, instance)? {
                self.remove_made(socket, &before, instance)?;
                return Ok(done);
            }
            done = Removed::Removed;
            both = self.read_both()?;
        }
        Err(EngineError::Busy)
    }

    /// Makes what is wanted of what was found, family by family; false if it is so already. If a
    /// family fails, those before it and the failed one get back what they had.
    fn change(
        &self,
        socket: &Socket,
        both: &Both,
        wanted: &[(Family, Ruleset); 2],
        instance: &InstanceName,
    ) -> Result<bool, EngineError> {
        let owner = owner::of_network()?;
        let mut is_changed = false;
        let mut committed = Vec::new();
        for ((family, save), (_, wanted)) in both.iter().zip(wanted) {
            let wanted = self.marked(socket, *family, wanted, save, instance)?;
            let input = transition(&save.found(instance), &wanted);
            if input.is_empty() {
                continue;
            }
            is_changed = true;
            committed.push(*family);
            let result = self.tools.restore(*family, &input, owner.as_ref());
            let Err(cause) = result else { continue };
            let left = self.roll_back(both, &committed, instance, owner.as_ref());
            return Err(EngineError::Partial {
                family: *family,
                left,
                source: Box::new(cause),
            });
        }
        Ok(is_changed)
    }

    /// Gives these families back what they had; which of them did not get it.
    fn roll_back(
        &self,
        before: &Both,
        families: &[Family],
        instance: &InstanceName,
        owner: Option<&OwnedFd>,
    ) -> Vec<Family> {
        let back = |family: &Family| -> Result<(), EngineError> {
            let Some((_, before)) = before.iter().find(|(other, _)| other == family) else {
                return Ok(());
            };
            let now = self.read_one(*family)?.found(instance);
            let wanted = before.found(instance).as_wanted();
            let input = transition(&now, &wanted);
            if input.is_empty() {
                return Ok(());
            }
            // Only what this crate could have written is written again: rules are read from a
            // namespace whose owner may have put anything into ours.
            if !wanted.is_plain() {
                return Err(EngineError::Busy);
            }
            self.tools.restore(*family, &input, owner)
        };
        let failed = families.iter().filter(|family| back(family).is_err());
        failed.copied().collect()
    }

    /// The rules with a note in each table of what was not there before them, so that removal
    /// leaves nothing behind.
    fn marked(
        &self,
        socket: &Socket,
        family: Family,
        wanted: &Ruleset,
        save: &Save,
        instance: &InstanceName,
    ) -> Result<Ruleset, EngineError> {
        let mut wanted = wanted.clone();
        // The kernel keeps legacy tables until the namespace ends.
        if self.backend != Backend::IptablesNft || wanted.tables.is_empty() {
            return Ok(wanted);
        }
        let about = chain_name(instance, ABOUT);
        let there = base_chains(socket, number(family))?;
        for table in &mut wanted.tables {
            let mut made = save.made(table.name, None);
            if save.table(table.name).is_none() {
                made.insert(TABLE.to_owned());
            }
            let is_there = |chain: &str| {
                let mut there = there.iter();
                there.any(|(of, name)| of == table.name && name == chain)
            };
            let bases = table.jumps.iter().map(|jump| jump.from);
            made.extend(bases.filter(|base| !is_there(base)).map(str::to_owned));
            if made.is_empty() {
                continue;
            }
            let words = made.into_iter().collect::<Vec<_>>().join(" ");
            let chains = table.chains.iter_mut().filter(|chain| chain.name == about);
            for rule in chains.flat_map(|chain| &mut chain.rules) {
                *rule = rule.replacen("\" -j", &format!("{ABOUT_MADE}{words}\" -j"), 1);
            }
        }
        Ok(wanted)
    }

    /// Removes base chains and tables of nftables that were made with the instance, if nobody put
    /// anything else into them.
    fn remove_made(
        &self,
        socket: &Socket,
        before: &Both,
        instance: &InstanceName,
    ) -> Result<(), EngineError> {
        for (family, save) in before {
            for table in TABLES {
                let made = save.made(table, Some(instance));
                for _ in 0..ATTEMPTS {
                    if made.is_empty() {
                        break;
                    }
                    let at = generation(socket)?;
                    let now = self.read_one(*family)?;
                    let Some(now) = now.table(table) else { break };
                    let there = base_chains(socket, number(*family))?;
                    let there = there.iter().filter(|(of, _)| of == table);
                    let (old, kept): (Vec<&str>, Vec<&str>) = there
                        .map(|(_, chain)| chain.as_str())
                        .partition(|chain| made.contains(*chain) && now.is_untouched(chain));
                    let is_empty = kept.is_empty() && now.has_only(&old);
                    let is_last = is_empty && made.contains(TABLE);
                    if old.is_empty() && !is_last {
                        break;
                    }
                    let batch = chain_removal(number(*family), table, &old, is_last, at);
                    // Refused if anything has changed since: then it is looked at again.
                    if socket.commit(&batch).is_ok() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn read_both(&self) -> Result<Both, EngineError> {
        let [v4, v6] = FAMILIES.map(|family| self.read_one(family));
        Ok([(Family::V4, v4?), (Family::V6, v6?)])
    }

    fn read_one(&self, family: Family) -> Result<Save, EngineError> {
        // Without tools for IPv6, or without IPv6 in the kernel, nothing of ours can be there.
        // Whoever wants to put something there is told by the tools.
        let is_known = family == Family::V4 || Path::new(IPV6).exists();
        if !is_known || !self.tools.has(family) {
            return Ok(Save::default());
        }
        let text = self.tools.save(family)?;
        Save::parse(&text).map_err(|line| EngineError::ToolOutput { line })
    }
}

/// `NFPROTO_*`.
fn number(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

/// The rules of one family for comparison.
fn listed(family: Family, rules: &Ruleset, instance: &InstanceName) -> Vec<ListedTable> {
    let about = chain_name(instance, ABOUT);
    let rule = |line: &str| ListedRule {
        code: Code::Line(line.to_owned()),
        comment: save::comment(line).map(save::plan_words),
        counter: None,
    };
    let tables = rules.tables.iter().map(|table| {
        let mut chains: Vec<ListedChain> = Vec::new();
        for jump in &table.jumps {
            let line = rule(&format!("-j {}", jump.to));
            match chains.iter_mut().find(|chain| chain.name == jump.from) {
                Some(chain) => chain.rules.push(line),
                None => chains.push(ListedChain {
                    name: jump.from.to_owned(),
                    base: None,
                    is_about: false,
                    rules: vec![line],
                }),
            }
        }
        chains.extend(table.chains.iter().map(|chain| ListedChain {
            name: chain.name.clone(),
            base: None,
            is_about: chain.name == about,
            rules: chain.rules.iter().map(|line| rule(line)).collect(),
        }));
        ListedTable {
            name: save::table_title(family, table.name),
            is_dormant: false,
            chains,
        }
    });
    tables.collect()
}

/// The fingerprint of the plan that tables tell, if the rules are those that were written with it;
/// else one of the rules.
fn found_fingerprint(both: &Both, instance: &InstanceName) -> Fingerprint {
    let about = chain_name(instance, ABOUT);
    let lines = both.iter().flat_map(|(_, save)| {
        let mut rules = save.found(instance).as_wanted();
        for table in &mut rules.tables {
            table.chains.retain(|chain| chain.name != about);
        }
        rules.lines().collect::<Vec<_>>()
    });
    let hash = fingerprint(lines);
    let told: BTreeSet<Option<String>> = both
        .iter()
        .flat_map(|(_, save)| save.abouts())
        .filter(|(_, other, _)| other == instance)
        .map(|(_, _, comment)| comment)
        .map(|text| {
            let text = text?;
            let (about, _) = text.split_once(ABOUT_MADE).unwrap_or((&text, ""));
            Some(about.to_owned())
        })
        .collect();
    let mut told = told.into_iter();
    match (told.next().flatten(), told.next()) {
        (Some(text), None) => save::told_plan(&text, hash).unwrap_or(hash),
        _ => hash,
    }
}
