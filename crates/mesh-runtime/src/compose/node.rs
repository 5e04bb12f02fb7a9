//! A YAML file as a tree of which each node knows its place, within bounds of time and memory.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::{FileProblem, Position};

/// A value of a file and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Position,
}

/// What a node is. Scalars are text: what is expected of them decides what they mean, so that the
/// tag `1.10` of an image does not lose its zero.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// The longest file that is read.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

impl Node {
    /// Reads the only document of a file.
    pub(super) fn read(source: &[u8]) -> Result<Self, FileProblem> {
        if source.len() > MAX_BYTES {
            let at = Position::of_byte(source, MAX_BYTES);
            return Err(FileProblem::new(
                at,
                "",
                format!("the file is longer than {MAX_BYTES} bytes"),
            ));
        }
        let text = std::str::from_utf8(source).map_err(|error| {
            let at = Position::of_byte(source, error.valid_up_to());
            FileProblem::new(at, "", "the file is not UTF-8 from here on")
        })?;
        let root: Spanned<Shape> = serde_saphyr::from_str_with_options(text, limits())
            .map_err(|error| syntax(text, &error))?;
        Ok(node(root, text))
    }
}

/// What a file may ask of the reader. Aliases count with all that they stand for.
fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            flow_nesting_limit: 32,
            max_documents: 1,
            max_nodes: 100_000,
            max_events: 300_000,
            max_aliases: 10_000,
            max_anchors: 10_000,
            max_merge_keys: 1_000,
            max_recorded_anchor_events: 300_000,
            max_recorded_anchor_bytes: 4 * 1024 * 1024,
            max_total_scalar_bytes: 4 * 1024 * 1024,
            max_total_comment_bytes: 1024 * 1024,
        },
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

fn syntax(text: &str, error: &serde_saphyr::Error) -> FileProblem {
    let end = Position::of_byte(text.as_bytes(), text.len());
    let at = error
        .location()
        .and_then(position)
        .map_or(end, |at| at.min(end));
    let mut message = error.to_string();
    // The place is told in front.
    let found = error
        .location()
        .map(|it| format!(" at line {}, column {}", it.line(), it.column()));
    if let Some(found) = found {
        message = message.replace(&found, "");
    }
    FileProblem::new(at, "", message.replace('\n', " "))
}

fn position(location: Location) -> Option<Position> {
    let line = u32::try_from(location.line()).ok()?;
    let column = u32::try_from(location.column()).ok()?;
    (line > 0 && column > 0).then_some(Position { line, column })
}

fn node(spanned: Spanned<Shape>, source: &str) -> Node {
    let place = spanned.defined;
    let at = position(place).unwrap_or(Position::START);
    let value = match spanned.value {
        Shape::Null => Value::Null,
        Shape::Text(text) => Value::Text(text),
        Shape::Plain(said) => Value::Text(as_written(place, source).unwrap_or(said)),
        Shape::List(items) => Value::List(items.into_iter().map(|it| node(it, source)).collect()),
        Shape::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (node(key, source), node(value, source)))
                .collect(),
        ),
    };
    Node { value, at }
}

/// A number or a truth value as it is in the file, unless it is quoted or tagged there.
fn as_written(place: Location, source: &str) -> Option<String> {
    let start = usize::try_from(place.span().byte_offset()?).ok()?;
    let length = usize::try_from(place.span().byte_len()?).ok()?;
    let text = source.get(start..start.checked_add(length)?)?.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    (!text.is_empty() && text.bytes().all(is_plain)).then(|| text.to_owned())
}

/// What the YAML library hands over.
enum Shape {
    Null,
    Text(String),
    /// A number or a truth value, in the words of the library.
    Plain(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<Self>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Plain(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Shape, E> {
        Ok(Shape::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Shape::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Shape::Map(map))
    }
}
