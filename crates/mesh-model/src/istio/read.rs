//! Reads JSON into Istio's types and says everything that does not fit, not only the first.
//!
//! Serde stops at the first error. So a document is read again without the values that did not
//! fit, until the rest does: every field of Istio's messages may be absent. The number of errors,
//! and with it the work, is limited.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use crate::Problem;

/// What was read.
#[derive(Debug)]
pub(super) struct Read<T> {
    /// What fits; `None` when nothing does, or too much does not.
    pub(super) value: Option<T>,
    /// What does not.
    pub(super) problems: Vec<Problem>,
    /// Paths of the fields that the type does not have.
    pub(super) unknown: BTreeSet<String>,
}

/// Values beyond this many that do not fit are not looked for: each costs one more reading.
const MOST_PROBLEMS: usize = 32;
/// Longer values are cut in messages.
const MOST_CHARACTERS: usize = 80;

/// Reads `value`, which stands at `path`.
pub(super) fn read<T: DeserializeOwned>(value: &Value, path: &str) -> Read<T> {
    let mut problems = Vec::new();
    let mut state = State::default();
    let value = loop {
        state.unknown.take();
        let reader = Reader {
            value,
            path: Path::Root(path),
            state: &state,
        };
        let error = match T::deserialize(reader) {
            Ok(value) => break Some(value),
            Err(error) => error,
        };
        let place = error
            .place
            .unwrap_or_else(|| Place::of(value, &Path::Root(path)));
        let expected = expectation(&error.expected, &place.shown);
        problems.push(Problem::new(place.path, place.shown, expected));
        let whole = std::ptr::eq(place.address, value);
        // A value that fails again after it was dropped would be a bug of a type: stop there too.
        if whole || problems.len() == MOST_PROBLEMS || !state.dropped.insert(place.address) {
            break None;
        }
    };
    Read {
        value,
        problems,
        unknown: state.unknown.into_inner(),
    }
}

/// A value as messages show it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => cut(text),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

/// Text as messages show it: not longer than a line.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Where a value stands, as a list from the inside out.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root(&'a str),
    Field(&'a Self, &'a str),
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

#[derive(Default)]
struct State {
    /// Addresses of the values that did not fit and are passed over.
    dropped: HashSet<*const Value>,
    unknown: RefCell<BTreeSet<String>>,
}

/// A deserializer of one value.
#[derive(Clone, Copy)]
struct Reader<'a, 'de> {
    value: &'de Value,
    path: Path<'a>,
    state: &'a State,
}

/// What was expected, and where, as soon as it is known.
#[derive(Debug)]
struct Error {
    expected: String,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    path: String,
    shown: String,
    address: *const Value,
}

// === impl Path ===

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Key(parent, key) => write!(f, "{parent}[{}]", cut(key)),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

// === impl Place ===

impl Place {
    fn of(value: &Value, path: &Path<'_>) -> Self {
        Self {
            path: path.to_string(),
            shown: shown(value),
            address: value,
        }
    }
}

// === impl Error ===

impl Error {
    /// The error with its place, unless a place further inside is known.
    fn at(mut self, place: impl FnOnce() -> Place) -> Self {
        self.place.get_or_insert_with(place);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expected)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            expected: message.to_string(),
            place: None,
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(expected)
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("one of `{}`", expected.join("`, `")))
    }
}

/// What was expected, in the words of people who write configuration.
fn expectation(expected: &str, shown: &str) -> String {
    let plain = match expected {
        "a map" => "an object",
        "a sequence" => "a list",
        "a boolean" => "`true` or `false`",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number from 0 on",
        "f64" => "a number",
        other if other.starts_with("struct ") => "an object",
        // Text that is parsed by a type of ours: the message of its own `Problem`.
        other => other
            .strip_prefix(&format!("`{shown}` is not "))
            .unwrap_or(other),
    };
    plain.to_owned()
}

// === impl Reader ===

impl<'de> Reader<'_, 'de> {
    fn place(&self) -> Place {
        Place::of(self.value, &self.path)
    }

    fn visit<V: Visitor<'de>>(self, visitor: V, fields: Fields) -> Result<V::Value, Error> {
        let result = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., Some(value)) => visitor.visit_f64(value),
                _ => Err(de::Error::custom("a number")),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(list) => visitor.visit_seq(Elements {
                parent: &self.path,
                state: self.state,
                rest: list.iter().enumerate(),
            }),
            Value::Object(map) => visitor.visit_map(Entries {
                parent: &self.path,
                state: self.state,
                fields,
                rest: map.iter(),
                next: None,
            }),
        };
        result.map_err(|error| error.at(|| self.place()))
    }
}

impl<'de> Deserializer<'de> for Reader<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor, Fields::Keys)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            // Derived types would also take a list of the values of their fields.
            Value::Object(_) => self.visit(visitor, Fields::Names),
            _ => Err(Error {
                expected: "an object".to_owned(),
                place: Some(self.place()),
            }),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::String(text) = self.value else {
            let error: Error = de::Error::unknown_variant("", variants);
            return Err(error.at(|| self.place()));
        };
        let choice: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
        visitor
            .visit_enum(choice)
            .map_err(|error| error.at(|| self.place()))
    }

    /// Only the fields that a type does not have are read in this way.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.state
            .unknown
            .borrow_mut()
            .insert(self.path.to_string());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

/// What the keys of an object are.
#[derive(Clone, Copy)]
enum Fields {
    /// Names of fields: null is the same as absent, as protobuf has it.
    Names,
    /// The user's own.
    Keys,
}

struct Elements<'a, 'de> {
    parent: &'a Path<'a>,
    state: &'a State,
    rest: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self
            .rest
            .find(|(_, value)| !self.state.dropped.contains(&std::ptr::from_ref(*value)))
        else {
            return Ok(None);
        };
        let path = Path::Index(self.parent, index);
        let reader = Reader {
            value,
            path,
            state: self.state,
        };
        seed.deserialize(reader)
            .map(Some)
            .map_err(|error| error.at(|| reader.place()))
    }
}

struct Entries<'a, 'de> {
    parent: &'a Path<'a>,
    state: &'a State,
    fields: Fields,
    rest: <&'de Map<String, Value> as IntoIterator>::IntoIter,
    next: Option<(&'de str, &'de Value)>,
}

impl<'de> Entries<'_, 'de> {
    fn reader_of<'b>(&'b self, key: &'b str, value: &'de Value) -> Reader<'b, 'de> {
        let path = match self.fields {
            Fields::Names => Path::Field(self.parent, key),
            Fields::Keys => Path::Key(self.parent, key),
        };
        Reader {
            value,
            path,
            state: self.state,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let (dropped, fields) = (&self.state.dropped, self.fields);
        let Some((key, value)) = self.rest.find(|(_, value)| {
            let absent = value.is_null() && matches!(fields, Fields::Names);
            !absent && !dropped.contains(&std::ptr::from_ref(*value))
        }) else {
            return Ok(None);
        };
        self.next = Some((key, value));
        let read = seed.deserialize(KeyReader(key));
        read.map(Some).map_err(|error| {
            error.at(|| Place {
                shown: cut(key),
                ..self.reader_of(key, value).place()
            })
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, value)) = self.next.take() else {
            return Err(de::Error::custom("a value after its key"));
        };
        let reader = self.reader_of(key, value);
        seed.deserialize(reader)
            .map_err(|error| error.at(|| reader.place()))
    }
}

/// A deserializer of one key; numbers are written as text in JSON.
struct KeyReader<'de>(&'de str);

impl<'de> Deserializer<'de> for KeyReader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u16(number),
            Err(_) => Err(de::Error::custom("u16")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
