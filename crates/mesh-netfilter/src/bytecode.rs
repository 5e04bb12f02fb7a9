//! Rules as the kernel holds them: the form in which what was planned and what is read back are
//! compared.
//!
//! The expressions are those that `nft` makes of the text that [`crate::nft`] prints, one by one,
//! so both ways into the kernel end in equal programs.

mod bytes;
#[cfg(feature = "apply")]
mod describe;
mod lower;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(crate) use self::bytes::Bytes;
#[cfg(feature = "apply")]
pub(crate) use self::describe::describe;
use crate::netlink::{Attributes, SetReference, write_expression};
use crate::plan::{ABOUT_CHAIN, FORMAT, LocalState, Plan, Table};

/// A hash of all rules of a plan.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Fingerprint(u64);

/// All tables of an instance.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Program {
    pub(crate) tables: Vec<ProgramTable>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProgramTable {
    pub(crate) name: String,
    /// `NFT_TABLE_F_*`; the only one that a sound table may have is "owned".
    pub(crate) flags: u32,
    pub(crate) chains: Vec<ProgramChain>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProgramChain {
    pub(crate) name: String,
    pub(crate) base: Option<ProgramBase>,
    pub(crate) rules: Vec<ProgramRule>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProgramBase {
    pub(crate) kind: String,
    pub(crate) hook: u32,
    pub(crate) priority: i32,
    /// `NF_ACCEPT` or `NF_DROP`.
    pub(crate) policy: u32,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProgramRule {
    pub(crate) expressions: Vec<Expression>,
    pub(crate) comment: Option<Cow<'static, str>>,
    /// What the rule has counted; none where rules are planned.
    pub(crate) counter: Option<Counter>,
}

/// What passed a rule.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counter {
    /// How many packets.
    pub packets: u64,
    /// How many bytes they had together.
    pub bytes: u64,
}

/// One instruction. Data goes through register 1, as in the code of `nft`; only where an address
/// and a port are needed together, the port is in register 2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Expression {
    /// Loads a fact about the packet.
    Meta(Meta),
    /// Loads bytes of the packet.
    Payload {
        base: Header,
        offset: u32,
        length: u32,
    },
    /// Loads a fact about the packet's connection.
    Ct(Ct),
    /// Loads a fact about the socket that waits for the packet.
    Socket(SocketKey),
    /// Clears the bits that are not in the mask.
    Mask(Bytes),
    /// Goes on if the register compares so.
    Compare { operator: Operator, value: Bytes },
    /// Goes on if the register is outside these bounds.
    Outside { from: Bytes, to: Bytes },
    /// Goes on if the register is in the set, or if it is not.
    Lookup { set: Arc<Set>, inverted: bool },
    /// Turns the number in the register from this machine's byte order into the network's.
    NetworkOrder,
    /// Loads a constant.
    Load(Bytes),
    /// Loads a constant into the second register.
    LoadSecond(Bytes),
    /// Counts the packets that come so far.
    Counter,
    /// Redirects to the port in the register.
    Redirect,
    /// Translates the destination to the address in the register (`NFPROTO_*` tells its family)
    /// and the port in the second one.
    Dnat { family: u32 },
    /// Hands the packet to the transparent socket of the port in the register, or ends the rule.
    Tproxy,
    /// Marks the packet with the register.
    SetMark,
    /// Marks the connection with the register.
    SetConnectionMark,
    /// Looks the original direction of the connection up in the zone in the register.
    OriginalZone,
    /// Refuses the packet: `NFT_REJECT_*` and the code of it.
    Reject { kind: u32, code: u8 },
    /// Leaves the chain: `NFT_RETURN` or `NFT_GOTO`, the latter with the chain.
    Verdict { code: i32, chain: Option<String> },
    /// Something that no plan contains, as it was read or is to be written.
    #[cfg(feature = "apply")]
    Other { name: String, data: Vec<u8> },
}

/// `enum nft_meta_keys`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Meta {
    Mark = 3,
    InInterface = 6,
    OutInterface = 7,
    User = 10,
    Group = 11,
    Family = 15,
    Transport = 16,
}

/// `enum nft_ct_keys`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ct {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
}

/// `enum nft_socket_keys`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SocketKey {
    Transparent = 0,
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Header {
    Network = 1,
    Transport = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operator {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// A set that rules look into, with what is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Set {
    /// The name within the table; an anonymous set is part of the one rule that looks into it.
    pub(crate) name: Option<String>,
    /// The type of the key as `nft` numbers it, so that it can print the set.
    pub(crate) key_type: u32,
    /// Bytes of a key.
    pub(crate) key_length: u32,
    /// Whether elements are boundaries of intervals.
    pub(crate) is_interval: bool,
    /// How many milliseconds elements live; those that were read have so many left.
    pub(crate) timeout: Option<u64>,
    /// Ascending. The end at zero that stands before the first interval is not among them.
    pub(crate) elements: Vec<Element>,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Element {
    pub(crate) key: Bytes,
    /// Whether an interval ends before this key.
    pub(crate) is_end: bool,
}

/// FNV-1a with 64 bits: this tells plans apart, it does not withstand forgery.
struct Hasher(u64);

#[cfg(feature = "apply")]
pub(crate) const NFT_TABLE_DORMANT: u32 = 1;
pub(crate) const NF_DROP: u32 = 0;
pub(crate) const NF_ACCEPT: u32 = 1;
pub(crate) const NFT_GOTO: i32 = -4;
pub(crate) const NFT_RETURN: i32 = -5;

/// The fingerprint of tables that are yet to be put into the kernel.
pub(crate) fn fingerprint(tables: &[Table], local: &LocalState) -> Fingerprint {
    lower::program(tables).fingerprint(local)
}

/// The plan as the kernel will hold it.
pub(crate) fn program(plan: &Plan) -> Program {
    let mut program = lower::program(plan.tables());
    for table in &mut program.tables {
        table.chains.insert(
            0,
            ProgramChain {
                name: ABOUT_CHAIN.to_owned(),
                base: None,
                rules: vec![ProgramRule {
                    expressions: vec![Expression::Verdict {
                        code: NFT_RETURN,
                        chain: None,
                    }],
                    comment: Some(about(plan).into()),
                    counter: None,
                }],
            },
        );
    }
    program
}

/// What the comment in the chain [`ABOUT_CHAIN`] says.
pub(crate) fn about(plan: &Plan) -> String {
    let fingerprint = plan.fingerprint();
    if plan.local().is_empty() {
        format!("{ABOUT_FORMAT}{FORMAT}{ABOUT_PLAN}{fingerprint}")
    } else {
        let local = plan.local();
        format!("{ABOUT_FORMAT}{FORMAT}{ABOUT_PLAN}{fingerprint}{ABOUT_LOCAL}{local}")
    }
}

/// Format and fingerprint out of such a comment.
#[cfg(feature = "apply")]
pub(crate) fn parse_about(comment: &str) -> Option<(u32, Fingerprint)> {
    let (format, rest) = comment.strip_prefix(ABOUT_FORMAT)?.split_once(ABOUT_PLAN)?;
    let fingerprint = rest
        .split_once(ABOUT_LOCAL)
        .map_or(rest, |(first, _)| first);
    Some((format.parse().ok()?, Fingerprint::parse(fingerprint)?))
}

/// What else the plan has put into the namespace, out of such a comment.
#[cfg(feature = "apply")]
pub(crate) fn parse_about_local(comment: &str) -> Option<LocalState> {
    match comment.split_once(ABOUT_LOCAL) {
        Some((_, local)) => LocalState::parse(local),
        None => Some(LocalState::default()),
    }
}

const ABOUT_FORMAT: &str = "mesh-netfilter format ";
const ABOUT_PLAN: &str = " plan ";
const ABOUT_LOCAL: &str = " local ";

// === impl Program ===

impl Program {
    /// A hash of everything but comments and the chain that bears this hash, and of the local
    /// state that goes with it.
    pub(crate) fn fingerprint(&self, local: &LocalState) -> Fingerprint {
        let mut hasher = Hasher::new();
        hasher.number(FORMAT);
        hasher.text(&local.to_string());
        let mut scratch = Attributes::default();
        let mut tables: Vec<&ProgramTable> = self.tables.iter().collect();
        tables.sort_by_key(|table| &table.name);
        for table in tables {
            hasher.text(&table.name);
            hasher.number(table.flags);
            let mut chains: Vec<&ProgramChain> = table
                .chains
                .iter()
                .filter(|chain| chain.name != ABOUT_CHAIN)
                .collect();
            chains.sort_by_key(|chain| &chain.name);
            for chain in chains {
                hasher.chain(chain, &mut scratch);
            }
        }
        Fingerprint(hasher.0)
    }
}

// === impl ProgramTable ===

impl ProgramTable {
    /// The named sets that rules look into.
    pub(crate) fn named_sets(&self) -> BTreeMap<&str, &Arc<Set>> {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        let expressions = rules.flat_map(|rule| &rule.expressions);
        expressions
            .filter_map(|expression| match expression {
                Expression::Lookup { set, .. } => Some((set.name.as_deref()?, set)),
                _ => None,
            })
            .collect()
    }
}

// === impl Set ===

impl Set {
    /// Whether keys are in the byte order of this machine, as ids and names are.
    pub(crate) fn is_host_order(&self) -> bool {
        lower::HOST_ORDER_KEYS.contains(&self.key_type)
    }

    /// Whether an end at zero stands before the first interval, as `nft` puts it there.
    pub(crate) fn begins_with_end(&self) -> bool {
        self.is_interval
            && self
                .elements
                .first()
                .is_some_and(|first| first.key.iter().any(|byte| *byte != 0))
    }
}

// === impl Fingerprint ===

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Fingerprint {
    /// A hash of lines.
    pub(crate) fn of_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = Hasher::new();
        for line in lines {
            hasher.text(line);
        }
        Self(hasher.0)
    }

    /// Reads what `Display` wrote.
    #[cfg(feature = "apply")]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        (text.len() == 16)
            .then(|| u64::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl Hasher ===

impl Hasher {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    /// Texts and lists are preceded by their length, so that no two programs look alike.
    fn length(&mut self, length: usize) {
        self.bytes(&(length as u64).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes(text.as_bytes());
    }

    /// Expressions are encoded in `scratch`, one after the other.
    fn chain(&mut self, chain: &ProgramChain, scratch: &mut Attributes) {
        self.text(&chain.name);
        if let Some(base) = &chain.base {
            self.text(&base.kind);
            self.number(base.hook);
            self.bytes(&base.priority.to_be_bytes());
            self.number(base.policy);
        }
        self.length(chain.rules.len());
        for rule in &chain.rules {
            self.length(rule.expressions.len());
            for expression in &rule.expressions {
                scratch.clear();
                write_expression(scratch, expression, &SetReference::unnamed());
                self.length(scratch.as_bytes().len());
                self.bytes(scratch.as_bytes());
                if let Expression::Lookup { set, .. } = expression {
                    self.set(set);
                }
            }
        }
    }

    fn set(&mut self, set: &Set) {
        self.text(set.name.as_deref().unwrap_or_default());
        self.number(set.key_type);
        self.number(set.key_length);
        self.number(u32::from(set.is_interval));
        self.length(set.elements.len());
        for element in &set.elements {
            self.bytes(&element.key);
            self.number(u32::from(element.is_end));
        }
    }
}
