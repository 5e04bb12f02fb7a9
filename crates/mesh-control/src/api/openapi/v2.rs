//! `OpenAPI` v2 in gnostic's binary form: what kubectl up to 1.2x reads.

use mesh_proto::openapi::v2 as wire;
use prost::Message as _;
use serde_json::{Value, json};

use super::operation::{PARAMETERS, Route, routes};
use super::schema::{Schemas, name_of, reference};
use crate::api::json::at;
use crate::api::kind::Kind;

/// The document, encoded.
pub(super) fn encode(schemas: &Schemas) -> Vec<u8> {
    let names = Kind::all().flat_map(|kind| {
        kind.versions
            .iter()
            .map(move |version| name_of(kind, version))
    });
    let definitions = schemas
        .reachable(names)
        .into_iter()
        .map(|(name, schema)| named(name, schema))
        .collect();
    let paths = Kind::all()
        .flat_map(|kind| {
            kind.versions
                .iter()
                .flat_map(move |version| routes(kind, version))
        })
        .map(|route| wire::NamedPathItem {
            name: route.path.clone(),
            value: Some(path_item(&route)),
        })
        .collect();
    wire::Document {
        swagger: "2.0".to_owned(),
        info: Some(wire::Info {
            title: "mesh".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        paths: Some(wire::Paths { path: paths }),
        definitions: Some(wire::Definitions {
            additional_properties: definitions,
        }),
    }
    .encode_to_vec()
}

fn path_item(route: &Route) -> wire::PathItem {
    let mut item = wire::PathItem::default();
    for (method, action) in route.methods {
        let operation = Some(operation(route, method, action));
        match *method {
            "get" => item.get = operation,
            "put" => item.put = operation,
            "post" => item.post = operation,
            "delete" => item.delete = operation,
            _ => item.patch = operation,
        }
    }
    item
}

fn operation(route: &Route, method: &str, action: &str) -> wire::Operation {
    let parameters = PARAMETERS
        .iter()
        .filter(|parameter| parameter.methods.contains(&method))
        .map(|parameter| wire::ParametersItem {
            kind: Some(wire::parameters_item::Kind::Parameter(wire::Parameter {
                kind: Some(wire::parameter::Kind::NonBodyParameter(
                    wire::NonBodyParameter {
                        kind: Some(wire::non_body_parameter::Kind::QueryParameterSubSchema(
                            wire::QueryParameter {
                                r#in: "query".to_owned(),
                                name: parameter.name.to_owned(),
                                description: parameter.description.to_owned(),
                                r#type: parameter.r#type.to_owned(),
                            },
                        )),
                    },
                )),
            })),
        })
        .collect();
    wire::Operation {
        operation_id: route.operation_id(method),
        consumes: vec!["*/*".to_owned()],
        parameters,
        responses: Some(wire::Responses {
            response_code: vec![wire::NamedResponseValue {
                name: "200".to_owned(),
                value: Some(wire::ResponseValue {
                    kind: Some(wire::response_value::Kind::Response(wire::Response {
                        description: "OK".to_owned(),
                    })),
                }),
            }],
        }),
        vendor_extension: vec![
            any("x-kubernetes-action", &json!(action)),
            any(
                "x-kubernetes-group-version-kind",
                &route.group_version_kind(),
            ),
        ],
    }
}

fn named(name: &str, schema: &Value) -> wire::NamedSchema {
    wire::NamedSchema {
        name: name.to_owned(),
        value: Some(convert(schema)),
    }
}

fn convert(schema: &Value) -> wire::Schema {
    let text = |key: &str| schema[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| -> Vec<String> {
        let values = schema[key].as_array().into_iter().flatten();
        values
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let mut converted = wire::Schema {
        description: text("description"),
        format: text("format"),
        required: list("required"),
        ..wire::Schema::default()
    };
    if let Some(name) = reference(schema) {
        converted.r#ref = format!("#/definitions/{name}");
        return converted;
    }
    if let Some(found) = at(schema, "type").as_str() {
        converted.r#type = Some(wire::TypeItem {
            value: vec![found.to_owned()],
        });
    }
    if let Some(properties) = at(schema, "properties").as_object() {
        converted.properties = Some(wire::Properties {
            additional_properties: properties
                .iter()
                .map(|(name, schema)| named(name, schema))
                .collect(),
        });
    }
    if at(schema, "additionalProperties").is_object() {
        let of = convert(at(schema, "additionalProperties"));
        converted.additional_properties = Some(Box::new(wire::AdditionalPropertiesItem {
            kind: Some(wire::additional_properties_item::Kind::Schema(Box::new(of))),
        }));
    }
    if at(schema, "items").is_object() {
        converted.items = Some(wire::ItemsItem {
            schema: vec![convert(at(schema, "items"))],
        });
    }
    converted.vendor_extension = schema
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("x-"))
        .map(|(key, value)| any(key, value))
        .collect();
    converted
}

/// JSON is YAML as well.
fn any(name: &str, value: &Value) -> wire::NamedAny {
    wire::NamedAny {
        name: name.to_owned(),
        value: Some(wire::Any {
            yaml: value.to_string(),
        }),
    }
}
