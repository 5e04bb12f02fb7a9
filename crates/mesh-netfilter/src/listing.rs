//! Listing: the rules of an instance, table by table, in the form that is the same for all
//! backends. What was planned and what was read are both listings, and drift is their difference.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use crate::Port;
use crate::bytecode::{
    Counter, Expression, NFT_TABLE_DORMANT, Program, ProgramBase, ProgramChain, describe,
    parse_about_local,
};
use crate::plan::{ABOUT_CHAIN, LocalState};

/// All rules of an instance.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Listing {
    pub(crate) tables: Vec<ListedTable>,
}

/// A table with the rules of ours that are in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListedTable {
    /// Family and name: `inet mesh_mesh`, `ip nat`.
    pub(crate) name: String,
    /// Whether it was put to sleep: it is there, and the kernel does not ask it.
    pub(crate) is_dormant: bool,
    pub(crate) chains: Vec<ListedChain>,
}

/// A chain of ours; or a base chain of everybody, with its rules as far as the last of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListedChain {
    pub(crate) name: String,
    /// Where the kernel calls it, if it is ours to choose.
    pub(crate) base: Option<ProgramBase>,
    /// Whether this is the chain that tells about the plan: its comment is its content.
    pub(crate) is_about: bool,
    pub(crate) rules: Vec<ListedRule>,
}

/// A rule in its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListedRule {
    pub(crate) code: Code,
    pub(crate) comment: Option<String>,
    /// How often it decided; none where rules are planned, or not counted.
    pub(crate) counter: Option<Counter>,
}

/// What a rule does, in the words of its backend. Equal rules have equal code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Code {
    /// The kernel's own instructions.
    Program(Vec<Expression>),
    /// A line of `iptables-save` behind the name of the chain.
    #[cfg_attr(
        not(feature = "iptables"),
        expect(dead_code, reason = "made by the iptables engines only")
    )]
    Line(String),
}

// === impl Listing ===

impl Listing {
    /// What the rules say that their plan has put into the namespace besides them.
    pub(crate) fn local(&self) -> LocalState {
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        let mut about = chains.filter(|chain| chain.is_about);
        let local = about.find_map(|chain| {
            let comment = chain.rules.first()?.comment.as_deref()?;
            parse_about_local(comment)
        });
        local.unwrap_or_default()
    }

    /// The ports to which rules redirect.
    pub(crate) fn redirect_ports(&self) -> BTreeSet<Port> {
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        let rules = chains.flat_map(|chain| &chain.rules);
        rules.filter_map(|rule| rule.code.redirect_port()).collect()
    }

    pub(crate) fn table(&self, name: &str) -> Option<&ListedTable> {
        self.tables.iter().find(|table| table.name == name)
    }
}

impl From<Program> for Listing {
    fn from(program: Program) -> Self {
        let tables = program.tables.into_iter().map(|table| ListedTable {
            name: format!("inet {}", table.name),
            is_dormant: table.flags & NFT_TABLE_DORMANT != 0,
            chains: table.chains.into_iter().map(ListedChain::from).collect(),
        });
        Self {
            tables: tables.collect(),
        }
    }
}

// === impl ListedChain ===

impl ListedChain {
    /// The chain without its rules, in words.
    pub(crate) fn head(&self) -> String {
        let Self { name, base, .. } = self;
        match base {
            None => format!("chain {name}"),
            Some(base) => format!(
                "chain {name} type {} hook {} priority {} policy {}",
                base.kind, base.hook, base.priority, base.policy
            ),
        }
    }
}

impl fmt::Display for ListedRule {
    /// As in a list: what it does, then why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match (&self.code, &self.comment) {
            // A line has its comment in itself.
            (Code::Program(_), Some(comment)) => write!(f, " # {comment}"),
            _ => Ok(()),
        }
    }
}

impl From<ProgramChain> for ListedChain {
    fn from(chain: ProgramChain) -> Self {
        let rules = chain.rules.into_iter().map(|rule| ListedRule {
            code: Code::Program(rule.expressions),
            comment: rule.comment.map(Cow::into_owned),
            counter: rule.counter,
        });
        Self {
            is_about: chain.name == ABOUT_CHAIN,
            name: chain.name,
            base: chain.base,
            rules: rules.collect(),
        }
    }
}

// === impl Code ===

impl Code {
    /// The port to which the rule redirects, if it does.
    fn redirect_port(&self) -> Option<Port> {
        match self {
            Self::Program(expressions) => {
                let mut pairs = expressions.iter().zip(expressions.iter().skip(1));
                pairs.find_map(|pair| match pair {
                    (Expression::Load(port), Expression::Redirect) => {
                        let bytes = (**port).try_into().ok()?;
                        Port::new(u16::from_be_bytes(bytes))
                    }
                    _ => None,
                })
            }
            Self::Line(line) => {
                let mut words = line.split_ascii_whitespace();
                words.find(|word| *word == "--to-ports")?;
                Port::new(words.next()?.parse().ok()?)
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(expressions) => f.write_str(&describe(expressions)),
            Self::Line(line) => f.write_str(line),
        }
    }
}
