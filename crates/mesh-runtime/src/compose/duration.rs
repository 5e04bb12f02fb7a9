//! Durations of a file: `1h30m`, `2.5s`, `100ms`.
//!
//! Source: Compose specification, "Specifying durations".

use std::time::Duration;

use serde::Serializer;

pub(super) const EXPECTED: &str = "a duration (as in `1m30s`: us, ms, s, m, h), at most a year";

/// The longest duration that is read.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads numbers with units, one after the other.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Some(total);
    }
    loop {
        let digits = rest.find(|it: char| !it.is_ascii_digit() && it != '.')?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind
            .find(|it: char| !it.is_alphabetic())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let nanoseconds: u64 = match unit {
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = whole.parse::<u64>().ok()?.checked_mul(nanoseconds)?;
        let part = match fraction.len() {
            0 => 0,
            places @ 1..=9 => {
                let scale = 10_u64.checked_pow(u32::try_from(places).ok()?)?;
                let nanoseconds =
                    u128::from(fraction.parse::<u64>().ok()?) * u128::from(nanoseconds);
                u64::try_from(nanoseconds / u128::from(scale)).ok()?
            }
            _ => return None,
        };
        total = total.checked_add(Duration::from_nanos(whole.checked_add(part)?))?;
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    // Whole microseconds: what can be written can be read again.
    let total = Duration::from_micros(u64::try_from(total.as_micros()).ok()?);
    (total <= YEAR).then_some(total)
}

/// Writes whole microseconds.
#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
pub(super) fn write<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.collect_str(&format_args!("{}us", duration.as_micros())),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, expected) in [
            ("0", 0),
            ("0s", 0),
            ("100ms", 100_000),
            ("2.5s", 2_500_000),
            ("1h30m20s10ms", 5_420_010_000),
            ("7us", 7),
            ("8760h", 31_536_000_000_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_micros(expected)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_no_duration() {
        for text in [
            "",
            "5",
            "s",
            "1x",
            "1 s",
            "-1s",
            ".s",
            "1..2s",
            "8761h",
            "99999999999999999999s",
            "1s5",
            "1.0000000000s",
            "1ss",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
