//! Expressions of rules, as attributes.

#[cfg(feature = "apply")]
mod read;

#[cfg(feature = "apply")]
pub(crate) use self::read::{read_counter, read_expression};
use super::Attributes;
use super::number::{
    NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_VERDICT_CHAIN,
    NFTA_VERDICT_CODE,
};
use crate::bytecode::{Bytes, Expression};

/// How a rule names the set that belongs to it: the kernel makes the name, the batch has an id.
#[derive(Debug)]
pub(crate) struct SetReference<'a> {
    pub(crate) name: &'a str,
    pub(crate) id: u32,
}

const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_REG_2: u32 = 2;
const META_MARK: u32 = 3;
const CT_MARK: u32 = 3;
const NFT_BYTEORDER_HTON: u32 = 1;
const NFT_NAT_DNAT: u32 = 1;
/// `NF_NAT_RANGE_MAP_IPS`, which the kernel adds.
#[cfg(feature = "apply")]
const ADDRESS_SPECIFIED: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const PORT_SPECIFIED: u32 = 2;
const NFT_CT_ZONE: u32 = 17;
const DIRECTION_ORIGINAL: u8 = 0;
const NFT_RANGE_NEQ: u32 = 1;
const NFT_LOOKUP_F_INV: u32 = 1;

// Each family of expressions numbers its own attributes.
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_SREG: u16 = 3;
const SOCKET_KEY: u16 = 1;
const SOCKET_DREG: u16 = 2;
const BYTEORDER_SREG: u16 = 1;
const BYTEORDER_DREG: u16 = 2;
const BYTEORDER_OP: u16 = 3;
const BYTEORDER_LEN: u16 = 4;
const BYTEORDER_SIZE: u16 = 5;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS_MIN: u16 = 3;
const NAT_PROTO_MIN: u16 = 5;
const NAT_FLAGS: u16 = 7;
const TPROXY_FAMILY: u16 = 1;
const TPROXY_PORT: u16 = 3;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_DIRECTION: u16 = 3;
const CT_SREG: u16 = 4;
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const RANGE_SREG: u16 = 1;
const RANGE_OP: u16 = 2;
const RANGE_FROM_DATA: u16 = 3;
const RANGE_TO_DATA: u16 = 4;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const LOOKUP_SET_ID: u16 = 4;
const LOOKUP_FLAGS: u16 = 5;
const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const REDIR_PROTO_MIN: u16 = 1;
const REDIR_FLAGS: u16 = 3;
const REJECT_TYPE: u16 = 1;
const REJECT_ICMP_CODE: u16 = 2;

// === impl SetReference ===

impl SetReference<'_> {
    /// For where no set exists, as in a fingerprint.
    pub(crate) fn unnamed() -> Self {
        Self { name: "", id: 0 }
    }
}

/// Writes one element of a rule's list of expressions.
pub(crate) fn write_expression(
    to: &mut Attributes,
    expression: &Expression,
    set: &SetReference<'_>,
) {
    to.text(NFTA_EXPR_NAME, name(expression));
    to.nested(NFTA_EXPR_DATA, |to| write_data(to, expression, set));
}

fn name(expression: &Expression) -> &str {
    match expression {
        Expression::Meta(_) | Expression::SetMark => "meta",
        Expression::Payload { .. } => "payload",
        Expression::Ct(_) | Expression::OriginalZone | Expression::SetConnectionMark => "ct",
        Expression::Socket(_) => "socket",
        Expression::NetworkOrder => "byteorder",
        Expression::Counter => "counter",
        Expression::Dnat { .. } => "nat",
        Expression::Tproxy => "tproxy",
        Expression::Mask(_) => "bitwise",
        Expression::Compare { .. } => "cmp",
        Expression::Outside { .. } => "range",
        Expression::Lookup { .. } => "lookup",
        Expression::Load(_) | Expression::LoadSecond(_) | Expression::Verdict { .. } => "immediate",
        Expression::Redirect => "redir",
        Expression::Reject { .. } => "reject",
        #[cfg(feature = "apply")]
        Expression::Other { name, .. } => name,
    }
}

fn write_data(to: &mut Attributes, expression: &Expression, set: &SetReference<'_>) {
    match expression {
        Expression::Meta(key) => {
            to.number(META_DREG, NFT_REG_1);
            to.number(META_KEY, *key as u32);
        }
        Expression::Payload {
            base,
            offset,
            length,
        } => {
            to.number(PAYLOAD_DREG, NFT_REG_1);
            to.number(PAYLOAD_BASE, *base as u32);
            to.number(PAYLOAD_OFFSET, *offset);
            to.number(PAYLOAD_LEN, *length);
        }
        Expression::Ct(key) => {
            to.number(CT_DREG, NFT_REG_1);
            to.number(CT_KEY, *key as u32);
        }
        Expression::Mask(mask) => {
            to.number(BITWISE_SREG, NFT_REG_1);
            to.number(BITWISE_DREG, NFT_REG_1);
            to.number(BITWISE_LEN, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            value(to, BITWISE_MASK, mask);
            value(to, BITWISE_XOR, &Bytes::zeros(mask.len()));
        }
        Expression::Compare {
            operator,
            value: with,
        } => {
            to.number(CMP_SREG, NFT_REG_1);
            to.number(CMP_OP, *operator as u32);
            value(to, CMP_DATA, with);
        }
        Expression::Outside {
            from: first,
            to: last,
        } => {
            to.number(RANGE_SREG, NFT_REG_1);
            to.number(RANGE_OP, NFT_RANGE_NEQ);
            value(to, RANGE_FROM_DATA, first);
            value(to, RANGE_TO_DATA, last);
        }
        Expression::Lookup { inverted, .. } => {
            to.text(LOOKUP_SET, set.name);
            to.number(LOOKUP_SREG, NFT_REG_1);
            to.number(LOOKUP_SET_ID, set.id);
            to.number(LOOKUP_FLAGS, if *inverted { NFT_LOOKUP_F_INV } else { 0 });
        }
        Expression::Socket(key) => {
            to.number(SOCKET_KEY, *key as u32);
            to.number(SOCKET_DREG, NFT_REG_1);
        }
        Expression::NetworkOrder => {
            to.number(BYTEORDER_SREG, NFT_REG_1);
            to.number(BYTEORDER_DREG, NFT_REG_1);
            to.number(BYTEORDER_OP, NFT_BYTEORDER_HTON);
            to.number(BYTEORDER_LEN, 4);
            to.number(BYTEORDER_SIZE, 4);
        }
        effect => write_effect(to, effect),
    }
}

/// What is done, in contrast to what is asked.
fn write_effect(to: &mut Attributes, expression: &Expression) {
    match expression {
        Expression::Load(constant) => {
            to.number(IMMEDIATE_DREG, NFT_REG_1);
            value(to, IMMEDIATE_DATA, constant);
        }
        Expression::LoadSecond(constant) => {
            to.number(IMMEDIATE_DREG, NFT_REG_2);
            value(to, IMMEDIATE_DATA, constant);
        }
        Expression::Counter => {
            to.bytes(COUNTER_BYTES, &[0; 8]);
            to.bytes(COUNTER_PACKETS, &[0; 8]);
        }
        Expression::SetMark => {
            to.number(META_KEY, META_MARK);
            to.number(META_SREG, NFT_REG_1);
        }
        Expression::SetConnectionMark => {
            to.number(CT_KEY, CT_MARK);
            to.number(CT_SREG, NFT_REG_1);
        }
        Expression::Dnat { family } => {
            to.number(NAT_TYPE, NFT_NAT_DNAT);
            to.number(NAT_FAMILY, *family);
            to.number(NAT_ADDRESS_MIN, NFT_REG_1);
            to.number(NAT_PROTO_MIN, NFT_REG_2);
            to.number(NAT_FLAGS, PORT_SPECIFIED);
        }
        Expression::Tproxy => {
            // NFPROTO_UNSPEC: that of the packet.
            to.number(TPROXY_FAMILY, 0);
            to.number(TPROXY_PORT, NFT_REG_1);
        }
        Expression::Redirect => {
            to.number(REDIR_PROTO_MIN, NFT_REG_1);
            to.number(REDIR_FLAGS, PORT_SPECIFIED);
        }
        Expression::OriginalZone => {
            to.number(CT_KEY, NFT_CT_ZONE);
            to.bytes(CT_DIRECTION, &[DIRECTION_ORIGINAL]);
            to.number(CT_SREG, NFT_REG_1);
        }
        Expression::Reject { kind, code } => {
            to.number(REJECT_TYPE, *kind);
            to.bytes(REJECT_ICMP_CODE, &[*code]);
        }
        Expression::Verdict { code, chain } => {
            to.number(IMMEDIATE_DREG, NFT_REG_VERDICT);
            to.nested(IMMEDIATE_DATA, |to| {
                to.nested(NFTA_DATA_VERDICT, |to| {
                    to.bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        to.text(NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        }
        #[cfg(feature = "apply")]
        Expression::Other { data, .. } => to.raw(data),
        // What is asked is written where it is told apart.
        _ => {}
    }
}

fn value(to: &mut Attributes, kind: u16, bytes: &[u8]) {
    to.nested(kind, |to| to.bytes(NFTA_DATA_VALUE, bytes));
}
