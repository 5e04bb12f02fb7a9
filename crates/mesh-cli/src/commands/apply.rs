//! `mesh apply`: creates objects or changes them to what files say, as `kubectl apply` does.

use http::{Method, Request};
use kube::Client;
use serde_json::{Map, Value, json};

use super::documents::{Document, Files};
use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};

/// Where the last applied form of an object is kept; kubectl's own key, so that both can be used.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Create objects, or change them to what the files say.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Let the server check everything and store nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    // All documents are read before the first is sent: a typing error in the last stores nothing.
    let documents = args.files.read()?;
    for document in &documents {
        document.place(&args.namespace)?;
    }
    let client = args.connection.client().await?;
    let mut failed = Vec::new();
    for document in &documents {
        match apply(&client, document, args).await {
            Ok(line) => println!("{line}"),
            Err(failure) => failed.push(format!("{}: {failure}", document.origin)),
        }
    }
    if failed.is_empty() {
        Ok(OK.into())
    } else {
        Err(Failure::new(failed.join("\n")))
    }
}

async fn apply(client: &Client, document: &Document, args: &Args) -> Result<String, Failure> {
    let place = document.place(&args.namespace)?;
    let wanted = with_last_applied(&document.object);
    let query = if args.dry_run {
        "?dryRun=All&fieldValidation=Strict"
    } else {
        "?fieldValidation=Strict"
    };

    let existing = send(client, Method::GET, &place.path(), None).await;
    let (verb, result) = match existing {
        Ok(existing) => {
            let patch = merge_patch(&existing, &wanted);
            if patch.is_empty() {
                return Ok(format!("{} unchanged", place.label()));
            }
            let target = format!("{}{query}", place.path());
            (
                "configured",
                send(client, Method::PATCH, &target, Some(&patch.into())).await,
            )
        }
        Err(error) if is_not_found(&error) => {
            let path = format!("{}{query}", place.collection());
            (
                "created",
                send(client, Method::POST, &path, Some(&wanted)).await,
            )
        }
        Err(error) => ("", Err(error)),
    };
    result.map_err(|error| Failure::of(&error))?;
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    Ok(format!("{} {verb}{suffix}", place.label()))
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, kube::Error> {
    let content = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content)
        .body(body)
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// The object with its own text as an annotation.
fn with_last_applied(object: &Value) -> Value {
    let mut object = object.clone();
    let text = object.to_string();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(LAST_APPLIED.to_owned(), text.into());
        }
    }
    object
}

/// What turns `existing` into `wanted`: fields that were applied last time and are wanted no more
/// are removed, fields that others set are left alone.
fn merge_patch(existing: &Value, wanted: &Value) -> Map<String, Value> {
    let pointer = format!("/metadata/annotations/{}", LAST_APPLIED.replace('/', "~1"));
    let last: Value = existing
        .pointer(&pointer)
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let mut patch = difference(existing, wanted, &last);
    // The annotation alone is no change of the object.
    let only_text = patch.len() == 1
        && patch.get("metadata").is_some_and(|metadata| {
            metadata
                .pointer("/annotations")
                .and_then(Value::as_object)
                .is_some_and(|annotations| {
                    annotations.len() == 1 && annotations.contains_key(LAST_APPLIED)
                })
                && metadata
                    .as_object()
                    .is_some_and(|metadata| metadata.len() == 1)
        });
    if only_text {
        patch.clear();
    }
    patch
}

fn difference(existing: &Value, wanted: &Value, last: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    let empty = Map::new();
    let (existing, wanted, last) = (
        existing.as_object().unwrap_or(&empty),
        wanted.as_object().unwrap_or(&empty),
        last.as_object().unwrap_or(&empty),
    );
    for (key, value) in wanted {
        match existing.get(key) {
            Some(old) if old == value => {}
            Some(old @ Value::Object(_)) if value.is_object() => {
                let inner = difference(old, value, last.get(key).unwrap_or(&Value::Null));
                if !inner.is_empty() {
                    patch.insert(key.clone(), inner.into());
                }
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in last.keys() {
        if !wanted.contains_key(key) && existing.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(object: &Value) -> Value {
        let mut stored = with_last_applied(object);
        stored["metadata"]["resourceVersion"] = "7".into();
        stored["metadata"]["labels"] = json!({ "set-by": "somebody else" });
        stored
    }

    #[test]
    fn applying_the_same_twice_changes_nothing() {
        let object = json!({ "metadata": { "name": "a" }, "spec": { "hosts": ["a"] } });
        assert!(merge_patch(&stored(&object), &with_last_applied(&object)).is_empty());
    }

    #[test]
    fn a_field_that_is_wanted_no_more_is_removed_and_foreign_ones_stay() {
        let old = json!({ "metadata": { "name": "a" }, "spec": { "hosts": ["a"], "tcp": [] } });
        let new = json!({ "metadata": { "name": "a" }, "spec": { "hosts": ["b"] } });
        let patch = merge_patch(&stored(&old), &with_last_applied(&new));
        assert_eq!(patch["spec"], json!({ "hosts": ["b"], "tcp": null }));
        assert!(patch["metadata"].get("labels").is_none());
    }
}
