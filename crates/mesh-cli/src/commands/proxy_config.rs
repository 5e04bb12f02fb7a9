//! `mesh proxy-config`: what a proxy really has, from Envoy's own dump.

use mesh_model::{Namespace, WorkloadId};
use mesh_proto::mesh::agent::v1::GetProxyConfigRequest;
use serde_json::Value;

use super::introspection::ask;
use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, print_json, print_table};

/// Show the configuration that a proxy has, as Envoy itself tells it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The workload, as in `mesh proxy-status`.
    workload: WorkloadId,
    /// Which part.
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// Namespace of the workload; what its id begins with unless given.
    #[arg(short, long)]
    namespace: Option<Namespace>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Part {
    Clusters,
    Listeners,
    Routes,
    Endpoints,
    All,
}

/// One line of a part: cells under its header.
type Line = Vec<String>;

pub(crate) async fn run(args: &Args) -> Outcome {
    let id = args.workload.to_string();
    let from_id = || {
        id.split_once('/')
            .map(|(namespace, _)| namespace.to_owned())
    };
    let given = args.namespace.as_ref().map(Namespace::to_string);
    let namespace = given.or_else(from_id).ok_or_else(|| {
        Failure::usage(format!("the id `{id}` does not begin with a namespace"))
            .with_hint("name it with --namespace")
    })?;
    let request = GetProxyConfigRequest {
        namespace,
        workload_id: id.clone(),
    };
    let answer = ask(&args.connection, |mut pilot| {
        let request = request.clone();
        async move { pilot.get_proxy_config(request).await }
    });
    let dump: Value = serde_json::from_slice(&answer.await?.json)
        .map_err(|error| Failure::doing("reading Envoy's dump", &error))?;
    if args.format.json {
        match args.part {
            Part::All => print_json(&dump)?,
            part => print_json(&section(&dump, part))?,
        }
        return Ok(OK.into());
    }
    let parts = match args.part {
        Part::All => vec![
            Part::Clusters,
            Part::Listeners,
            Part::Routes,
            Part::Endpoints,
        ],
        part => vec![part],
    };
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            println!();
        }
        print_table(header(part), lines(&section(&dump, part), part));
    }
    Ok(OK.into())
}

/// The configurations of one part, each as Envoy has it; those that are warming included.
fn section(dump: &Value, part: Part) -> Vec<Value> {
    let all = dump.get("configs").and_then(Value::as_array);
    let is_part = |config: &&Value| {
        let kind = config.get("@type").and_then(Value::as_str);
        kind.is_some_and(|kind| kind.ends_with(dump_name(part)))
    };
    let of_part = all.into_iter().flatten().filter(is_part);
    let mut found = Vec::new();
    for config in of_part {
        for (list, field) in entries(part) {
            let list = config.get(list).and_then(Value::as_array);
            for entry in list.into_iter().flatten() {
                let active = entry.pointer(field).or_else(|| {
                    // A listener that has not been active yet.
                    entry.pointer("/warming_state/listener")
                });
                found.extend(active.cloned());
            }
        }
    }
    found
}

/// The end of the type's name in Envoy's dump.
fn dump_name(part: Part) -> &'static str {
    match part {
        Part::Clusters => ".ClustersConfigDump",
        Part::Listeners => ".ListenersConfigDump",
        Part::Routes => ".RoutesConfigDump",
        Part::Endpoints => ".EndpointsConfigDump",
        Part::All => "",
    }
}

/// The lists of a part's dump, and where in their entries the configuration is.
fn entries(part: Part) -> &'static [(&'static str, &'static str)] {
    match part {
        Part::Clusters => &[
            ("static_clusters", "/cluster"),
            ("dynamic_active_clusters", "/cluster"),
            ("dynamic_warming_clusters", "/cluster"),
        ],
        Part::Listeners => &[
            ("static_listeners", "/listener"),
            ("dynamic_listeners", "/active_state/listener"),
        ],
        Part::Routes => &[
            ("static_route_configs", "/route_config"),
            ("dynamic_route_configs", "/route_config"),
        ],
        Part::Endpoints => &[
            ("static_endpoint_configs", "/endpoint_config"),
            ("dynamic_endpoint_configs", "/endpoint_config"),
        ],
        Part::All => &[],
    }
}

fn header(part: Part) -> &'static [&'static str] {
    match part {
        Part::Clusters => &["CLUSTER", "TYPE", "TLS"],
        Part::Listeners => &["LISTENER", "ADDRESS", "CHAINS"],
        Part::Routes => &["ROUTES", "HOST", "DOMAINS", "COUNT"],
        Part::Endpoints => &["CLUSTER", "ENDPOINT", "HEALTH"],
        Part::All => &[],
    }
}

fn lines(configs: &[Value], part: Part) -> Vec<Line> {
    let mut lines: Vec<Line> = match part {
        Part::Clusters => configs.iter().map(cluster).collect(),
        Part::Listeners => configs.iter().map(listener).collect(),
        Part::Routes => configs.iter().flat_map(routes).collect(),
        Part::Endpoints => configs.iter().flat_map(endpoints).collect(),
        Part::All => Vec::new(),
    };
    lines.sort();
    lines
}

fn cluster(config: &Value) -> Line {
    let is_secured = config.get("transport_socket").is_some()
        || config.get("transport_socket_matches").is_some();
    vec![
        text(config, "/name"),
        // STATIC is Envoy's default, which its JSON leaves out.
        or(text(config, "/type"), "STATIC"),
        if is_secured { "yes" } else { "no" }.to_owned(),
    ]
}

fn listener(config: &Value) -> Line {
    let chains =
        count(config, "/filter_chains") + usize::from(config.get("default_filter_chain").is_some());
    vec![
        text(config, "/name"),
        address(config.get("address")),
        chains.to_string(),
    ]
}

fn routes(config: &Value) -> Vec<Line> {
    let hosts = config.get("virtual_hosts").and_then(Value::as_array);
    let hosts = hosts.into_iter().flatten();
    hosts
        .map(|host| {
            let domains = host.get("domains").and_then(Value::as_array);
            let domains = domains.into_iter().flatten().filter_map(Value::as_str);
            vec![
                text(config, "/name"),
                text(host, "/name"),
                domains.collect::<Vec<_>>().join(","),
                count(host, "/routes").to_string(),
            ]
        })
        .collect()
}

fn endpoints(config: &Value) -> Vec<Line> {
    let groups = config.get("endpoints").and_then(Value::as_array);
    let endpoints = groups.into_iter().flatten().filter_map(|group| {
        let endpoints = group.get("lb_endpoints")?.as_array()?;
        Some(endpoints)
    });
    endpoints
        .flatten()
        .map(|endpoint| {
            vec![
                text(config, "/cluster_name"),
                address(endpoint.pointer("/endpoint/address")),
                or(text(endpoint, "/health_status"), "UNKNOWN"),
            ]
        })
        .collect()
}

/// A socket address, or the path of a pipe.
fn address(value: Option<&Value>) -> String {
    let Some(value) = value else {
        return "-".to_owned();
    };
    let pipe = text(value, "/pipe/path");
    if !pipe.is_empty() {
        return pipe;
    }
    let host = text(value, "/socket_address/address");
    let port = value.pointer("/socket_address/port_value");
    let port = port.map_or_else(|| "0".to_owned(), Value::to_string);
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() {
        default.to_owned()
    } else {
        text
    }
}

fn count(value: &Value, pointer: &str) -> usize {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump() -> Value {
        json!({ "configs": [
            {
                "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
                "dynamic_active_clusters": [{ "cluster": {
                    "name": "outbound|80||web.default.mesh", "type": "EDS",
                    "transport_socket": {},
                } }],
                "static_clusters": [{ "cluster": { "name": "agent" } }],
            },
            {
                "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
                "dynamic_listeners": [
                    { "active_state": { "listener": {
                        "name": "virtualInbound",
                        "address": { "socket_address": { "address": "::", "port_value": 15006 } },
                        "filter_chains": [{}, {}],
                        "default_filter_chain": {},
                    } } },
                    { "warming_state": { "listener": { "name": "warming" } } },
                ],
            },
            {
                "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
                "dynamic_route_configs": [{ "route_config": {
                    "name": "80/7",
                    "virtual_hosts": [{ "name": "web", "domains": ["web", "web.default"], "routes": [{}] }],
                } }],
            },
            {
                "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
                "dynamic_endpoint_configs": [{ "endpoint_config": {
                    "cluster_name": "outbound|80||web.default.mesh",
                    "endpoints": [{ "lb_endpoints": [{
                        "endpoint": { "address": { "socket_address": { "address": "10.0.0.1", "port_value": 8080 } } },
                        "health_status": "HEALTHY",
                    }] }],
                } }],
            },
        ] })
    }

    #[test]
    fn every_part_is_found_in_its_dump() {
        let lines = |part| lines(&section(&dump(), part), part);
        assert_eq!(
            lines(Part::Clusters),
            [
                ["agent", "STATIC", "no"],
                ["outbound|80||web.default.mesh", "EDS", "yes"]
            ]
        );
        assert_eq!(
            lines(Part::Listeners),
            [["virtualInbound", "[::]:15006", "3"], ["warming", "-", "0"]]
        );
        assert_eq!(
            lines(Part::Routes),
            [["80/7", "web", "web,web.default", "1"]]
        );
        assert_eq!(
            lines(Part::Endpoints),
            [["outbound|80||web.default.mesh", "10.0.0.1:8080", "HEALTHY"]]
        );
    }
}
