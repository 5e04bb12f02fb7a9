//! The engine conformance suite: the same tests, run on a bed for each kind of engine.

#[path = "bed.rs"]
pub(crate) mod bed;
#[path = "suite.rs"]
pub(crate) mod suite;
