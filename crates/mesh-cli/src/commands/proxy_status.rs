//! `mesh proxy-status`: which proxies there are, and whether they have what they are to have.

use std::collections::BTreeMap;

use mesh_model::Namespace;
use mesh_proto::mesh::agent::v1::type_status::State;
use mesh_proto::mesh::agent::v1::{Health, ListProxiesRequest, Proxy, TypeStatus};
use serde::Serialize;

use super::introspection::{pilots, refused};
use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, print_json, print_table};

/// Show every proxy and how its configuration stands.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only proxies of this namespace; a user may be allowed to see that one and not all.
    #[arg(short, long)]
    namespace: Option<Namespace>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

/// A proxy, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    workload: String,
    namespace: String,
    identity: String,
    health: &'static str,
    agent_version: String,
    /// By the short name of the type; absent where the proxy did not ask.
    types: BTreeMap<&'static str, Cell>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cell {
    state: &'static str,
    /// What the proxy is to have.
    resources: u64,
    /// What was sent since its stream began.
    sent: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

/// The columns of types, with the ends of their URLs.
const TYPES: [(&str, &str); 5] = [
    ("CDS", ".Cluster"),
    ("EDS", ".ClusterLoadAssignment"),
    ("LDS", ".Listener"),
    ("RDS", ".RouteConfiguration"),
    ("NAME", ".Name"),
];

pub(crate) async fn run(args: &Args) -> Outcome {
    let namespace = args.namespace.as_ref().map(Namespace::to_string);
    let mut rows = BTreeMap::new();
    let mut failure = None;
    let mut has_answer = false;
    // A proxy takes its configuration from one replica, and each knows only its own streams.
    for mut pilot in pilots(&args.connection).await? {
        let request = ListProxiesRequest {
            namespace: namespace.clone().unwrap_or_default(),
        };
        match pilot.list_proxies(request).await {
            Ok(answer) => {
                has_answer = true;
                for proxy in answer.into_inner().proxies {
                    add(&mut rows, row(proxy));
                }
            }
            Err(status) => failure = Some(refused(&status)),
        }
    }
    if !has_answer {
        return Err(failure.unwrap_or_else(|| Failure::new("the mesh names no Pilot")));
    }
    let rows: Vec<_> = rows.into_values().collect();
    if args.format.json {
        print_json(&rows)?;
    } else {
        print(&rows);
    }
    Ok(OK.into())
}

/// Of two replicas' words on a proxy the one counts that serves it.
fn add(rows: &mut BTreeMap<String, Row>, row: Row) {
    let known = rows.get(&row.workload);
    if known.is_none_or(|known| known.types.len() < row.types.len()) {
        rows.insert(row.workload.clone(), row);
    }
}

fn row(proxy: Proxy) -> Row {
    let health = match proxy.health() {
        Health::Starting => "starting",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    };
    let workload = proxy.workload.unwrap_or_default();
    let types = proxy.types.into_iter().filter_map(|status| {
        let (name, _) = TYPES
            .into_iter()
            .find(|(_, end)| status.type_url.ends_with(end))?;
        Some((name, cell(status)))
    });
    Row {
        workload: workload.id,
        namespace: workload.namespace,
        identity: proxy.identity,
        health,
        agent_version: proxy.agent_version,
        types: types.collect(),
    }
}

fn cell(status: TypeStatus) -> Cell {
    let state = match status.state() {
        State::Synced => "SYNCED",
        State::Pending => "PENDING",
        State::Rejected => "REJECTED",
    };
    Cell {
        state,
        resources: status.resources,
        sent: status.sent,
        error: status.error,
    }
}

fn print(rows: &[Row]) {
    let mut header = vec!["WORKLOAD", "IDENTITY", "HEALTH"];
    header.extend(TYPES.map(|(name, _)| name));
    header.push("AGENT");
    let lines = rows.iter().map(|row| {
        let mut line = vec![
            row.workload.clone(),
            row.identity.clone(),
            row.health.to_owned(),
        ];
        line.extend(TYPES.map(|(name, _)| {
            let cell = row.types.get(name);
            cell.map_or_else(|| "-".to_owned(), |cell| cell.state.to_owned())
        }));
        line.push(row.agent_version.clone());
        line
    });
    print_table(&header, lines);
    for row in rows {
        for (name, cell) in &row.types {
            if !cell.error.is_empty() {
                println!("\n{} refused {name}: {}", row.workload, cell.error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::mesh::agent::v1::Workload;

    use super::*;

    fn proxy(types: &[(&str, State)]) -> Proxy {
        let types = types.iter().map(|(end, state)| TypeStatus {
            type_url: format!("type.googleapis.com/x{end}"),
            state: (*state).into(),
            resources: 3,
            ..TypeStatus::default()
        });
        Proxy {
            workload: Some(Workload {
                id: "default/web-1".to_owned(),
                ..Workload::default()
            }),
            types: types.collect(),
            ..Proxy::default()
        }
    }

    #[test]
    fn types_are_told_apart_by_the_ends_of_their_urls() {
        let row = row(proxy(&[
            (".Cluster", State::Synced),
            (".ClusterLoadAssignment", State::Rejected),
            (".Unknown", State::Synced),
        ]));
        let states: Vec<_> = row
            .types
            .iter()
            .map(|(name, cell)| (*name, cell.state))
            .collect();
        assert_eq!(states, [("CDS", "SYNCED"), ("EDS", "REJECTED")]);
    }

    #[test]
    fn the_replica_that_serves_a_proxy_has_the_word() {
        let mut rows = BTreeMap::new();
        add(&mut rows, row(proxy(&[])));
        add(&mut rows, row(proxy(&[(".Cluster", State::Pending)])));
        add(&mut rows, row(proxy(&[])));
        assert_eq!(rows["default/web-1"].types["CDS"].state, "PENDING");
    }
}
