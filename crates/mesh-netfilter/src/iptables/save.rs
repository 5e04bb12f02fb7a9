//! What `iptables-save -c` prints, read.

use std::collections::BTreeSet;

use super::{
    ABOUT, ABOUT_MADE, ABOUT_RULES, BASE_CHAINS, CHAIN_ENDINGS, Found, FoundTable, Jump, TABLES,
    XtChain, XtTable, chain_name, chain_names,
};
use crate::bytecode::{Counter, Fingerprint, parse_about};
use crate::listing::{Code, ListedChain, ListedRule, ListedTable};
use crate::{Family, InstanceName};

/// All tables of one family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Save {
    pub(crate) tables: Vec<SavedTable>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SavedTable {
    pub(crate) name: String,
    pub(crate) chains: Vec<SavedChain>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SavedChain {
    pub(crate) name: String,
    /// `ACCEPT`, `DROP`, or `-` for a chain that only rules lead to.
    pub(crate) policy: String,
    pub(crate) rules: Vec<SavedRule>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SavedRule {
    /// What stands behind the name of the chain.
    pub(crate) text: String,
    pub(crate) counter: Option<Counter>,
}

// === impl Save ===

impl Save {
    /// Reads the output; the first line that is not understood is the error.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut save = Self::default();
        for line in text.lines() {
            save.line(line).ok_or_else(|| line.to_owned())?;
        }
        Ok(save)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        if line.is_empty() || line.starts_with('#') || line == "COMMIT" {
            return Some(());
        }
        if let Some(name) = line.strip_prefix('*') {
            self.tables.push(SavedTable {
                name: name.to_owned(),
                chains: Vec::new(),
            });
            return Some(());
        }
        let table = self.tables.last_mut()?;
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            table.chains.push(SavedChain {
                name: words.next()?.to_owned(),
                policy: words.next()?.to_owned(),
                rules: Vec::new(),
            });
            return Some(());
        }
        let (counter, rule) = match line.strip_prefix('[') {
            Some(rest) => {
                let (counter, rule) = rest.split_once("] ")?;
                let (packets, bytes) = counter.split_once(':')?;
                let counter = Counter {
                    packets: packets.parse().ok()?,
                    bytes: bytes.parse().ok()?,
                };
                (Some(counter), rule)
            }
            None => (None, line),
        };
        let rule = rule.strip_prefix("-A ")?;
        // A rule without condition and target has nothing behind the name.
        let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
        let chain = table.chains.iter_mut().find(|other| other.name == chain)?;
        chain.rules.push(SavedRule {
            text: text.trim_end().to_owned(),
            counter,
        });
        Some(())
    }

    pub(crate) fn table(&self, name: &str) -> Option<&SavedTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// What is of `instance`.
    pub(crate) fn found(&self, instance: &InstanceName) -> Found {
        let names = chain_names(instance);
        let tables = TABLES.into_iter().filter_map(|name| {
            let table = self.table(name)?;
            let chains = table
                .chains
                .iter()
                .filter(|chain| names.contains(&chain.name));
            let chains: Vec<XtChain> = chains.map(SavedChain::own).collect();
            let mut jumps = Vec::new();
            let mut jumps_are_first = true;
            for from in BASE_CHAINS {
                let places = table.jumps(from, &names);
                jumps_are_first &= places
                    .iter()
                    .enumerate()
                    .all(|(at, (place, _))| at == *place);
                jumps.extend(places.into_iter().map(|(_, to)| Jump { from, to }));
            }
            let is_empty = chains.is_empty() && jumps.is_empty();
            (!is_empty).then_some(FoundTable {
                ours: XtTable {
                    name,
                    chains,
                    jumps,
                },
                jumps_are_first,
            })
        });
        Found {
            tables: tables.collect(),
        }
    }

    /// What is of `instance`, for comparison: our chains, and base chains as far as our last jump.
    pub(crate) fn listed(&self, family: Family, instance: &InstanceName) -> Vec<ListedTable> {
        let names = chain_names(instance);
        let about = chain_name(instance, ABOUT);
        let tables = TABLES.into_iter().filter_map(|name| {
            let table = self.table(name)?;
            let mut chains = Vec::new();
            for chain in &table.chains {
                let length = if names.contains(&chain.name) {
                    chain.rules.len()
                } else {
                    let last = table.jumps(&chain.name, &names).pop();
                    let Some((last, _)) = last else { continue };
                    last + 1
                };
                chains.push(ListedChain {
                    name: chain.name.clone(),
                    base: None,
                    is_about: chain.name == about,
                    rules: chain
                        .rules
                        .iter()
                        .take(length)
                        .map(SavedRule::listed)
                        .collect(),
                });
            }
            (!chains.is_empty()).then_some(ListedTable {
                name: table_title(family, name),
                is_dormant: false,
                chains,
            })
        });
        tables.collect()
    }

    /// The instances that have chains here.
    pub(crate) fn instances(&self) -> impl Iterator<Item = InstanceName> {
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        chains.filter_map(|chain| {
            let (instance, ending) = chain.name.strip_prefix("MESH_")?.rsplit_once('_')?;
            let is_ours = CHAIN_ENDINGS.contains(&ending);
            is_ours.then(|| instance.parse().ok()).flatten()
        })
    }

    /// What was made with instances that are still in the table; only with that one, if it is
    /// named.
    pub(crate) fn made(&self, table: &str, instance: Option<&InstanceName>) -> BTreeSet<String> {
        let abouts = self.abouts().filter(|(other, owner, _)| {
            other.name == table && instance.is_none_or(|instance| instance == owner)
        });
        let comments = abouts.filter_map(|(_, _, comment)| comment);
        comments
            .flat_map(|comment| {
                let (_, words) = comment.split_once(ABOUT_MADE).unwrap_or_default();
                words.split(' ').map(str::to_owned).collect::<Vec<_>>()
            })
            .filter(|word| !word.is_empty())
            .collect()
    }

    /// The comments of all chains that tell about a plan, whosever they are, with their instance.
    pub(crate) fn abouts(
        &self,
    ) -> impl Iterator<Item = (&SavedTable, InstanceName, Option<String>)> {
        self.tables.iter().flat_map(|table| {
            table.chains.iter().filter_map(move |chain| {
                let name = chain.name.strip_prefix("MESH_")?;
                let instance = name.strip_suffix(ABOUT)?.strip_suffix('_')?;
                let comment = chain.rules.first().and_then(|rule| comment(&rule.text));
                Some((table, instance.parse().ok()?, comment))
            })
        })
    }
}

/// The plan that the comment of a chain tells, if `hash` is that of the rules it was written with.
pub(crate) fn told_plan(comment: &str, hash: Fingerprint) -> Option<Fingerprint> {
    let about = comment.strip_suffix(&format!("{ABOUT_RULES}{hash}"))?;
    parse_about(about).map(|(_, plan)| plan)
}

/// Family and name of a table, as drift names it.
pub(crate) fn table_title(family: Family, table: &str) -> String {
    match family {
        Family::V4 => format!("ip {table}"),
        Family::V6 => format!("ip6 {table}"),
    }
}

// === impl SavedTable ===

impl SavedTable {
    /// The places of plain jumps from `from` to chains of these names.
    fn jumps(&self, from: &str, names: &[String]) -> Vec<(usize, String)> {
        let Some(chain) = self.chains.iter().find(|chain| chain.name == from) else {
            return Vec::new();
        };
        let to = |rule: &SavedRule| {
            let to = rule.text.strip_prefix("-j ")?;
            names.iter().find(|name| *name == to).cloned()
        };
        let rules = chain.rules.iter().enumerate();
        rules
            .filter_map(|(place, rule)| Some((place, to(rule)?)))
            .collect()
    }

    /// Whether the table has no chains but these and those that the tool only pretends are there.
    pub(crate) fn has_only(&self, chains: &[&str]) -> bool {
        self.chains.iter().all(|chain| {
            let is_pretended = BASE_CHAINS.contains(&chain.name.as_str());
            chains.contains(&chain.name.as_str()) || is_pretended
        })
    }

    /// Whether the base chain has nothing in it that somebody put there.
    pub(crate) fn is_untouched(&self, chain: &str) -> bool {
        let chain = self.chains.iter().find(|other| other.name == chain);
        chain.is_some_and(|chain| chain.rules.is_empty() && chain.policy == "ACCEPT")
    }
}

// === impl SavedChain ===

impl SavedChain {
    fn own(&self) -> XtChain {
        XtChain {
            name: self.name.clone(),
            rules: self.rules.iter().map(|rule| rule.text.clone()).collect(),
        }
    }
}

// === impl SavedRule ===

impl SavedRule {
    fn listed(&self) -> ListedRule {
        // What was there before us is no matter of the plan.
        let line = match self.text.split_once(ABOUT_MADE) {
            Some((front, rest)) if front.contains(ABOUT_RULES) => {
                let (_, back) = rest.split_once('"').unwrap_or_default();
                format!("{front}\"{back}")
            }
            _ => self.text.clone(),
        };
        ListedRule {
            comment: comment(&line).map(plan_words),
            code: Code::Line(line),
            counter: self.counter,
        }
    }
}

/// Of a comment that tells about a plan, what all backends say.
pub(crate) fn plan_words(comment: String) -> String {
    match comment.split_once(ABOUT_RULES) {
        Some((plan, _)) if parse_about(plan).is_some() => plan.to_owned(),
        _ => comment,
    }
}

/// The comment in a line, as it was before `iptables-save` put it in quotes.
pub(crate) fn comment(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("--comment ")?;
    let Some(quoted) = rest.strip_prefix('"') else {
        return rest.split(' ').next().map(str::to_owned);
    };
    let mut text = String::new();
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' => return Some(text),
            '\\' => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAVED: &str = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n\
        :OUTPUT ACCEPT [5:300]\n:MESH_mesh_NATOUT - [0:0]\n:MESH_mesh_OTHER - [0:0]\n\
        [1:60] -A OUTPUT -d 10.0.0.0/8 -j ACCEPT\n[2:120] -A OUTPUT -j MESH_mesh_NATOUT\n\
        [0:0] -A OUTPUT -j MESH_mesh_OTHER\n\
        [3:4] -A MESH_mesh_NATOUT -m comment --comment \"it\\'s \\\"so\\\"\" -j RETURN\nCOMMIT\n";

    #[test]
    fn what_is_ours_is_found_by_exact_names() {
        let save = Save::parse(SAVED).unwrap();
        let found = save.found(&InstanceName::default());
        assert_eq!(found.tables.len(), 1);
        let table = &found.tables[0];
        assert_eq!(table.ours.chains.len(), 1);
        assert_eq!(table.ours.jumps.len(), 1);
        assert!(!table.jumps_are_first);
        let listed = save.listed(Family::V4, &InstanceName::default());
        assert_eq!(listed[0].name, "ip nat");
        let chains: Vec<(&str, usize)> = listed[0]
            .chains
            .iter()
            .map(|chain| (chain.name.as_str(), chain.rules.len()))
            .collect();
        assert_eq!(chains, [("OUTPUT", 2), ("MESH_mesh_NATOUT", 1)]);
        let rule = &listed[0].chains[1].rules[0];
        assert_eq!(rule.comment.as_deref(), Some("it's \"so\""));
        assert_eq!(rule.counter.unwrap().packets, 3);
        assert!(save.found(&"other".parse().unwrap()).tables.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for bad in [
            "-A OUTPUT -j ACCEPT",
            "*nat\n-A NO -j ACCEPT",
            "*nat\n[x:0] -A OUTPUT",
            "*nat\nfoo",
        ] {
            let error = Save::parse(bad).unwrap_err();
            assert_eq!(error, bad.lines().last().unwrap());
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "(?s).{0,200}", tail in "[*:A-Za-z \\[\\]\\-\"\\\\0-9\n]{0,200}") {
            drop(Save::parse(&text));
            drop(Save::parse(&format!("*nat\n:OUTPUT ACCEPT [0:0]\n{tail}")));
            drop(comment(&text));
            drop(comment(&format!("--comment {tail}")));
        }
    }
}
