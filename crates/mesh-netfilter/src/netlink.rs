//! Netlink: plans as the batch that `NETLINK_NETFILTER` takes, and its answers as programs.
//!
//! Only bytes are made and read here; `crate::engine` moves them.

mod attribute;
mod batch;
mod expression;
#[cfg(feature = "apply")]
mod update;

pub(crate) use self::attribute::Attributes;
#[cfg(feature = "apply")]
pub(crate) use self::attribute::{Attribute, attributes};
#[cfg(feature = "iptables")]
pub(crate) use self::batch::chain_removal;
pub(crate) use self::batch::replacement;
#[cfg(feature = "apply")]
pub(crate) use self::batch::{
    Batch, Message, NFNL_SUBSYS_CTNETLINK, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6,
    NFPROTO_UNSPEC, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Object, creation, guard_release, message,
    nft, programs, rehearsal, removal, table_addition, table_removal,
};
pub(crate) use self::expression::{SetReference, write_expression};
#[cfg(feature = "apply")]
pub(crate) use self::expression::{read_counter, read_expression};
#[cfg(feature = "apply")]
pub(crate) use self::update::update;

/// Numbers of `linux/netfilter/nf_tables.h`: attributes of tables, chains, rules and sets.
pub(crate) mod number {
    pub(crate) const NFTA_LIST_ELEM: u16 = 1;
    pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
    pub(crate) const NFTA_HOOK_PRIORITY: u16 = 2;
    pub(crate) const NFTA_TABLE_NAME: u16 = 1;
    pub(crate) const NFTA_TABLE_FLAGS: u16 = 2;
    pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
    pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
    pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
    pub(crate) const NFTA_CHAIN_POLICY: u16 = 5;
    pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
    pub(crate) const NFTA_RULE_TABLE: u16 = 1;
    pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
    pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub(crate) const NFTA_RULE_USERDATA: u16 = 7;
    pub(crate) const NFTA_SET_TABLE: u16 = 1;
    pub(crate) const NFTA_SET_NAME: u16 = 2;
    pub(crate) const NFTA_SET_FLAGS: u16 = 3;
    pub(crate) const NFTA_SET_KEY_TYPE: u16 = 4;
    pub(crate) const NFTA_SET_KEY_LEN: u16 = 5;
    pub(crate) const NFTA_SET_DESC: u16 = 9;
    pub(crate) const NFTA_SET_DESC_SIZE: u16 = 1;
    pub(crate) const NFTA_SET_ID: u16 = 10;
    pub(crate) const NFTA_SET_TIMEOUT: u16 = 11;
    pub(crate) const NFTA_SET_USERDATA: u16 = 13;
    pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
    pub(crate) const NFTA_SET_ELEM_FLAGS: u16 = 3;
    #[cfg(feature = "apply")]
    pub(crate) const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
    pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    pub(crate) const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
    pub(crate) const NFTA_DATA_VALUE: u16 = 1;
    pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
    pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
    pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;
    pub(crate) const NFTA_EXPR_NAME: u16 = 1;
    pub(crate) const NFTA_EXPR_DATA: u16 = 2;

    pub(crate) const NFT_SET_ANONYMOUS: u32 = 0x1;
    pub(crate) const NFT_SET_CONSTANT: u32 = 0x2;
    pub(crate) const NFT_SET_INTERVAL: u32 = 0x4;
    pub(crate) const NFT_SET_TIMEOUT: u32 = 0x10;
    pub(crate) const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
    /// In the user data of a set, in which byte order keys are; without it `nft` takes them to be
    /// in that of the network. Every `nft` that writes sets writes this.
    pub(crate) const UDATA_SET_KEY_BYTE_ORDER: u8 = 0;
    pub(crate) const BYTE_ORDER_HOST: u32 = 1;
    /// The type of a comment in the user data of a rule, as `nft` writes and shows it.
    pub(crate) const UDATA_RULE_COMMENT: u8 = 0;
}
