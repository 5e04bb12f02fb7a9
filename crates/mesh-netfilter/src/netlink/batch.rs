//! A transaction: messages between BEGIN and END, which the kernel commits together or not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::number::{
    BYTE_ORDER_HOST, NFT_SET_ANONYMOUS, NFT_SET_CONSTANT, NFT_SET_ELEM_INTERVAL_END,
    NFT_SET_INTERVAL, NFT_SET_TIMEOUT, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY,
    NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_DATA_VALUE, NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY,
    NFTA_LIST_ELEM, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_RULE_USERDATA,
    NFTA_SET_DESC, NFTA_SET_DESC_SIZE, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_SET_ID,
    NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_FLAGS, NFTA_SET_ID, NFTA_SET_KEY_LEN, NFTA_SET_KEY_TYPE,
    NFTA_SET_NAME, NFTA_SET_TABLE, NFTA_SET_TIMEOUT, NFTA_SET_USERDATA, NFTA_TABLE_FLAGS,
    NFTA_TABLE_NAME, UDATA_RULE_COMMENT, UDATA_SET_KEY_BYTE_ORDER,
};
use super::{Attributes, SetReference, write_expression};
use crate::InstanceName;
use crate::bytecode::{
    self, Bytes, Element, Expression, ProgramChain, ProgramRule, ProgramTable, Set,
};
use crate::plan::Plan;

/// A transaction being written, and what each of its messages is about.
#[derive(Debug)]
pub(crate) struct Batch {
    buffer: Vec<u8>,
    /// Where the message written last begins.
    last: usize,
    last_flags: u16,
    /// By sequence number, which starts at 0 with BEGIN.
    objects: Vec<Object>,
    next_set: u32,
    /// The message that asks for an answer.
    sealed: u32,
}

/// What a message is about, for errors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Object {
    Transaction,
    Table(String),
    Chain {
        table: String,
        chain: String,
    },
    Set {
        table: String,
        set: String,
    },
    Rule {
        table: String,
        chain: String,
        index: usize,
        why: Cow<'static, str>,
    },
}

/// Type and flags of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) family: u8,
    pub(crate) sequence: u32,
}

pub(crate) const NLM_F_REQUEST: u16 = 0x001;
pub(crate) const NLM_F_ACK: u16 = 0x004;
#[cfg(feature = "apply")]
pub(crate) const NLM_F_DUMP: u16 = 0x300;
#[cfg(feature = "apply")]
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
#[cfg(feature = "apply")]
pub(crate) const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(crate) const NFPROTO_UNSPEC: u8 = 0;
pub(crate) const NFPROTO_INET: u8 = 1;
#[cfg(feature = "apply")]
pub(crate) const NFPROTO_IPV4: u8 = 2;
#[cfg(feature = "apply")]
pub(crate) const NFPROTO_IPV6: u8 = 10;
/// `enum nfnl_batch_attributes`.
const NFNL_BATCH_GENID: u16 = 1;

/// `enum nf_tables_msg_types`, those in use.
pub(crate) mod nft {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    #[cfg(feature = "iptables")]
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    #[cfg(feature = "apply")]
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const NEWSETELEM: u16 = 12;
    #[cfg(feature = "apply")]
    pub(crate) const DELSETELEM: u16 = 14;
    #[cfg(feature = "apply")]
    pub(crate) const GETTABLE: u16 = 1;
    #[cfg(feature = "apply")]
    pub(crate) const GETCHAIN: u16 = 4;
    #[cfg(feature = "apply")]
    pub(crate) const GETRULE: u16 = 7;
    #[cfg(feature = "apply")]
    pub(crate) const GETSET: u16 = 10;
    #[cfg(feature = "apply")]
    pub(crate) const GETSETELEM: u16 = 13;
    #[cfg(feature = "apply")]
    pub(crate) const GETGEN: u16 = 16;

    /// The message type with the subsystem in its upper byte.
    pub(crate) const fn kind(message: u16) -> u16 {
        (super::NFNL_SUBSYS_NFTABLES << 8) | message
    }
}

/// An element takes at most 40 bytes, and the attribute around a list at most 65,535.
const ELEMENTS_PER_MESSAGE: usize = 1500;
/// The kernel puts a number for `%d` in the name of an anonymous set.
const ANONYMOUS_SET: &str = "__set%d";

/// What the plan of a sidecar takes, and a little more.
const USUAL_BYTES: usize = 24 * 1024;
const USUAL_MESSAGES: usize = 96;

/// The transaction that puts `plan` in the place of whatever its instance has.
pub(crate) fn replacement(plan: &Plan) -> Batch {
    let mut batch = Batch::begin();
    batch.remove_tables(plan.instance());
    batch.add_program(plan, 0);
    batch.end()
}

/// The transaction that puts `plan` where nothing is; it fails where something is.
#[cfg(feature = "apply")]
pub(crate) fn creation(plan: &Plan) -> Batch {
    let mut batch = Batch::begin();
    batch.add_program(plan, NLM_F_EXCL);
    batch.end()
}

/// The transaction that removes whatever `instance` has.
#[cfg(feature = "apply")]
pub(crate) fn removal(instance: &InstanceName) -> Batch {
    let mut batch = Batch::begin();
    batch.remove_tables(instance);
    batch.end()
}

/// The transaction that takes the rules out of the guard that `instance` has.
///
/// To be committed before [`removal`]: a packet that is on its way through the hooks while both
/// tables go could otherwise meet the guard alone. Rules, unlike chains, go all at one moment.
#[cfg(feature = "apply")]
pub(crate) fn guard_release(instance: &InstanceName) -> Batch {
    let mut batch = Batch::begin();
    let table = instance.guard_table();
    batch.nft(nft::DELRULE, 0, Object::Table(table.clone()), |to| {
        to.text(NFTA_RULE_TABLE, &table);
    });
    batch.end()
}

/// A transaction that would put `plan` where nothing is, and has no end: the kernel checks it all
/// and does nothing.
#[cfg(feature = "apply")]
pub(crate) fn rehearsal(plan: &Plan) -> Batch {
    let mut batch = Batch::begin();
    batch.add_program(plan, NLM_F_EXCL);
    batch.seal()
}

/// The transaction that removes chains of a table, and the table itself with `with_table`, unless
/// anything has changed since `generation`.
#[cfg(feature = "iptables")]
pub(crate) fn chain_removal(
    family: u8,
    table: &str,
    chains: &[&str],
    with_table: bool,
    generation: u32,
) -> Batch {
    let mut batch = Batch::begin_at(Some(generation));
    for chain in chains {
        let object = Object::Chain {
            table: table.to_owned(),
            chain: (*chain).to_owned(),
        };
        batch.push(nft::kind(nft::DELCHAIN), 0, object, family, |to| {
            to.text(NFTA_CHAIN_TABLE, table);
            to.text(NFTA_CHAIN_NAME, chain);
        });
    }
    if with_table {
        let object = Object::Table(table.to_owned());
        batch.push(nft::kind(nft::DELTABLE), 0, object, family, |to| {
            to.text(NFTA_TABLE_NAME, table);
        });
    }
    batch.end()
}

/// The transaction that makes a table of ours that belongs to no plan; one of that name is
/// replaced.
#[cfg(feature = "apply")]
pub(crate) fn table_addition(table: &ProgramTable) -> Batch {
    let mut batch = Batch::begin();
    batch.remove_table(&table.name);
    batch.add_table(table, 0);
    batch.end()
}

/// The transaction that removes tables, there or not, and makes others.
#[cfg(feature = "apply")]
pub(crate) fn programs(remove: &[String], add: &[ProgramTable]) -> Batch {
    let mut batch = Batch::begin();
    for name in remove {
        batch.remove_table(name);
    }
    for table in add {
        batch.add_table(table, 0);
    }
    batch.end()
}

/// The transaction that removes a table.
#[cfg(feature = "apply")]
pub(crate) fn table_removal(name: &str) -> Batch {
    let mut batch = Batch::begin();
    batch.remove_table(name);
    batch.end()
}

/// Appends one message with its header to `buffer`.
pub(crate) fn message(
    buffer: Vec<u8>,
    message: Message,
    content: impl FnOnce(&mut Attributes),
) -> Vec<u8> {
    let start = buffer.len();
    let mut buffer = buffer;
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&message.kind.to_ne_bytes());
    buffer.extend_from_slice(&message.flags.to_ne_bytes());
    buffer.extend_from_slice(&message.sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]); // the kernel is to answer the sending socket
    // struct nfgenmsg: family, version, and for BEGIN and END the subsystem.
    let resource = match message.kind {
        NFNL_MSG_BATCH_BEGIN | NFNL_MSG_BATCH_END => NFNL_SUBSYS_NFTABLES,
        _ => 0,
    };
    buffer.extend_from_slice(&[message.family, 0]);
    buffer.extend_from_slice(&resource.to_be_bytes());
    let mut attributes = Attributes::append_to(buffer);
    content(&mut attributes);
    let mut buffer = attributes.into_bytes();
    // A batch of 4 GiB cannot be sent anyway: the socket's buffer is an `int`.
    let length = u32::try_from(buffer.len() - start).unwrap_or(u32::MAX);
    if let Some(field) = buffer.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_ne_bytes());
    }
    buffer
}

// === impl Batch ===

impl Batch {
    fn begin() -> Self {
        Self::begin_at(None)
    }

    /// The kernel refuses the transaction if its rules are not of this generation.
    pub(super) fn begin_at(generation: Option<u32>) -> Self {
        let mut batch = Self {
            buffer: Vec::with_capacity(USUAL_BYTES),
            last: 0,
            last_flags: 0,
            objects: Vec::with_capacity(USUAL_MESSAGES),
            next_set: 1,
            sealed: 0,
        };
        batch.push(
            NFNL_MSG_BATCH_BEGIN,
            0,
            Object::Transaction,
            NFPROTO_UNSPEC,
            |to| {
                if let Some(generation) = generation {
                    to.number(NFNL_BATCH_GENID, generation);
                }
            },
        );
        batch
    }

    /// The last message before END asks for an answer, by which success is known.
    pub(super) fn end(self) -> Self {
        let mut batch = self.seal();
        batch.push(
            NFNL_MSG_BATCH_END,
            0,
            Object::Transaction,
            NFPROTO_UNSPEC,
            |_| {},
        );
        batch
    }

    /// The last message asks for an answer.
    fn seal(mut self) -> Self {
        const FLAGS: usize = 6;
        if let Some(flags) = self
            .buffer
            .get_mut(self.last + FLAGS..self.last + FLAGS + 2)
        {
            flags.copy_from_slice(&(self.last_flags | NLM_F_ACK).to_ne_bytes());
        }
        self.sealed = u32::try_from(self.objects.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    #[cfg(feature = "apply")]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// What the message with this sequence number is about.
    #[cfg(feature = "apply")]
    pub(crate) fn object(&self, sequence: u32) -> Option<&Object> {
        self.objects.get(sequence as usize)
    }

    /// The sequence number of the message whose answer comes last.
    #[cfg(feature = "apply")]
    pub(crate) fn last_sequence(&self) -> u32 {
        self.sealed
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        object: Object,
        family: u8,
        content: impl FnOnce(&mut Attributes),
    ) {
        let header = Message {
            kind,
            flags: NLM_F_REQUEST | flags,
            family,
            sequence: u32::try_from(self.objects.len()).unwrap_or(u32::MAX),
        };
        self.objects.push(object);
        self.last = self.buffer.len();
        self.last_flags = header.flags;
        self.buffer = message(std::mem::take(&mut self.buffer), header, content);
    }

    fn nft(
        &mut self,
        kind: u16,
        flags: u16,
        object: Object,
        content: impl FnOnce(&mut Attributes),
    ) {
        self.push(nft::kind(kind), flags, object, NFPROTO_INET, content);
    }

    /// Creating a table that exists does nothing, and deleting one that does not is an error; so
    /// each is created before it is deleted.
    fn remove_tables(&mut self, instance: &InstanceName) {
        for name in instance.tables() {
            self.remove_table(&name);
        }
    }

    fn remove_table(&mut self, name: &str) {
        let object = Object::Table(name.to_owned());
        self.nft(nft::NEWTABLE, NLM_F_CREATE, object.clone(), |to| {
            to.text(NFTA_TABLE_NAME, name);
        });
        self.nft(nft::DELTABLE, 0, object, |to| {
            to.text(NFTA_TABLE_NAME, name);
        });
    }

    fn add_program(&mut self, plan: &Plan, table_flags: u16) {
        for table in &bytecode::program(plan).tables {
            self.add_table(table, table_flags);
        }
    }

    fn add_table(&mut self, table: &ProgramTable, flags: u16) {
        let object = Object::Table(table.name.clone());
        self.nft(nft::NEWTABLE, NLM_F_CREATE | flags, object, |to| {
            to.text(NFTA_TABLE_NAME, &table.name);
            if table.flags != 0 {
                to.number(NFTA_TABLE_FLAGS, table.flags);
            }
        });
        for chain in &table.chains {
            self.add_chain(&table.name, chain);
        }
        let mut named = BTreeMap::new();
        for (name, set) in table.named_sets() {
            let object = Object::Set {
                table: table.name.clone(),
                set: name.to_owned(),
            };
            named.insert(name, self.add_set(&table.name, set, &object));
        }
        for chain in &table.chains {
            for (index, rule) in chain.rules.iter().enumerate() {
                self.add_rule(&table.name, &chain.name, index, rule, &named);
            }
        }
    }

    fn add_chain(&mut self, table: &str, chain: &ProgramChain) {
        let object = Object::Chain {
            table: table.to_owned(),
            chain: chain.name.clone(),
        };
        self.nft(nft::NEWCHAIN, NLM_F_CREATE, object, |to| {
            to.text(NFTA_CHAIN_TABLE, table);
            to.text(NFTA_CHAIN_NAME, &chain.name);
            let Some(base) = &chain.base else { return };
            to.nested(NFTA_CHAIN_HOOK, |to| {
                to.number(NFTA_HOOK_HOOKNUM, base.hook);
                to.bytes(NFTA_HOOK_PRIORITY, &base.priority.to_be_bytes());
            });
            to.number(NFTA_CHAIN_POLICY, base.policy);
            to.text(NFTA_CHAIN_TYPE, &base.kind);
        });
    }

    fn add_rule(
        &mut self,
        table: &str,
        chain: &str,
        index: usize,
        rule: &ProgramRule,
        named: &BTreeMap<&str, u32>,
    ) {
        let object = Object::Rule {
            table: table.to_owned(),
            chain: chain.to_owned(),
            index,
            why: rule.comment.clone().unwrap_or_default(),
        };
        let mut references = Vec::new();
        for expression in &rule.expressions {
            let Expression::Lookup { set, .. } = expression else {
                continue;
            };
            references.push(match &set.name {
                Some(name) => SetReference {
                    name,
                    id: named.get(name.as_str()).copied().unwrap_or_default(),
                },
                None => SetReference {
                    name: ANONYMOUS_SET,
                    id: self.add_set(table, set, &object),
                },
            });
        }
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        self.nft(nft::NEWRULE, flags, object, |to| {
            to.text(NFTA_RULE_TABLE, table);
            to.text(NFTA_RULE_CHAIN, chain);
            to.nested(NFTA_RULE_EXPRESSIONS, |to| {
                let mut references = references.iter();
                let none = SetReference::unnamed();
                for expression in &rule.expressions {
                    let reference = match expression {
                        Expression::Lookup { .. } => references.next().unwrap_or(&none),
                        _ => &none,
                    };
                    to.nested(NFTA_LIST_ELEM, |to| {
                        write_expression(to, expression, reference);
                    });
                }
            });
            if let Some(comment) = &rule.comment {
                write_comment(to, comment);
            }
        });
    }

    /// Adds a set with its elements, and gives the number by which this batch knows it.
    fn add_set(&mut self, table: &str, set: &Set, object: &Object) -> u32 {
        let id = self.next_set;
        self.next_set += 1;
        let name = set.name.as_deref().unwrap_or(ANONYMOUS_SET);
        let interval = if set.is_interval { NFT_SET_INTERVAL } else { 0 };
        self.nft(nft::NEWSET, NLM_F_CREATE, object.clone(), |to| {
            to.text(NFTA_SET_TABLE, table);
            to.text(NFTA_SET_NAME, name);
            // A named set may change, so it has neither a flag that says otherwise nor a size,
            // and no user data, on which some versions of `nft` stumble.
            let constant = match set.name {
                Some(_) => 0,
                None => NFT_SET_ANONYMOUS | NFT_SET_CONSTANT,
            };
            let expires = if set.timeout.is_some() {
                NFT_SET_TIMEOUT
            } else {
                0
            };
            to.number(NFTA_SET_FLAGS, constant | interval | expires);
            if let Some(timeout) = set.timeout {
                to.bytes(NFTA_SET_TIMEOUT, &timeout.to_be_bytes());
            }
            to.number(NFTA_SET_KEY_TYPE, set.key_type);
            to.number(NFTA_SET_KEY_LEN, set.key_length);
            to.number(NFTA_SET_ID, id);
            if set.name.is_some() {
                return;
            }
            if set.is_host_order() {
                let value = BYTE_ORDER_HOST.to_ne_bytes();
                to.bytes(
                    NFTA_SET_USERDATA,
                    &[&[UDATA_SET_KEY_BYTE_ORDER, 4], &value[..]].concat(),
                );
            }
            to.nested(NFTA_SET_DESC, |to| {
                let size = set.elements.len() + usize::from(set.begins_with_end());
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                to.number(NFTA_SET_DESC_SIZE, size);
            });
        });
        let of_set = Object::Set {
            table: table.to_owned(),
            set: name.to_owned(),
        };
        if set.begins_with_end() {
            let end = Element {
                key: Bytes::zeros(set.key_length as usize),
                is_end: true,
            };
            self.change_elements(nft::NEWSETELEM, &of_set, Some(id), &[&end]);
        }
        let elements: Vec<&Element> = set.elements.iter().collect();
        self.change_elements(nft::NEWSETELEM, &of_set, Some(id), &elements);
        id
    }

    /// Adds elements to a set, or deletes them from it, by as many messages as it takes. A set
    /// that this batch makes has a number.
    pub(super) fn change_elements(
        &mut self,
        kind: u16,
        of_set: &Object,
        id: Option<u32>,
        elements: &[&Element],
    ) {
        let Object::Set { table, set } = of_set else {
            return;
        };
        let flags = match kind {
            nft::NEWSETELEM => NLM_F_CREATE,
            _ => 0,
        };
        for elements in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.nft(kind, flags, of_set.clone(), |to| {
                to.text(NFTA_SET_ELEM_LIST_TABLE, table);
                to.text(NFTA_SET_ELEM_LIST_SET, set);
                if let Some(id) = id {
                    to.number(NFTA_SET_ELEM_LIST_SET_ID, id);
                }
                to.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |to| {
                    for element in elements {
                        to.nested(NFTA_LIST_ELEM, |to| {
                            if element.is_end {
                                to.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
                            }
                            to.nested(NFTA_SET_ELEM_KEY, |to| {
                                to.bytes(NFTA_DATA_VALUE, &element.key);
                            });
                        });
                    }
                });
            });
        }
    }

    /// Puts the rules of a chain in the place of those that it has; none of them looks into a set.
    #[cfg(feature = "apply")]
    pub(super) fn replace_rules(&mut self, table: &str, chain: &ProgramChain) {
        let object = Object::Chain {
            table: table.to_owned(),
            chain: chain.name.clone(),
        };
        self.nft(nft::DELRULE, 0, object, |to| {
            to.text(NFTA_RULE_TABLE, table);
            to.text(NFTA_RULE_CHAIN, &chain.name);
        });
        for (index, rule) in chain.rules.iter().enumerate() {
            self.add_rule(table, &chain.name, index, rule, &BTreeMap::new());
        }
    }
}

/// A comment as `nft` writes it: type, length, and the text with its terminating zero.
fn write_comment(to: &mut Attributes, comment: &str) {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let text = comment.as_bytes();
    let text = text.get(..usize::from(length) - 1).unwrap_or(text);
    to.parts(
        NFTA_RULE_USERDATA,
        [&[UDATA_RULE_COMMENT, length], text, &[0]],
    );
}

// === impl Object ===

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transaction => f.write_str("the transaction"),
            Self::Table(table) => write!(f, "table `inet {table}`"),
            Self::Chain { table, chain } => write!(f, "chain `inet {table} {chain}`"),
            Self::Set { table, set } => write!(f, "set `inet {table} {set}`"),
            Self::Rule {
                table,
                chain,
                index,
                why,
            } => write!(f, "rule {index} of chain `inet {table} {chain}` ({why})"),
        }
    }
}
