//! What benchmarks measured: the lines that they print, and the table made of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One measure, as a benchmark prints it:
///
/// ```json
/// {"name":"renewals, 32 clients","value":6100,"unit":"/s","against":"signing alone"}
/// ```
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// What was measured; once in a benchmark.
    name: String,
    /// How much.
    value: f64,
    /// Of what; empty for a count.
    #[serde(default)]
    unit: String,
    /// The name of the measure of the same run that it is to be compared with.
    #[serde(default)]
    against: Option<String>,
}

/// One measure as it is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Measure {
    /// Benchmark and name.
    name: String,
    value: f64,
    unit: String,
    /// Name of the measure that it is compared with.
    against: Option<String>,
    /// Its value divided by that of the other.
    ratio: Option<f64>,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    measures: Vec<Measure>,
}

// === impl Line ===

impl Line {
    /// Reads a line of a benchmark; none if it is no measure but progress.
    ///
    /// # Errors
    ///
    /// When it begins as a measure and is none: a figure must not get lost unseen.
    pub(crate) fn parse(line: &str) -> Result<Option<Self>, Failure> {
        if !line.starts_with('{') {
            return Ok(None);
        }
        let parsed: Self = serde_json::from_str(line)
            .map_err(|error| format!("`{line}` is no measure: {error}"))?;
        Ok(Some(parsed))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.name, figure(self.value), self.unit)
    }
}

// === impl Report ===

impl Report {
    /// Adds the measures of one benchmark, compared with each other as they say.
    ///
    /// # Errors
    ///
    /// When a name occurs twice, or one names a measure that there is not or that is nought.
    pub(crate) fn add(&mut self, bench: &str, lines: &[Line]) -> Result<(), Failure> {
        let full = |name: &str| format!("{bench}: {name}");
        let mut measures = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            if lines
                .iter()
                .take(index)
                .any(|other| other.name == line.name)
            {
                return Err(format!("`{}` was measured twice", line.name).into());
            }
            let ratio = match &line.against {
                None => None,
                Some(against) => {
                    let other = lines.iter().find(|other| other.name == *against);
                    let other = other.filter(|other| other.unit == line.unit && other.value > 0.0);
                    let other = other.ok_or_else(|| {
                        format!("`{}` cannot be compared with `{against}`", line.name)
                    })?;
                    Some(line.value / other.value)
                }
            };
            measures.push(Measure {
                name: full(&line.name),
                value: line.value,
                unit: line.unit.clone(),
                against: line.against.as_deref().map(full),
                ratio,
            });
        }
        self.measures.extend(measures);
        Ok(())
    }

    /// One JSON object on stdout, or a table.
    pub(crate) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
        } else if !self.measures.is_empty() {
            print!("\n{}", self.table());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut rows = vec![["measure", "value", "unit", "ratio", "against"].map(str::to_owned)];
        rows.extend(self.measures.iter().map(|measure| {
            [
                measure.name.clone(),
                figure(measure.value),
                measure.unit.clone(),
                measure.ratio.map(figure).unwrap_or_default(),
                measure.against.clone().unwrap_or_default(),
            ]
        }));
        let mut widths = [0; 5];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let [name, value, unit, ratio, _] = widths;
        let lines = rows.iter().map(|[a, b, c, d, e]| {
            let line = format!("{a:<name$}  {b:>value$} {c:<unit$}  {d:>ratio$}  {e}");
            format!("{}\n", line.trim_end())
        });
        lines.collect()
    }
}

/// A number with three significant digits or all before the point, thousands set apart.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = match text.split_once('.') {
        Some((whole, rest)) => (whole, format!(".{rest}")),
        None => (text.as_str(), String::new()),
    };
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if left % 3 == 0 && grouped.ends_with(|before: char| before.is_ascii_digit()) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, value: f64, unit: &str, against: Option<&str>) -> Line {
        Line {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            against: against.map(str::to_owned),
        }
    }

    #[test]
    fn a_line_of_a_benchmark_is_a_measure_or_progress() {
        let text = r#"{"name":"apply","value":0.25,"unit":"ms","against":"one process per rule"}"#;
        let expected = line("apply", 0.25, "ms", Some("one process per rule"));
        assert_eq!(Line::parse(text).unwrap(), Some(expected));
        let text = r#"{"name":"resources on resume","value":0}"#;
        let expected = line("resources on resume", 0.0, "", None);
        assert_eq!(Line::parse(text).unwrap(), Some(expected));
        assert_eq!(Line::parse("1,000 clients connect").unwrap(), None);
        assert_eq!(Line::parse("").unwrap(), None);
    }

    #[test]
    fn a_broken_measure_is_a_failure_and_not_progress() {
        for text in [
            r#"{"name":"apply"}"#,
            r#"{"name":"apply","value":"fast"}"#,
            r#"{"name":"apply","value":1,"unti":"ms"}"#,
            "{",
        ] {
            assert!(Line::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ratio_is_the_value_divided_by_what_it_is_compared_with() {
        let mut report = Report::default();
        let lines = vec![
            line("netlink", 0.5, "ms", Some("restore")),
            line("restore", 5.0, "ms", None),
        ];
        report.add("netfilter", &lines).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json,
            serde_json::json!({ "measures": [
                { "name": "netfilter: netlink", "value": 0.5, "unit": "ms",
                  "against": "netfilter: restore", "ratio": 0.1 },
                { "name": "netfilter: restore", "value": 5.0, "unit": "ms",
                  "against": null, "ratio": null },
            ]})
        );
    }

    #[test]
    fn what_cannot_be_compared_is_a_failure() {
        let first = || line("a", 1.0, "ms", Some("b"));
        for lines in [
            vec![first()],
            vec![first(), line("b", 1.0, "s", None)],
            vec![first(), line("b", 0.0, "ms", None)],
            vec![line("b", 1.0, "ms", None), line("b", 2.0, "ms", None)],
        ] {
            let mut report = Report::default();
            assert!(report.add("x", &lines).is_err());
            assert!(report.measures.is_empty());
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_measure() {
        let mut report = Report::default();
        let lines = vec![
            line("renewals", 6100.4, "/s", Some("signing")),
            line("signing", 12_200.0, "/s", None),
        ];
        report.add("ca", &lines).unwrap();
        assert_eq!(
            report.table(),
            "\
measure        value unit  ratio  against
ca: renewals   6,100 /s    0.500  ca: signing
ca: signing   12,200 /s
"
        );
    }

    #[test]
    fn figures_have_three_digits_or_all_before_the_point() {
        for (value, text) in [
            (0.0, "0"),
            (0.254_9, "0.255"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1_234_567.8, "1,234,568"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
