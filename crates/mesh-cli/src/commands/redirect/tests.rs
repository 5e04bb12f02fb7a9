//! The verbs as a whole: each is well formed, and the right words reach it.

use super::*;

fn line(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn every_verb_is_well_formed_and_described() {
    for verb in VERBS {
        command(verb).debug_assert();
        let help = command(verb).render_long_help().to_string();
        assert!(help.contains(verb.about), "{help}");
    }
}

#[test]
fn the_name_of_the_old_script_is_a_verb_of_its_own() {
    let found = words(&line(&["/usr/local/bin/prepare_proxy.sh", "-p", "15001"])).unwrap();
    assert_eq!(
        found,
        line(&["apply", "--compat", "prepare_proxy", "-p", "15001"])
    );
    assert_eq!(
        words(&line(&["mesh", "redirect", "plan"])),
        Some(line(&["plan"]))
    );
    assert_eq!(words(&line(&["mesh", "-v", "redirect"])), None);
    assert_eq!(words(&[]), None);
}

#[test]
fn help_names_every_verb() {
    let error = general(&line(&["--help"])).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    let text = error.to_string();
    for verb in VERBS {
        assert!(text.contains(verb.name), "{text}");
    }
    assert_eq!(
        general(&line(&["aply"]))
            .map(|_| ())
            .unwrap_err()
            .exit_code(),
        2
    );
}
