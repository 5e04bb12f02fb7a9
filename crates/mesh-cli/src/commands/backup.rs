//! `mesh backup`: every object of the API server, in a file.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use http::Request;
use kube::Client;
use mesh_control::api::backup::Backup;
use mesh_model::Kind;
use mesh_model::kind::KINDS;
use serde_json::Value;

use super::documents;
use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};

/// Write every object of the API server to a file, from which `mesh restore` fills an empty store.
///
/// All of one moment, whatever the store is. The file holds Secrets, the mesh's root among them, and
/// is made for its owner only; keep it as you would keep the root's key.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to make; one that exists is left alone.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

/// The kind whose objects tell what happened and are forgotten after an hour.
const EVENT: &str = "Event";

pub(crate) async fn run(args: &Args) -> Outcome {
    let client = args.connection.client().await?;
    let (first, others) = kinds();
    let (mut objects, revision) = list(&client, first, None).await?;
    for kind in others {
        objects.extend(list(&client, kind, Some(&revision)).await?.0);
    }
    let revision: u64 = revision
        .parse()
        .map_err(|error| Failure::doing(format!("reading the revision `{revision}`"), &error))?;
    let backup = Backup::new(revision, &objects)
        .map_err(|problems| Failure::new(format!("the API server's answer: {problems}")))?;
    let text = backup
        .to_text()
        .map_err(|error| Failure::doing("writing the backup", &error))?;
    write(&args.file, &text)
        .map_err(|error| Failure::doing(format!("writing {}", args.file.display()), &error))?;
    println!(
        "{} objects of revision {revision} are in {}",
        backup.len(),
        args.file.display()
    );
    Ok(OK.into())
}

/// Namespaces, whose list says of which revision the others are asked, and the other kinds.
fn kinds() -> (&'static Kind, impl Iterator<Item = &'static Kind>) {
    let (first, others) = KINDS
        .iter()
        .filter(|kind| kind.kind != EVENT)
        .partition::<Vec<_>, _>(|kind| kind.kind == "Namespace");
    #[expect(
        clippy::expect_used,
        reason = "the table of kinds has Namespace, which every test of the API would notice missing"
    )]
    let first = first.into_iter().next().expect("kind Namespace");
    (first, others.into_iter())
}

/// The objects of a kind, now or at a revision, and the revision that they are of.
async fn list(
    client: &Client,
    kind: &'static Kind,
    at: Option<&str>,
) -> Result<(Vec<Value>, String), Failure> {
    let mut path = documents::collection(kind, kind.version(), None);
    if let Some(revision) = at {
        path = format!("{path}?resourceVersion={revision}&resourceVersionMatch=Exact");
    }
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(|error| Failure::doing("making the request", &error))?;
    let doing = format!("listing {}", kind.plural);
    let mut listed: Value = client
        .request(request)
        .await
        .map_err(|error| Failure::doing(&doing, &error))?;
    let revision = listed.pointer("/metadata/resourceVersion");
    let revision = revision.and_then(Value::as_str).unwrap_or_default();
    let revision = revision.to_owned();
    let Some(Value::Array(mut items)) = listed.get_mut("items").map(Value::take) else {
        return Err(Failure::new(format!("{doing}: the answer has no items")));
    };
    for item in &mut items {
        // Items of a list may leave out what the list says.
        if let Some(item) = item.as_object_mut() {
            item.insert("apiVersion".to_owned(), kind.api_version().into());
            item.insert("kind".to_owned(), kind.kind.into());
        }
    }
    Ok((items, revision))
}

/// Makes the file, whole or not at all, for its owner only.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut to = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let written = to.write_all(text.as_bytes()).and_then(|()| to.sync_all());
    if written.is_err() {
        // What is there is no backup.
        drop(std::fs::remove_file(file));
    }
    written
}
