//! The application that a command line describes.

use std::collections::BTreeMap;

use mesh_model::{Namespace, Protocol, ServiceAccount, ServiceName, WorkloadPort, WorkloadService};
use mesh_runtime::Application;

use crate::exit::Failure;

/// An application, as flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Description {
    /// Its name, unique in its namespace on this machine.
    #[arg(long)]
    name: ServiceName,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    namespace: Namespace,
    /// The account it runs as; its service's name, or its own, unless given.
    #[arg(long)]
    service_account: Option<ServiceAccount>,
    /// The service that it is an instance of.
    #[arg(long, requires = "port")]
    service: Option<ServiceName>,
    /// A port of the service: `http:9080`, or `http:80:9080` when it listens at another than callers use.
    /// The first word names port and protocol: http, http2, grpc, tcp, tls; may be repeated.
    #[arg(long, requires = "service", value_parser = port)]
    port: Vec<WorkloadPort>,
    /// A label, by which routes and policies select it: `version=v2`; may be repeated.
    #[arg(long, value_parser = pair)]
    label: Vec<(String, String)>,
    /// A variable of its environment: `KEY=VALUE`; may be repeated.
    #[arg(long, value_parser = pair)]
    env: Vec<(String, String)>,
    /// Numeric user and group, as in `1000` or `1000:1000`; nobody unless given.
    #[arg(long, value_parser = user)]
    user: Option<(u32, u32)>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Description {
    /// The application.
    pub(super) fn application(&self) -> Result<Application, Failure> {
        let account = match (&self.service_account, &self.service) {
            (Some(account), _) => account.clone(),
            (None, service) => service
                .as_ref()
                .unwrap_or(&self.name)
                .as_str()
                .parse()
                .map_err(|problem: mesh_model::Problem| Failure::usage(problem.to_string()))?,
        };
        let mut application = Application::new(
            self.namespace.clone(),
            self.name.clone(),
            account,
            self.command.iter().cloned(),
        );
        application.services = self
            .service
            .iter()
            .map(|name| WorkloadService {
                name: name.clone(),
                ports: self.port.clone(),
            })
            .collect();
        application.labels = BTreeMap::from_iter(self.label.iter().cloned());
        application.environment = BTreeMap::from_iter(self.env.iter().cloned());
        if let Some((uid, gid)) = self.user {
            application.uid = uid;
            application.gid = gid;
        }
        Ok(application)
    }
}

fn port(text: &str) -> Result<WorkloadPort, String> {
    let expected = || {
        format!(
            "`{text}` is not a port like `http:9080` or `http:80:9080` (service port, own port)"
        )
    };
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let number = |text: Option<&str>| {
        text.and_then(|text| text.parse::<u16>().ok())
            .filter(|n| *n > 0)
    };
    let callers = number(parts.next()).ok_or_else(expected)?;
    let own = match parts.next() {
        None => callers,
        some => number(some).ok_or_else(expected)?,
    };
    if parts.next().is_some() {
        return Err(expected());
    }
    Ok(WorkloadPort {
        name: name.to_owned(),
        number: callers,
        target: own,
        protocol: protocol(name)?,
    })
}

/// Istio's convention: the name is the protocol, possibly followed by `-` and anything.
fn protocol(name: &str) -> Result<Protocol, String> {
    match name.split('-').next().unwrap_or_default() {
        "http" => Ok(Protocol::Http),
        "http2" => Ok(Protocol::Http2),
        "grpc" => Ok(Protocol::Grpc),
        "tcp" => Ok(Protocol::Tcp),
        "tls" | "https" => Ok(Protocol::Tls),
        other => Err(format!(
            "`{other}` is not a protocol: http, http2, grpc, tcp, tls"
        )),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not `KEY=VALUE`"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn user(text: &str) -> Result<(u32, u32), String> {
    let expected = || format!("`{text}` is not a numeric user like `1000` or `1000:1000`");
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let uid: u32 = uid.parse().map_err(|_not_a_number| expected())?;
    let gid: u32 = gid.parse().map_err(|_not_a_number| expected())?;
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_with_both_numbers() {
        let same = port("http:9080").unwrap();
        assert_eq!(
            (same.number, same.target, same.protocol),
            (9080, 9080, Protocol::Http)
        );
        let other = port("grpc-api:80:9080").unwrap();
        assert_eq!(
            (other.name.as_str(), other.number, other.target),
            ("grpc-api", 80, 9080)
        );
    }

    #[test]
    fn wrong_ports_are_told_with_their_value() {
        for text in [
            "http",
            "http:0",
            "http:x",
            "http:1:2:3",
            "smtp:25",
            "http:70000",
        ] {
            let error = port(text).unwrap_err();
            let part = text.split(':').next().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
