//! Edits of a text: what injection changed, written where the file has it.

use std::collections::BTreeMap;
use std::ops::Range;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::structure::Block;
use serde_json::Value;

use super::write::{Lines, expression, quoted};
use crate::model::{Check, Field, Network, Service, Task, TaskGroup};

/// Edits of one text, applied all at once.
#[derive(Debug)]
pub(super) struct Edits<'a> {
    text: &'a str,
    /// Pieces to replace, by where they begin.
    replaced: BTreeMap<usize, (usize, String)>,
    /// Lines to add at the end of blocks and objects, by what they stand in.
    added: BTreeMap<usize, Addition>,
}

/// Lines for the end of a block or of an object in braces.
#[derive(Debug)]
struct Addition {
    span: Range<usize>,
    lines: Lines,
    /// Pairs of an object are parted by commas where it stands on one line.
    pairs: Vec<String>,
}

impl<'a> Edits<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            replaced: BTreeMap::new(),
            added: BTreeMap::new(),
        }
    }

    /// Everything that differs between two states of a group.
    pub(super) fn group(&mut self, block: &Block, before: &TaskGroup, after: &TaskGroup) {
        self.networks(block, before, after);
        self.services(block, before.services.items(), after.services.items());
        let tasks = block.body.get_blocks("task");
        for ((block, before), after) in tasks.zip(before.tasks.items()).zip(after.tasks.items()) {
            self.task(block, before, after);
        }
        for constraint in new(before.constraints.items(), after.constraints.items()) {
            self.lines(block).constraint(constraint);
        }
        self.pairs(block, "meta", &before.meta, &after.meta);
        for task in new(before.tasks.items(), after.tasks.items()) {
            self.lines(block).task(task);
        }
    }

    /// The text with all edits.
    pub(super) fn finish(mut self) -> String {
        for (_, addition) in std::mem::take(&mut self.added) {
            self.place(&addition);
        }
        let mut text = String::new();
        let mut at = 0;
        for (start, (end, piece)) in &self.replaced {
            text.push_str(self.text.get(at..*start).unwrap_or_default());
            text.push_str(piece);
            at = *end;
        }
        text.push_str(self.text.get(at..).unwrap_or_default());
        text
    }

    fn networks(&mut self, block: &Block, before: &TaskGroup, after: &TaskGroup) {
        for network in new(before.networks.items(), after.networks.items()) {
            self.lines(block).network(network);
        }
        let blocks = block.body.get_blocks("network");
        let both = before.networks.items().iter().zip(after.networks.items());
        for (block, (before, after)) in blocks.zip(both) {
            self.set_text(block, "mode", &before.mode, &after.mode);
            let args = |network: &Network| {
                network
                    .cni
                    .get()
                    .map_or(Field::Null, |cni| cni.args.clone())
            };
            let (args_before, args_after) = (args(before), args(after));
            if args_before != args_after {
                match block.body.get_blocks("cni").next() {
                    Some(cni) => self.pairs(cni, "args", &args_before, &args_after),
                    None => self
                        .lines(block)
                        .attribute_block("cni", "args", &args_after),
                }
            }
            let ports = new(before.dynamic_ports.items(), after.dynamic_ports.items()).chain(new(
                before.reserved_ports.items(),
                after.reserved_ports.items(),
            ));
            for port in ports {
                self.lines(block).port(port);
            }
        }
    }

    fn services(&mut self, block: &Block, before: &[Service], after: &[Service]) {
        let blocks = block.body.get_blocks("service");
        for (block, (before, after)) in blocks.zip(before.iter().zip(after)) {
            self.set_text(block, "port", &before.port_label, &after.port_label);
            let checks = block.body.get_blocks("check");
            let both = before.checks.items().iter().zip(after.checks.items());
            for (block, (before, after)) in checks.zip(both) {
                self.check(block, before, after);
            }
            for check in new(before.checks.items(), after.checks.items()) {
                self.lines(block).check(check);
            }
        }
        for service in new(before, after) {
            self.lines(block).service(service);
        }
    }

    fn check(&mut self, block: &Block, before: &Check, after: &Check) {
        for (key, before, after) in [
            ("type", &before.kind, &after.kind),
            ("path", &before.path, &after.path),
            ("port", &before.port_label, &after.port_label),
            ("method", &before.method, &after.method),
            ("protocol", &before.protocol, &after.protocol),
            ("address_mode", &before.address_mode, &after.address_mode),
            ("body", &before.body, &after.body),
            ("grpc_service", &before.grpc_service, &after.grpc_service),
            (
                "tls_server_name",
                &before.tls_server_name,
                &after.tls_server_name,
            ),
        ] {
            self.set_text(block, key, before, after);
        }
        for (key, before, after) in [
            ("grpc_use_tls", &before.grpc_use_tls, &after.grpc_use_tls),
            (
                "tls_skip_verify",
                &before.tls_skip_verify,
                &after.tls_skip_verify,
            ),
            ("expose", &before.expose, &after.expose),
        ] {
            if before.value() != after.value() {
                self.remove(block.body.get_attribute(key).and_then(hcl_edit::Span::span));
            }
        }
        if before.header != after.header {
            self.remove(
                block
                    .body
                    .get_attribute("header")
                    .and_then(hcl_edit::Span::span),
            );
            for header in block.body.get_blocks("header") {
                self.remove(header.span());
            }
        }
    }

    fn task(&mut self, block: &Block, before: &Task, after: &Task) {
        self.services(block, before.services.items(), after.services.items());
        self.pairs(block, "env", &before.env, &after.env);
    }

    /// Makes an attribute say what it is to say, or nothing.
    fn set_text(
        &mut self,
        block: &Block,
        key: &str,
        before: &Field<String>,
        after: &Field<String>,
    ) {
        if before.text() == after.text() {
            return;
        }
        let found = block.body.get_attribute(key);
        match (found, after.text()) {
            (Some(attribute), "") => self.remove(attribute.span()),
            (Some(attribute), text) => {
                if let Some(span) = attribute.value.span() {
                    self.replaced.insert(span.start, (span.end, quoted(text)));
                }
            }
            (None, text) => self.lines(block).attribute(key, &text.into()),
        }
    }

    /// Adds what is new in a map that the file has as a block, as an attribute, or not at all.
    fn pairs(
        &mut self,
        block: &Block,
        key: &str,
        before: &Field<BTreeMap<String, String>>,
        after: &Field<BTreeMap<String, String>>,
    ) {
        let was = before
            .get()
            .into_iter()
            .flatten()
            .collect::<BTreeMap<_, _>>();
        let added: BTreeMap<&String, &String> = (after.get().into_iter().flatten())
            .filter(|(key, value)| was.get(key) != Some(value))
            .collect();
        if added.is_empty() {
            return;
        }
        let pairs = added
            .iter()
            .map(|(key, value)| format!("{} = {}", quoted(key), quoted(value)));
        let attribute = block.body.get_attribute(key);
        if let Some(Expression::Object(object)) = attribute.map(|attribute| &attribute.value) {
            if let Some(span) = object.span() {
                self.at(span).pairs.extend(pairs);
            }
        } else if let Some(inner) = block.body.get_blocks(key).next() {
            // Keys of a block cannot be quoted, and ours have dots: the block becomes an object,
            // whose lines look the same.
            if let (Some(span), Some(ident)) = (inner.span(), inner.ident.span()) {
                let body = span.start + self.braces(&span);
                self.replaced.insert(ident.end, (body, " = ".to_owned()));
                self.at(body..span.end).pairs.extend(pairs);
            }
        } else {
            let map = added
                .into_iter()
                .map(|(key, value)| (key.clone(), value.as_str().into()));
            self.lines(block).map(key, &map.collect());
        }
    }

    /// Lines at the end of a block.
    fn lines(&mut self, block: &Block) -> &mut Lines {
        let span = block.span().unwrap_or_default();
        &mut self.at(span).lines
    }

    fn at(&mut self, span: Range<usize>) -> &mut Addition {
        self.added.entry(span.end).or_insert_with(|| Addition {
            span,
            lines: Lines::default(),
            pairs: Vec::new(),
        })
    }

    /// How far into a block its braces are.
    fn braces(&self, span: &Range<usize>) -> usize {
        self.text
            .get(span.clone())
            .and_then(|text| text.find('{'))
            .unwrap_or(0)
    }

    /// Takes a piece out with its line, if nothing else is there but a comment about it.
    fn remove(&mut self, span: Option<Range<usize>>) {
        let Some(span) = span else { return };
        let (before, after) = (self.text.get(..span.start), self.text.get(span.end..));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(after.len(), |at| at + 1);
        let rest = after.get(..line_end).unwrap_or_default().trim_start();
        let is_alone = before
            .get(start..)
            .is_some_and(|text| text.trim().is_empty())
            && (rest.is_empty() || rest.starts_with('#') || rest.starts_with("//"));
        let range = if is_alone {
            start..span.end + line_end
        } else {
            span
        };
        self.replaced
            .insert(range.start, (range.end, String::new()));
    }

    /// Turns an addition into a replacement of the closing brace.
    fn place(&mut self, addition: &Addition) {
        let Range { start, end } = addition.span;
        let Some(close) = end.checked_sub(1) else {
            return;
        };
        let before = self.text.get(..start).unwrap_or_default();
        let line = before
            .get(before.rfind('\n').map_or(0, |at| at + 1)..)
            .unwrap_or_default();
        let white = line.len() - line.trim_start().len();
        let outer = line.get(..white).unwrap_or_default();
        let indent = format!("{outer}  ");
        let open = start + self.braces(&addition.span) + 1;
        let inside = self.text.get(open..close).unwrap_or_default();
        let mut lines = addition.lines.indented(&indent);
        if inside.contains('\n') {
            for pair in &addition.pairs {
                lines.extend([indent.as_str(), pair, "\n"]);
            }
            let at = open + inside.rfind('\n').map_or(0, |at| at + 1);
            self.replaced.insert(at, (at, lines));
            return;
        }
        // On one line: objects of a few pairs stay there, blocks get lines.
        if !addition.pairs.is_empty() {
            let content = inside.trim().trim_end_matches(',');
            let pairs = addition.pairs.iter().map(String::as_str);
            let all: Vec<&str> = (Some(content).filter(|text| !text.is_empty()).into_iter())
                .chain(pairs)
                .collect();
            lines = all.iter().fold(String::new(), |text, pair| {
                format!("{text}{indent}{pair}\n")
            });
        } else if !inside.trim().is_empty() {
            // An edit of what stands there is part of the line.
            let content = self.edited(open..close);
            lines = format!("{indent}{}\n{lines}", content.trim());
        }
        self.replaced
            .insert(open, (close, format!("\n{lines}{outer}")));
    }

    /// A piece of the text with the edits within it, which are taken from the list.
    fn edited(&mut self, range: Range<usize>) -> String {
        let mut text = String::new();
        let mut at = range.start;
        let within: Vec<usize> = self
            .replaced
            .range(range.clone())
            .map(|(start, _)| *start)
            .collect();
        for start in within {
            if let Some((end, piece)) = self.replaced.remove(&start) {
                text.push_str(self.text.get(at..start).unwrap_or_default());
                text.push_str(&piece);
                at = end;
            }
        }
        text.push_str(self.text.get(at..range.end).unwrap_or_default());
        text
    }
}

impl Lines {
    fn attribute_block(&mut self, block: &str, key: &str, map: &Field<BTreeMap<String, String>>) {
        let value = serde_json::json!(map);
        self.raw(&format!("{block} {{\n  {key} = {}\n}}", expression(&value)));
    }

    fn map(&mut self, key: &str, map: &serde_json::Map<String, Value>) {
        let pairs = map.iter().fold(String::new(), |text, (key, value)| {
            format!("{text}  {} = {}\n", quoted(key), expression(value))
        });
        self.raw(&format!("{key} = {{\n{pairs}}}"));
    }
}

/// What a list has more than before.
fn new<'t, T>(before: &[T], after: &'t [T]) -> impl Iterator<Item = &'t T> + use<'t, T> {
    after.iter().skip(before.len())
}
