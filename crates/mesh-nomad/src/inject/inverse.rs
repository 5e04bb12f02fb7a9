//! The way back: how an injected group becomes the one it was, told by the group itself.
//!
//! Injection does not keep a record of what it does. The edits are found by comparing the group
//! before and after, so nothing that it does can be forgotten. They address list elements by name,
//! say what they expect to find, and take out only what was put in: a job that came back from a
//! server with its defaults filled in, or to which somebody added a task, goes back as well.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A step of the way to a value.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
enum Step {
    Key(String),
    Item(usize),
    Named(usize, String),
}

/// What takes a part of an injected group back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
enum Edit {
    /// A key with another value: `[was]`, or `[]` if there was no such key.
    #[serde(rename = "set")]
    Set(Vec<Step>, Vec<Value>, Value),
    /// An element at the end of a list.
    #[serde(rename = "add")]
    Added(Vec<Step>, Value),
}

/// Why an edit does not fit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Misfit {
    /// The part that it is about, as in `Tasks[app].User`.
    pub(super) path: String,
    pub(super) reason: String,
}

/// The edits that turn `after` into `before`, as JSON.
pub(super) fn encode(before: &Value, after: &Value) -> String {
    let mut edits = Vec::new();
    compare(before, after, &mut Vec::new(), &mut edits);
    serde_json::to_string(&edits).unwrap_or_default()
}

/// Applies the edits of `text` to `value`, an injected group.
pub(super) fn apply(text: &str, value: &mut Value) -> Result<(), Vec<Misfit>> {
    let edits: Vec<Edit> = serde_json::from_str(text).map_err(|error| {
        vec![Misfit {
            path: String::new(),
            reason: format!("the record of what injection did is damaged: {error}"),
        }]
    })?;
    // Backwards, so that elements are taken from the end of lists first.
    let misfits: Vec<Misfit> = edits
        .iter()
        .rev()
        .filter_map(|edit| edit.apply(value).err())
        .collect();
    if misfits.is_empty() {
        Ok(())
    } else {
        Err(misfits)
    }
}

fn compare(before: &Value, after: &Value, at: &mut Vec<Step>, edits: &mut Vec<Edit>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, now) in after {
                at.push(Step::Key(key.clone()));
                match before.get(key) {
                    Some(was) => compare(was, now, at, edits),
                    None => edits.push(Edit::Set(at.clone(), Vec::new(), brief(now))),
                }
                at.pop();
            }
            for (key, was) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
                at.push(Step::Key(key.clone()));
                edits.push(Edit::Set(at.clone(), vec![was.clone()], Value::Null));
                at.pop();
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() <= after.len() => {
            for (index, (was, now)) in before.iter().zip(after).enumerate() {
                at.push(name(now).map_or(Step::Item(index), |name| {
                    Step::Named(index, name.to_owned())
                }));
                compare(was, now, at, edits);
                at.pop();
            }
            for added in after.iter().skip(before.len()) {
                edits.push(Edit::Added(at.clone(), brief(added)));
            }
        }
        (was, now) if was == now => {}
        (was, now) => edits.push(Edit::Set(at.clone(), vec![was.clone()], brief(now))),
    }
}

/// The name of a list's element.
fn name(value: &Value) -> Option<&str> {
    ["Name", "Label"]
        .into_iter()
        .filter_map(|key| value.get(key)?.as_str())
        .find(|name| !name.is_empty())
}

/// Of elements with a name, the name is enough to find them again.
fn brief(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(brief).collect(),
        Value::Object(map) if name(value).is_some() => {
            let tells = |key: &str| key == "Name" || key == "Label";
            let names = map.iter().filter(|(key, _)| tells(key));
            Value::Object(
                names
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            )
        }
        value => value.clone(),
    }
}

// === impl Edit ===

impl Edit {
    fn apply(&self, value: &mut Value) -> Result<(), Misfit> {
        match self {
            Self::Set(at, was, now) => {
                let Some((Step::Key(key), parents)) = at.split_last() else {
                    return Ok(());
                };
                // What was taken out by hand needs no way back.
                let Some(Value::Object(parent)) = find(value, parents) else {
                    return Ok(());
                };
                restore(parent, key, was.first(), now).map_err(|reason| Misfit {
                    path: path(at),
                    reason,
                })
            }
            Self::Added(at, item) => {
                if let Some(Value::Array(list)) = find(value, at) {
                    take(list, item);
                }
                Ok(())
            }
        }
    }
}

/// Puts `was` back in the place of `now`.
fn restore(
    parent: &mut Map<String, Value>,
    key: &str,
    was: Option<&Value>,
    now: &Value,
) -> Result<(), String> {
    let is_ours = match (parent.get_mut(key), now) {
        (Some(Value::Object(found)), Value::Object(put)) => {
            strip(found, put)?;
            found.is_empty()
        }
        (Some(Value::Array(found)), Value::Array(put)) => {
            for item in put.iter().rev() {
                take(found, item);
            }
            found.is_empty()
        }
        // Nomad fills in what injection took away with its own nothing.
        (found, now) => {
            let found = found.as_deref().unwrap_or(&Value::Null);
            if found != now && !(is_nothing(found) && is_nothing(now)) {
                return Err(format!("found {found} where injection left {now}"));
            }
            true
        }
    };
    match was {
        Some(was) if is_ours => {
            parent.insert(key.to_owned(), was.clone());
        }
        None if is_ours => {
            parent.remove(key);
        }
        // Others have put something of their own beside ours.
        _ => {}
    }
    Ok(())
}

/// Takes out of `found` what was put there.
fn strip(found: &mut Map<String, Value>, put: &Map<String, Value>) -> Result<(), String> {
    for (key, now) in put {
        match (found.get_mut(key), now) {
            (Some(Value::Object(inner)), Value::Object(now)) => {
                strip(inner, now)?;
                if !inner.is_empty() {
                    continue;
                }
            }
            (Some(found), now) if found != now => {
                return Err(format!(
                    "found {found} for `{key}` where injection put {now}"
                ));
            }
            _ => {}
        }
        found.remove(key);
    }
    found.retain(|_, value| !is_nothing(value));
    Ok(())
}

/// Takes the last element that is `item` out of the list.
fn take(list: &mut Vec<Value>, item: &Value) {
    if let Some(index) = list.iter().rposition(|found| includes(found, item)) {
        list.remove(index);
    }
}

/// Whether `found` has everything that `item` has.
fn includes(found: &Value, item: &Value) -> bool {
    match (found, item) {
        (Value::Object(found), Value::Object(item)) => item.iter().all(|(key, item)| {
            let found = found.get(key).unwrap_or(&Value::Null);
            includes(found, item) || is_nothing(found) && is_nothing(item)
        }),
        (found, item) => found == item,
    }
}

/// Whether Nomad makes no difference between this and an absent key.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn find<'a>(value: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Item(index) => value.get_mut(index),
        Step::Named(index, wanted) => {
            let list = value.as_array_mut()?;
            let is_wanted = |value: &Value| name(value) == Some(wanted);
            let index = if list.get(*index).is_some_and(is_wanted) {
                *index
            } else {
                list.iter().position(is_wanted)?
            };
            list.get_mut(index)
        }
    })
}

fn path(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Item(index) => text.extend(["[", &index.to_string(), "]"]),
            Step::Named(_, name) => text.extend(["[", name, "]"]),
        }
    }
    text
}
