//! A command line as words: white space, both kinds of quotes and backslashes, as in a shell.

/// The words of a command line. No variable is replaced and nothing is run.
///
/// # Errors
///
/// In words: a quote that does not end, or an operator of a shell, which no shell would see.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(it) = characters.next() {
        match it {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let text = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(it) => text.push(it),
                        None => return Err("a single quote does not end".to_owned()),
                    }
                }
            }
            '"' => double_quoted(&mut characters, word.get_or_insert_default())?,
            '\\' => match characters.next() {
                Some(it) => word.get_or_insert_default().push(it),
                None => return Err("a backslash is the last character".to_owned()),
            },
            ';' | '&' | '|' | '<' | '>' => {
                return Err(format!(
                    "`{it}` is an operator of a shell, and no shell reads this: quote it, or write `[sh, -c, …]`"
                ));
            }
            it => word.get_or_insert_default().push(it),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Up to the closing quote. A backslash stands for itself but before what it can escape there.
fn double_quoted(characters: &mut std::str::Chars<'_>, text: &mut String) -> Result<(), String> {
    const OPEN: &str = "a double quote does not end";
    loop {
        match characters.next().ok_or(OPEN)? {
            '"' => return Ok(()),
            '\\' => {
                let next = characters.next().ok_or(OPEN)?;
                if !matches!(next, '"' | '\\' | '$' | '`') {
                    text.push('\\');
                }
                text.push(next);
            }
            it => text.push(it),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        for (line, expected) in [
            ("", &[][..]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            (r#"a 'b c' "d e" f\ g"#, &["a", "b c", "d e", "f g"]),
            (r#"'' "" x''y"#, &["", "", "xy"]),
            (r#""a\"b\\c\n" 'd\e'"#, &["a\"b\\c\\n", "d\\e"]),
            ("a#b #c", &["a#b", "#c"]),
            ("--x='é ü'", &["--x=é ü"]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_only_a_shell_understands_is_refused() {
        for line in ["a 'b", "a \"b", "a\\", "a | b", "a > b", "a && b", "\"a\\"] {
            assert!(words(line).is_err(), "{line}");
        }
        assert_eq!(words("a '|' \"&\" \\;").unwrap(), ["a", "|", "&", ";"]);
    }
}
