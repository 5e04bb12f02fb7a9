//! The command of a service as flags with their places.

use mesh_runtime::compose::{FileProblem, Located, Position, Service};

/// A flag and its value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Flag {
    /// Its name without dashes.
    pub(super) name: String,
    /// Its value.
    pub(super) value: String,
    /// Where it is written.
    pub(super) at: Position,
}

/// The flags of a service that runs `program`: `--name value` or `--name=value`, with one dash or
/// two.
///
/// `known` says which flags there are; all of them take a value. Everything else is a problem.
pub(super) fn flags(
    path: &str,
    service: &Service,
    program: &str,
    known: &[&str],
    problems: &mut Vec<FileProblem>,
) -> Vec<Flag> {
    let entry = service.entrypoint.iter().flatten();
    let words: Vec<_> = entry.chain(service.command.iter().flatten()).collect();
    let mut words = words.into_iter().peekable();
    let path = format!("{path}.command");
    let mut wrong = |word: &Located<String>, message: String| {
        problems.push(FileProblem::new(word.at, &path, message));
    };
    if let Some(first) = words.next_if(|it| !it.value.starts_with('-'))
        && first.value.rsplit('/').next() != Some(program)
    {
        let found = &first.value;
        wrong(
            first,
            format!("`{found}` is not `{program}`, whose flags are known here"),
        );
        return Vec::new();
    }
    let mut flags = Vec::new();
    while let Some(word) = words.next() {
        let bare = word.value.strip_prefix('-');
        let Some(bare) = bare.map(|it| it.strip_prefix('-').unwrap_or(it)) else {
            wrong(word, format!("`{}` is not a flag", word.value));
            continue;
        };
        let (name, value) = if let Some((name, value)) = bare.split_once('=') {
            (name, Some(value.to_owned()))
        } else {
            let next = words.next_if(|it| !it.value.starts_with('-'));
            (bare, next.map(|it| it.value.clone()))
        };
        if !known.contains(&name) {
            let shown = word.value.split('=').next().unwrap_or_default();
            let message = format!("`{shown}` is not a flag of {program} that is known here");
            wrong(word, message);
            continue;
        }
        match value {
            None => wrong(word, format!("flag `{}` has no value", word.value)),
            Some(value) => flags.push(Flag {
                name: name.to_owned(),
                value,
                at: word.at,
            }),
        }
    }
    flags
}
