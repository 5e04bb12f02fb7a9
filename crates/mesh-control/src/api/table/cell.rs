//! The cells of a table: the columns of the model's kinds, ages as kubectl writes them.

use jiff::Timestamp;
use mesh_model::kind::Cell;
use serde_json::{Value, json};

use crate::api::json::at;
use crate::api::kind::Kind;

/// The columns of a kind, the name first.
pub(super) fn definitions(kind: Kind) -> Vec<Value> {
    let name = json!({
        "name": "Name",
        "type": "string",
        "format": "name",
        "description": "Name of the object.",
        "priority": 0,
    });
    let own = kind.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.cell.column_type(),
            "format": "",
            "description": "",
            "priority": 0,
        })
    });
    std::iter::once(name).chain(own).collect()
}

/// The cells of an object, in the order of the columns.
pub(super) fn row(kind: Kind, object: &Value) -> Vec<Value> {
    let name = at(object, "metadata.name").clone();
    let own = kind.columns.iter().map(|column| {
        let value = column.cell.value(object);
        match column.cell {
            Cell::Age | Cell::AgeOf(_) => age(&value),
            _ if value.is_null() => "".into(),
            _ => value,
        }
    });
    std::iter::once(name).chain(own).collect()
}

/// The time since a time, as short as kubectl writes it.
fn age(time: &Value) -> Value {
    let time = time
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    match time {
        Some(time) => short(Timestamp::now().as_second() - time.as_second()).into(),
        None => "<unknown>".into(),
    }
}

fn short(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 != 0 => format!("{days}d{}h", hours % 24),
        172_800..63_072_000 => format!("{days}d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn ages_are_as_short_as_kubectl_writes_them() {
        for (seconds, expected) in [
            (-3, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (300, "5m"),
            (3600, "60m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (100_000, "27h"),
            (200_000, "2d7h"),
            (800_000, "9d"),
        ] {
            assert_eq!(short(seconds), expected);
        }
    }
}
