//! Splits a command line into options and values, in the manner of `getopts` and of `pflag`.

use crate::{Problem, Problems};

/// An option of a tool.
#[derive(Debug)]
pub(super) struct Flag {
    /// Its name without the dashes; empty if it has none.
    pub(super) long: &'static str,
    /// Its letter.
    pub(super) letter: Option<char>,
    /// Whether a value follows.
    pub(super) takes: Takes,
}

/// Whether a value follows an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Takes {
    /// One does, in the same word or as the next.
    Value,
    /// None does; with a long name `=true` or `=false` may.
    Switch,
}

/// An option as it was given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Given {
    /// The option, by its place in the table of flags.
    pub(super) flag: usize,
    /// How it was written, for whoever reads what is wrong with it.
    pub(super) written: String,
    /// Its value; `true` for a switch without one.
    pub(super) value: String,
}

/// The options on a command line, in order. What is no option is a problem: a word that were left
/// out silently could be the one that mattered.
pub(super) fn split<S: AsRef<str>>(
    flags: &[Flag],
    arguments: &[S],
    problems: &mut Problems,
) -> Vec<Given> {
    let mut given = Vec::new();
    let mut rest = arguments.iter().map(AsRef::as_ref);
    while let Some(word) = rest.next() {
        if let Some(name) = word.strip_prefix("--").filter(|name| !name.is_empty()) {
            given.extend(long(flags, name, &mut rest, problems));
        } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty())
            && letters != "-"
        {
            letters_of(flags, letters, &mut rest, problems, &mut given);
        } else if word != "--" {
            problems.push(Problem::new("", word, "an option of the tool"));
        }
    }
    given
}

fn long<'a>(
    flags: &[Flag],
    text: &str,
    rest: &mut impl Iterator<Item = &'a str>,
    problems: &mut Problems,
) -> Option<Given> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let written = format!("--{name}");
    let Some((index, flag)) = find(flags, |flag| flag.long == name) else {
        problems.push(Problem::new("", written, "an option of the tool"));
        return None;
    };
    let value = match (value, flag.takes) {
        (Some(value), _) => value.to_owned(),
        (None, Takes::Switch) => "true".to_owned(),
        (None, Takes::Value) => next(&written, rest, problems)?,
    };
    Some(Given {
        flag: index,
        written,
        value,
    })
}

fn letters_of<'a>(
    flags: &[Flag],
    letters: &str,
    rest: &mut impl Iterator<Item = &'a str>,
    problems: &mut Problems,
    given: &mut Vec<Given>,
) {
    let mut letters = letters.chars();
    while let Some(letter) = letters.next() {
        let written = format!("-{letter}");
        let Some((index, flag)) = find(flags, |flag| flag.letter == Some(letter)) else {
            problems.push(Problem::new("", written, "an option of the tool"));
            return;
        };
        let attached = letters.as_str();
        let value = match flag.takes {
            // `-n=false` is the one case where a switch takes the rest of its word.
            Takes::Switch => match attached.strip_prefix('=') {
                Some(value) => {
                    letters = "".chars();
                    value.to_owned()
                }
                None => "true".to_owned(),
            },
            Takes::Value => {
                letters = "".chars();
                if attached.is_empty() {
                    match next(&written, rest, problems) {
                        Some(value) => value,
                        None => return,
                    }
                } else {
                    attached.strip_prefix('=').unwrap_or(attached).to_owned()
                }
            }
        };
        given.push(Given {
            flag: index,
            written,
            value,
        });
    }
}

fn next<'a>(
    written: &str,
    rest: &mut impl Iterator<Item = &'a str>,
    problems: &mut Problems,
) -> Option<String> {
    let value = rest.next();
    if value.is_none() {
        problems.push(Problem::new(written, "", "a value"));
    }
    value.map(str::to_owned)
}

fn find(flags: &[Flag], wanted: impl Fn(&Flag) -> bool) -> Option<(usize, &Flag)> {
    flags.iter().enumerate().find(|(_, flag)| wanted(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag {
            long: "port",
            letter: Some('p'),
            takes: Takes::Value,
        },
        Flag {
            long: "dry-run",
            letter: Some('n'),
            takes: Takes::Switch,
        },
    ];

    fn values(line: &[&str]) -> Result<Vec<(usize, String)>, Problems> {
        let mut problems = Problems::default();
        let given = split(FLAGS, line, &mut problems);
        problems.into_result(
            given
                .into_iter()
                .map(|given| (given.flag, given.value))
                .collect(),
        )
    }

    #[test]
    fn a_value_may_stand_in_three_places() {
        for line in [
            &["-p", "80"][..],
            &["-p80"],
            &["-p=80"],
            &["--port", "80"],
            &["--port=80"],
        ] {
            assert_eq!(values(line), Ok(vec![(0, "80".to_owned())]), "{line:?}");
        }
        let both = vec![(1, "true".to_owned()), (0, "80".to_owned())];
        assert_eq!(values(&["-np", "80"]), Ok(both));
        assert_eq!(values(&["--dry-run=false"]), Ok(vec![(1, "false".into())]));
        assert_eq!(values(&["-p", ""]), Ok(vec![(0, String::new())]));
    }

    #[test]
    fn what_is_no_option_is_never_left_out() {
        for line in [
            &["80"][..],
            &["--", "80"],
            &["-x"],
            &["--ports=80"],
            &["-p"],
            &["--port"],
            &["-nx"],
            &["-"],
            &[""],
        ] {
            assert!(values(line).is_err(), "{line:?}");
        }
    }
}
