//! The columns of each kind.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kind::Kind;

/// One column.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// 0 is always shown, 1 only in wide tables.
    pub(super) priority: u8,
    pub(super) cell: fn(&Value) -> Value,
}

/// The columns of a kind, in order.
pub(super) fn of(kind: &Kind) -> Vec<Column> {
    let mut columns = vec![column("Name", "Name of the object.", |object| {
        object["metadata"]["name"].clone()
    })];
    columns.extend(own(kind));
    columns.push(column("Age", "Time since the object was created.", age));
    columns
}

fn own(kind: &Kind) -> Vec<Column> {
    match kind.name {
        "Namespace" => vec![column("Status", "Phase of its life.", |object| {
            text(&object["status"]["phase"])
        })],
        "ConfigMap" => vec![column("Data", "Number of entries.", |object| {
            (count(&object["data"]) + count(&object["binaryData"]))
                .to_string()
                .into()
        })],
        "Secret" => vec![
            column("Type", "Type of the secret.", |object| text(&object["type"])),
            column("Data", "Number of entries.", |object| {
                count(&object["data"]).to_string().into()
            }),
        ],
        "ServiceAccount" => vec![column("Secrets", "Number of secrets.", |object| {
            count(&object["secrets"]).to_string().into()
        })],
        "Event" => vec![
            column("Type", "Normal or Warning.", |object| text(&object["type"])),
            column("Reason", "Why, in one word.", |object| text(&object["reason"])),
            column("Object", "What it is about.", |object| {
                let about = &object["involvedObject"];
                let part = |name: &str| about[name].as_str().unwrap_or_default().to_lowercase();
                format!("{}/{}", part("kind"), part("name")).into()
            }),
            column("Message", "What happened.", |object| text(&object["message"])),
        ],
        "RoleBinding" | "ClusterRoleBinding" => vec![column("Role", "The role given.", |object| {
            let role = &object["roleRef"];
            let part = |name: &str| role[name].as_str().unwrap_or_default();
            format!("{}/{}", part("kind"), part("name")).into()
        })],
        "VirtualService" => vec![
            column("Gateways", "Where it holds.", |object| {
                list(&object["spec"]["gateways"])
            }),
            column("Hosts", "Whose traffic it routes.", |object| {
                list(&object["spec"]["hosts"])
            }),
        ],
        "DestinationRule" => vec![column("Host", "Whose traffic it shapes.", |object| {
            text(&object["spec"]["host"])
        })],
        "ServiceEntry" => vec![
            column("Hosts", "The names it adds.", |object| {
                list(&object["spec"]["hosts"])
            }),
            column("Location", "Inside or outside of the mesh.", |object| {
                text(&object["spec"]["location"])
            }),
            column("Resolution", "How addresses are found.", |object| {
                text(&object["spec"]["resolution"])
            }),
        ],
        "WorkloadEntry" => vec![column("Address", "Where it is reached.", |object| {
            text(&object["spec"]["address"])
        })],
        "PeerAuthentication" => vec![column("Mode", "Mutual TLS mode.", |object| {
            text(&object["spec"]["mtls"]["mode"])
        })],
        "AuthorizationPolicy" => vec![column("Action", "What it does.", |object| {
            text(&object["spec"]["action"])
        })],
        _ => Vec::new(),
    }
}

fn column(name: &'static str, description: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column {
        name,
        description,
        priority: 0,
        cell,
    }
}

fn text(value: &Value) -> Value {
    value.as_str().unwrap_or_default().into()
}

/// As kubectl prints a list of a custom resource.
fn list(value: &Value) -> Value {
    match value {
        Value::Array(_) => value.to_string().into(),
        _ => "".into(),
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    }
}

/// The time since creation, as short as kubectl writes it.
fn age(object: &Value) -> Value {
    let created = object["metadata"]["creationTimestamp"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    let Some(created) = created else {
        return "<unknown>".into();
    };
    short(Timestamp::now().as_second() - created.as_second()).into()
}

fn short(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        ..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        ..10_800 => format!("{minutes}m"),
        ..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        ..172_800 => format!("{hours}h"),
        ..691_200 if hours % 24 != 0 => format!("{days}d{}h", hours % 24),
        ..63_072_000 => format!("{days}d"),
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
