//! Lengths of time as Istio's users write them: `7s`, `0.5s`, `1m30s`.

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::time;

use serde::{Deserialize, Serialize};

use crate::Problem;

/// A length of time, at least 0, in steps of a nanosecond.
///
/// Read in the form of Go (`1h`, `1m30s`, `250ms`, `1.5s`), of which protobuf's JSON form (`7s`,
/// `0.5s`) is a part; written in protobuf's.
/// Source: <https://pkg.go.dev/time#ParseDuration>, <https://protobuf.dev/programming-guides/json/>.
///
/// ```
/// # use mesh_model::istio::Duration;
/// let timeout: Duration = "1m30s".parse().unwrap();
/// assert_eq!(timeout.as_std(), std::time::Duration::from_secs(90));
/// assert_eq!(timeout.to_string(), "90s");
/// ```
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(time::Duration);

/// The longest duration that Envoy takes, about 292 years: the seconds whose nanoseconds, with any
/// fraction, can be counted with 63 bits.
const LONGEST_NANOSECONDS: u128 = 9_223_372_035 * NANOSECONDS_PER_SECOND;

// === impl Duration ===

impl Duration {
    /// The shortest that Istio takes for a timeout, an interval or a delay.
    pub const SHORTEST: Self = Self(time::Duration::from_millis(1));

    /// As the standard library's type.
    pub fn as_std(self) -> time::Duration {
        self.0
    }
}

impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Duration {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        nanoseconds(text)
            .filter(|nanoseconds| *nanoseconds <= LONGEST_NANOSECONDS)
            .and_then(|nanoseconds| {
                let seconds = u64::try_from(nanoseconds / NANOSECONDS_PER_SECOND).ok()?;
                let rest = u32::try_from(nanoseconds % NANOSECONDS_PER_SECOND).ok()?;
                Some(Self(time::Duration::new(seconds, rest)))
            })
            .ok_or_else(|| Problem::new("", text, "a duration such as `7s`, `0.5s` or `1m30s`"))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs())?;
        let fraction = self.0.subsec_nanos();
        if fraction > 0 {
            f.write_char('.')?;
            f.write_str(format!("{fraction:09}").trim_end_matches('0'))?;
        }
        f.write_char('s')
    }
}

impl TryFrom<String> for Duration {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// The sum of a sequence of numbers with units; `None` when it is not one.
fn nanoseconds(text: &str) -> Option<u128> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0_u128;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        sum = sum.checked_add(quantity(number, unit_nanoseconds(unit)?)?)?;
        rest = next;
    }
    Some(sum)
}

/// `number` of a unit, what is below a nanosecond cut off.
fn quantity(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| -> Option<u128> {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse().ok()
        }
    };
    // Past 20 digits a fraction of an hour is below a nanosecond.
    let fraction = fraction.get(..20).unwrap_or(fraction);
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = digits(fraction)?.checked_mul(unit)? / scale;
    digits(whole)?.checked_mul(unit)?.checked_add(part)
}

fn unit_nanoseconds(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        // Both signs for micro, as Go has them: U+00B5 and U+03BC.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOSECONDS_PER_SECOND,
        "m" => 60 * NANOSECONDS_PER_SECOND,
        "h" => 3_600 * NANOSECONDS_PER_SECOND,
        _ => return None,
    })
}

const NANOSECONDS_PER_SECOND: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_go_and_protobuf_are_read_and_protobufs_is_written() {
        for (text, written) in [
            ("7s", "7s"),
            ("0.5s", "0.5s"),
            ("1m30s", "90s"),
            ("250ms", "0.25s"),
            ("1.5h", "5400s"),
            (".5s", "0.5s"),
            ("1.s", "1s"),
            ("+2s", "2s"),
            ("0", "0s"),
            ("0s", "0s"),
            ("1us", "0.000001s"),
            ("\u{b5}s", ""),
            ("1\u{b5}s", "0.000001s"),
            ("3ns", "0.000000003s"),
        ] {
            let read = text.parse::<Duration>();
            if written.is_empty() {
                assert!(read.is_err(), "{text}");
            } else {
                assert_eq!(read.unwrap().to_string(), written, "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "7",
            "s",
            "-1s",
            "1.2.3s",
            "1d",
            "1s ",
            " 1s",
            "1 s",
            "+",
            ".",
            ".s",
            "1e3s",
            "9999999999h",
            "9223372036s",
            "99999999999999999999999999999999999999999999s",
            "1\u{445}",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}
