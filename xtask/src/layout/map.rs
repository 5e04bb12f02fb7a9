//! What valgrind and the linker tell: functions that ran, and where their code comes from.

use crate::Failure;

/// A piece of code that the linker places as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Section {
    /// What a linker script calls the file that it comes from.
    pub(super) file: String,
    /// Its name in that file: `.text.` and that of its function, or `.text` and all of them.
    pub(super) name: String,
    /// The functions in it.
    pub(super) functions: Vec<String>,
    /// Bytes.
    pub(super) size: u64,
}

/// The functions in a profile of callgrind, with names as they are linked.
pub(super) fn functions(profile: &str) -> impl Iterator<Item = String> {
    profile.lines().filter_map(|line| {
        let rest = ["fn=(", "cfn=("]
            .iter()
            .find_map(|it| line.strip_prefix(it))?;
        // A name is told once, and is a number after that; `'2` is the second in a recursion.
        let (_, name) = rest.split_once(") ")?;
        Some(name.split('\'').next()?.to_owned())
    })
}

/// The code in a map that lld wrote.
///
/// Its columns are two addresses, size, alignment and, indented by 0, 8 and 16 more, what is placed:
/// a section of the output, one of a file, a symbol.
///
/// # Errors
///
/// If there is no code in it: then another linker wrote it.
pub(super) fn read(map: &str) -> Result<Vec<Section>, Failure> {
    let mut sections: Vec<Section> = Vec::new();
    let mut is_code = false;
    for line in map.lines() {
        let mut rest = line;
        let mut columns = [""; 4];
        for column in &mut columns {
            rest = rest.trim_start();
            (*column, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        }
        let [_, _, size, _] = columns;
        let placed = rest.trim_start();
        match (rest.len() - placed.len(), placed.rsplit_once(":(")) {
            (8, Some((path, name))) => {
                let name = name.trim_end_matches(')');
                let file = file(path).filter(|_| name.starts_with(".text"));
                is_code = file.is_some();
                sections.extend(file.map(|file| {
                    Section {
                        file,
                        name: name.to_owned(),
                        functions: name
                            .strip_prefix(".text.")
                            .map(function)
                            .into_iter()
                            .collect(),
                        size: u64::from_str_radix(size, 16).unwrap_or_default(),
                    }
                }));
            }
            // Of a function with a section of its own the map has the name as it is read.
            (16, _) if is_code => {
                if let Some(section) = sections.last_mut().filter(|it| it.name == ".text") {
                    section.functions.push(placed.to_owned());
                }
            }
            _ => {}
        }
    }
    if sections.is_empty() {
        return Err("the map is none of lld".into());
    }
    Ok(sections)
}

/// The function of a section `.text.…`.
fn function(name: &str) -> String {
    let kinds = ["unlikely.", "hot.", "startup."];
    let kind = kinds.iter().find_map(|kind| name.strip_prefix(kind));
    kind.unwrap_or(name).to_owned()
}

/// `*libserde_json-*:*` for the crate, `*libc.a:malloc.o` for a library of C, and `*/deps/mesh-*` for
/// the program itself.
fn file(path: &str) -> Option<String> {
    let (path, member) = path
        .strip_suffix(')')
        .and_then(|path| path.split_once('('))
        .unwrap_or((path, ""));
    let (directory, name) = path.rsplit_once('/')?;
    if let Some((krate, _)) = name
        .strip_suffix(".rlib")
        .and_then(|it| it.rsplit_once('-'))
    {
        return Some(format!("*{krate}-*:*"));
    }
    if !member.is_empty() {
        return Some(format!("*{name}:{member}"));
    }
    (directory.ends_with("/deps") && name.starts_with("mesh-")).then(|| "*/deps/mesh-*".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_tells_each_function_once() {
        let profile = "fl=(1) a.c\nfn=(1) _ZN4mesh4main17h0011E\n16 3\ncfn=(2) malloc'2\nfn=(1)\n";
        let found: Vec<String> = functions(profile).collect();
        assert_eq!(found, ["_ZN4mesh4main17h0011E", "malloc"]);
    }

    #[test]
    fn code_is_found_with_the_file_that_it_comes_from() {
        let map = "\
             VMA              LMA     Size Align Out     In      Symbol
          df7de0           df7de0  29b81d8    64 .text
          df7df0           df7df0       10    16         /t/deps/libipnet-0a1b.rlib(i.o):(.text._ZN5ipnet3new17h0011E)
          df7df0           df7df0       10     1                 ipnet::new::h0011
          df7e00           df7e00       20    16         /t/deps/mesh-77.mesh.1.rcgu.o:(.text.unlikely._ZN4mesh4main17h22E)
          df7e20           df7e20      1a0    16         /usr/lib/libc.a(malloc.o):(.text)
          df7e20           df7e20       90     1                 malloc
          df7eb0           df7eb0       90     1                 free
         1df7eb0          1df7eb0       90     1         /usr/lib/libc.a(malloc.o):(.data)
         1df7eb0          1df7eb0       90     1                 mp_
";
        let section = |file: &str, name: &str, functions: &[&str], size| Section {
            file: file.to_owned(),
            name: name.to_owned(),
            functions: functions.iter().copied().map(str::to_owned).collect(),
            size,
        };
        let (new, main) = ("_ZN5ipnet3new17h0011E", "_ZN4mesh4main17h22E");
        assert_eq!(
            read(map).unwrap(),
            [
                section("*libipnet-*:*", &format!(".text.{new}"), &[new], 0x10),
                section(
                    "*/deps/mesh-*",
                    &format!(".text.unlikely.{main}"),
                    &[main],
                    0x20
                ),
                section("*libc.a:malloc.o", ".text", &["malloc", "free"], 0x1a0),
            ]
        );
        assert!(read("Memory Configuration\n").is_err());
    }
}
