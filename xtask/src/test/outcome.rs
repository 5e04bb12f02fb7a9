//! What a run of tests came to, read from what cargo's harness prints.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Failure;

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    ring: &'static str,
    result: Outcome,
    tests: u64,
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Pass,
    Fail,
    NotRun,
}

/// The table.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) rings: Vec<Row>,
    pub(crate) seconds: u64,
}

// === impl Row ===

impl Row {
    pub(crate) fn ran(ring: &'static str, passed: u64, failed: u64) -> Self {
        let result = if failed == 0 {
            Outcome::Pass
        } else {
            Outcome::Fail
        };
        let reason = (failed > 0).then(|| format!("{failed} failed"));
        Self {
            ring,
            result,
            tests: passed + failed,
            reason,
        }
    }

    pub(crate) fn failed(ring: &'static str, reason: String) -> Self {
        Self {
            ring,
            result: Outcome::Fail,
            tests: 0,
            reason: Some(reason),
        }
    }

    pub(crate) fn not_run(ring: &'static str, reason: String) -> Self {
        Self {
            ring,
            result: Outcome::NotRun,
            tests: 0,
            reason: Some(reason),
        }
    }
}

// === impl Report ===

impl Report {
    /// One JSON object on stdout, or a table.
    pub(crate) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!("\nring      result   tests  reason");
        for row in &self.rings {
            let result = match row.result {
                Outcome::Pass => "pass",
                Outcome::Fail => "FAIL",
                Outcome::NotRun => "not run",
            };
            let reason = row.reason.as_deref().unwrap_or_default();
            println!("{:<9} {result:<8} {:>5}  {reason}", row.ring, row.tests);
        }
        let passed: u64 = self
            .rings
            .iter()
            .filter(|r| r.result == Outcome::Pass)
            .map(|r| r.tests)
            .sum();
        let failed = self
            .rings
            .iter()
            .filter(|row| row.result == Outcome::Fail)
            .count();
        println!(
            "\n{passed} tests in {} s; rings failed: {failed}",
            self.seconds
        );
        Ok(())
    }

    /// Fails if a ring failed, or a required one did not run.
    pub(crate) fn verdict(&self, required: &[String]) -> Result<(), Failure> {
        let mut wrong: Vec<String> = Vec::new();
        for row in &self.rings {
            let needed = required.iter().any(|name| name == row.ring);
            if row.result == Outcome::Fail {
                wrong.push(format!("ring {} failed", row.ring));
            } else if needed && (row.result == Outcome::NotRun || row.tests == 0) {
                wrong.push(format!("ring {} is required and did not run", row.ring));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("; ").into())
        }
    }
}

/// Passed and failed tests by ring: doc tests by their section, properties and golden files by the
/// names of the targets and modules that hold them, the rest is unit.
pub(crate) fn by_ring(output: &str) -> BTreeMap<&'static str, (u64, u64)> {
    let mut counts: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    // What cargo said last of the binary whose tests follow.
    let mut binary = "";
    for line in output.lines() {
        let words = line.trim_start();
        if words.starts_with("Running ") || words.starts_with("Doc-tests ") {
            binary = words;
        }
        let Some((name, passed)) = one_test(line) else {
            continue;
        };
        let is_of = |word: &str| name.contains(word) || binary.contains(word);
        let ring = if binary.starts_with("Doc-tests ") {
            "doc"
        } else if is_of("propert") {
            "property"
        } else if is_of("golden") {
            "golden"
        } else {
            "unit"
        };
        let count = counts.entry(ring).or_default();
        if passed {
            count.0 += 1;
        } else {
            count.1 += 1;
        }
    }
    counts
}

/// Passed and failed tests in all.
pub(crate) fn total(output: &str) -> (u64, u64) {
    output
        .lines()
        .filter_map(one_test)
        .fold((0, 0), |(passed, failed), (_, ok)| {
            if ok {
                (passed + 1, failed)
            } else {
                (passed, failed + 1)
            }
        })
}

/// `test NAME ... ok` or `test NAME ... FAILED`.
fn one_test(line: &str) -> Option<(&str, bool)> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    match result.trim() {
        "ok" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/mesh_model-1)
test name::tests::labels_are_checked ... ok
test properties::names_round_trip ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored
     Running tests/golden.rs (target/debug/deps/golden-1)
test every_case_is_as_written_down ... ok
   Doc-tests mesh_model
test crates/mesh-model/src/name.rs - name::Namespace (line 62) ... ok
";

    #[test]
    fn tests_are_counted_by_ring() {
        let counts = by_ring(OUTPUT);
        assert_eq!(counts["unit"], (1, 0));
        assert_eq!(counts["property"], (0, 1));
        assert_eq!(counts["golden"], (1, 0));
        assert_eq!(counts["doc"], (1, 0));
        assert_eq!(total(OUTPUT), (3, 1));
    }

    #[test]
    fn a_required_ring_that_did_not_run_is_a_failure() {
        let row = || Row::not_run("etcd", "no etcd".to_owned());
        let report = Report {
            rings: vec![row()],
            seconds: 0,
        };
        assert!(report.verdict(&[]).is_ok());
        assert!(report.verdict(&["etcd".to_owned()]).is_err());
    }
}
