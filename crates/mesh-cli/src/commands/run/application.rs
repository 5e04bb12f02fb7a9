//! An application as flags describe it; pure.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use mesh_model::{Namespace, Protocol, ServiceAccount, ServiceName, WorkloadPort, WorkloadService};
use mesh_runtime::{Application, Capability, RestartPolicy};

use crate::exit::Failure;

/// What is run, and as what.
#[derive(Debug, clap::Args)]
pub(crate) struct Description {
    /// Name of the workload, unique in its namespace.
    #[arg(long)]
    name: ServiceName,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    namespace: Namespace,
    /// The account that it runs as.
    #[arg(long, default_value = "default")]
    service_account: ServiceAccount,
    /// The service that it is an instance of; its own name unless given.
    #[arg(long, requires = "port")]
    service: Option<ServiceName>,
    /// A port of the service: NAME:PORT[:TARGET]. NAME begins with the protocol (http, http2,
    /// grpc, tcp, tls), as in `http` or `http-admin`; TARGET is where the application listens.
    #[arg(long, value_name = "NAME:PORT[:TARGET]")]
    port: Vec<Port>,
    /// A label, by which subsets and policies select it.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// A variable of its environment, which is otherwise empty but for PATH.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// The numeric user, and group if that has another number; nobody unless given.
    #[arg(long, value_name = "UID[:GID]")]
    user: Option<User>,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A port as `--port` has it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Port(WorkloadPort);

/// A user as `--user` has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct User {
    uid: u32,
    gid: u32,
}

// === impl Description ===

impl Description {
    /// The application. It starts in `directory`; one that nobody attends is kept running.
    pub(super) fn application(
        &self,
        directory: &Path,
        detached: bool,
    ) -> Result<Application, Failure> {
        let mut application = Application::new(
            self.namespace.clone(),
            self.name.clone(),
            self.service_account.clone(),
            &self.command,
        );
        if !self.port.is_empty() {
            application.services = vec![WorkloadService {
                name: self.service.clone().unwrap_or_else(|| self.name.clone()),
                ports: self.port.iter().map(|Port(port)| port.clone()).collect(),
            }];
        }
        application.labels = unique("--label", &self.label)?;
        application.environment = unique("--env", &self.env)?;
        if let Some(User { uid, gid }) = self.user {
            application.uid = uid;
            application.gid = gid;
        }
        if application.uid == 0 {
            application.capabilities = Capability::of_a_server();
        }
        application.working_directory = directory.to_path_buf();
        application.restart = if detached {
            RestartPolicy::Always
        } else {
            RestartPolicy::Never
        };
        Ok(application)
    }
}

fn unique(
    flag: &str,
    pairs: &[(String, String)],
) -> Result<std::collections::BTreeMap<String, String>, Failure> {
    let mut map = std::collections::BTreeMap::new();
    for (key, value) in pairs {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("{flag} {key} is given twice")));
        }
    }
    Ok(map)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

// === impl Port ===

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let number = |part: &str| match part.parse::<u16>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("port `{part}` is not between 1 and 65535")),
        };
        let service = number(parts.next().ok_or("a port is NAME:PORT[:TARGET]")?)?;
        let target = parts.next().map(number).transpose()?.unwrap_or(service);
        if parts.next().is_some() {
            return Err(format!("`{text}` is not NAME:PORT[:TARGET]"));
        }
        Ok(Self(WorkloadPort {
            name: name.to_owned(),
            number: service,
            target,
            protocol: protocol(name)?,
        }))
    }
}

/// What is spoken on a port of this name: what stands before the first `-`, as Istio has it.
fn protocol(name: &str) -> Result<Protocol, String> {
    match name.split_once('-').map_or(name, |(protocol, _)| protocol) {
        "http" => Ok(Protocol::Http),
        "http2" => Ok(Protocol::Http2),
        "grpc" => Ok(Protocol::Grpc),
        "tcp" => Ok(Protocol::Tcp),
        "tls" => Ok(Protocol::Tls),
        _ => Err(format!(
            "port name `{name}` does not begin with http, http2, grpc, tcp or tls"
        )),
    }
}

// === impl User ===

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            part.parse::<u32>()
                .map_err(|error| format!("`{part}` is not a numeric id: {error}"))
        };
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Ok(Self {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }
}

/// The name servers of a resolv.conf(5). Scoped addresses are left out: they mean nothing elsewhere.
pub(super) fn name_servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next()?;
        let address: IpAddr = words.next()?.parse().ok()?;
        (keyword == "nameserver").then_some(SocketAddr::new(address, 53))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, number: u16, target: u16, protocol: Protocol) -> Port {
        Port(WorkloadPort {
            name: name.to_owned(),
            number,
            target,
            protocol,
        })
    }

    #[test]
    fn a_port_names_its_protocol_and_where_the_application_listens() {
        let http = port("http", 80, 8080, Protocol::Http);
        assert_eq!("http:80:8080".parse(), Ok(http));
        assert_eq!(
            "grpc-admin:9000".parse(),
            Ok(port("grpc-admin", 9000, 9000, Protocol::Grpc))
        );
        for wrong in [
            "http",
            "80",
            "http:0",
            "http:70000",
            "ftp:21",
            "http:1:2:3",
            ":80",
            "httpx:1",
        ] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_user_brings_a_group_of_its_own_number_unless_told() {
        assert_eq!(
            "1000".parse(),
            Ok(User {
                uid: 1000,
                gid: 1000
            })
        );
        assert_eq!(
            "1000:100".parse(),
            Ok(User {
                uid: 1000,
                gid: 100
            })
        );
        assert!("root".parse::<User>().is_err());
        assert!("-1".parse::<User>().is_err());
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(pair("A").is_err() && pair("=b").is_err());
    }

    #[test]
    fn name_servers_are_read_and_the_rest_is_left() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\n nameserver ::1 # x\nnameserver fe80::1%eth0\noptions ndots:5";
        let expected = ["192.0.2.1:53", "[::1]:53"].map(|it| it.parse().unwrap());
        assert_eq!(name_servers(text), expected);
    }
}
