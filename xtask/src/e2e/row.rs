//! The table of promises.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One promise and what was seen of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    promise: String,
    result: Outcome,
    evidence: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Pass,
    Fail,
    NotRun,
}

/// All of them.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) seconds: u64,
    /// Whether somebody ended it before its time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) interrupted: bool,
}

// === impl Row ===

impl Row {
    pub(crate) fn pass(promise: &str, evidence: String) -> Self {
        Self {
            promise: promise.to_owned(),
            result: Outcome::Pass,
            evidence,
        }
    }

    pub(crate) fn fail(promise: &str, evidence: String) -> Self {
        Self {
            promise: promise.to_owned(),
            result: Outcome::Fail,
            evidence,
        }
    }

    /// Whether the promise was kept.
    pub(crate) fn is_pass(&self) -> bool {
        self.result == Outcome::Pass
    }

    /// `pass`, `FAIL` or `not run`, the promise, the evidence.
    pub(crate) fn line(&self) -> String {
        let result = match self.result {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::NotRun => "not run",
        };
        format!("{result:<8} {}\n         {}", self.promise, self.evidence)
    }
}

// === impl Report ===

impl Report {
    /// Hands the table from the inner process to the outer one.
    pub(crate) fn save(&self, home: &Path) -> Result<(), Failure> {
        Ok(fs::write(
            home.join("report.json"),
            serde_json::to_vec(self)?,
        )?)
    }

    pub(crate) fn load(home: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(home.join("report.json")).ok()?).ok()
    }

    /// One JSON object on stdout, or a table.
    pub(crate) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!();
        self.rows.iter().for_each(|row| println!("{}", row.line()));
        let passed = self.rows.iter().filter(|row| row.is_pass()).count();
        println!("\n{passed} passed, {} failed", self.rows.len() - passed);
        Ok(())
    }

    /// Every row must pass; a row that did not run did not.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let bad: Vec<_> = self.rows.iter().filter(|row| !row.is_pass()).collect();
        if self.rows.is_empty() {
            Err("no row ran".into())
        } else if bad.is_empty() {
            Ok(())
        } else {
            let promises: Vec<_> = bad.iter().map(|row| row.promise.as_str()).collect();
            Err(format!("not kept: {}", promises.join("; ")).into())
        }
    }
}
