//! Variables in values: `$NAME`, `${NAME}`, `${NAME:-otherwise}` and the like, `$$` for a dollar.
//!
//! Source: Compose specification, "Interpolation".

use std::collections::BTreeMap;

/// A text with its variables replaced.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Interpolated {
    pub(super) text: String,
    /// Variables that have no value and no default, and stand for nothing.
    pub(super) unset: Vec<String>,
}

/// How deep defaults may be in defaults.
const MAX_DEPTH: usize = 16;

/// Replaces the variables of a text; `room` is how many bytes it may become.
///
/// # Errors
///
/// In words: what is wrong with the text.
pub(super) fn interpolate(
    text: &str,
    variables: &BTreeMap<String, String>,
    room: usize,
) -> Result<Interpolated, String> {
    let mut out = Interpolated::default();
    let mut scan = Scan {
        variables,
        room,
        rest: text,
    };
    scan.until_end(&mut out, 0)?;
    Ok(out)
}

struct Scan<'a> {
    variables: &'a BTreeMap<String, String>,
    room: usize,
    rest: &'a str,
}

impl<'a> Scan<'a> {
    /// To the end of the text, or (within braces) to the brace that closes.
    fn until_end(&mut self, out: &mut Interpolated, depth: usize) -> Result<(), String> {
        loop {
            let stop = if depth == 0 {
                &['$'][..]
            } else {
                &['$', '}'][..]
            };
            let at = self.rest.find(stop).unwrap_or(self.rest.len());
            let (plain, rest) = self.rest.split_at(at);
            self.push(out, plain)?;
            let mut after = rest.chars();
            match after.next() {
                None => return Ok(()),
                Some('}') => {
                    self.rest = rest;
                    return Ok(());
                }
                Some(_dollar) => {
                    self.rest = after.as_str();
                    self.variable(out, depth)?;
                }
            }
        }
    }

    /// What comes after a dollar.
    fn variable(&mut self, out: &mut Interpolated, depth: usize) -> Result<(), String> {
        if let Some(rest) = self.rest.strip_prefix('$') {
            self.rest = rest;
            return self.push(out, "$");
        }
        let Some(rest) = self.rest.strip_prefix('{') else {
            let name = self.name()?;
            let value = self.value(name, out);
            return self.push(out, &value);
        };
        if depth == MAX_DEPTH {
            return Err(format!("variables are nested more than {MAX_DEPTH} deep"));
        }
        self.rest = rest;
        let name = self.name()?;
        let set = self.variables.get(name);
        let operators = [":-", ":?", ":+", "-", "?", "+"];
        let operator = operators.into_iter().find(|it| self.rest.starts_with(it));
        if let Some(operator) = operator {
            self.rest = self.rest.get(operator.len()..).unwrap_or_default();
            let mut inner = Interpolated::default();
            self.until_end(&mut inner, depth + 1)?;
            let value = set.filter(|it| !operator.starts_with(':') || !it.is_empty());
            match (operator.trim_start_matches(':'), value) {
                ("+", Some(_)) | ("-", None) => {
                    out.text.push_str(&inner.text);
                    out.unset.append(&mut inner.unset);
                }
                ("?", None) => {
                    return Err(format!("variable `{name}` is required: {}", inner.text));
                }
                (_, Some(value)) => self.push(out, value)?,
                (_, None) => {}
            }
        } else {
            let value = self.value(name, out);
            self.push(out, &value)?;
        }
        let rest = self.rest.strip_prefix('}');
        self.rest = rest.ok_or_else(|| format!("`${{{name}` has no closing brace"))?;
        Ok(())
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
        let end = self.rest.find(|it| !is_part(it)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() || name.starts_with(|it: char| it.is_ascii_digit()) {
            return Err(
                "a `$` is not followed by the name of a variable (write `$$` for a dollar)"
                    .to_owned(),
            );
        }
        self.rest = rest;
        Ok(name)
    }

    fn value(&self, name: &str, out: &mut Interpolated) -> String {
        let value = self.variables.get(name).cloned();
        value.unwrap_or_else(|| {
            out.unset.push(name.to_owned());
            String::new()
        })
    }

    fn push(&mut self, out: &mut Interpolated, text: &str) -> Result<(), String> {
        self.room = self
            .room
            .checked_sub(text.len())
            .ok_or_else(|| "variables make the file too long".to_owned())?;
        out.text.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<String, String> {
        let variables = [("A", "a"), ("EMPTY", ""), ("DOLLAR", "$A")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        interpolate(text, &variables, 1000).map(|it| it.text)
    }

    #[test]
    fn each_form_means_what_the_specification_says() {
        for (text, expected) in [
            ("plain } text", "plain } text"),
            ("$A-${A}b", "a-ab"),
            ("$$A $${A}", "$A ${A}"),
            ("${NONE:-x}${EMPTY:-y}${EMPTY-z}", "xy"),
            ("${A:+x}${EMPTY:+x}${EMPTY+y}${NONE+z}", "xy"),
            ("${NONE:-${A:-b}c}", "ac"),
            ("${A:?must}", "a"),
            ("$DOLLAR", "$A"),
            ("é$Aé", "éaé"),
        ] {
            assert_eq!(with(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for text in ["$", "$1", "${A", "${}", "${A!}", "${A:-", "a$ b"] {
            assert!(with(text).is_err(), "{text}");
        }
        assert_eq!(
            with("${EMPTY:?say why}"),
            Err("variable `EMPTY` is required: say why".to_owned())
        );
        assert!(with(&"${A:-".repeat(1000)).is_err());
    }

    #[test]
    fn a_variable_without_value_is_empty_and_named() {
        let found = interpolate("[$NONE]", &BTreeMap::new(), 10).unwrap();
        assert_eq!(
            (found.text.as_str(), found.unset),
            ("[]", vec!["NONE".to_owned()])
        );
    }

    #[test]
    fn values_cannot_grow_without_bound() {
        let variables = [("A".to_owned(), "x".repeat(100))].into();
        assert!(interpolate("$A$A", &variables, 150).is_err());
    }
}
