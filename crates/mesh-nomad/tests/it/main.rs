//! The public face of the crate, with generated input and golden files.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(
    clippy::indexing_slicing,
    reason = "a missing element is a failed test"
)]

mod client_faults;
mod cni;
mod generate;
mod inject_golden;
mod inject_properties;
mod inject_refusals;
mod install;
mod model_properties;
