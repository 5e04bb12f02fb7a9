//! The linker script: patterns for code that is to stand together, in the order of how much of what
//! each takes is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::map::Section;
use crate::Failure;

/// Bytes of what a pattern takes.
#[derive(Debug, Default)]
struct Taken {
    needed: u64,
    all: u64,
}

const HEAD: &str = "\
/* The functions that mesh-cni runs through, side by side; `cargo xtask layout` writes this. */
SECTIONS
{
  .text.mesh_cni : {
";
const TAIL: &str = "  }
}
INSERT BEFORE .text;
";

/// Writes it.
///
/// Names end with a hash that differs from build to build, so a pattern takes all functions of a crate
/// that have the same name but for that: all kinds of a generic one. Those of which little is needed
/// come last, where they are in nobody's way.
///
/// # Errors
///
/// If none of the functions is in a section.
pub(super) fn write(sections: &[Section], executed: &BTreeSet<String>) -> Result<String, Failure> {
    let mut patterns: BTreeMap<String, Taken> = BTreeMap::new();
    for section in sections {
        let taken = patterns.entry(pattern(section)).or_default();
        taken.all += section.size;
        if section.functions.iter().any(|it| executed.contains(it)) {
            taken.needed += section.size;
        }
    }
    patterns.retain(|_, taken| taken.needed > 0);
    if patterns.is_empty() {
        return Err("the linker's map has none of the functions that ran".into());
    }
    let mut patterns: Vec<(String, Taken)> = patterns.into_iter().collect();
    // Of the same share, by name.
    patterns.sort_by_key(|(_, taken)| std::cmp::Reverse(taken.needed * 100 / taken.all));
    let mut script = HEAD.to_owned();
    for (pattern, _) in patterns {
        writeln!(script, "    {pattern}")?;
    }
    script.push_str(TAIL);
    Ok(script)
}

/// What the linker is to take: `file(section)`.
fn pattern(section: &Section) -> String {
    match section.name.as_str() {
        // The C library's functions share sections with others of their file.
        ".text" => format!("{}(.text .text.*)", section.file),
        name => format!("{}({})", section.file, without_hashes(name)),
    }
}

/// A name with `*` where it differs from build to build.
fn without_hashes(name: &str) -> String {
    // `_ZN…17h<16 digits>E`, which compilers put words behind.
    if let Some((before, hash)) = name.rsplit_once("17h")
        && hash.len() > 16
        && hash.bytes().take(16).all(|byte| byte.is_ascii_hexdigit())
    {
        return format!("{before}17h*");
    }
    // `_R…Cs<digits>_7mycrate…`, the hash of a crate.
    let mut out = String::new();
    let mut rest = name;
    while name.contains("_R")
        && let Some((before, after)) = rest.split_once("Cs")
        && let Some((hash, behind)) = after.split_once('_')
    {
        let is_hash = hash.len() > 6 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        out.push_str(before);
        out.push_str("Cs");
        out.push_str(if is_hash { "*" } else { hash });
        out.push('_');
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(file: &str, name: &str, functions: &[&str], size: u64) -> Section {
        Section {
            file: file.to_owned(),
            name: name.to_owned(),
            functions: functions.iter().copied().map(str::to_owned).collect(),
            size,
        }
    }

    #[test]
    fn what_ran_stands_together_and_what_is_hardly_needed_last() {
        let hash = |digit: &str| format!("_ZN3vec4grow17h{}E", digit.repeat(16));
        let (grow, other) = (hash("a"), hash("b"));
        let main = format!("_ZN4mesh4main17h{}E.llvm.9", "c".repeat(16));
        let sections = [
            section("*liba-*:*", &format!(".text.{grow}"), &[&grow], 10),
            section("*liba-*:*", &format!(".text.{other}"), &[&other], 90),
            section("*liba-*:*", ".text.unused", &["unused"], 10),
            section("*/deps/mesh-*", &format!(".text.{main}"), &[&main], 5),
            section("*libc.a:malloc.o", ".text", &["malloc", "free"], 50),
            section("*libc.a:qsort.o", ".text", &["qsort"], 50),
        ];
        let executed = [grow, main, "free".to_owned()].into();
        let script = write(&sections, &executed).unwrap();
        let expected = "    */deps/mesh-*(.text._ZN4mesh4main17h*)
    *libc.a:malloc.o(.text .text.*)
    *liba-*:*(.text._ZN3vec4grow17h*)
";
        assert_eq!(script, format!("{HEAD}{expected}{TAIL}"));
        assert!(write(&sections, &BTreeSet::new()).is_err());
    }

    #[test]
    fn names_are_without_what_differs_from_build_to_build() {
        for (name, expected) in [
            (
                ".text._RNvCsfLfy6EI15iL_7___rustc12___rust_alloc",
                ".text._RNvCs*_7___rustc12___rust_alloc",
            ),
            (
                ".text._RNvNtNtCs6d7GoaNTBIz_3std2io4readCsfLfy6EI15iL_4mesh",
                ".text._RNvNtNtCs*_3std2io4readCs*_4mesh",
            ),
            (".text.do_library_init", ".text.do_library_init"),
            (".text._ZN3ipnet4Cs_h17h12E", ".text._ZN3ipnet4Cs_h17h12E"),
        ] {
            assert_eq!(without_hashes(name), expected);
        }
    }
}
