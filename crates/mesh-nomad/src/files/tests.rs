//! Which names become which files, and which are refused.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn items(names: &[&str]) -> BTreeMap<String, String> {
    let item = |name: &&str| ((*name).to_owned(), "secret".to_owned());
    names.iter().map(item).collect()
}

#[test]
fn what_is_no_longer_an_item_is_removed() {
    let earlier = ["pki/old.key", "kubeconfig"].map(PathBuf::from).into();
    let plan = plan(&items(&["kubeconfig", "pki~api-ca.key"]), &earlier).unwrap();
    let paths: Vec<_> = plan.writes.keys().collect();
    assert_eq!(
        paths,
        [Path::new("kubeconfig"), Path::new("pki/api-ca.key")]
    );
    assert_eq!(plan.removals, ["pki/old.key".into()].into());
}

#[test]
fn a_tampered_list_removes_nothing_outside() {
    let earlier = ["/etc/passwd", "../x", "a/../../b", ""].map(PathBuf::from);
    let plan = plan(&items(&["a"]), &earlier.into()).unwrap();
    assert_eq!(plan.removals, BTreeSet::new());
}

#[test]
fn every_name_that_leads_out_is_told_at_once() {
    let wrong = [
        "..",
        "a~..~b",
        "~etc~passwd",
        "a~~b",
        "a/b",
        "a\\b",
        "",
        "a\0",
        ".nomad-files.json",
        ".a.new",
    ];
    let problems = plan(&items(&wrong), &BTreeSet::new()).unwrap_err();
    assert_eq!(problems.0.len(), wrong.len());
}

#[test]
fn a_file_is_no_directory() {
    let problems = plan(&items(&["pki", "pki~a"]), &BTreeSet::new()).unwrap_err();
    assert!(problems.to_string().contains("`pki~a`"), "{problems}");
}

#[test]
fn secrets_are_not_shown() {
    let plan = plan(&items(&["a"]), &BTreeSet::new()).unwrap();
    assert!(!format!("{plan:?}").contains("secret"));
}

proptest! {
    #[test]
    fn no_name_leads_out(name in "[a-z./~\\\\]{0,12}|\\PC{0,20}") {
        if let Ok(path) = path(&name) {
            prop_assert!(path.is_relative());
            let is_normal = |part| matches!(part, std::path::Component::Normal(_));
            prop_assert!(path.components().all(is_normal));
            prop_assert!(path.components().next().is_some());
            prop_assert_eq!(item(&path), Some(name));
        }
    }

    #[test]
    fn different_names_are_different_files(
        one in "[a-c.~]{1,6}",
        other in "[a-c.~]{1,6}",
    ) {
        if let (Ok(first), Ok(second)) = (path(&one), path(&other)) {
            prop_assert_eq!(one == other, first == second);
        }
    }
}
