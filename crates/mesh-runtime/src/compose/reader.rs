//! Walks the tree of a file: replaces variables, parses text, and collects everything that is wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::interpolate::interpolate;
use super::node::{Node, Value};
use super::problem::{FileProblem, Located, Position, excerpt};
use super::words::words;

/// What is wrong with a file so far, and what replaces its variables.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    variables: &'a BTreeMap<String, String>,
    /// How many bytes variables may still add.
    room: usize,
    pub(super) problems: Vec<FileProblem>,
    pub(super) notes: Vec<FileProblem>,
    unset: BTreeSet<String>,
}

/// A value of the file, and its path there.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    node: &'a Node,
    pub(super) path: String,
    /// Where the value is, or the key if there is none.
    pub(super) at: Position,
}

/// How much text the variables of a file may make.
const MAX_EXPANDED: usize = 4 * 1024 * 1024;

/// The longest key: paths in messages are made from them.
const MAX_KEY: usize = 255;

impl<'a> Reader<'a> {
    pub(super) fn new(variables: &'a BTreeMap<String, String>) -> Self {
        Self {
            variables,
            room: MAX_EXPANDED,
            problems: Vec::new(),
            notes: Vec::new(),
            unset: BTreeSet::new(),
        }
    }

    /// A value is not what is expected there.
    pub(super) fn wrong(&mut self, field: &Field<'_>, found: &str, expected: &str) {
        let problem = FileProblem::wrong(field.at, &field.path, found, expected);
        self.problems.push(problem);
    }

    /// Something else about a value.
    pub(super) fn problem(&mut self, field: &Field<'_>, message: impl Into<String>) {
        self.problems
            .push(FileProblem::new(field.at, &field.path, message));
    }

    /// A key is not one of those that are read here.
    pub(super) fn unsupported(&mut self, key: &Located<String>, field: &Field<'_>, of: &str) {
        let expected = format!("a key of {of} that is supported here");
        let problem = FileProblem::wrong(key.at, &field.path, &key.value, &expected);
        self.problems.push(problem);
    }

    /// Whether there is a value at all; if there is none, what was expected is told.
    pub(super) fn is_given(&mut self, field: &Field<'_>, expected: &str) -> bool {
        let given = !field.is_null();
        if !given {
            self.problem(field, format!("found nothing, expected {expected}"));
        }
        given
    }

    /// A scalar, with its variables replaced.
    pub(super) fn text(&mut self, field: &Field<'_>) -> Option<Located<String>> {
        match &field.node.value {
            Value::Text(raw) => self.interpolated(field, raw),
            Value::Null => {
                self.problem(field, "found nothing, expected a text");
                None
            }
            Value::List(_) => {
                self.problem(field, "found a list, expected a text");
                None
            }
            Value::Map(_) => {
                self.problem(field, "found a map, expected a text");
                None
            }
        }
    }

    fn interpolated(&mut self, field: &Field<'_>, raw: &str) -> Option<Located<String>> {
        let found = match interpolate(raw, self.variables, self.room) {
            Ok(found) => found,
            Err(message) => {
                self.problem(field, message);
                return None;
            }
        };
        self.room = self.room.saturating_sub(found.text.len());
        for name in found.unset {
            if self.unset.insert(name.clone()) {
                let message = format!(
                    "variable `{}` is not set: it stands for nothing",
                    excerpt(&name)
                );
                self.notes
                    .push(FileProblem::new(field.at, &field.path, message));
            }
        }
        if found.text.contains('\0') {
            self.wrong(field, &found.text, "a text without NUL");
            return None;
        }
        Some(field.located(found.text))
    }

    /// A scalar that is parsed.
    pub(super) fn parsed<T>(
        &mut self,
        field: &Field<'_>,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Located<T>> {
        let text = self.text(field)?;
        let value = parse(&text.value);
        if value.is_none() {
            self.wrong(field, &text.value, expected);
        }
        value.map(|value| field.located(value))
    }

    /// `true` or `false`; false if it is neither.
    pub(super) fn flag(&mut self, field: &Field<'_>) -> bool {
        let parse = |text: &str| text.to_ascii_lowercase().parse().ok();
        self.parsed(field, "`true` or `false`", parse)
            .is_some_and(|it| it.value)
    }

    /// The only value that is supported of a key.
    pub(super) fn only(&mut self, field: &Field<'_>, allowed: &[&str]) {
        let expected = format!("supported here, only `{}`", allowed.join("` and `"));
        self.parsed(field, &expected, |text| {
            allowed.contains(&text).then_some(())
        });
    }

    /// The items of a list.
    pub(super) fn list(&mut self, field: &Field<'a>) -> Vec<Field<'a>> {
        let Value::List(items) = &field.node.value else {
            self.problem(field, format!("found {}, expected a list", field.kind()));
            return Vec::new();
        };
        let item = |(index, node): (usize, &'a Node)| Field {
            node,
            path: format!("{}[{index}]", field.path),
            at: node.at,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The items of a list, or the value itself where one may stand for a list of one.
    pub(super) fn one_or_more(&mut self, field: &Field<'a>) -> Vec<Field<'a>> {
        match &field.node.value {
            Value::Text(_) => vec![field.clone()],
            _ => self.list(field),
        }
    }

    /// The entries of a map, without extension fields (`x-…`).
    pub(super) fn entries(&mut self, field: &Field<'a>) -> Vec<(Located<String>, Field<'a>)> {
        let mut entries = self.all_entries(field);
        entries.retain(|(key, _)| !key.value.starts_with("x-"));
        entries
    }

    fn all_entries(&mut self, field: &Field<'a>) -> Vec<(Located<String>, Field<'a>)> {
        let Value::Map(entries) = &field.node.value else {
            self.problem(field, format!("found {}, expected a map", field.kind()));
            return Vec::new();
        };
        let mut found = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let name = match &key.value {
                Value::Text(name) if name.len() <= MAX_KEY && !name.contains('\0') => name,
                Value::Text(name) => {
                    let expected = format!("a key (at most {MAX_KEY} bytes, no NUL)");
                    let problem = FileProblem::wrong(key.at, &field.path, name, &expected);
                    self.problems.push(problem);
                    continue;
                }
                _ => {
                    let message = "a key is not a text";
                    self.problems
                        .push(FileProblem::new(key.at, &field.path, message));
                    continue;
                }
            };
            let dot = if field.path.is_empty() { "" } else { "." };
            let given = !matches!(node.value, Value::Null);
            let child = Field {
                node,
                path: format!("{}{dot}{}", field.path, excerpt(name)),
                at: if given { node.at } else { key.at },
            };
            let key = Located {
                value: name.clone(),
                at: key.at,
            };
            found.push((key, child));
        }
        found
    }

    /// A list of texts, or one.
    pub(super) fn texts(&mut self, field: &Field<'a>) -> Vec<Located<String>> {
        let items = self.one_or_more(field);
        items.iter().filter_map(|item| self.text(item)).collect()
    }

    /// A map, or a list of `NAME=value`. A name without value has the value of the variable of
    /// that name where `inherits`, and is left out if there is none; else it has an empty value.
    pub(super) fn pairs(&mut self, field: &Field<'a>, inherits: bool) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        let mut add =
            |reader: &mut Self, field: &Field<'_>, name: String, value: Option<String>| {
                if name.is_empty() || name.contains('=') {
                    reader.wrong(field, &name, "a name (not empty, without `=`)");
                    return;
                }
                let inherited = || {
                    if inherits {
                        reader.variables.get(&name).cloned()
                    } else {
                        Some(String::new())
                    }
                };
                if let Some(value) = value.or_else(inherited) {
                    pairs.insert(name, value);
                }
            };
        if matches!(field.node.value, Value::Map(_)) {
            for (key, value) in self.all_entries(field) {
                if value.is_null() {
                    add(self, &value, key.value, None);
                } else if let Some(text) = self.text(&value) {
                    add(self, &value, key.value, Some(text.value));
                }
            }
        } else {
            for item in self.list(field) {
                if let Some(text) = self.text(&item) {
                    let (name, value) = match text.value.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (text.value.as_str(), None),
                    };
                    add(self, &item, name.to_owned(), value);
                }
            }
        }
        pairs
    }

    /// A list of words, or a line that is split as a shell would.
    pub(super) fn command(&mut self, field: &Field<'a>) -> Option<Vec<Located<String>>> {
        match &field.node.value {
            Value::Null => None,
            Value::Text(_) => {
                let line = self.text(field)?;
                match words(&line.value) {
                    Ok(words) => Some(words.into_iter().map(|it| field.located(it)).collect()),
                    Err(message) => {
                        self.problem(field, message);
                        None
                    }
                }
            }
            _ => {
                let items = self.list(field);
                Some(items.iter().filter_map(|item| self.text(item)).collect())
            }
        }
    }
}

impl<'a> Field<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self {
            node,
            path: String::new(),
            at: node.at,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.node.value, Value::Text(_))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(super) fn located<T>(&self, value: T) -> Located<T> {
        Located { value, at: self.at }
    }

    fn kind(&self) -> &'static str {
        match self.node.value {
            Value::Null => "nothing",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}
