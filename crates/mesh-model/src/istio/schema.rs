//! Schemas of Istio's kinds as an API server publishes them; `kubectl explain` shows them.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    AuthorizationPolicy, DestinationRule, Gateway, IstioKind, PeerAuthentication, ServiceEntry,
    VirtualService, WorkloadEntry,
};

/// The schema of objects of a kind: `OpenAPI` 3.0, without references, in the form that Kubernetes
/// calls structural.
///
/// Metadata is a plain object in it: whoever publishes the schema has one for every kind.
///
/// ```
/// # use mesh_model::istio::{IstioKind, schema::schema};
/// let schema = schema(IstioKind::VirtualService);
/// let timeout = &schema["properties"]["spec"]["properties"]["http"]["items"]["properties"]["timeout"];
/// assert_eq!(timeout["type"], "string");
/// ```
pub fn schema(kind: IstioKind) -> Value {
    let mut spec = match kind {
        IstioKind::VirtualService => of::<VirtualService>(),
        IstioKind::DestinationRule => of::<DestinationRule>(),
        IstioKind::Gateway => of::<Gateway>(),
        IstioKind::ServiceEntry => of::<ServiceEntry>(),
        IstioKind::WorkloadEntry => of::<WorkloadEntry>(),
        IstioKind::PeerAuthentication => of::<PeerAuthentication>(),
        IstioKind::AuthorizationPolicy => of::<AuthorizationPolicy>(),
    };
    make_structural(&mut spec);
    let description = spec.get("description").cloned().unwrap_or_default();
    json!({
        "description": description,
        "type": "object",
        "properties": {
            "apiVersion": { "type": "string", "description": "Group and version of the kind." },
            "kind": { "type": "string", "description": format!("`{}`.", kind.as_str()) },
            "metadata": { "type": "object", "description": "What every object has." },
            "spec": spec,
            "status": {
                "type": "object",
                "description": "What controllers say of the object; not kept.",
                "x-kubernetes-preserve-unknown-fields": true,
            },
        },
    })
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Changes what schemars writes into what Kubernetes takes: one type and one enumeration per
/// value, only formats that it knows.
fn make_structural(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for name in ["items", "additionalProperties"] {
        map.get_mut(name).into_iter().for_each(make_structural);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        let schemas = map.get_mut(name).and_then(Value::as_array_mut);
        schemas.into_iter().flatten().for_each(make_structural);
    }
    let fields = map.get_mut("properties").and_then(Value::as_object_mut);
    fields
        .into_iter()
        .flatten()
        .for_each(|(_, field)| make_structural(field));
    // Null is the same as absent everywhere.
    for name in ["nullable", "title", "components", "default"] {
        map.remove(name);
    }
    // Formats of unsigned numbers are not OpenAPI's; `minimum` and `maximum` say as much.
    if map
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| format.starts_with("uint"))
    {
        map.remove("format");
    }
    if let Some(Value::String(description)) = map.get_mut("description") {
        // Lines of the source are no lines of the text.
        let paragraphs = description
            .split("\n\n")
            .map(|text| text.replace('\n', " "));
        *description = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    take_up_only_schema(map);
    name_choices(map);
}

/// Takes up the only schema of an `allOf`, or of an `anyOf` besides null.
fn take_up_only_schema(map: &mut Map<String, Value>) {
    for name in ["allOf", "anyOf"] {
        let Some(Value::Array(schemas)) = map.get(name) else {
            continue;
        };
        let is_null = |schema: &&Value| schema.get("enum") == Some(&json!([null]));
        let mut rest = schemas.iter().filter(|schema| !is_null(schema)).cloned();
        if let (Some(Value::Object(only)), None) = (rest.next(), rest.next()) {
            map.remove(name);
            let choices = only.contains_key("enum");
            for (name, value) in only {
                if let Some(Value::String(of_field)) = map.get_mut(&name)
                    && choices
                {
                    of_field.push(' ');
                    of_field.push_str(value.as_str().unwrap_or_default());
                } else {
                    map.entry(name).or_insert(value);
                }
            }
        }
    }
}

/// Makes a `oneOf` of texts an `enum`, and says in its description what each means.
fn name_choices(map: &mut Map<String, Value>) {
    let choice = |variant: &Value| match variant.get("enum")?.as_array()?.as_slice() {
        [Value::String(text)] => {
            let meaning = variant.get("description")?.as_str()?;
            Some((text.clone(), format!("`{text}`: {meaning}")))
        }
        _ => None,
    };
    let variants = map.get("oneOf").and_then(Value::as_array);
    let choices: Option<Vec<_>> = variants.and_then(|list| list.iter().map(choice).collect());
    if let Some(choices) = choices {
        let (texts, meanings): (Vec<_>, Vec<_>) = choices.into_iter().unzip();
        map.remove("oneOf");
        map.insert("type".to_owned(), "string".into());
        map.insert("enum".to_owned(), texts.into());
        let what = map
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let description = format!("{what} {}", meanings.join(" "));
        map.insert("description".to_owned(), description.trim_start().into());
    }
}
