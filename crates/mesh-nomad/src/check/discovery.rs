//! Who takes a service's address from Nomad's catalogue itself, and calls it past the mesh.

use super::Findings;
use crate::inject::is_injected;
use crate::model::{Job, TaskGroup, Template};
use crate::sidecar::{Mode, Sidecar};

/// Reports who reads addresses of services with a sidecar from the catalogue, and calls them in
/// plaintext: under mutual TLS `STRICT` that is refused. Only pairs that the job is part of.
///
/// A sidecar to which redirect rules bring such a call knows who is there, and makes it under mutual
/// TLS. Jobs say what they call only where a template asks for it; who calls an address that it was
/// told otherwise cannot be known.
pub(super) fn check_callers(job: &Job, others: &[Job], findings: &mut Findings) {
    let others = others.iter().filter(|other| {
        let is_stopped = other.stop.value() || other.status.text() == "dead";
        other.namespace() == job.namespace() && other.id.text() != job.id.text() && !is_stopped
    });
    let others: Vec<&Job> = others.collect();
    for (reader, group, reads) in readers(job) {
        let Some(why) = past_the_mesh(group) else {
            continue;
        };
        for owner in others.iter().copied().chain([job]) {
            for name in &reads {
                if is_meshed(owner, name) {
                    report(reader, group, why, (owner, name), findings);
                }
            }
        }
    }
    for other in others {
        for (reader, group, reads) in readers(other) {
            let Some(why) = past_the_mesh(group) else {
                continue;
            };
            for name in &reads {
                if is_meshed(job, name) {
                    report(reader, group, why, (job, name), findings);
                }
            }
        }
    }
}

/// Why the calls of a group to an address leave in plaintext, and what would have them meshed.
#[derive(Clone, Copy, Debug)]
enum PastTheMesh {
    NoSidecar,
    Explicit,
}

/// Whether nothing brings what a group calls to a sidecar.
fn past_the_mesh(group: &TaskGroup) -> Option<PastTheMesh> {
    if !is_injected(group) {
        return Some(PastTheMesh::NoSidecar);
    }
    let mode = Sidecar::of_group(group)?.mode;
    (mode == Mode::Explicit).then_some(PastTheMesh::Explicit)
}

fn report(
    reader: &Job,
    group: &TaskGroup,
    why: PastTheMesh,
    (owner, service): (&Job, &str),
    findings: &mut Findings,
) {
    let id = reader.id.text();
    let (what, hint) = match why {
        PastTheMesh::NoSidecar => ("has no sidecar", format!("inject job `{id}`")),
        PastTheMesh::Explicit => (
            "has a sidecar in mode `explicit`",
            format!("inject job `{id}` in another mode, name the service in its `mesh.upstreams`"),
        ),
    };
    let reason = format!(
        "group `{}` of job `{id}` {what} and calls the address that the catalogue has for it: with mutual TLS STRICT it is refused",
        group.name.text(),
    );
    findings.warning(
        format!("Services[{service}] of job {}", owner.id.text()),
        reason,
        format!("{hint}, or have the service take plaintext by a PeerAuthentication `PERMISSIVE`"),
    );
}

/// The groups of a job that read services from the catalogue, with the services' names.
fn readers(job: &Job) -> impl Iterator<Item = (&Job, &TaskGroup, Vec<String>)> {
    let groups = job.task_groups.items().iter();
    groups.filter_map(move |group| {
        let tasks = group.tasks.items().iter();
        let mut names: Vec<String> = tasks
            .flat_map(|task| task.templates.items())
            .flat_map(services_of)
            .collect();
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some((job, group, names))
    })
}

/// Whether a service of this name is of a group with a sidecar.
fn is_meshed(job: &Job, name: &str) -> bool {
    let mut groups = job.task_groups.items().iter();
    groups.any(|group| {
        let of_tasks = group
            .tasks
            .items()
            .iter()
            .flat_map(|task| task.services.items());
        let mut services = group.services.items().iter().chain(of_tasks);
        is_injected(group) && services.any(|service| service.name.text() == name)
    })
}

/// The services that a template asks the catalogue for: `nomadService "web"`, also with a count
/// and a seed before the name, or `service "web"` of Consul's.
///
/// Source: <https://developer.hashicorp.com/nomad/docs/job-specification/template#nomad-services>.
fn services_of(template: &Template) -> Vec<String> {
    let or = |text: &str, default: &str| match text {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    let open = or(template.left_delimiter.text(), "{{");
    let close = or(template.right_delimiter.text(), "}}");
    let mut names = Vec::new();
    let mut rest = template.embedded.text();
    while let Some((_, after)) = rest.split_once(&open) {
        let (action, behind) = after.split_once(&close).unwrap_or((after, ""));
        names.extend(services_of_action(action));
        rest = behind;
    }
    names
}

/// The names in one action: the first text after each word that reads the catalogue, but for what
/// stands in parentheses between them.
fn services_of_action(action: &str) -> Vec<String> {
    let tokens = tokens(action);
    let mut names = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if !matches!(token, Token::Word(word) if READERS.contains(word)) {
            continue;
        }
        let mut depth = 0_usize;
        for token in tokens.iter().skip(at + 1) {
            match token {
                Token::Text(text) if depth == 0 => {
                    // `tag.web@region|any` is a service with a tag, elsewhere.
                    let name = text.split(['@', '|']).next().unwrap_or_default();
                    names.push(name.rsplit('.').next().unwrap_or(name).to_owned());
                    break;
                }
                Token::Open => depth += 1,
                Token::Close if depth > 0 => depth -= 1,
                Token::Close | Token::Pipe => break,
                Token::Word(_) | Token::Text(_) => {}
            }
        }
    }
    names
}

/// A part of an action.
#[derive(Debug)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Open,
    Close,
    Pipe,
}

fn tokens(action: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let behind = rest.strip_prefix(first).unwrap_or_default();
        let (token, behind) = match first {
            '(' => (Token::Open, behind),
            ')' => (Token::Close, behind),
            '|' => (Token::Pipe, behind),
            '"' | '`' => {
                let Some((text, behind)) = behind.split_once(first) else {
                    break;
                };
                (Token::Text(text), behind)
            }
            _ => {
                let ends = |char: char| char.is_whitespace() || "()|\"`".contains(char);
                let (word, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
                (Token::Word(word), behind)
            }
        };
        tokens.push(token);
        rest = behind.trim_start();
    }
    tokens
}

/// Functions of templates that give addresses of a service.
const READERS: [&str; 2] = ["nomadService", "service"];

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template {
            embedded: text.into(),
            ..Template::default()
        }
    }

    #[test]
    fn templates_name_the_services_that_they_read() {
        let found = |text: &str| services_of(&template(text));
        assert_eq!(
            found(r#"{{ range nomadService "web" }}{{ .Address }}:{{ .Port }}{{ end }}"#),
            ["web"]
        );
        assert_eq!(
            found(r#"{{with nomadService 1 (env "NOMAD_ALLOC_ID") "db"}}x{{end}}"#),
            ["db"]
        );
        assert_eq!(
            found(r#"{{ range nomadService 3 $id "cache" }}"#),
            ["cache"]
        );
        assert_eq!(found(r#"{{ range service "v1.api@dc2|any" }}"#), ["api"]);
        assert!(found(r#"{{ key "service/web" }} nomadService "text""#).is_empty());
        assert_eq!(
            found("{{ with (nomadService `web`) }}{{ nomadService }}"),
            ["web"]
        );
        assert!(found("{{ nomadService `web").is_empty());
        assert!(found(r#"{{ nomadService | x "web" }}"#).is_empty());
    }

    #[test]
    fn a_template_with_other_delimiters_is_read_by_them() {
        let template = Template {
            left_delimiter: "[[".into(),
            right_delimiter: "]]".into(),
            ..template(r#"[[ range nomadService "web" ]] {{ range nomadService "not" }}"#)
        };
        assert_eq!(services_of(&template), ["web"]);
    }
}
