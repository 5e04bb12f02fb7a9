//! Blocks of a job in HCL: the ones that injection adds.

use std::fmt::Write as _;

use serde_json::Value;

use crate::model::{
    Artifact, Check, Constraint, Identity, Nanoseconds, Network, Port, RestartPolicy, Service,
    Task, Template,
};

/// Lines of HCL, indented as `nomad fmt` does it.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: String,
    depth: usize,
}

impl Lines {
    /// The lines, each with `indent` in front.
    pub(super) fn indented(&self, indent: &str) -> String {
        self.text.lines().fold(String::new(), |mut text, line| {
            if !line.is_empty() {
                text.push_str(indent);
            }
            text.push_str(line);
            text.push('\n');
            text
        })
    }

    pub(super) fn attribute(&mut self, key: &str, value: &Value) {
        let value = expression(value);
        self.line(&format!("{key} = {value}"));
    }

    /// Lines as they are.
    pub(super) fn raw(&mut self, text: &str) {
        text.lines().for_each(|line| self.line(line));
    }

    fn line(&mut self, text: &str) {
        let indent = "  ".repeat(self.depth);
        let newline = if text.is_empty() { "" } else { &indent };
        self.text.extend([newline, text, "\n"]);
    }

    /// A text that is left out when empty.
    fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.attribute(key, &text.into());
        }
    }

    fn time(&mut self, key: &str, time: Option<&Nanoseconds>) {
        if let Some(Nanoseconds(time)) = time {
            let text = if time % 1_000_000_000 == 0 {
                format!("{}s", time / 1_000_000_000)
            } else {
                format!("{time}ns")
            };
            self.attribute(key, &text.into());
        }
    }

    fn block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        self.line(&format!("{head} {{"));
        self.depth += 1;
        body(self);
        self.depth -= 1;
        self.line("}");
    }

    pub(super) fn constraint(&mut self, constraint: &Constraint) {
        self.block("constraint", |lines| {
            lines.text("attribute", constraint.l_target.text());
            if constraint.operand.text() != "=" {
                lines.text("operator", constraint.operand.text());
            }
            lines.text("value", constraint.r_target.text());
        });
    }

    pub(super) fn network(&mut self, network: &Network) {
        self.block("network", |lines| {
            lines.text("mode", network.mode.text());
            network.ports().for_each(|port| lines.port(port));
        });
    }

    pub(super) fn port(&mut self, port: &Port) {
        let head = format!("port {}", quoted(port.label.text()));
        let numbers = [("static", port.value.value()), ("to", port.to.value())];
        if numbers.iter().all(|(_, number)| *number == 0) && port.host_network.text().is_empty() {
            self.line(&format!("{head} {{}}"));
            return;
        }
        self.block(&head, |lines| {
            for (key, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
                lines.attribute(key, &number.into());
            }
            lines.text("host_network", port.host_network.text());
        });
    }

    pub(super) fn service(&mut self, service: &Service) {
        self.block("service", |lines| {
            lines.text("name", service.name.text());
            lines.text("provider", service.provider.text());
            lines.text("port", service.port_label.text());
            service
                .checks
                .items()
                .iter()
                .for_each(|check| lines.check(check));
        });
    }

    pub(super) fn check(&mut self, check: &Check) {
        self.block("check", |lines| {
            lines.text("name", check.name.text());
            lines.text("type", check.kind.text());
            lines.text("port", check.port_label.text());
            lines.text("path", check.path.text());
            lines.time("interval", check.interval.get());
            lines.time("timeout", check.timeout.get());
        });
    }

    pub(super) fn task(&mut self, task: &Task) {
        self.line("");
        self.block(&format!("task {}", quoted(task.name.text())), |lines| {
            lines.text("driver", task.driver.text());
            lines.text("user", task.user.text());
            lines.text("kill_signal", task.kill_signal.text());
            lines.time("kill_timeout", task.kill_timeout.get());
            lines.time("shutdown_delay", task.shutdown_delay.get());
            if let Some(meta) = task.meta.get() {
                lines.attribute("meta", &serde_json::json!(meta));
            }
            if let Some(env) = task.env.get() {
                lines.attribute("env", &serde_json::json!(env));
            }
            if let Some(lifecycle) = task.lifecycle.get() {
                lines.block("lifecycle", |lines| {
                    lines.text("hook", lifecycle.hook.text());
                    lines.attribute("sidecar", &lifecycle.sidecar.value().into());
                });
            }
            for artifact in task.artifacts.items() {
                lines.artifact(artifact);
            }
            lines.block("config", |lines| {
                for (key, value) in task.config.get().into_iter().flatten() {
                    lines.attribute(key, value);
                }
            });
            let identities = task
                .identity
                .get()
                .into_iter()
                .chain(task.identities.items());
            identities.for_each(|identity| lines.identity(identity));
            task.templates
                .items()
                .iter()
                .for_each(|template| lines.template(template));
            if let Some(resources) = task.resources.get() {
                lines.block("resources", |lines| {
                    lines.attribute("cpu", &resources.cpu.value().into());
                    lines.attribute("memory", &resources.memory_mb.value().into());
                });
            }
            if let Some(logs) = task.log_config.get() {
                lines.block("logs", |lines| {
                    lines.attribute("max_files", &logs.max_files.value().into());
                    lines.attribute("max_file_size", &logs.max_file_size_mb.value().into());
                });
            }
            if let Some(policy) = task.restart_policy.get() {
                lines.restart(policy);
            }
        });
    }

    fn artifact(&mut self, artifact: &Artifact) {
        self.block("artifact", |lines| {
            lines.text("source", artifact.source.text());
            lines.text("destination", artifact.destination.text());
            lines.block("options", |lines| {
                for (key, value) in artifact.options.get().into_iter().flatten() {
                    lines.text(key, value);
                }
            });
        });
    }

    fn identity(&mut self, identity: &Identity) {
        self.block("identity", |lines| {
            lines.text("name", identity.name.text());
            if !identity.audience.items().is_empty() {
                lines.attribute("aud", &serde_json::json!(identity.audience.items()));
            }
            lines.attribute("env", &identity.env.value().into());
            lines.attribute("file", &identity.file.value().into());
            lines.time("ttl", identity.ttl.get());
            lines.text("change_mode", identity.change_mode.text());
        });
    }

    fn template(&mut self, template: &Template) {
        self.block("template", |lines| {
            lines.text("data", template.embedded.text());
            lines.text("destination", template.destination.text());
            lines.text("change_mode", template.change_mode.text());
            lines.text("perms", template.perms.text());
            lines.text("left_delimiter", template.left_delimiter.text());
            lines.text("right_delimiter", template.right_delimiter.text());
        });
    }

    fn restart(&mut self, policy: &RestartPolicy) {
        self.block("restart", |lines| {
            lines.attribute("attempts", &policy.attempts.value().into());
            lines.time("interval", policy.interval.get());
            lines.time("delay", policy.delay.get());
            lines.text("mode", policy.mode.text());
        });
    }
}

/// A value as an expression on one line.
pub(super) fn expression(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(expression).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let pairs: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{} = {}", quoted(key), expression(value)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text in quotes. What the node fills in stays an interpolation, anything else of that look is
/// escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let tail = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '$' if tail.starts_with('{') => {
                let is_runtime = ["{NOMAD_", "{attr.", "{meta.", "{node."]
                    .iter()
                    .any(|root| tail.starts_with(root));
                quoted.push_str(if is_runtime { "$" } else { "$$" });
            }
            '%' if tail.starts_with('{') => quoted.push_str("%%"),
            c if c.is_control() => {
                // Writing into a `String` cannot fail.
                let _written = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
        rest = tail;
    }
    quoted.push('"');
    quoted
}
