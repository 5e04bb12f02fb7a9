//! Transition: the input of `iptables-restore --noflush` that makes what is wanted of what was
//! found, table by table, each in one transaction.

use std::fmt::Write as _;

use super::{Jump, Ruleset, TABLES, XtChain, XtTable};

/// What is ours in one family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Found {
    pub(crate) tables: Vec<FoundTable>,
}

/// What is ours in one table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FoundTable {
    pub(crate) ours: XtTable,
    /// Whether all jumps stand at the beginning of their base chains, one after the other.
    pub(crate) jumps_are_first: bool,
}

/// The whole input; empty if nothing is to be done.
///
/// Each table is a transaction of its own. What NAT captures it captures without a gap, but the
/// guard judges by the plan as a whole: between two plans it would refuse what only one of them
/// captures. So it is lifted while both change, and put back last. On removal it goes first.
pub(crate) fn transition(found: &Found, wanted: &Ruleset) -> String {
    let mut text = String::new();
    let blocks: Vec<(&str, String)> = TABLES
        .into_iter()
        .map(|name| (name, block(name, found.table(name), wanted.table(name))))
        .collect();
    let changes = |name: &str| {
        let block = blocks.iter().find(|(table, _)| *table == name);
        block.is_some_and(|(_, block)| !block.is_empty())
    };
    if wanted.tables.is_empty() {
        for (_, block) in blocks.iter().rev() {
            text.push_str(block);
        }
        return text;
    }
    let guard = found.table("filter");
    let guard_jumps = guard.map(|guard| guard.ours.jumps.as_slice());
    let is_lifted = changes("filter") && ["raw", "mangle", "nat"].into_iter().any(changes);
    if let Some(jumps) = guard_jumps.filter(|jumps| is_lifted && !jumps.is_empty()) {
        text.push_str("*filter\n");
        for jump in jumps {
            line(&mut text, format_args!("-D {jump}"));
        }
        text.push_str("COMMIT\n");
    }
    for (name, own) in &blocks {
        match (*name, guard) {
            ("filter", Some(guard)) if is_lifted => {
                let lifted = FoundTable {
                    ours: XtTable {
                        jumps: Vec::new(),
                        ..guard.ours.clone()
                    },
                    jumps_are_first: true,
                };
                text.push_str(&block(name, Some(&lifted), wanted.table(name)));
            }
            _ => text.push_str(own),
        }
    }
    text
}

/// One table's part of the input; empty if nothing is to be done there.
fn block(name: &str, found: Option<&FoundTable>, wanted: Option<&XtTable>) -> String {
    let no_chains: &[XtChain] = &[];
    let no_jumps: &[Jump] = &[];
    let (old_chains, old_jumps) = found.map_or((no_chains, no_jumps), |found| {
        (&found.ours.chains, &found.ours.jumps)
    });
    let (chains, jumps) = wanted.map_or((no_chains, no_jumps), |wanted| {
        (&wanted.chains, &wanted.jumps)
    });
    let is_in_place =
        found.is_none_or(|found| found.jumps_are_first) && same_jumps(old_jumps, jumps);
    let obsolete: Vec<&XtChain> = old_chains
        .iter()
        .filter(|old| !chains.iter().any(|chain| chain.name == old.name))
        .collect();
    let is_same = |chain: &XtChain| old_chains.contains(chain);
    if is_in_place && obsolete.is_empty() && chains.iter().all(is_same) {
        return String::new();
    }
    let mut text = format!("*{name}\n");
    // Declared, a chain that is there is emptied.
    for chain in chains {
        line(&mut text, format_args!(":{} - [0:0]", chain.name));
    }
    for chain in chains {
        for rule in &chain.rules {
            line(&mut text, format_args!("-A {} {rule}", chain.name));
        }
    }
    if !is_in_place {
        for jump in old_jumps {
            line(&mut text, format_args!("-D {jump}"));
        }
        // The last is put in front first.
        for jump in jumps.iter().rev() {
            line(&mut text, format_args!("-I {} 1 -j {}", jump.from, jump.to));
        }
    }
    for chain in &obsolete {
        line(&mut text, format_args!("-F {}", chain.name));
    }
    for chain in &obsolete {
        line(&mut text, format_args!("-X {}", chain.name));
    }
    text.push_str("COMMIT\n");
    text
}

/// Whether each base chain leads to the same chains in the same order.
fn same_jumps(one: &[Jump], two: &[Jump]) -> bool {
    let of = |jumps: &[Jump], from: &str| -> Vec<String> {
        let jumps = jumps.iter().filter(|jump| jump.from == from);
        jumps.map(|jump| jump.to.clone()).collect()
    };
    let bases = one.iter().chain(two).map(|jump| jump.from);
    bases.into_iter().all(|from| of(one, from) == of(two, from))
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}

// === impl Found ===

impl Found {
    pub(crate) fn table(&self, name: &str) -> Option<&FoundTable> {
        self.tables.iter().find(|table| table.ours.name == name)
    }

    /// What is there, as something to be wanted again.
    #[cfg(feature = "iptables")]
    pub(crate) fn as_wanted(&self) -> Ruleset {
        Ruleset {
            tables: self.tables.iter().map(|table| table.ours.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &'static str, rule: &str, base: &'static str) -> XtTable {
        let chain = format!("MESH_a_{name}");
        XtTable {
            name,
            chains: vec![XtChain {
                name: chain.clone(),
                rules: vec![rule.to_owned()],
            }],
            jumps: vec![Jump {
                from: base,
                to: chain,
            }],
        }
    }

    fn found(tables: Vec<XtTable>) -> Found {
        Found {
            tables: tables
                .into_iter()
                .map(|ours| FoundTable {
                    ours,
                    jumps_are_first: true,
                })
                .collect(),
        }
    }

    fn wanted(tables: Vec<XtTable>) -> Ruleset {
        Ruleset { tables }
    }

    #[test]
    fn what_is_there_already_needs_nothing() {
        let tables = vec![table("nat", "-j RETURN", "OUTPUT")];
        assert_eq!(transition(&found(tables.clone()), &wanted(tables)), "");
    }

    #[test]
    fn jumps_come_last_on_install_and_first_on_removal() {
        let tables = vec![table("nat", "-j RETURN", "OUTPUT")];
        assert_eq!(
            transition(&Found::default(), &wanted(tables.clone())),
            "*nat\n:MESH_a_nat - [0:0]\n-A MESH_a_nat -j RETURN\n-I OUTPUT 1 -j MESH_a_nat\nCOMMIT\n"
        );
        assert_eq!(
            transition(&found(tables), &Ruleset::default()),
            "*nat\n-D OUTPUT -j MESH_a_nat\n-F MESH_a_nat\n-X MESH_a_nat\nCOMMIT\n"
        );
    }

    #[test]
    fn a_jump_behind_rules_of_others_goes_to_the_front() {
        let tables = vec![table("nat", "-j RETURN", "OUTPUT")];
        let mut there = found(tables.clone());
        there.tables[0].jumps_are_first = false;
        let text = transition(&there, &wanted(tables));
        assert!(text.contains("-D OUTPUT -j MESH_a_nat\n-I OUTPUT 1 -j MESH_a_nat\n"));
    }

    #[test]
    fn the_guard_is_lifted_while_nat_changes_and_goes_first_on_removal() {
        let plan = |rule| {
            vec![
                table("nat", rule, "OUTPUT"),
                table("filter", rule, "OUTPUT"),
            ]
        };
        let text = transition(&found(plan("-j RETURN")), &wanted(plan("-p tcp -j RETURN")));
        let tables: Vec<&str> = text.lines().filter(|line| line.starts_with('*')).collect();
        assert_eq!(tables, ["*filter", "*nat", "*filter"]);
        assert!(text.starts_with("*filter\n-D OUTPUT -j MESH_a_filter\nCOMMIT\n*nat\n"));
        assert!(text.ends_with("-I OUTPUT 1 -j MESH_a_filter\nCOMMIT\n"));
        let text = transition(&found(plan("-j RETURN")), &Ruleset::default());
        let tables: Vec<&str> = text.lines().filter(|line| line.starts_with('*')).collect();
        assert_eq!(tables, ["*filter", "*nat"]);
    }
}
