//! What `cargo xtask e2e nomad` does when it is told to end.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "interrupt/run.rs"]
mod run;

use std::sync::{Mutex, PoisonError};

use run::{End, end};

/// Held by every test: there is one such run on a machine.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn interrupted_it_takes_nomad_and_all_that_runs_there_down() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    end("nomad", End::Terminal, || {});
}

#[test]
fn told_to_end_alone_it_takes_nomad_and_all_that_runs_there_down() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    end("nomad", End::Kill, || {});
}
