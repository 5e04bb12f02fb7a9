//! What is in the kernel, read back as a program.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::socket::{ListError, Socket};
use super::unconfirmed::{disarm, remaining};
use super::{ATTEMPTS, EngineError};
use crate::bytecode::{
    Bytes, Element, Fingerprint, Program, ProgramBase, ProgramChain, ProgramRule, ProgramTable,
    Set, parse_about_local,
};
use crate::drift::Hazard;
use crate::listing::Listing;
use crate::netlink::number::{
    NFT_SET_ANONYMOUS, NFT_SET_ELEM_INTERVAL_END, NFT_SET_INTERVAL, NFT_SET_TIMEOUT,
    NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE,
    NFTA_DATA_VALUE, NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE, NFTA_RULE_USERDATA, NFTA_SET_ELEM_EXPIRATION, NFTA_SET_ELEM_FLAGS,
    NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_FLAGS, NFTA_SET_KEY_LEN, NFTA_SET_KEY_TYPE, NFTA_SET_NAME,
    NFTA_SET_TABLE, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, UDATA_RULE_COMMENT,
};
use crate::netlink::{
    NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_UNSPEC, attributes, nft, read_counter,
    read_expression,
};
use crate::plan::{ABOUT_CHAIN, Hook, LocalState};
use crate::{Family, InstanceName};

/// What is in the kernel.
#[derive(Debug)]
pub(super) struct Found {
    /// The rules of the instance.
    pub(super) listing: Listing,
    /// Equal to that of the plan if they are those that were planned.
    pub(super) fingerprint: Fingerprint,
    /// What others have there.
    pub(super) hazards: Vec<Hazard>,
    /// How long the rules last unless somebody confirms them, if they are such rules.
    pub(super) unconfirmed: Option<Duration>,
}

/// A chain with the table and family that it is in.
struct ListedChain {
    family: u8,
    table: String,
    chain: ProgramChain,
}

const NFTA_GEN_ID: u16 = 1;
/// The priority of our NAT chains: whatever stands at or before it comes first.
const NAT_PRIORITY: i32 = -105;

/// Reads all tables of `instance`, as they are at one moment.
pub(super) fn read(socket: &Socket, instance: &InstanceName) -> Result<Found, EngineError> {
    steadily(socket, || read_once(socket, instance))
}

/// Reads again until nobody has changed anything meanwhile.
fn steadily<T>(
    socket: &Socket,
    read: impl Fn() -> Result<T, (&'static str, ListError)>,
) -> Result<T, EngineError> {
    for _ in 0..ATTEMPTS {
        let before = generation(socket)?;
        match read() {
            Ok(found) if generation(socket)? == before => return Ok(found),
            Err((what, ListError::Kernel(source))) if generation(socket)? == before => {
                return Err(EngineError::List { what, source });
            }
            // Somebody changed rules meanwhile, and what was asked for may have vanished.
            Ok(_) | Err(_) => {}
        }
    }
    Err(EngineError::Busy)
}

/// The instances that have a table with the chain that tells about it. Tables that only sound
/// like ours are somebody else's.
pub(super) fn instances(socket: &Socket) -> Result<Vec<InstanceName>, EngineError> {
    let listed = |what: &'static str, error| match error {
        ListError::Interrupted => EngineError::Busy,
        ListError::Kernel(source) => EngineError::List { what, source },
    };
    let tables = list_tables(socket).map_err(|error| listed("tables", error))?;
    let chains = list_chains(socket).map_err(|error| listed("chains", error))?;
    let tells = |table: &str| {
        let is_about = |it: &ListedChain| {
            it.family == NFPROTO_INET && it.table == table && it.chain.name == ABOUT_CHAIN
        };
        chains.iter().any(is_about)
    };
    let mut found: Vec<InstanceName> = tables
        .iter()
        .filter(|table| tells(&table.name))
        .filter_map(|table| InstanceName::of_table(&table.name))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Which of these tables are there.
pub(super) fn existing(socket: &Socket, names: &[String]) -> Result<Vec<String>, EngineError> {
    let tables = list_tables(socket).map_err(|error| match error {
        ListError::Interrupted => EngineError::Busy,
        ListError::Kernel(source) => EngineError::List {
            what: "tables",
            source,
        },
    })?;
    let names = names.iter();
    Ok(names
        .filter(|name| tables.iter().any(|table| table.name == **name))
        .cloned()
        .collect())
}

/// Legacy iptables tables of the thread's namespace that do NAT.
pub(super) fn legacy_hazards() -> Vec<Hazard> {
    [
        (Family::V4, "ip", "ip_tables_names"),
        (Family::V6, "ip6", "ip6_tables_names"),
    ]
    .into_iter()
    .filter(|(family, _, file)| {
        // Without the file there is no legacy iptables.
        let has_table = fs::read_to_string(format!("/proc/thread-self/net/{file}"))
            .is_ok_and(|names| names.lines().any(|name| name == "nat"));
        has_table && has_legacy_rules(*family)
    })
    .map(|(_, family, _)| Hazard::LegacyNat {
        family: family.to_owned(),
    })
    .collect()
}

/// Whether the legacy NAT table has rules, as far as that is to be known: a table that only exists
/// does nothing.
#[cfg(feature = "iptables")]
fn has_legacy_rules(family: Family) -> bool {
    super::iptables::foreign::has_nat_rules(family).unwrap_or(true)
}

#[cfg(not(feature = "iptables"))]
fn has_legacy_rules(_: Family) -> bool {
    true
}

/// NAT chains of nftables that are asked before those at `priority`, or at the same. `is_own` gets
/// family and table.
#[cfg(feature = "iptables")]
pub(super) fn foreign_nat(
    socket: &Socket,
    priority: i32,
    is_own: impl Fn(u8, &str) -> bool,
) -> Option<Vec<Hazard>> {
    let chains = list_chains(socket).ok()?;
    let foreign = chains
        .iter()
        .filter(|listed| !is_own(listed.family, &listed.table));
    let hazards = foreign.filter_map(|listed| nat_before(listed, priority));
    Some(hazards.collect())
}

/// The base chains of one family, each after its table.
#[cfg(feature = "iptables")]
pub(super) fn base_chains(
    socket: &Socket,
    family: u8,
) -> Result<Vec<(String, String)>, EngineError> {
    let what = "chains";
    for _ in 0..ATTEMPTS {
        match list_chains(socket) {
            Ok(chains) => {
                let own = chains.into_iter().filter(|listed| listed.family == family);
                let base = own.filter(|listed| listed.chain.base.is_some());
                return Ok(base
                    .map(|listed| (listed.table, listed.chain.name))
                    .collect());
            }
            Err(ListError::Interrupted) => {}
            Err(ListError::Kernel(source)) => return Err(EngineError::List { what, source }),
        }
    }
    Err(EngineError::Busy)
}

/// The number of changes to the namespace's rules so far.
pub(super) fn generation(socket: &Socket) -> Result<u32, EngineError> {
    let what = "the generation of rules";
    let mut generation = None;
    socket
        .ask(
            nft::kind(nft::GETGEN),
            NFPROTO_UNSPEC,
            |_| {},
            |content| {
                generation = attributes(content)
                    .find(|attribute| attribute.kind == NFTA_GEN_ID)
                    .and_then(|attribute| attribute.number());
            },
        )
        .map_err(|source| EngineError::List { what, source })?;
    generation.ok_or(EngineError::Answer { what })
}

/// Reads these tables, as they are at one moment.
pub(super) fn read_tables(socket: &Socket, names: &[String; 2]) -> Result<Program, EngineError> {
    steadily(socket, || Ok(read_program(socket, names)?.0))
}

fn read_once(socket: &Socket, instance: &InstanceName) -> Result<Found, (&'static str, ListError)> {
    let ours = [instance.table(), instance.guard_table()];
    let (mut program, hazards) = read_program(socket, &ours)?;
    let unconfirmed = remaining(&program);
    if unconfirmed.is_some_and(|left| !left.is_zero()) {
        // As long as they are in force they are what was planned.
        for table in &mut program.tables {
            disarm(table);
        }
    }
    Ok(Found {
        fingerprint: program.fingerprint(&program.local()),
        listing: program.into(),
        hazards,
        unconfirmed,
    })
}

/// The tables of these names, and what others have before them.
fn read_program(
    socket: &Socket,
    ours: &[String; 2],
) -> Result<(Program, Vec<Hazard>), (&'static str, ListError)> {
    let mut tables = list_tables(socket).map_err(|error| ("tables", error))?;
    tables.retain(|table| ours.contains(&table.name));
    // The order of creation means nothing.
    tables.sort_by_key(|table| ours.iter().position(|name| *name == table.name));
    let mut hazards = Vec::new();
    for listed in list_chains(socket).map_err(|error| ("chains", error))? {
        let is_ours = listed.family == NFPROTO_INET && ours.contains(&listed.table);
        // Those that wait for their turn are asleep or act in place of the others.
        let waits = ours
            .iter()
            .any(|name| listed.table.strip_suffix(".prior") == Some(name));
        if waits {
            continue;
        }
        if !is_ours {
            hazards.extend(nat_before(&listed, NAT_PRIORITY));
        } else if let Some(table) = tables.iter_mut().find(|table| table.name == listed.table) {
            table.chains.push(listed.chain);
        }
    }
    for table in &mut tables {
        let sets = list_sets(socket, &table.name).map_err(|error| ("sets", error))?;
        let rules = list_rules(socket, &table.name, &sets).map_err(|error| ("rules", error))?;
        for (chain, rule) in rules {
            if let Some(chain) = table.chains.iter_mut().find(|other| other.name == chain) {
                chain.rules.push(rule);
            }
        }
    }
    Ok((Program { tables }, hazards))
}

impl Program {
    /// What the rules say that their plan has put into the namespace besides them.
    pub(super) fn local(&self) -> LocalState {
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        let about = chains
            .filter(|chain| chain.name == ABOUT_CHAIN)
            .find_map(|chain| chain.rules.first()?.comment.as_deref());
        about.and_then(parse_about_local).unwrap_or_default()
    }
}

fn list_tables(socket: &Socket) -> Result<Vec<ProgramTable>, ListError> {
    let mut tables = Vec::new();
    socket.list(
        nft::kind(nft::GETTABLE),
        NFPROTO_INET,
        |_| {},
        |_, content| {
            let mut table = ProgramTable {
                name: String::new(),
                flags: 0,
                chains: Vec::new(),
            };
            for attribute in attributes(content) {
                match attribute.kind {
                    NFTA_TABLE_NAME => table.name = attribute.text(),
                    NFTA_TABLE_FLAGS => table.flags = attribute.number().unwrap_or_default(),
                    _ => {}
                }
            }
            tables.push(table);
        },
    )?;
    Ok(tables)
}

/// All chains of all families.
fn list_chains(socket: &Socket) -> Result<Vec<ListedChain>, ListError> {
    let mut chains = Vec::new();
    let kind = nft::kind(nft::GETCHAIN);
    socket.list(
        kind,
        NFPROTO_UNSPEC,
        |_| {},
        |family, content| {
            let mut listed = ListedChain {
                family,
                table: String::new(),
                chain: ProgramChain {
                    name: String::new(),
                    base: None,
                    rules: Vec::new(),
                },
            };
            let mut hook = None;
            let mut policy = None;
            let mut kind = String::new();
            for attribute in attributes(content) {
                match attribute.kind {
                    NFTA_CHAIN_TABLE => listed.table = attribute.text(),
                    NFTA_CHAIN_NAME => listed.chain.name = attribute.text(),
                    NFTA_CHAIN_HOOK => hook = Some(attribute.value),
                    NFTA_CHAIN_POLICY => policy = attribute.number(),
                    NFTA_CHAIN_TYPE => kind = attribute.text(),
                    _ => {}
                }
            }
            if let Some(hook) = hook {
                let number = |wanted| {
                    attributes(hook)
                        .find(|attribute| attribute.kind == wanted)
                        .and_then(|attribute| attribute.number())
                        .unwrap_or_default()
                };
                listed.chain.base = Some(ProgramBase {
                    kind,
                    hook: number(NFTA_HOOK_HOOKNUM),
                    priority: number(NFTA_HOOK_PRIORITY).cast_signed(),
                    policy: policy.unwrap_or_default(),
                });
            }
            chains.push(listed);
        },
    )?;
    Ok(chains)
}

/// The sets of a table, by name.
fn list_sets(socket: &Socket, table: &str) -> Result<BTreeMap<String, Arc<Set>>, ListError> {
    let mut sets = BTreeMap::new();
    let of_table = |to: &mut crate::netlink::Attributes| to.text(NFTA_SET_TABLE, table);
    let kind = nft::kind(nft::GETSET);
    socket.list(kind, NFPROTO_INET, of_table, |_, content| {
        let (mut owner, mut name, mut flags) = (String::new(), String::new(), 0);
        let (mut key_type, mut key_length) = (0, 0);
        for attribute in attributes(content) {
            let number = || attribute.number().unwrap_or_default();
            match attribute.kind {
                NFTA_SET_TABLE => owner = attribute.text(),
                NFTA_SET_NAME => name = attribute.text(),
                NFTA_SET_FLAGS => flags = number(),
                NFTA_SET_KEY_TYPE => key_type = number(),
                NFTA_SET_KEY_LEN => key_length = number(),
                _ => {}
            }
        }
        // Kernels that do not know the filter list the sets of all tables.
        if owner == table {
            let is_anonymous = flags & NFT_SET_ANONYMOUS != 0;
            let set = Set {
                name: (!is_anonymous).then(|| name.clone()),
                key_type,
                key_length,
                is_interval: flags & NFT_SET_INTERVAL != 0,
                timeout: (flags & NFT_SET_TIMEOUT != 0).then_some(0),
                elements: Vec::new(),
            };
            sets.insert(name, set);
        }
    })?;
    for (name, set) in &mut sets {
        let left;
        (set.elements, left) = list_elements(socket, table, name)?;
        set.timeout = set.timeout.map(|_| left);
        let zero = |element: &Element| element.key.iter().all(|byte| *byte == 0);
        if set.is_interval {
            // What `nft` puts before the first interval says nothing.
            set.elements
                .retain(|element| !(element.is_end && zero(element)));
        }
    }
    Ok(sets
        .into_iter()
        .map(|(name, set)| (name, Arc::new(set)))
        .collect())
}

/// The elements of a set, and how many milliseconds the last of them has left.
fn list_elements(
    socket: &Socket,
    table: &str,
    set: &str,
) -> Result<(Vec<Element>, u64), ListError> {
    let mut elements = Vec::new();
    let mut left = 0;
    let of_set = |to: &mut crate::netlink::Attributes| {
        to.text(NFTA_SET_ELEM_LIST_TABLE, table);
        to.text(NFTA_SET_ELEM_LIST_SET, set);
    };
    let kind = nft::kind(nft::GETSETELEM);
    socket.list(kind, NFPROTO_INET, of_set, |_, content| {
        let lists =
            attributes(content).filter(|attribute| attribute.kind == NFTA_SET_ELEM_LIST_ELEMENTS);
        for element in lists.flat_map(|list| attributes(list.value)) {
            let mut read = Element {
                key: Bytes::zeros(0),
                is_end: false,
            };
            for attribute in attributes(element.value) {
                match attribute.kind {
                    NFTA_SET_ELEM_KEY => {
                        read.key = attributes(attribute.value)
                            .find(|data| data.kind == NFTA_DATA_VALUE)
                            .map_or_else(|| Bytes::zeros(0), |data| data.value.into());
                    }
                    NFTA_SET_ELEM_EXPIRATION => {
                        let bytes = attribute.value.first_chunk().copied();
                        left = left.max(bytes.map_or(0, u64::from_be_bytes));
                    }
                    NFTA_SET_ELEM_FLAGS => {
                        let flags = attribute.number().unwrap_or_default();
                        read.is_end = flags & NFT_SET_ELEM_INTERVAL_END != 0;
                    }
                    _ => {}
                }
            }
            elements.push(read);
        }
    })?;
    elements.sort_unstable();
    Ok((elements, left))
}

/// The rules of a table in order, each with the name of its chain.
fn list_rules(
    socket: &Socket,
    table: &str,
    sets: &BTreeMap<String, Arc<Set>>,
) -> Result<Vec<(String, ProgramRule)>, ListError> {
    let mut rules = Vec::new();
    let of_table = |to: &mut crate::netlink::Attributes| to.text(NFTA_RULE_TABLE, table);
    let kind = nft::kind(nft::GETRULE);
    socket.list(kind, NFPROTO_INET, of_table, |_, content| {
        let (mut owner, mut chain) = (String::new(), String::new());
        let mut rule = ProgramRule {
            expressions: Vec::new(),
            comment: None,
            counter: None,
        };
        for attribute in attributes(content) {
            match attribute.kind {
                NFTA_RULE_TABLE => owner = attribute.text(),
                NFTA_RULE_CHAIN => chain = attribute.text(),
                NFTA_RULE_EXPRESSIONS => {
                    rule.expressions = attributes(attribute.value)
                        .map(|element| {
                            read_expression(element.value, |name| sets.get(name).cloned())
                        })
                        .collect();
                    rule.counter =
                        attributes(attribute.value).find_map(|element| read_counter(element.value));
                }
                NFTA_RULE_USERDATA => rule.comment = comment(attribute.value).map(Into::into),
                _ => {}
            }
        }
        if owner == table {
            rules.push((chain, rule));
        }
    })?;
    Ok(rules)
}

/// The comment in the user data of a rule: a list of type, length and value.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == UDATA_RULE_COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        data = rest.get(usize::from(*length)..)?;
    }
    None
}

/// Whether a chain of somebody else may translate connections before ours does.
fn nat_before(listed: &ListedChain, priority: i32) -> Option<Hazard> {
    let family = match listed.family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let base = listed.chain.base.as_ref()?;
    let hooks = [Hook::Prerouting.number(), Hook::Output.number()];
    let is_before = base.kind == "nat" && hooks.contains(&base.hook) && base.priority <= priority;
    is_before.then(|| Hazard::NatBefore {
        family: family.to_owned(),
        table: listed.table.clone(),
        chain: listed.chain.name.clone(),
        priority: base.priority,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_and_hostile_user_data_is_not() {
        assert_eq!(comment(b"\x00\x03hi\x00").as_deref(), Some("hi"));
        assert_eq!(comment(b"\x01\x01x\x00\x02y\x00").as_deref(), Some("y"));
        assert_eq!(comment(b"\x00\xffhi\x00"), None);
        assert_eq!(comment(b"\x00"), None);
        assert_eq!(comment(b""), None);
    }
}
