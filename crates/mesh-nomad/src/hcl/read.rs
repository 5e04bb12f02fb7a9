//! Reading a job file as far as injection looks at it, with what Nomad's parser puts where nothing
//! is said: the way back that a job carries is then the same.

use std::collections::BTreeMap;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, ObjectKey, TraversalOperator};
use hcl_edit::structure::{Attribute, Block, Body};
use hcl_edit::template::Element;
use serde_json::{Map, Value};

use crate::model::{
    Check, Cni, Constraint, Field, Job, Lifecycle, Nanoseconds, Network, Port, Resources, Service,
    Task, TaskGroup,
};

/// Reads one file; what it cannot read goes to `places`.
pub(super) struct Reader<'a> {
    text: &'a str,
    /// Where something is that injection must look at and cannot read.
    pub(super) places: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            places: Vec::new(),
        }
    }

    pub(super) fn job(&mut self, block: &Block) -> Job {
        let body = &block.body;
        self.refuse_dynamic(body);
        if let Some(task) = body.get_blocks("task").next() {
            self.place(
                task.span(),
                "a task without a group, which has no network: write the group out",
            );
        }
        let id = self.label(block);
        Job {
            name: self.text_or(body, "name", &id),
            id: self.text_or(body, "id", &id),
            namespace: self.optional(body, "namespace"),
            constraints: list(
                body.get_blocks("constraint")
                    .map(|block| self.constraint(block)),
            ),
            task_groups: list(body.get_blocks("group").map(|block| self.group(block))),
            meta: self.texts(body, "meta"),
            ..Job::default()
        }
    }

    fn group(&mut self, block: &Block) -> TaskGroup {
        let body = &block.body;
        self.refuse_dynamic(body);
        TaskGroup {
            name: self.label(block).into(),
            constraints: list(
                body.get_blocks("constraint")
                    .map(|block| self.constraint(block)),
            ),
            tasks: list(body.get_blocks("task").map(|block| self.task(block))),
            networks: list(body.get_blocks("network").map(|block| self.network(block))),
            services: list(body.get_blocks("service").map(|block| self.service(block))),
            meta: self.texts(body, "meta"),
            ..TaskGroup::default()
        }
    }

    fn task(&mut self, block: &Block) -> Task {
        let body = &block.body;
        self.refuse_dynamic(body);
        let mut config = Map::new();
        for block in body.get_blocks("config") {
            for key in ["network_mode", "privileged"] {
                if let Some(value) = self.value(&block.body, key) {
                    config.insert(key.to_owned(), value);
                }
            }
        }
        Task {
            name: self.label(block).into(),
            driver: self.string(body, "driver"),
            user: self.string(body, "user"),
            config: config.into(),
            env: self.texts_or_unread(body, "env"),
            services: list(body.get_blocks("service").map(|block| self.service(block))),
            lifecycle: match body.get_blocks("lifecycle").next() {
                Some(block) => Lifecycle {
                    hook: self.string(&block.body, "hook"),
                    ..Lifecycle::default()
                }
                .into(),
                None => Field::Null,
            },
            resources: match body.get_blocks("resources").next() {
                Some(block) => Resources {
                    networks: list(
                        block
                            .body
                            .get_blocks("network")
                            .map(|block| self.network(block)),
                    ),
                    ..Resources::default()
                }
                .into(),
                None => Field::Null,
            },
            ..Task::default()
        }
    }

    fn network(&mut self, block: &Block) -> Network {
        let body = &block.body;
        self.refuse_dynamic(body);
        let (mut dynamic, mut reserved) = (Vec::new(), Vec::new());
        for block in body.get_blocks("port") {
            let fixed = self.number(&block.body, "static");
            let port = Port {
                label: self.label(block).into(),
                value: fixed.unwrap_or(0).into(),
                to: self.number(&block.body, "to").unwrap_or(0).into(),
                host_network: self.string(&block.body, "host_network"),
                ..Port::default()
            };
            let list = if fixed.is_some() {
                &mut reserved
            } else {
                &mut dynamic
            };
            list.push(port);
        }
        Network {
            mode: self.string(body, "mode"),
            dynamic_ports: list(dynamic.into_iter()),
            reserved_ports: list(reserved.into_iter()),
            cni: match body.get_blocks("cni").next() {
                Some(block) => Cni {
                    args: self.texts(&block.body, "args"),
                    ..Cni::default()
                }
                .into(),
                None => Field::Null,
            },
            ..Network::default()
        }
    }

    fn service(&mut self, block: &Block) -> Service {
        let body = &block.body;
        self.refuse_dynamic(body);
        let connect = body.get_blocks("connect").next();
        Service {
            name: self.string(body, "name"),
            provider: self.string(body, "provider"),
            port_label: self.string(body, "port"),
            address_mode: self.string(body, "address_mode"),
            meta: self.texts(body, "meta"),
            checks: list(body.get_blocks("check").map(|block| self.check(block))),
            connect: connect.map_or(Field::Null, |_| Value::Object(Map::new()).into()),
            ..Service::default()
        }
    }

    fn check(&mut self, block: &Block) -> Check {
        let body = &block.body;
        Check {
            name: self.string(body, "name"),
            kind: self.string(body, "type"),
            path: self.string(body, "path"),
            method: self.string(body, "method"),
            protocol: self.string(body, "protocol"),
            port_label: self.string(body, "port"),
            address_mode: self.string(body, "address_mode"),
            header: self.header(body),
            body: self.string(body, "body"),
            grpc_service: self.string(body, "grpc_service"),
            grpc_use_tls: self.flag(body, "grpc_use_tls"),
            tls_skip_verify: self.flag(body, "tls_skip_verify"),
            tls_server_name: self.string(body, "tls_server_name"),
            expose: self.flag(body, "expose"),
            timeout: self.duration(body, "timeout"),
            ..Check::default()
        }
    }

    fn constraint(&mut self, block: &Block) -> Constraint {
        Constraint {
            l_target: self.string(&block.body, "attribute"),
            ..Constraint::default()
        }
    }
}

// === impl Reader: values ===

impl Reader<'_> {
    fn label(&mut self, block: &Block) -> String {
        if let [label] = block.labels.as_slice() {
            return label.as_str().to_owned();
        }
        self.place(block.span(), "a block with other than one label");
        String::new()
    }

    fn refuse_dynamic(&mut self, body: &Body) {
        for block in body.get_blocks("dynamic") {
            self.place(
                block.span(),
                "a `dynamic` block, which Nomad's parser makes others of",
            );
        }
    }

    fn text_or(&mut self, body: &Body, key: &str, default: &str) -> Field<String> {
        match self.value(body, key) {
            Some(Value::String(text)) => text.into(),
            _ => default.into(),
        }
    }

    fn optional(&mut self, body: &Body, key: &str) -> Field<String> {
        match self.value(body, key) {
            Some(Value::String(text)) => text.into(),
            _ => Field::Null,
        }
    }

    /// A text, empty where none is said. Numbers become text, as for `port = 80`.
    fn string(&mut self, body: &Body, key: &str) -> Field<String> {
        match self.value(body, key) {
            Some(Value::String(text)) => text.into(),
            Some(Value::Null) | None => "".into(),
            Some(other) => other.to_string().into(),
        }
    }

    fn flag(&mut self, body: &Body, key: &str) -> Field<bool> {
        (self.value(body, key) == Some(Value::Bool(true))).into()
    }

    fn number(&mut self, body: &Body, key: &str) -> Option<i64> {
        let value = self.value(body, key)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }

    fn duration(&mut self, body: &Body, key: &str) -> Field<Nanoseconds> {
        let read = match self.value(body, key) {
            None | Some(Value::Null) => return Nanoseconds(0).into(),
            Some(Value::String(text)) => duration(&text),
            Some(other) => other.as_i64(),
        };
        if let (None, Some(attribute)) = (read, body.get_attribute(key)) {
            self.place(attribute.span(), "no duration");
        }
        Nanoseconds(read.unwrap_or(0)).into()
    }

    /// A map of texts, as a block or an attribute.
    fn texts(&mut self, body: &Body, key: &str) -> Field<BTreeMap<String, String>> {
        let found = match (body.get_attribute(key), body.get_blocks(key).next()) {
            (Some(_), _) => self.value(body, key),
            (None, Some(block)) => {
                let values = block.body.attributes().map(|attribute| {
                    (
                        attribute.key.as_str().to_owned(),
                        self.read(attribute).unwrap_or(Value::Null),
                    )
                });
                Some(Value::Object(values.collect()))
            }
            (None, None) => None,
        };
        match found {
            Some(Value::Object(map)) => map
                .into_iter()
                .map(|(key, value)| match value {
                    Value::String(text) => (key, text),
                    other => (key, other.to_string()),
                })
                .collect::<BTreeMap<_, _>>()
                .into(),
            _ => Field::Null,
        }
    }

    /// The same for a map of which injection looks at no value but only whether it is there.
    fn texts_or_unread(&mut self, body: &Body, key: &str) -> Field<BTreeMap<String, String>> {
        let places = self.places.len();
        let found = self.texts(body, key);
        self.places.truncate(places);
        let is_there = body.has_attribute(key) || body.has_blocks(key);
        if is_there && found.get().is_none() {
            return BTreeMap::new().into();
        }
        found
    }

    fn header(&mut self, body: &Body) -> Field<BTreeMap<String, Vec<String>>> {
        let mut header = BTreeMap::new();
        for block in body.get_blocks("header") {
            for attribute in block.body.attributes() {
                let values = self.read(attribute);
                let values = values
                    .as_ref()
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten();
                let values = values
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                header.insert(attribute.key.as_str().to_owned(), values);
            }
        }
        if let Some(attribute) = body.get_attribute("header")
            && let Some(Value::Object(map)) = self.read(attribute)
        {
            for (key, values) in map {
                let values = values.as_array().into_iter().flatten();
                let values = values
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                header.insert(key, values);
            }
        }
        if header.is_empty() {
            Field::Null
        } else {
            header.into()
        }
    }

    fn value(&mut self, body: &Body, key: &str) -> Option<Value> {
        self.read(body.get_attribute(key)?)
    }

    fn read(&mut self, attribute: &Attribute) -> Option<Value> {
        let value = self.literal(&attribute.value);
        if value.is_none() {
            let key = attribute.key.as_str();
            self.place(attribute.span(), &format!("`{key}` is an expression"));
        }
        value
    }

    /// The value of an expression that needs no evaluation. What Nomad fills in on the node stays
    /// as it is written.
    fn literal(&self, expression: &Expression) -> Option<Value> {
        match expression {
            Expression::Null(_) => Some(Value::Null),
            Expression::Bool(value) => Some((*value.value()).into()),
            Expression::Number(number) => number
                .as_i64()
                .map(Value::from)
                .or_else(|| number.as_f64().map(Value::from)),
            Expression::String(text) => Some(text.as_str().into()),
            Expression::Array(items) => items.iter().map(|item| self.literal(item)).collect(),
            Expression::Object(object) => object
                .iter()
                .map(|(key, value)| {
                    let key = match key {
                        ObjectKey::Ident(ident) => ident.as_str().to_owned(),
                        ObjectKey::Expression(key) => self.literal(key)?.as_str()?.to_owned(),
                    };
                    Some((key, self.literal(value.expr())?))
                })
                .collect::<Option<Map<_, _>>>()
                .map(Value::Object),
            Expression::StringTemplate(template) => {
                let mut text = String::new();
                for element in template {
                    match element {
                        Element::Literal(literal) => text.push_str(literal.as_str()),
                        Element::Interpolation(inner) if is_runtime(&inner.expr) => {
                            text.push_str(self.text.get(inner.span()?)?);
                        }
                        _ => return None,
                    }
                }
                Some(text.into())
            }
            _ => None,
        }
    }

    fn place(&mut self, span: Option<std::ops::Range<usize>>, what: &str) {
        let before = self
            .text
            .get(..span.unwrap_or_default().start)
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        self.places.push(format!("line {line}: {what}"));
    }
}

/// Whether Nomad leaves the variable for the node to fill in.
fn is_runtime(expression: &Expression) -> bool {
    let root = |expression: &Expression| match expression {
        Expression::Variable(ident) => Some(ident.as_str().to_owned()),
        _ => None,
    };
    let is_of_file = |name: String| matches!(name.as_str(), "var" | "local" | "each");
    match expression {
        Expression::Traversal(traversal) => {
            let is_path = traversal
                .operators
                .iter()
                .all(|operator| matches!(operator.value(), TraversalOperator::GetAttr(_)));
            is_path && root(&traversal.expr).is_some_and(|name| !is_of_file(name))
        }
        other => root(other).is_some_and(|name| !is_of_file(name)),
    }
}

/// A list as Nomad's parser has it: null when there is nothing.
fn list<T>(items: impl Iterator<Item = T>) -> Field<Vec<T>> {
    let items: Vec<T> = items.collect();
    if items.is_empty() {
        Field::Null
    } else {
        items.into()
    }
}

/// A duration in Go's notation, such as `1m30s`, in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut sum = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(end)?;
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, and durations are short"
    )]
    Some(sum as i64)
}
