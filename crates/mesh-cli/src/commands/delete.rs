//! `mesh delete`: removes objects by name or by file.

use http::{Method, Request};
use kube::Client;
use mesh_model::Kind;
use serde_json::Value;

use super::documents::{self, Files};
use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};

/// Remove objects.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind of the objects: kind, plural or short name.
    #[arg(required_unless_present = "files")]
    kind: Option<String>,
    /// Their names.
    #[arg(requires = "kind")]
    names: Vec<String>,
    /// Remove what these files name instead.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE",
        conflicts_with = "kind"
    )]
    files: Vec<std::path::PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// It is no error if there is no such object.
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let mut targets = Vec::new();
    if let Some(kind) = &args.kind {
        let kind = super::get::kind(kind)?;
        if args.names.is_empty() {
            return Err(Failure::usage("name at least one object"));
        }
        let collection = documents::collection(kind, kind.version(), Some(&args.namespace));
        for name in &args.names {
            targets.push((label(kind, name), format!("{collection}/{name}")));
        }
    } else {
        for document in (Files {
            files: args.files.clone(),
        })
        .read()?
        {
            let place = document.place(&args.namespace)?;
            targets.push((place.label(), place.path()));
        }
    }
    let client = args.connection.client().await?;
    let mut failed = Vec::new();
    for (label, path) in targets {
        match delete(&client, &path).await {
            Ok(()) => println!("{label} deleted"),
            Err(kube::Error::Api(status)) if status.is_not_found() && args.ignore_not_found => {}
            Err(error) => failed.push(format!("{label}: {}", crate::exit::chain(&error))),
        }
    }
    if failed.is_empty() {
        Ok(OK.into())
    } else {
        Err(Failure::new(failed.join("\n")))
    }
}

fn label(kind: &Kind, name: &str) -> String {
    let dot = if kind.group.is_empty() { "" } else { "." };
    format!("{}{dot}{}/{name}", kind.singular, kind.group)
}

async fn delete(client: &Client, path: &str) -> Result<(), kube::Error> {
    let request = Request::builder()
        .method(Method::DELETE)
        .uri(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await.map(drop)
}
