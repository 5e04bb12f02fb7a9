//! Files that are made to do harm: an error with its place, soon, and never a panic.

use super::{FileProblems, problems};
use crate::compose::{Compose, Reading};
use std::collections::BTreeMap;

fn read(source: &[u8]) -> FileProblems {
    let variables = [("BIG".to_owned(), "x".repeat(100_000))].into();
    Compose::read(source, &Reading::new("c.yaml", &variables)).unwrap_err()
}

/// One problem, at this place, of which the message says this.
fn only(source: &[u8], place: &str, says: &str) {
    let found = read(source).to_string();
    assert!(!found.contains('\n'), "{found}");
    assert!(found.starts_with(&format!("c.yaml:{place}: ")), "{found}");
    assert!(found.contains(says), "{found}");
}

#[test]
fn what_is_no_yaml_is_told_with_its_place() {
    let found = [
        "services:\n  a: [1, 2\nb: c\n",
        "services:\n\ta: b\n",
        "a: b\n---\nc: d\n",
        "services: *none\n",
        "a: {b: c}}\n",
        "services: !include x\n",
        "é: \u{0}",
        "a: 'b\n",
        "a: \"\\q\"\n",
    ]
    .map(|text| read(text.as_bytes()).to_string());
    let expected = [
        "c.yaml:3:2: ",
        "c.yaml:2:2: tabs",
        "c.yaml:2:1: ",
        "c.yaml:1:11: ",
        "c.yaml:1:10: ",
        "c.yaml:1:20: ",
        "c.yaml:1:4: ",
        "c.yaml:1:4: ",
        "c.yaml:1:4: ",
    ];
    let differ =
        |(found, expected): &(&String, &str)| !found.starts_with(expected) || found.contains('\n');
    let wrong: Vec<_> = found.iter().zip(expected).filter(differ).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_no_text_is_told_with_its_place() {
    only(b"services:\n  a\xff: b\n", "2:4", "UTF-8");
    only(b"services: {a: {image: \"x\\0y\"}}", "1:23", "NUL");
    only(&[0xff; 100], "1:1", "UTF-8");
}

#[test]
fn keys_that_are_there_twice_are_refused() {
    only(
        b"services:\n  a: {image: b}\n  a: {image: c}\n",
        "3:3",
        "duplicate",
    );
    only(
        b"services: {a: {image: b, image: c}}\n",
        "1:26",
        "duplicate",
    );
}

#[test]
fn anchors_cannot_explode() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        let items = vec![below; 9].join(", ");
        bomb = format!("{bomb}a{level}: &a{level} [{items}]\n");
    }
    let found = read(bomb.as_bytes());
    assert_eq!(found.problems.len(), 1, "{found}");

    let text = "y".repeat(100_000);
    let wide = format!(
        "a: &a \"{text}\\n\"\nb: [{}]\n",
        vec!["*a"; 5000].join(", ")
    );
    assert_eq!(read(wide.as_bytes()).problems.len(), 1);

    let merges = (1..60).fold("a0: &a0 {k: v}\n".to_owned(), |text, level| {
        let below = level - 1;
        format!("{text}a{level}: &a{level} {{<<: [*a{below}, *a{below}]}}\n")
    });
    assert!(!read(merges.as_bytes()).problems.is_empty());
}

#[test]
fn an_alias_cannot_hold_itself() {
    only(b"services: &a\n  web: *a\n", "2:8", "");
    only(b"a: &a [*a]\n", "1:8", "");
    only(b"a: &a {<<: *a}\n", "1:12", "");
}

#[test]
fn nesting_is_bounded() {
    let flow = format!("a: {}", "[".repeat(100_000));
    assert_eq!(read(flow.as_bytes()).problems.len(), 1);
    let block = "- ".repeat(100_000);
    assert_eq!(read(block.as_bytes()).problems.len(), 1);
    let deep = (0..500).fold(String::new(), |text, depth| {
        text + &" ".repeat(depth) + "a:\n"
    });
    assert_eq!(read(deep.as_bytes()).problems.len(), 1);
    let variables = format!("services: {{a: {{image: '{}'}}}}", "${A:-".repeat(10_000));
    only(variables.as_bytes(), "1:23", "nested");
}

#[test]
fn long_files_lines_and_values_are_bounded() {
    let long = vec![b'a'; 100 * 1024 * 1024];
    only(&long, "1:1048577", "bytes");
    let short = vec![b'a'; 1_000_000];
    assert_eq!(read(&short).problems.len(), 1);
    let key = format!("services:\n  ? {}\n  : {{image: a}}\n", "k".repeat(100_000));
    let found = read(key.as_bytes()).to_string();
    assert!(found.contains("c.yaml:2:5: services: `kkk"), "{found}");
    assert!(found.len() < 1000);
    let value = format!(
        "services: {{a: {{image: i, user: {}}}}}",
        "9".repeat(100_000)
    );
    let found = read(value.as_bytes()).to_string();
    assert!(
        found.len() < 1000 && found.contains("services.a.user"),
        "{found}"
    );
    let grows = format!("services: {{a: {{image: '{}'}}}}", "$BIG".repeat(10_000));
    only(grows.as_bytes(), "1:23", "too long");
}

#[test]
fn huge_numbers_are_no_ports_and_no_durations() {
    let text = "services:
  a:
    image: i
    ports: [99999999999999999999999999, 1e400, -1, 0x50]
    stop_grace_period: 9999999999999999999h
    user: 4294967296
    healthcheck: {test: x, retries: 99999999999, interval: 1e9s}
";
    assert_eq!(problems(text).len(), 8);
}

#[test]
fn every_wrong_type_is_told() {
    for wrong in [
        "[]",
        "3",
        "{a: {b: [c]}}",
        "",
        "[[[1]]]",
        "{? [a] : b}",
        "true",
    ] {
        for key in [
            "image",
            "command",
            "entrypoint",
            "environment",
            "labels",
            "networks",
            "network_mode",
            "ports",
            "expose",
            "volumes",
            "privileged",
            "cap_add",
            "cap_drop",
            "user",
            "working_dir",
            "hostname",
            "container_name",
            "restart",
            "depends_on",
            "healthcheck",
            "stop_grace_period",
            "dns",
            "dns_search",
            "security_opt",
            "tty",
            "env_file",
        ] {
            let text = format!("services:\n  a:\n    {key}: {wrong}\n");
            let read = Compose::read(text.as_bytes(), &Reading::new("c", &BTreeMap::new()));
            for problem in read.map_or_else(|it| it.problems, |it| it.notes) {
                assert!(problem.at.line <= 4 && problem.at.column <= 60, "{problem}");
            }
        }
    }
    assert!(problems("[]")[0].starts_with("1:1: found a list, expected a map"));
    assert!(problems("")[0].starts_with("1:1: found nothing, expected a map"));
    assert!(problems("services: 3")[0].starts_with("1:11: services: found a text"));
}

#[test]
fn what_a_terminal_would_obey_is_not_repeated() {
    let found = read(b"services: {a: {image: i, user: \"\\e[31mred\"}}").to_string();
    assert!(!found.contains('\u{1b}'), "{found}");
}
