//! Job files as a person writes them, before injection.

use std::fmt;

use crate::e2e::ground::IMAGE;
use crate::e2e::world::World;

/// A job whose groups have one service and one task each.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) groups: Vec<Group>,
}

/// A group of a job.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) count: u32,
    /// `bridge` or `host`.
    pub(crate) network: &'static str,
    /// What its meta says.
    pub(crate) meta: Vec<(&'static str, String)>,
    pub(crate) service: Service,
    pub(crate) task: Task,
}

/// The service of a group.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// What is spoken, which is the label of the port too.
    pub(crate) protocol: &'static str,
    /// The port inside the group.
    pub(crate) port: u16,
    pub(crate) tags: Vec<String>,
    /// The path of an HTTP check; without one, a connection is the check.
    pub(crate) check: Option<&'static str>,
}

/// What a group runs.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) runs: Runs,
    pub(crate) user: &'static str,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(&'static str, String)>,
    /// A template that makes more of its environment.
    pub(crate) template: Option<String>,
}

/// How a task is run.
#[derive(Clone, Debug)]
pub(crate) enum Runs {
    /// As a container.
    Docker {
        image: &'static str,
        /// Directories that it shares with the machine, at the same path.
        shares: Vec<String>,
    },
    /// As a process.
    RawExec,
}

impl Runs {
    /// As a container of the sample's image.
    pub(crate) fn docker(world: &World) -> Self {
        Self::Docker {
            image: IMAGE,
            shares: vec![world.control().display().to_string()],
        }
    }

    /// Nomad's name of it.
    pub(crate) fn driver(&self) -> &'static str {
        match self {
            Self::Docker { .. } => "docker",
            Self::RawExec => "raw_exec",
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "job {:?} {{", self.id)?;
        for group in &self.groups {
            group.fmt(f)?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Service {
            name,
            protocol,
            port,
            tags,
            check,
        } = &self.service;
        let meta: Vec<_> = self
            .meta
            .iter()
            .map(|(key, value)| format!("      {key:?} = {value:?}\n"))
            .collect();
        let inside = match self.network {
            "host" => format!("static = {port}"),
            _ => format!("to = {port}"),
        };
        let check = match check {
            Some(path) => format!("type = \"http\"\n        path = {path:?}"),
            None => "type = \"tcp\"".to_owned(),
        };
        write!(
            f,
            r#"  group {:?} {{
    count = {}
    meta = {{
{}    }}
    # Long enough for everybody to hear that it goes.
    shutdown_delay = "3s"
    network {{
      mode = {:?}
      port {protocol:?} {{
        {inside}
      }}
    }}
    service {{
      provider = "nomad"
      name = {name:?}
      port = {protocol:?}
      tags = {tags:?}
      check {{
        {check}
        interval = "2s"
        timeout = "2s"
      }}
    }}
    update {{
      max_parallel = 1
      min_healthy_time = "1s"
      healthy_deadline = "2m"
      progress_deadline = "3m"
    }}
    restart {{
      delay = "1s"
      mode = "delay"
    }}
{}  }}
"#,
            self.name,
            self.count,
            meta.concat(),
            self.network,
            self.task
        )
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, arguments) = self
            .command
            .split_first()
            .map_or(("", [].as_slice()), |(first, rest)| (first.as_str(), rest));
        let place = match &self.runs {
            Runs::RawExec => String::new(),
            Runs::Docker { image, shares } => {
                let volumes: Vec<_> = shares.iter().map(|path| format!("{path}:{path}")).collect();
                format!("        image = {image:?}\n        volumes = {volumes:?}\n")
            }
        };
        let env: Vec<_> = self
            .env
            .iter()
            .map(|(key, value)| format!("        {key} = {value:?}\n"))
            .collect();
        let template = self.template.iter().map(|text| {
            format!(
                "      template {{\n        data = {text:?}\n        destination = \"local/env\"\n        env = true\n      }}\n"
            )
        });
        write!(
            f,
            r#"    task "app" {{
      driver = {:?}
      user = {:?}
      config {{
{place}        command = {command:?}
        args = {arguments:?}
      }}
      env {{
{}      }}
{}      resources {{
        cpu = 50
        memory = 64
      }}
    }}
"#,
            self.runs.driver(),
            self.user,
            env.concat(),
            template.collect::<String>()
        )
    }
}
