//! `mesh get`: shows objects, in the server's own table or whole.

use http::Request;
use mesh_model::Kind;
use mesh_model::kind::KINDS;
use serde_json::Value;

use super::documents;
use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};
use crate::output::{print_json, print_table};

/// Show objects of the API server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind: `virtualservice`, `virtualservices` or `vs`.
    kind: String,
    /// One object's name; all without.
    name: Option<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Every namespace.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// The whole objects, as JSON or YAML.
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// The same as `--output json`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Form {
    Json,
    Yaml,
}

/// The kind that a person names, in any of its forms.
pub(crate) fn kind(name: &str) -> Result<&'static Kind, Failure> {
    Kind::meant_by(name).ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().map(|kind| kind.plural).collect();
        Failure::usage(format!("`{name}` is no kind that the mesh serves"))
            .with_hint(format!("the kinds are {}", known.join(", ")))
    })
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let kind = kind(&args.kind)?;
    let namespace = (!args.all_namespaces).then_some(args.namespace.as_str());
    let mut path = documents::collection(kind, kind.version(), namespace);
    if let Some(name) = &args.name {
        path = format!("{path}/{name}");
    }
    let form = if args.json {
        Some(Form::Json)
    } else {
        args.output
    };
    let accept = match form {
        None => "application/json;as=Table;v=v1;g=meta.k8s.io",
        Some(_) => "application/json",
    };
    let request = Request::get(path)
        .header("accept", accept)
        .body(Vec::new())
        .map_err(|error| Failure::doing("making the request", &error))?;
    let client = args.connection.client().await?;
    let found: Value = client
        .request(request)
        .await
        .map_err(|error| Failure::of(&error))?;
    match form {
        None => print_rows(&found, args.all_namespaces && kind.namespaced),
        Some(Form::Json) => print_json(&found)?,
        Some(Form::Yaml) => {
            let text = serde_saphyr::to_string(&found)
                .map_err(|error| Failure::doing("writing YAML", &error))?;
            print!("{text}");
        }
    }
    Ok(OK.into())
}

/// Prints the columns that the server thinks important (priority 0).
fn print_rows(table: &Value, with_namespace: bool) {
    let list = |pointer: &str| table.pointer(pointer).and_then(Value::as_array).cloned();
    let columns = list("/columnDefinitions").unwrap_or_default();
    let shown: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.get("priority").and_then(Value::as_i64).unwrap_or(0) == 0)
        .map(|(index, _)| index)
        .collect();
    let title = |index: &usize| {
        let name = columns
            .get(*index)
            .and_then(|column| column.get("name"))
            .and_then(Value::as_str);
        name.unwrap_or_default().to_uppercase()
    };
    let mut header: Vec<String> = shown.iter().map(title).collect();
    if with_namespace {
        header.insert(0, "NAMESPACE".to_owned());
    }
    let rows = list("/rows").unwrap_or_default();
    if rows.is_empty() {
        eprintln!("no object found");
        return;
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    print_table(
        &header,
        rows.iter().map(|row| {
            let cell = |index: &usize| {
                row.pointer(&format!("/cells/{index}"))
                    .map_or_else(String::new, plain)
            };
            let mut cells: Vec<String> = shown.iter().map(cell).collect();
            if with_namespace {
                let namespace = row
                    .pointer("/object/metadata/namespace")
                    .and_then(Value::as_str);
                cells.insert(0, namespace.unwrap_or_default().to_owned());
            }
            cells
        }),
    );
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}
