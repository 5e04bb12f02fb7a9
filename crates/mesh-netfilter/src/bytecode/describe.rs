//! Instructions in words: what somebody's rule says, in the manner of `nft`.
//!
//! For people to read. What this does not know it names, and never leaves out.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Bytes, Ct, Element, Expression, Header, Meta, Operator, Set, SocketKey};

/// How bytes in the register are to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// A number in network byte order.
    Number,
    /// A number in the byte order of this machine.
    HostNumber,
    Address,
    Name,
    Family,
    Transport,
    Direction,
    State,
    Status,
    TcpFlags,
}

/// What the register holds.
#[derive(Debug)]
struct Register {
    words: String,
    form: Form,
    constant: Option<Bytes>,
    /// What the second register holds.
    second: Option<Bytes>,
}

/// Names of bits, lowest first.
const TCP_FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"];
const CT_STATE: [&str; 4] = ["invalid", "established", "related", "new"];
const CT_STATUS: [&str; 6] = [
    "expected",
    "seen-reply",
    "assured",
    "confirmed",
    "snat",
    "dnat",
];
/// More elements of a set than these are counted, not printed.
const SHOWN: usize = 12;

/// A rule in words.
pub(crate) fn describe(expressions: &[Expression]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut register = Register {
        words: String::new(),
        form: Form::Number,
        constant: None,
        second: None,
    };
    for expression in expressions {
        if let Some(part) = step(expression, &mut register) {
            parts.push(part);
        }
    }
    parts.join(" ")
}

/// One instruction: what it says, or nothing if it only loads the register.
fn step(expression: &Expression, register: &mut Register) -> Option<String> {
    match expression {
        Expression::Meta(key) => register.load(meta(*key)),
        Expression::Payload {
            base,
            offset,
            length,
        } => register.load(payload(*base, *offset, *length)),
        Expression::Ct(key) => register.load(ct(*key)),
        Expression::Load(bytes) => {
            register.load((hex(bytes), Form::Number));
            register.constant = Some(bytes.clone());
        }
        Expression::Mask(mask) => {
            let _infallible = write!(register.words, " & {}", value(register.form, mask));
        }
        Expression::Compare {
            operator,
            value: with,
        } => {
            let sign = match operator {
                Operator::Equal => "",
                Operator::NotEqual => "!= ",
                Operator::AtMost => "<= ",
                Operator::AtLeast => ">= ",
            };
            return Some(format!(
                "{} {sign}{}",
                register.words,
                value(register.form, with)
            ));
        }
        Expression::Outside { from, to } => {
            let (from, to) = (value(register.form, from), value(register.form, to));
            return Some(format!("{} != {from}-{to}", register.words));
        }
        Expression::Lookup { set, inverted } => {
            let sign = if *inverted { "!= " } else { "" };
            return Some(format!(
                "{} {sign}{}",
                register.words,
                elements(register.form, set)
            ));
        }
        Expression::Socket(SocketKey::Transparent) => {
            register.load(("socket transparent".to_owned(), Form::Number));
        }
        Expression::NetworkOrder => register.form = Form::Number,
        Expression::LoadSecond(bytes) => register.second = Some(bytes.clone()),
        Expression::Counter => return Some("counter".to_owned()),
        Expression::Dnat { .. }
        | Expression::Tproxy
        | Expression::SetMark
        | Expression::SetConnectionMark
        | Expression::Redirect
        | Expression::OriginalZone => return Some(statement(expression, register)),
        Expression::Reject { kind, code } => return Some(reject(*kind, *code)),
        Expression::Verdict { code, chain } => return Some(verdict(*code, chain.as_deref())),
        Expression::Other { name, .. } => return Some(format!("[{name}]")),
    }
    None
}

/// What is done with the value in the register.
fn statement(expression: &Expression, register: &Register) -> String {
    let constant = register.constant.as_deref();
    match expression {
        Expression::Redirect => format!("redirect to :{}", register.number()),
        Expression::Tproxy => format!("tproxy to :{}", register.number()),
        Expression::Dnat { .. } => register.dnat(),
        Expression::OriginalZone => {
            let zone = constant.map(host_number).unwrap_or_default();
            format!("ct original zone set {zone}")
        }
        Expression::SetConnectionMark => format!("ct mark set {}", register.mark()),
        _ => format!("meta mark set {}", register.mark()),
    }
}

fn reject(kind: u32, code: u8) -> String {
    match (kind, code) {
        (1, _) => "reject with tcp reset".to_owned(),
        (2, 1) => "reject with icmpx port-unreachable".to_owned(),
        (kind, code) => format!("reject with {kind}/{code}"),
    }
}

fn meta(key: Meta) -> (String, Form) {
    let (words, form) = match key {
        Meta::Mark => ("meta mark", Form::HostNumber),
        Meta::InInterface => ("iifname", Form::Name),
        Meta::OutInterface => ("oifname", Form::Name),
        Meta::User => ("meta skuid", Form::HostNumber),
        Meta::Group => ("meta skgid", Form::HostNumber),
        Meta::Family => ("meta nfproto", Form::Family),
        Meta::Transport => ("meta l4proto", Form::Transport),
    };
    (words.to_owned(), form)
}

fn payload(base: Header, offset: u32, length: u32) -> (String, Form) {
    let known = match (base, offset, length) {
        (Header::Network, 12, 1..=4) => ("ip saddr", Form::Address),
        (Header::Network, 16, 1..=4) => ("ip daddr", Form::Address),
        (Header::Network, 8, 1..=16) => ("ip6 saddr", Form::Address),
        (Header::Network, 24, 1..=16) => ("ip6 daddr", Form::Address),
        (Header::Network, 9, 1) => ("ip protocol", Form::Transport),
        (Header::Network, 6, 1) => ("ip6 nexthdr", Form::Transport),
        (Header::Transport, 0, 2) => ("th sport", Form::Number),
        (Header::Transport, 2, 2) => ("th dport", Form::Number),
        (Header::Transport, 13, 1) => ("tcp flags", Form::TcpFlags),
        _ => {
            let base = match base {
                Header::Network => "nh",
                Header::Transport => "th",
            };
            return (
                format!("@{base},{},{}", offset * 8, length * 8),
                Form::Number,
            );
        }
    };
    (known.0.to_owned(), known.1)
}

fn ct(key: Ct) -> (String, Form) {
    let (words, form) = match key {
        Ct::State => ("ct state", Form::State),
        Ct::Mark => ("ct mark", Form::HostNumber),
        Ct::Direction => ("ct direction", Form::Direction),
        Ct::Status => ("ct status", Form::Status),
    };
    (words.to_owned(), form)
}

/// `enum nft_verdicts` and the verdicts of netfilter.
fn verdict(code: i32, chain: Option<&str>) -> String {
    let chain = chain.unwrap_or_default();
    match code {
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        -1 => "continue".to_owned(),
        -2 => "break".to_owned(),
        -3 => format!("jump {chain}"),
        -4 => format!("goto {chain}"),
        -5 => "return".to_owned(),
        code => format!("verdict {code}"),
    }
}

fn elements(form: Form, set: &Set) -> String {
    let mut words = Vec::new();
    let mut all = set.elements.iter().peekable();
    while let Some(element) = all.next() {
        if element.is_end {
            continue;
        }
        let end = all.peek().filter(|next| set.is_interval && next.is_end);
        words.push(match end {
            Some(end) => interval(form, element, end),
            None if set.is_interval => format!("{}-", value(form, &element.key)),
            None => value(form, &element.key),
        });
    }
    let more = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    format!("{{ {} }}", words.join(", "))
}

/// An interval ends before the key of its end.
fn interval(form: Form, first: &Element, end: &Element) -> String {
    let mut last = end.key.to_vec();
    for byte in last.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    if *last == *first.key {
        value(form, &last)
    } else {
        format!("{}-{}", value(form, &first.key), value(form, &last))
    }
}

fn value(form: Form, bytes: &[u8]) -> String {
    match form {
        Form::Address => address(bytes),
        Form::Name => {
            let end = bytes.iter().position(|byte| *byte == 0);
            let name = end.and_then(|end| bytes.get(..end)).unwrap_or(bytes);
            format!("\"{}\"", String::from_utf8_lossy(name).escape_default())
        }
        Form::HostNumber => host_number(bytes).to_string(),
        Form::Number => number(bytes).map_or_else(|| hex(bytes), |number| number.to_string()),
        Form::Family => match bytes {
            [2] => "ipv4".to_owned(),
            [10] => "ipv6".to_owned(),
            _ => hex(bytes),
        },
        Form::Transport => match bytes {
            [6] => "tcp".to_owned(),
            [17] => "udp".to_owned(),
            [number] => number.to_string(),
            _ => hex(bytes),
        },
        Form::Direction => match bytes {
            [0] => "original".to_owned(),
            [1] => "reply".to_owned(),
            _ => hex(bytes),
        },
        Form::State => bits(&CT_STATE, host_number(bytes)),
        Form::Status => bits(&CT_STATUS, host_number(bytes)),
        Form::TcpFlags => bits(&TCP_FLAGS, host_number(bytes)),
    }
}

fn bits(names: &[&str], number: u32) -> String {
    let is_set = |index: &usize| number & (1 << index) != 0;
    let unnamed = (names.len()..32)
        .filter(is_set)
        .map(|index| format!("bit {index}"));
    let words: Vec<String> = (0..names.len())
        .filter(is_set)
        .filter_map(|index| names.get(index).map(|name| (*name).to_owned()))
        .chain(unnamed)
        .collect();
    if words.is_empty() {
        "0".to_owned()
    } else {
        words.join("|")
    }
}

/// An address, or the front part of one, of which the rest does not matter.
fn address(bytes: &[u8]) -> String {
    let padded = |length: usize| {
        let mut all = bytes.to_vec();
        all.resize(length, 0);
        all
    };
    let words = if bytes.len() <= 4 {
        <[u8; 4]>::try_from(padded(4)).map(|octets| Ipv4Addr::from(octets).to_string())
    } else {
        <[u8; 16]>::try_from(padded(16)).map(|octets| Ipv6Addr::from(octets).to_string())
    };
    let words = words.unwrap_or_else(|_| hex(bytes));
    match bytes.len() {
        4 | 16 => words,
        length => format!("{words}/{}", length * 8),
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    })
}

fn host_number(bytes: &[u8]) -> u32 {
    match *bytes {
        [one] => u32::from(one),
        [one, two] => u32::from(u16::from_ne_bytes([one, two])),
        _ => bytes.first_chunk().copied().map_or(0, u32::from_ne_bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

// === impl Register ===

impl Register {
    fn load(&mut self, (words, form): (String, Form)) {
        *self = Self {
            words,
            form,
            constant: None,
            second: None,
        };
    }

    /// What the registers hold, as the target of a translation.
    fn dnat(&self) -> String {
        let to = self.constant.as_deref().map(address);
        let port = self.second.as_deref().and_then(number);
        let to = to.as_deref().unwrap_or("?");
        format!("dnat to {to} port {}", port.unwrap_or_default())
    }

    /// What the register holds, as a mark: a constant, or the mark of something.
    fn mark(&self) -> String {
        match &self.constant {
            Some(bytes) => format!("{:#x}", host_number(bytes)),
            None => self.words.clone(),
        }
    }

    /// The constant in the register as a number; `?` if something else is there.
    fn number(&self) -> String {
        let constant = self.constant.as_deref().and_then(number);
        constant.map_or_else(|| "?".to_owned(), |number| number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytecode;
    use crate::{Facts, Plan, Policy};

    /// What `nft` is given and what we say about the outcome agree in their words.
    #[test]
    fn our_own_rules_read_like_their_nft_text() {
        let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
        let program = bytecode::program(&plan);
        let rules: Vec<String> = program
            .tables
            .iter()
            .flat_map(|table| &table.chains)
            .flat_map(|chain| &chain.rules)
            .map(|rule| describe(&rule.expressions))
            .collect();
        for expected in [
            "meta l4proto tcp th dport { 15020-15021, 15090 } counter return",
            "meta l4proto tcp tcp flags & fin|syn|rst|ack syn counter redirect to :15006",
            "oifname \"lo\" ",
            "ip saddr 127.0.0.6",
            "meta skuid 1337 counter return",
            "ct original zone set 1",
            "ct status & dnat != 0",
            "reject with tcp reset",
        ] {
            assert!(
                rules.iter().any(|rule| rule.contains(expected)),
                "{expected}: {rules:#?}"
            );
        }
        assert!(
            rules
                .iter()
                .all(|rule| !rule.contains('?') && !rule.contains('['))
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        let foreign = [
            Expression::Payload {
                base: Header::Transport,
                offset: 20,
                length: 3,
            },
            Expression::Compare {
                operator: Operator::NotEqual,
                value: [1, 2, 3].into(),
            },
            Expression::Other {
                name: "quota".to_owned(),
                data: Vec::new(),
            },
            Expression::Redirect,
        ];
        assert_eq!(
            describe(&foreign),
            "@th,160,24 != 66051 [quota] redirect to :?"
        );
    }
}
