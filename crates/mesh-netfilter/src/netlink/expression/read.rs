//! Expressions read back: anything that is not exactly one of ours is [`Expression::Other`].

use std::sync::Arc;

use super::{
    ADDRESS_SPECIFIED, BITWISE_DREG, BITWISE_MASK, BITWISE_SREG, BITWISE_XOR, BYTEORDER_DREG,
    BYTEORDER_LEN, BYTEORDER_OP, BYTEORDER_SIZE, BYTEORDER_SREG, CMP_DATA, CMP_OP, CMP_SREG,
    COUNTER_BYTES, COUNTER_PACKETS, CT_DIRECTION, CT_DREG, CT_KEY, CT_MARK, CT_SREG,
    DIRECTION_ORIGINAL, IMMEDIATE_DATA, IMMEDIATE_DREG, LOOKUP_FLAGS, LOOKUP_SET, LOOKUP_SREG,
    META_DREG, META_KEY, META_MARK, META_SREG, NAT_ADDRESS_MIN, NAT_FAMILY, NAT_FLAGS,
    NAT_PROTO_MIN, NAT_TYPE, NFT_BYTEORDER_HTON, NFT_CT_ZONE, NFT_LOOKUP_F_INV, NFT_NAT_DNAT,
    NFT_RANGE_NEQ, NFT_REG_1, NFT_REG_2, NFT_REG_VERDICT, PAYLOAD_BASE, PAYLOAD_DREG, PAYLOAD_LEN,
    PAYLOAD_OFFSET, PORT_SPECIFIED, RANGE_FROM_DATA, RANGE_OP, RANGE_SREG, RANGE_TO_DATA,
    REDIR_FLAGS, REDIR_PROTO_MIN, REJECT_ICMP_CODE, REJECT_TYPE, SOCKET_DREG, SOCKET_KEY,
    TPROXY_FAMILY, TPROXY_PORT,
};
use crate::bytecode::{Bytes, Counter, Ct, Expression, Header, Meta, Operator, Set, SocketKey};
use crate::netlink::number::{
    NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_VERDICT_CHAIN,
    NFTA_VERDICT_CODE,
};
use crate::netlink::{Attribute, attributes};

const REDIR_PROTO_MAX: u16 = 2;
const BITWISE_OP: u16 = 6;
const NAT_ADDRESS_MAX: u16 = 4;
const NAT_PROTO_MAX: u16 = 6;
const TPROXY_ADDRESS: u16 = 2;

/// The attributes of an expression, by number.
struct Fields<'a>(Vec<Attribute<'a>>);

/// Reads one element of a rule's list of expressions. `set` finds a set by its name.
pub(crate) fn read_expression(
    element: &[u8],
    set: impl Fn(&str) -> Option<Arc<Set>>,
) -> Expression {
    let element = Fields::of(element);
    let name = element
        .get(NFTA_EXPR_NAME)
        .map_or_else(String::new, |name| name.text());
    let data = element
        .get(NFTA_EXPR_DATA)
        .map_or(&[][..], |data| data.value);
    read_known(&name, &Fields::of(data), set).unwrap_or_else(|| Expression::Other {
        name,
        data: data.to_vec(),
    })
}

/// What a rule has counted, if this element of its expressions is its counter.
pub(crate) fn read_counter(element: &[u8]) -> Option<Counter> {
    let element = Fields::of(element);
    (element.get(NFTA_EXPR_NAME)?.text() == "counter").then_some(())?;
    let counter = Fields::of(element.get(NFTA_EXPR_DATA)?.value);
    let number = |kind| {
        let bytes = counter.get(kind)?.value.first_chunk().copied()?;
        Some(u64::from_be_bytes(bytes))
    };
    Some(Counter {
        packets: number(COUNTER_PACKETS)?,
        bytes: number(COUNTER_BYTES)?,
    })
}

fn read_known(
    name: &str,
    fields: &Fields<'_>,
    set: impl Fn(&str) -> Option<Arc<Set>>,
) -> Option<Expression> {
    match name {
        "meta" if fields.get(META_SREG).is_some() => {
            fields.register(META_SREG)?;
            (fields.number(META_KEY)? == META_MARK).then_some(Expression::SetMark)
        }
        "meta" => fields.register(META_DREG).and_then(|()| {
            let key = fields.number(META_KEY)?;
            META_KEYS
                .into_iter()
                .find(|known| *known as u32 == key)
                .map(Expression::Meta)
        }),
        "payload" => fields.register(PAYLOAD_DREG).and_then(|()| {
            Some(Expression::Payload {
                base: match fields.number(PAYLOAD_BASE)? {
                    1 => Header::Network,
                    2 => Header::Transport,
                    _ => return None,
                },
                offset: fields.number(PAYLOAD_OFFSET)?,
                length: fields.number(PAYLOAD_LEN)?,
            })
        }),
        "ct" => read_ct(fields),
        "socket" => fields.register(SOCKET_DREG).and_then(|()| {
            let key = fields.number(SOCKET_KEY)?;
            (key == SocketKey::Transparent as u32)
                .then_some(Expression::Socket(SocketKey::Transparent))
        }),
        "byteorder" => {
            fields.register(BYTEORDER_SREG)?;
            fields.register(BYTEORDER_DREG)?;
            let is_ours = fields.number(BYTEORDER_OP)? == NFT_BYTEORDER_HTON
                && fields.number(BYTEORDER_LEN)? == 4
                && fields.number(BYTEORDER_SIZE)? == 4;
            is_ours.then_some(Expression::NetworkOrder)
        }
        "counter" => Some(Expression::Counter),
        "nat" => read_nat(fields),
        "tproxy" => {
            let is_ours = fields.number(TPROXY_FAMILY)? == 0
                && fields.get(TPROXY_ADDRESS).is_none()
                && fields.number(TPROXY_PORT)? == NFT_REG_1;
            is_ours.then_some(Expression::Tproxy)
        }
        "bitwise" => read_mask(fields),
        "cmp" => read_compare(fields),
        "range" => read_range(fields),
        "lookup" => fields.register(LOOKUP_SREG).and_then(|()| {
            let flags = fields.number(LOOKUP_FLAGS).unwrap_or(0);
            Some(Expression::Lookup {
                set: set(&fields.get(LOOKUP_SET)?.text())?,
                inverted: match flags {
                    0 => false,
                    NFT_LOOKUP_F_INV => true,
                    _ => return None,
                },
            })
        }),
        "immediate" => read_immediate(fields),
        "redir" => fields.register(REDIR_PROTO_MIN).and_then(|()| {
            let last = fields.number(REDIR_PROTO_MAX).unwrap_or(NFT_REG_1);
            let flags = fields.number(REDIR_FLAGS)?;
            (last == NFT_REG_1 && flags == PORT_SPECIFIED).then_some(Expression::Redirect)
        }),
        "reject" => Some(Expression::Reject {
            kind: fields.number(REJECT_TYPE)?,
            // The kernel leaves the code out where the kind has none.
            code: fields
                .get(REJECT_ICMP_CODE)
                .and_then(|code| code.value.first().copied())
                .unwrap_or(0),
        }),
        _ => None,
    }
}

fn read_compare(fields: &Fields<'_>) -> Option<Expression> {
    fields.register(CMP_SREG)?;
    Some(Expression::Compare {
        operator: match fields.number(CMP_OP)? {
            0 => Operator::Equal,
            1 => Operator::NotEqual,
            3 => Operator::AtMost,
            5 => Operator::AtLeast,
            _ => return None,
        },
        value: fields.value(CMP_DATA)?,
    })
}

fn read_range(fields: &Fields<'_>) -> Option<Expression> {
    fields.register(RANGE_SREG)?;
    (fields.number(RANGE_OP)? == NFT_RANGE_NEQ).then_some(())?;
    Some(Expression::Outside {
        from: fields.value(RANGE_FROM_DATA)?,
        to: fields.value(RANGE_TO_DATA)?,
    })
}

fn read_ct(fields: &Fields<'_>) -> Option<Expression> {
    let key = fields.number(CT_KEY)?;
    let direction = fields
        .get(CT_DIRECTION)
        .and_then(|direction| direction.value.first().copied());
    if fields.number(CT_SREG) == Some(NFT_REG_1) {
        if key == CT_MARK && direction.is_none() {
            return Some(Expression::SetConnectionMark);
        }
        return (key == NFT_CT_ZONE && direction == Some(DIRECTION_ORIGINAL))
            .then_some(Expression::OriginalZone);
    }
    fields.register(CT_DREG)?;
    if direction.is_some() {
        return None;
    }
    [Ct::State, Ct::Direction, Ct::Status, Ct::Mark]
        .into_iter()
        .find(|known| *known as u32 == key)
        .map(Expression::Ct)
}

fn read_nat(fields: &Fields<'_>) -> Option<Expression> {
    let last = |kind: u16, first: u32| fields.number(kind).unwrap_or(first) == first;
    let flags = fields.number(NAT_FLAGS)?;
    let is_ours = fields.number(NAT_TYPE)? == NFT_NAT_DNAT
        && fields.number(NAT_ADDRESS_MIN)? == NFT_REG_1
        && fields.number(NAT_PROTO_MIN)? == NFT_REG_2
        && last(NAT_ADDRESS_MAX, NFT_REG_1)
        && last(NAT_PROTO_MAX, NFT_REG_2)
        && (flags == PORT_SPECIFIED || flags == PORT_SPECIFIED | ADDRESS_SPECIFIED);
    is_ours.then_some(Expression::Dnat {
        family: fields.number(NAT_FAMILY)?,
    })
}

fn read_mask(fields: &Fields<'_>) -> Option<Expression> {
    fields.register(BITWISE_SREG)?;
    fields.register(BITWISE_DREG)?;
    if fields.number(BITWISE_OP).unwrap_or(0) != 0 {
        return None;
    }
    let is_and = fields.value(BITWISE_XOR)?.iter().all(|byte| *byte == 0);
    is_and.then_some(Expression::Mask(fields.value(BITWISE_MASK)?))
}

fn read_immediate(fields: &Fields<'_>) -> Option<Expression> {
    let data = Fields::of(fields.get(IMMEDIATE_DATA)?.value);
    match fields.number(IMMEDIATE_DREG)? {
        NFT_REG_VERDICT => {
            let verdict = Fields::of(data.get(NFTA_DATA_VERDICT)?.value);
            Some(Expression::Verdict {
                code: verdict.number(NFTA_VERDICT_CODE)?.cast_signed(),
                chain: verdict.get(NFTA_VERDICT_CHAIN).map(|chain| chain.text()),
            })
        }
        NFT_REG_1 => Some(Expression::Load(data.get(NFTA_DATA_VALUE)?.value.into())),
        NFT_REG_2 => Some(Expression::LoadSecond(
            data.get(NFTA_DATA_VALUE)?.value.into(),
        )),
        _ => None,
    }
}

const META_KEYS: [Meta; 7] = [
    Meta::Mark,
    Meta::InInterface,
    Meta::OutInterface,
    Meta::User,
    Meta::Group,
    Meta::Family,
    Meta::Transport,
];

// === impl Fields ===

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self(attributes(bytes).collect())
    }

    fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        self.0.iter().copied().find(|field| field.kind == kind)
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.number()
    }

    fn value(&self, kind: u16) -> Option<Bytes> {
        let value = Fields::of(self.get(kind)?.value)
            .get(NFTA_DATA_VALUE)?
            .value;
        Some(value.into())
    }

    /// Whether the field names the one register that we use.
    fn register(&self, kind: u16) -> Option<()> {
        (self.number(kind)? == NFT_REG_1).then_some(())
    }
}
