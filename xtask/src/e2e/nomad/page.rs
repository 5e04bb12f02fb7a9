//! The commands of README's page "Install on Nomad", run as they are printed there.
//!
//! Paths, addresses and checksums of the example are replaced by the run's. The rows at the end see
//! to it that no command of the page is run by nobody.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::e2e::world::{Step, World, ensure};

/// The heading of the page.
const HEADING: &str = "## Install on Nomad";

/// Commands for a single agent, by their first words: `cargo xtask e2e nomad` runs them, and `cargo
/// xtask e2e cluster` all others.
const ON_AGENT: [&str; 2] = ["mesh nomad install --dev ", "mesh nomad install --ingress "];

/// Commands that need a mesh which is lost, or one of containers: ring `nomad` runs their words, and
/// compares them with the page (`crates/mesh-cli/tests/nomad/restore.rs`, `…/image.rs`).
const IN_RING: [&str; 6] = [
    "mesh backup ",
    "mesh nomad install --dev --program /usr/local/bin/mesh --restore ",
    "mesh image build ",
    "docker load ",
    "mesh nomad install --image ",
    "mesh nomad upgrade --image ",
];

/// The page.
#[derive(Debug)]
pub(crate) struct Page {
    commands: Vec<String>,
    /// Those that were run.
    run: RefCell<BTreeSet<String>>,
}

// === impl Page ===

impl Page {
    /// Reads it from the README of the workspace.
    pub(crate) fn open(root: &Path) -> Self {
        // A README that cannot be read has no command, which fails every step.
        let text = fs::read_to_string(root.join("README.md")).unwrap_or_default();
        Self {
            commands: commands(&text),
            run: RefCell::default(),
        }
    }

    /// The command that is these words, or the only one that begins with them.
    fn find(&self, start: &str) -> Step<&str> {
        if let Some(command) = self.commands.iter().find(|line| *line == start) {
            return Ok(command);
        }
        let mut found = self.commands.iter().filter(|line| line.starts_with(start));
        match (found.next(), found.next()) {
            (Some(command), None) => Ok(command),
            (None, _) => Err(format!("README has no command `{start}` under `{HEADING}`")),
            (Some(_), Some(_)) => Err(format!("README has several commands `{start}`")),
        }
    }
}

impl World {
    /// Runs commands of the page in one shell, the values of the example replaced. The commands are
    /// named by their first words.
    pub(crate) async fn as_the_page_says(
        &self,
        starts: &[&str],
        values: &[(&str, &str)],
    ) -> Step<String> {
        let page = self.page();
        let mut script = String::new();
        for start in starts {
            let command = page.find(start)?;
            page.run.borrow_mut().insert(command.to_owned());
            script.push_str(command);
            script.push('\n');
        }
        for (example, value) in values {
            ensure(script.contains(example), || {
                format!("README's `{}` has no `{example}`", script.trim())
            })?;
            script = script.replace(example, value);
        }
        let said = self.shell(&script).await?;
        ensure(said.code == 0, || {
            format!(
                "`{}` exited with {}: {}",
                script.trim(),
                said.code,
                said.stderr.trim()
            )
        })?;
        Ok(said.stdout)
    }

    /// Whether every command of the page was run that is for this ground.
    pub(crate) fn page_is_kept(&self, is_agent: bool) -> Step<String> {
        let page = self.page();
        let wanted = page.commands.iter();
        let wanted: Vec<_> = wanted
            .filter(|line| !is_one_of(line, &IN_RING) && is_one_of(line, &ON_AGENT) == is_agent)
            .collect();
        let run = page.run.borrow();
        let missing: Vec<_> = wanted
            .iter()
            .filter(|line| !run.contains(line.as_str()))
            .collect();
        ensure(missing.is_empty() && !wanted.is_empty(), || {
            format!("commands of README that nobody ran: {missing:?}")
        })?;
        Ok(format!(
            "{} of the {} commands under `{HEADING}`; the others are for {}, or for ring nomad",
            wanted.len(),
            page.commands.len(),
            if is_agent { "a cluster" } else { "an agent" }
        ))
    }
}

fn is_one_of(line: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| line.starts_with(start))
}

/// The commands in the console blocks of the page, without comments.
fn commands(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let (mut is_here, mut is_console, mut goes_on) = (false, false, false);
    for line in text.lines() {
        if line.starts_with("## ") {
            is_here = line == HEADING;
        }
        if !is_here {
            continue;
        }
        if line.starts_with("```") {
            is_console = line == "```console";
            continue;
        }
        if !is_console || line.starts_with('#') {
            continue;
        }
        let line = line.split(" # ").next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let part = line.trim_end_matches('\\').trim_end();
        match commands.last_mut().filter(|_| goes_on) {
            Some(last) => {
                last.push(' ');
                last.push_str(part);
            }
            None => commands.push(part.to_owned()),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_the_page_without_comments() {
        let text = "## Other\n```console\nno\n```\n## Install on Nomad\n```hcl\nno\n```\n```console\n\
                    # why\nmesh a \\\n    --b c#d  # what\n\nmesh e\n```\n## Next\n```console\nno\n```\n";
        assert_eq!(commands(text), ["mesh a --b c#d", "mesh e"]);
    }

    #[test]
    fn commands_that_others_run_are_on_the_page() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = Page::open(&root);
        for start in ON_AGENT.iter().chain(&IN_RING) {
            let mut commands = page.commands.iter();
            assert!(commands.any(|line| line.starts_with(start)), "{start}");
        }
        assert!(page.commands.len() > ON_AGENT.len() + IN_RING.len());
    }
}
