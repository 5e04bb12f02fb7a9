//! Health checks of services.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::duration;
use super::port::number;
use super::problem::Located;
use super::reader::{Field, Reader};

/// How a service shows that it can be used.
///
/// Source: Compose specification, `healthcheck`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct HealthCheck {
    /// What is run; a service with `disable: true` has no check at all.
    #[serde(serialize_with = "write_test")]
    pub test: Vec<String>,
    /// Time between two questions.
    #[serde(
        serialize_with = "duration::write",
        skip_serializing_if = "Option::is_none"
    )]
    pub interval: Option<Duration>,
    /// How long one answer may take.
    #[serde(
        serialize_with = "duration::write",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Time in which failures do not count.
    #[serde(
        serialize_with = "duration::write",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_period: Option<Duration>,
    /// Time between two questions in that time.
    #[serde(
        serialize_with = "duration::write",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_interval: Option<Duration>,
}

fn write_test<S: Serializer>(test: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(std::iter::once("CMD").chain(test.iter().map(String::as_str)))
}

/// `healthcheck` of a service; nothing where it is turned off.
pub(super) fn read<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Option<Located<HealthCheck>> {
    let mut check = HealthCheck {
        test: Vec::new(),
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
        start_interval: None,
    };
    let before = reader.problems.len();
    let mut disabled = false;
    for (key, value) in reader.entries(field) {
        let mut time = |into: &mut Option<Duration>| {
            let found = reader.parsed(&value, duration::EXPECTED, duration::parse);
            *into = found.map(|it| it.value);
        };
        match key.value.as_str() {
            "interval" => time(&mut check.interval),
            "timeout" => time(&mut check.timeout),
            "start_period" => time(&mut check.start_period),
            "start_interval" => time(&mut check.start_interval),
            "retries" => {
                let found = reader.parsed(&value, "a number", number);
                check.retries = found.map(|it| it.value);
            }
            "disable" => disabled |= reader.flag(&value),
            "test" => match test(reader, &value) {
                Some(test) => check.test = test,
                None => disabled = true,
            },
            _ => reader.unsupported(&key, &value, "a health check"),
        }
    }
    if disabled || reader.problems.len() > before {
        return None;
    }
    if check.test.is_empty() {
        reader.problem(
            field,
            "found no `test`, and checks of images are not known here",
        );
        return None;
    }
    Some(field.located(check))
}

/// What is run, without its first word; nothing for `[NONE]`.
fn test<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Option<Vec<String>> {
    let shell = |line: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), line];
    if field.is_text() {
        return reader.text(field).map(|line| shell(line.value));
    }
    let items = reader.texts(field);
    let mut words = items.into_iter().map(|it| it.value);
    let first = words.next().unwrap_or_default();
    let mut words: Vec<_> = words.collect();
    match (first.as_str(), words.len()) {
        ("NONE", 0) => None,
        ("CMD", 1..) => Some(words),
        ("CMD-SHELL", 1) => words.pop().map(shell),
        _ => {
            let expected =
                "what a test begins with (`CMD` and words, `CMD-SHELL` and a line, `NONE` alone)";
            reader.wrong(field, &first, expected);
            None
        }
    }
}
