//! Regular expressions that mean the same here and in Envoy, which uses RE2.
//!
//! Envoy refuses a whole configuration for one expression that it does not take, so what RE2 does
//! not know is refused here, and so is what RE2 reads differently.

use std::fmt;
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ast::{self, Ast, Span, Visitor};

use crate::Problem;

/// A regular expression in the part of RE2's syntax that Rust's `regex` reads alike.
///
/// Envoy has RE2 compare bytes, not characters, so an expression is of ASCII: `.` is one byte, and
/// `.*` any text. Not taken, though RE2 has it: `\B`, `\C`, `\Q…\E`, octal escapes, a `{` that
/// begins no repetition, `&&` in a class, and `\p`, whose classes are of characters.
/// Source: <https://github.com/google/re2/wiki/Syntax>.
///
/// ```
/// # use mesh_model::pattern::Pattern;
/// let pattern: Pattern = "/v[0-9]+/.*".parse().unwrap();
/// assert!(pattern.matches("/v1/items"));
/// assert!(!pattern.matches("/api/v1/items"));
/// assert!("(?x) a b".parse::<Pattern>().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// Istio's limit, in bytes.
const LONGEST: usize = 1024;
/// RE2 refuses repetitions of more, nested ones multiplied.
const MOST_REPETITIONS: u32 = 1000;
/// Keeps the compiled form below about 10,000 states, so that RE2's is below the 32,768 to which
/// Istio and this mesh set Envoy's `re2.max_program_size.error_level`.
const COMPILED_SIZE: usize = 256 << 10;
const NESTING: u32 = 64;

// === impl Pattern ===

impl Pattern {
    /// Whether it matches the whole of `text`, as Envoy's matchers ask.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text.as_bytes())
    }

    /// How many groups it captures, which a replacement may name `\1`, `\2` and so on.
    pub fn groups(&self) -> usize {
        self.0.captures_len() - 1
    }
}

impl FromStr for Pattern {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let problem = |why: &dyn fmt::Display| {
            Problem::new(
                "",
                text,
                format!("a regular expression that RE2 takes ({why})"),
            )
        };
        if text.len() > LONGEST {
            return Err(problem(&"at most 1024 bytes"));
        }
        if !text.is_ascii() {
            return Err(problem(&"only ASCII, because the proxy compares bytes"));
        }
        let tree = ast::parse::ParserBuilder::new()
            .nest_limit(NESTING)
            .build()
            .parse(text)
            .map_err(|error| problem(error.kind()))?;
        let mut changes = ast::visit(&tree, Check::new(text)).map_err(|why| problem(&why))?;
        // From the end, so that the places of the others stay right.
        changes.sort_by_key(|(span, _)| std::cmp::Reverse(span.start.offset));
        let mut ours = text.to_owned();
        for (span, replacement) in changes {
            ours.replace_range(span.start.offset..span.end.offset, replacement);
        }
        RegexBuilder::new(&format!(r"\A(?:{ours})\z"))
            .unicode(false)
            .size_limit(COMPILED_SIZE)
            .nest_limit(NESTING + 2)
            .build()
            .map(Self)
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => problem(&"too large when compiled"),
                _ => problem(&"not understood"),
            })
    }
}

/// Finds what RE2 does not take, and what it means differently.
struct Check<'a> {
    text: &'a str,
    /// What must be written differently to mean here what it means in RE2.
    changes: Vec<(Span, &'static str)>,
    /// The product of the repetitions around the current place.
    repetitions: Vec<u32>,
}

impl<'a> Check<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            changes: Vec::new(),
            repetitions: vec![1],
        }
    }

    /// RE2's `\d`, `\s`, `\w` are of ASCII.
    fn perl(&mut self, class: &ast::ClassPerl) {
        use ast::ClassPerlKind::{Digit, Space, Word};
        let ours = match (&class.kind, class.negated) {
            (Digit, false) => "[0-9]",
            (Digit, true) => "[^0-9]",
            (Space, false) => r"[\t\n\x0C\r ]",
            (Space, true) => r"[^\t\n\x0C\r ]",
            (Word, false) => "[0-9A-Za-z_]",
            (Word, true) => "[^0-9A-Za-z_]",
        };
        self.changes.push((class.span, ours));
    }
}

impl Visitor for Check<'_> {
    type Output = Vec<(Span, &'static str)>;
    type Err = &'static str;

    fn finish(self) -> Result<Self::Output, Self::Err> {
        Ok(self.changes)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        match ast {
            Ast::Flags(set) => flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(set) => flags(set),
                ast::GroupKind::CaptureName { name, .. } => {
                    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    if name.name.chars().all(word) {
                        Ok(())
                    } else {
                        Err("name of a group")
                    }
                }
                ast::GroupKind::CaptureIndex(_) => Ok(()),
            },
            Ast::Literal(text) => literal(text),
            Ast::Assertion(assertion) => {
                use ast::AssertionKind::{
                    EndLine, EndText, NotWordBoundary, StartLine, StartText, WordBoundary,
                };
                match assertion.kind {
                    StartLine | EndLine | StartText | EndText | WordBoundary => Ok(()),
                    // RE2 and Rust disagree about it at the ends of an empty text.
                    NotWordBoundary => Err(r"no `\B`"),
                    _ => Err("no half word boundaries"),
                }
            }
            Ast::ClassUnicode(_) => Err(NO_CHARACTERS),
            Ast::ClassPerl(class) => {
                self.perl(class);
                Ok(())
            }
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return Err("no repetition of a repetition");
                }
                let times = times(&repetition.op, self.text)?;
                let product = times.saturating_mul(*self.repetitions.last().unwrap_or(&1));
                if product > MOST_REPETITIONS {
                    return Err("at most 1000 repetitions, nested ones multiplied");
                }
                self.repetitions.push(product);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        if matches!(ast, Ast::Repetition(_)) {
            self.repetitions.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), Self::Err> {
        match item {
            ast::ClassSetItem::Bracketed(_) => Err("no `[` in a class"),
            ast::ClassSetItem::Unicode(_) => Err(NO_CHARACTERS),
            ast::ClassSetItem::Perl(class) => {
                self.perl(class);
                Ok(())
            }
            ast::ClassSetItem::Literal(text) => literal(text),
            ast::ClassSetItem::Range(range) => {
                literal(&range.start).and_then(|()| literal(&range.end))
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(
        &mut self,
        _: &ast::ClassSetBinaryOp,
    ) -> Result<(), Self::Err> {
        Err("no `&&`, `--` or `~~` in a class")
    }
}

/// Only flags that RE2 has.
fn flags(flags: &ast::Flags) -> Result<(), &'static str> {
    let known = flags.items.iter().all(|item| match item.kind {
        ast::FlagsItemKind::Negation => true,
        ast::FlagsItemKind::Flag(flag) => matches!(
            flag,
            ast::Flag::CaseInsensitive
                | ast::Flag::MultiLine
                | ast::Flag::DotMatchesNewLine
                | ast::Flag::SwapGreed
        ),
    });
    if known {
        Ok(())
    } else {
        Err("flags are `i`, `m`, `s`, `U`")
    }
}

/// Only escapes that RE2 has.
fn literal(literal: &ast::Literal) -> Result<(), &'static str> {
    use ast::HexLiteralKind::X;
    use ast::LiteralKind::{HexBrace, HexFixed};
    match &literal.kind {
        HexFixed(kind) | HexBrace(kind) if *kind != X => Err(r"no `\u` or `\U`"),
        _ if !literal.c.is_ascii() => Err(r"`\x` up to 7f only, because the proxy compares bytes"),
        _ => Ok(()),
    }
}

const NO_CHARACTERS: &str = r"no `\p`, because the proxy compares bytes, not characters";

/// How often at most something is repeated, as far as it makes the compiled form larger.
fn times(op: &ast::RepetitionOp, text: &str) -> Result<u32, &'static str> {
    use ast::RepetitionRange::{AtLeast, Bounded, Exactly};
    match &op.kind {
        ast::RepetitionKind::Range(range) => {
            let written = text
                .get(op.span.start.offset..op.span.end.offset)
                .unwrap_or_default();
            if written.starts_with("{,") || written.contains(' ') {
                return Err("a repetition as `{n}`, `{n,}` or `{n,m}`");
            }
            Ok(match range {
                Exactly(n) | AtLeast(n) => (*n).max(1),
                Bounded(_, most) => (*most).max(1),
            })
        }
        _ => Ok(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_must_match() {
        let matches = |pattern: &str, text: &str| pattern.parse::<Pattern>().unwrap().matches(text);
        assert!(matches("a|ab", "ab"));
        assert!(!matches("a", "ab"));
        assert!(!matches("a$", "a\n"));
        assert!(matches("^(.*?;)?(user=jason)(;.*)?$", "x=1;user=jason"));
        assert!(matches("(?i)Ab", "aB"));
        assert!(matches(r"\bab\b", "ab"));
    }

    #[test]
    fn classes_are_of_ascii_as_in_re2() {
        let matches = |pattern: &str, text: &str| pattern.parse::<Pattern>().unwrap().matches(text);
        assert!(matches(r"\d+\w\s", "12a "));
        // ARABIC-INDIC DIGIT ONE, LATIN SMALL LETTER A WITH DIAERESIS, NO-BREAK SPACE.
        assert!(!matches(r"\d", "\u{661}"));
        assert!(!matches(r"[\w-]", "\u{e4}"));
        assert!(!matches(r"\s", "\u{a0}"));
        assert!(matches(r"\W+", "\u{e4}"));
        assert!(matches(r"[^\d]*", "\u{661}"));
        // Two bytes.
        assert!(matches(r"..", "\u{e4}") && !matches(r".", "\u{e4}"));
        assert!(matches(r"[^/]+", "\u{e4}") && matches("(?i)K", "k"));
        assert!(!matches("(?i)k", "\u{212a}"), "KELVIN SIGN");
    }

    #[test]
    fn what_re2_does_not_take_is_refused() {
        for pattern in [
            "*",
            "(",
            "[",
            "a{1001}",
            "(a{100}){11}",
            "a**",
            "a{2}{3}",
            "(?x)a",
            "(?u)a",
            "(?R)a",
            "[a&&b]",
            "[a[b]]",
            r"\u0041",
            r"\x{41}\U00000041",
            r"\x{80}",
            r"[\x00-\xff]",
            "\u{e4}",
            "[\u{e4}]",
            r"\pL",
            r"[\p{Lu}]",
            r"\p{Greek}",
            r"\p{sc=Greek}",
            r"\b{start}",
            r"\<a",
            "a{,5}",
            r"\Z",
            r"(?<=a)b",
            r"(a)\1",
            r"\B",
            "(?P<a.b>c)",
            &"a".repeat(1025),
            &"(".repeat(500),
        ] {
            assert!(pattern.parse::<Pattern>().is_err(), "{pattern}");
        }
    }

    #[test]
    fn what_istios_users_write_is_taken() {
        for pattern in [
            ".*",
            "^/api/v[0-9]+/(items|orders)(/.*)?$",
            "[A-Za-z]{2,5}",
            "(?:a|b)+?",
            r"a\.b\/c\-d",
            r"[[:alpha:]_]*",
            r"(?P<name>x)",
            "",
            "a{0,1000}",
            r"[^/]+\.(png|jpg)",
            r"\x41\x{41}",
        ] {
            assert!(pattern.parse::<Pattern>().is_ok(), "{pattern}");
        }
    }
}
