//! How a benchmark tells what it measured: one JSON object per measure and line, which
//! `cargo xtask bench` reads.

use serde_json::json;

/// Tells one measure; `against` is the name of the measure of this run to compare it with.
#[expect(clippy::print_stdout, reason = "results go to standard output")]
pub(crate) fn measure(name: &str, value: f64, unit: &str, against: Option<&str>) {
    println!(
        "{}",
        json!({ "name": name, "value": value, "unit": unit, "against": against })
    );
}

/// Tells what happens, for who waits.
#[expect(clippy::print_stderr, reason = "progress goes to standard error")]
pub(crate) fn progress(what: &str) {
    eprintln!("{what}");
}

/// The value that this share of the sorted values does not exceed.
pub(crate) fn percentile(sorted: &[f64], share: usize) -> f64 {
    let place = (sorted.len() * share).div_ceil(100).saturating_sub(1);
    *sorted.get(place).unwrap()
}
