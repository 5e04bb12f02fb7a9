//! What is wrong with a file, and at which line and column.

use std::fmt;

use serde::{Serialize, Serializer};

/// A place in a file: the first character is line 1, column 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// A value and where it was written.
///
/// Equal values are equal wherever they were written.
#[derive(Clone, Copy, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was written; of what came through an alias, where the anchor is.
    pub at: Position,
}

/// One thing that is wrong with a file, or that the reader of it should know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileProblem {
    /// Where.
    pub at: Position,
    /// The path of the value in the file, as in `services.web.ports[0]`; empty for the whole file.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
}

/// Everything that is wrong with a file, in its order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileProblems {
    /// The name of the file.
    pub file: String,
    /// What is wrong with it; never empty.
    pub problems: Vec<FileProblem>,
}

// === impl Position ===

impl Position {
    /// The beginning of a file.
    pub const START: Self = Self { line: 1, column: 1 };

    /// The place of a byte of a text, or its end if the text is shorter.
    pub(super) fn of_byte(text: &[u8], byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        // YAML ends lines by LF, by CR, and by both, which are one end.
        let ends = |at: &usize| match (text.get(*at), text.get(*at + 1)) {
            (Some(b'\n'), _) => true,
            (Some(b'\r'), next) => next != Some(&b'\n'),
            _ => false,
        };
        let line_start = (0..before.len()).rev().find(ends).map_or(0, |it| it + 1);
        let lines = (0..before.len()).filter(ends).count();
        // A byte that continues a character is no column of its own.
        let is_first = |it: &&u8| (**it & 0b1100_0000) != 0b1000_0000;
        let columns = before.iter().skip(line_start).filter(is_first).count();
        Self {
            line: number(lines),
            column: number(columns),
        }
    }
}

/// A count from 0 as a number from 1.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1)
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

// === impl Located ===

impl<T> Located<T> {
    /// Another value at the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: change(self.value),
            at: self.at,
        }
    }
}

impl<T: Default> Default for Located<T> {
    fn default() -> Self {
        Self {
            value: T::default(),
            at: Position::START,
        }
    }
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

impl<T: Serialize> Serialize for Located<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

// === impl FileProblem ===

impl FileProblem {
    /// A problem at a place.
    pub fn new(at: Position, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            at,
            path: path.into(),
            message: message.into(),
        }
    }

    /// A value that is not what is expected there.
    pub(super) fn wrong(at: Position, path: &str, found: &str, expected: &str) -> Self {
        Self::new(at, path, format!("`{}` is not {expected}", excerpt(found)))
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// What fits into a message, and does no harm on a terminal.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

// === impl FileProblems ===

impl FileProblems {
    /// Problems of a file, in its order.
    pub(super) fn new(file: &str, mut problems: Vec<FileProblem>) -> Self {
        problems.sort_by_key(|problem| problem.at);
        Self {
            file: file.to_owned(),
            problems,
        }
    }
}

/// One line each, as compilers do: `compose.yaml:3:5: services.web.ports[0]: …`.
impl fmt::Display for FileProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{problem}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for FileProblems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_yaml_has_it() {
        let at = |text: &str| Position::of_byte(text.as_bytes(), text.len()).to_string();
        let places = ["a\nb", "a\rb", "a\r\nb", "a\n\rb", "é\r\n\r\n"].map(at);
        assert_eq!(places, ["2:2", "2:2", "2:2", "3:2", "3:1"]);
    }
}
