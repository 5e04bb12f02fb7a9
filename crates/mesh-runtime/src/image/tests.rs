//! Images: whose libraries are found where, and which bytes they become.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::archive::pack;
use super::elf;
use super::*;

/// A machine of which everything is said here.
#[derive(Debug, Default)]
struct Said {
    files: BTreeMap<PathBuf, Linked>,
    search: Vec<PathBuf>,
}

impl Said {
    fn new(search: &[&str], files: &[(&str, Linked)]) -> Self {
        let files = files.iter().map(|(path, it)| (path.into(), it.clone()));
        Self {
            files: files.collect(),
            search: search.iter().map(PathBuf::from).collect(),
        }
    }
}

impl Machine for Said {
    fn linked(&self, path: &Path) -> Result<Option<Linked>, ImageError> {
        match self.files.get(path) {
            Some(linked) => Ok(Some(linked.clone())),
            None => Err(ImageError::Read {
                path: path.into(),
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }

    fn search(&self) -> Result<Vec<PathBuf>, ImageError> {
        Ok(self.search.clone())
    }
}

const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";

fn library(needed: &[&str]) -> Linked {
    Linked {
        machine: 62,
        needed: needed.iter().map(|it| (*it).to_owned()).collect(),
        ..Linked::default()
    }
}

fn program(needed: &[&str]) -> Linked {
    Linked {
        interpreter: Some(LINKER.into()),
        ..library(needed)
    }
}

fn planned(machine: &Said, program: &str) -> Result<Vec<(String, String)>, ImageError> {
    let mut root = RootFs::default();
    root.programs(&[("/usr/bin/app", Path::new(program))], machine)?;
    let entries = root.entries().map(|(path, entry)| {
        let Entry::File {
            source: Source::Machine(source),
            ..
        } = entry
        else {
            panic!("{entry:?}");
        };
        (path.display().to_string(), source.display().to_string())
    });
    Ok(entries.collect())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(one, other): &(&str, &str)| ((*one).to_owned(), (*other).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn a_static_program_needs_nothing() {
    let machine = Said::new(&["/lib"], &[("/opt/app", library(&[]))]);
    assert_eq!(
        planned(&machine, "/opt/app").unwrap(),
        pairs(&[("/usr/bin/app", "/opt/app")])
    );
}

#[test]
fn libraries_of_libraries_are_found_and_lie_beside_the_c_library() {
    let machine = Said::new(
        &["/usr/local/lib", "/lib/x", "/lib"],
        &[
            ("/opt/app", program(&["libz.so.1", "libc.so.6"])),
            ("/usr/local/lib/libz.so.1", library(&["libm.so.6"])),
            ("/lib/x/libm.so.6", library(&["libc.so.6"])),
            ("/lib/x/libc.so.6", library(&["ld-linux-x86-64.so.2"])),
            // Found later in the order.
            ("/lib/libm.so.6", library(&[])),
            ("/lib/x/libnss_dns.so.2", library(&["libc.so.6"])),
        ],
    );
    assert_eq!(
        planned(&machine, "/opt/app").unwrap(),
        pairs(&[
            ("/lib/x/libc.so.6", "/lib/x/libc.so.6"),
            ("/lib/x/libm.so.6", "/lib/x/libm.so.6"),
            ("/lib/x/libnss_dns.so.2", "/lib/x/libnss_dns.so.2"),
            ("/lib/x/libz.so.1", "/usr/local/lib/libz.so.1"),
            (LINKER, LINKER),
            ("/usr/bin/app", "/opt/app"),
        ])
    );
}

#[test]
fn a_program_says_where_to_look_first() {
    let mut app = program(&["liba.so"]);
    app.rpath = vec!["$ORIGIN/../lib".to_owned()];
    let mut other = program(&["liba.so"]);
    other.runpath = vec!["${ORIGIN}/lib".to_owned()];
    let machine = Said::new(
        &["/lib"],
        &[
            ("/opt/bin/app", app),
            ("/opt/other", other),
            ("/opt/bin/../lib/liba.so", library(&["libb.so"])),
            ("/opt/bin/../lib/libb.so", library(&[])),
            ("/opt/lib/liba.so", library(&["libb.so"])),
            ("/opt/lib/libb.so", library(&[])),
            ("/lib/liba.so", library(&[])),
            ("/lib/libb.so", library(&[])),
        ],
    );
    // An rpath holds for what is needed by what is needed; a runpath does not.
    let app = planned(&machine, "/opt/bin/app").unwrap();
    assert!(app.contains(&("/lib/libb.so".into(), "/opt/bin/../lib/libb.so".into())));
    let other = planned(&machine, "/opt/other").unwrap();
    assert!(other.contains(&("/lib/liba.so".into(), "/opt/lib/liba.so".into())));
    assert!(other.contains(&("/lib/libb.so".into(), "/lib/libb.so".into())));
}

#[test]
fn a_library_for_another_processor_is_passed_over() {
    let other = Linked {
        machine: 183,
        ..library(&[])
    };
    let machine = Said::new(
        &["/lib32", "/lib"],
        &[
            ("/opt/app", program(&["liba.so"])),
            ("/lib32/liba.so", other),
            ("/lib/liba.so", library(&[])),
        ],
    );
    let found = planned(&machine, "/opt/app").unwrap();
    assert!(found.contains(&("/lib/liba.so".into(), "/lib/liba.so".into())));
}

#[test]
fn what_is_missing_is_named_with_who_needs_it() {
    let machine = Said::new(&["/lib"], &[("/opt/app", program(&["libgone.so.1"]))]);
    let error = planned(&machine, "/opt/app").unwrap_err();
    assert_eq!(
        error.to_string(),
        "library `libgone.so.1` is not there, which `/opt/app` needs"
    );
    assert!(error.hint().is_some());
}

#[test]
fn this_program_and_its_libraries_are_found_on_this_machine() {
    let program = std::env::current_exe().unwrap();
    let mut root = RootFs::default();
    root.programs(&[("/usr/bin/app", &program)], &ThisMachine)
        .unwrap();
    let linked = ThisMachine.linked(&program).unwrap().unwrap();
    let names: Vec<_> = root
        .entries()
        .filter_map(|(path, _)| path.file_name()?.to_str())
        .collect();
    for needed in &linked.needed {
        assert!(names.contains(&needed.as_str()), "{needed} in {names:?}");
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), "#!/bin/sh\n").unwrap();
    let error = root
        .programs(&[("/usr/bin/script", script.path())], &ThisMachine)
        .unwrap_err();
    assert!(matches!(error, ImageError::NoProgram { .. }), "{error:?}");
}

fn packed(root: &RootFs) -> (u128, Vec<u8>) {
    let mut bytes = Vec::new();
    let (digest, _) = pack(root, &mut bytes).unwrap();
    (digest, bytes)
}

#[test]
fn the_same_files_make_the_same_bytes_however_they_were_added() {
    let text = |text: &str| Source::Bytes(text.as_bytes().to_vec());
    let mut one = RootFs::default();
    one.file("/etc/passwd", text("root"), 0o644).unwrap();
    one.directory("/tmp", 0o1777).unwrap();
    let mut other = RootFs::default();
    other.directory("/tmp", 0o1777).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("passwd");
    std::fs::write(&file, "root").unwrap();
    other
        .file("/etc/passwd", Source::Machine(file.clone()), 0o644)
        .unwrap();
    assert_eq!(packed(&one), packed(&other));
    std::fs::write(&file, "toor").unwrap();
    assert_ne!(packed(&one).0, packed(&other).0);

    let bytes = packed(&one).1;
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entries: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mode().unwrap())
        })
        .collect();
    let expected = [("etc", 0o755), ("etc/passwd", 0o644), ("tmp", 0o1777)];
    assert_eq!(
        entries,
        expected.map(|(path, mode)| (path.to_owned(), mode))
    );
}

#[test]
fn a_path_is_one_thing_and_from_the_root_on() {
    let mut root = RootFs::default();
    root.file("/a", Source::Bytes(vec![1]), 0o644).unwrap();
    root.file("/a", Source::Bytes(vec![1]), 0o644).unwrap();
    let error = root.file("/a", Source::Bytes(vec![2]), 0o644).unwrap_err();
    assert!(matches!(error, ImageError::Twice { .. }), "{error:?}");
    for path in ["a", "/a/../b", "../a", ""] {
        let error = root.directory(path, 0o755).unwrap_err();
        assert!(matches!(error, ImageError::Path { .. }), "{error:?}");
    }
}

proptest! {
    /// Whatever the bytes are, reading them ends, and without a panic.
    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
        is_elf: bool,
        count in 0_u16..4,
    ) {
        if is_elf && bytes.len() > 68 {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
            bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
            bytes[56..58].copy_from_slice(&count.to_le_bytes());
            bytes[64] &= 3;
            bytes[65..68].fill(0);
        }
        let mut read = |offset: u64, size: usize| {
            let end = usize::try_from(offset).ok().and_then(|at| at.checked_add(size));
            let range = end.and_then(|end| bytes.get(end - size..end));
            range.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        let told = elf::read(&mut read);
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            prop_assert_eq!(told.ok().flatten(), None);
        }
    }
}
