//! The tasks that injection adds: the proxy, the gate, and in some modes the guard and its cleanup.

use std::collections::BTreeMap;

use mesh_model::sidecar::{PROXY_UID, SELF_CALL_PORT};
use serde_json::{Map, Value, json};

use super::{GUARD, GroupPlan, HEALTH_LABEL, PROXY, PROXY_USER, READY};
use crate::model::{
    Artifact, Field, Identity, Lifecycle, LogConfig, Nanoseconds, Resources, RestartPolicy, Task,
    Template,
};
use crate::sidecar::{DNS_LABEL, Mode, SIDECAR_FILE};

/// What runs the tasks that injection adds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Driver {
    /// Containers by Docker.
    Docker,
    /// Containers by Podman.
    Podman,
    /// Processes in a chroot.
    Exec,
    /// Processes as they are.
    RawExec,
    /// Processes behind landlock, as users that Nomad makes up.
    Exec2,
}

impl Driver {
    /// Nomad's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Exec => "exec",
            Self::RawExec => "raw_exec",
            Self::Exec2 => "exec2",
        }
    }

    /// The driver for tasks beside these: a container if there is one, else what they use.
    pub(super) fn beside(tasks: &[Task]) -> Self {
        let uses = |name: &str| tasks.iter().any(|task| task.driver.text() == name);
        if uses("docker") {
            Self::Docker
        } else if uses("podman") {
            Self::Podman
        } else if uses("exec") || uses("java") {
            Self::Exec
        } else if uses("raw_exec") {
            Self::RawExec
        } else if uses("exec2") {
            Self::Exec2
        } else {
            Self::Docker
        }
    }

    pub(super) fn is_container(self) -> bool {
        matches!(self, Self::Docker | Self::Podman)
    }
}

impl GroupPlan<'_> {
    /// All tasks that the mode needs.
    pub(super) fn tasks(&self, sidecar: &str, policy: Option<&str>) -> Vec<Task> {
        let mut tasks = vec![self.proxy(sidecar)];
        if self.annotations.hold_app.unwrap_or(true) {
            tasks.push(self.ready());
        }
        if let Some(policy) = policy {
            tasks.push(self.guard(policy));
        }
        if self.mode.is_host() {
            tasks.push(self.cleanup());
        }
        tasks
    }

    fn proxy(&self, sidecar: &str) -> Task {
        let mut env = BTreeMap::new();
        if self.has_guard() {
            env.insert("MESH_RULES_VERDICT".to_owned(), VERDICT.to_owned());
        }
        let words = ["agent", "--nomad", "${NOMAD_TASK_DIR}/mesh.json"];
        Task {
            env: if env.is_empty() {
                Field::Absent
            } else {
                env.into()
            },
            identity: identity().into(),
            identities: vec![identity_for("mesh-ca")].into(),
            templates: vec![sidecar_file(sidecar)].into(),
            resources: Resources {
                cpu: self.annotations.proxy_cpu.unwrap_or(PROXY_CPU_MHZ).into(),
                memory_mb: self
                    .annotations
                    .proxy_memory
                    .unwrap_or(PROXY_MEMORY_MB)
                    .into(),
                ..Resources::default()
            }
            .into(),
            kill_signal: "SIGTERM".into(),
            kill_timeout: Nanoseconds::seconds(20).into(),
            // Longer than the applications', which are asked to end first.
            shutdown_delay: Nanoseconds::seconds(5).into(),
            restart_policy: restart().into(),
            ..self.task(PROXY, "proxy", "prestart", true, &words)
        }
    }

    fn ready(&self) -> Task {
        let address = format!("127.0.0.1:${{NOMAD_PORT_{HEALTH_LABEL}}}");
        let words = ["agent", "wait", "--timeout", "120s", "--address", &address];
        self.task(READY, "ready", "prestart", false, &words)
    }

    fn guard(&self, policy: &str) -> Task {
        let mut words: Vec<String> = [
            "redirect",
            "watch",
            "--policy",
            "${NOMAD_TASK_DIR}/policy.json",
            "--verdict",
            VERDICT,
        ]
        .map(str::to_owned)
        .into();
        // Where the task has process ids of its own, the first of them is itself, and no host's.
        if self.mode == Mode::Guard && self.driver != Driver::RawExec {
            words.push("--not-host-network".to_owned());
        }
        if self.mode.is_host() {
            words.push("--allow-host-network".to_owned());
            // With the port by which the agent sees that what arrives is captured.
            let mut ports = self.host_ports();
            ports.push(SELF_CALL_PORT.to_string());
            words.extend(["--inbound-ports".to_owned(), ports.join(",")]);
        }
        if self.mode == Mode::HostUid {
            words.extend(instance());
            for (flag, label) in [
                ("--inbound-port", "mesh_in"),
                ("--outbound-port", "mesh_out"),
                ("--dns-to", DNS_LABEL),
            ] {
                words.extend([flag.to_owned(), format!("${{NOMAD_PORT_{label}}}")]);
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let task = self.task(GUARD, "guard", "prestart", true, &words);
        Task {
            templates: vec![file("local/policy.json", policy)].into(),
            kill_signal: "SIGTERM".into(),
            restart_policy: restart().into(),
            ..self.privileged(task)
        }
    }

    fn cleanup(&self) -> Task {
        let mut words = vec!["redirect".to_owned(), "remove".to_owned()];
        if self.mode == Mode::HostUid {
            words.extend(instance());
        } else {
            // Another group may have the machine: Nomad gives static ports once for each address.
            words.push("--unless-watched".to_owned());
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let task = self.task(super::CLEANUP, "cleanup", "poststop", false, &words);
        self.privileged(task)
    }

    /// A task of ours as the driver wants it, without privilege.
    fn task(&self, name: &str, role: &str, hook: &str, stays: bool, words: &[&str]) -> Task {
        Task {
            name: name.into(),
            driver: self.driver.as_str().into(),
            user: match self.driver {
                // With the group, or Docker gives it group 0.
                Driver::Docker | Driver::Podman => format!("{PROXY_UID}:{PROXY_UID}").into(),
                Driver::Exec | Driver::RawExec => PROXY_USER.into(),
                Driver::Exec2 => Field::Absent,
            },
            config: self.config(words).into(),
            lifecycle: Lifecycle {
                hook: hook.into(),
                sidecar: stays.into(),
                ..Lifecycle::default()
            }
            .into(),
            artifacts: match self.options.artifacts.as_slice() {
                [] => Field::Absent,
                // The image has everything.
                _ if self.driver.is_container() => Field::Absent,
                artifacts => artifacts
                    .iter()
                    .map(|artifact| Artifact {
                        source: artifact.url.as_str().into(),
                        options: BTreeMap::from([(
                            "checksum".to_owned(),
                            artifact.checksum.clone(),
                        )])
                        .into(),
                        destination: "local/bin/".into(),
                        ..Artifact::default()
                    })
                    .collect::<Vec<_>>()
                    .into(),
            },
            resources: Resources {
                cpu: HELPER_CPU_MHZ.into(),
                memory_mb: HELPER_MEMORY_MB.into(),
                ..Resources::default()
            }
            .into(),
            log_config: LogConfig {
                max_files: 2.into(),
                max_file_size_mb: 2.into(),
                ..LogConfig::default()
            }
            .into(),
            meta: BTreeMap::from([("mesh.role".to_owned(), role.to_owned())]).into(),
            ..Task::default()
        }
    }

    fn config(&self, words: &[&str]) -> Map<String, Value> {
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
        if self.driver.is_container() {
            set("image", self.image.as_str().into());
            set("entrypoint", json!(["mesh"]));
            set("args", words.into());
            set("cap_drop", json!(["all"]));
            set("readonly_rootfs", true.into());
            if !self.has_namespace {
                set("network_mode", "host".into());
            }
        } else {
            set("command", self.options.program.as_str().into());
            set("args", words.into());
            if self.driver == Driver::Exec2 {
                let paths = ["rx:/usr/local/bin", "rwc:/dev/shm", "r:/etc/ssl"];
                set("unveil", json!(paths));
            }
        }
        config
    }

    /// The same task with what it takes to change rules, and nothing else.
    fn privileged(&self, mut task: Task) -> Task {
        let config = task.config.or_default();
        match self.driver {
            Driver::Docker | Driver::Podman => {
                config.insert("cap_add".to_owned(), json!(["net_admin", "net_raw"]));
                task.user = "0:0".into();
            }
            // Capabilities of a user other than root are ambient.
            Driver::Exec => {
                config.insert("cap_add".to_owned(), json!(["net_admin", "net_raw"]));
            }
            // Nomad's own user, root.
            Driver::RawExec | Driver::Exec2 => task.user = Field::Absent,
        }
        task
    }
}

/// The name of the allocation's rules among those of others on the host.
fn instance() -> [String; 2] {
    [
        "--instance".to_owned(),
        "nomad-${NOMAD_SHORT_ALLOC_ID}".to_owned(),
    ]
}

/// Nomad's own identity of the task.
fn identity() -> Identity {
    Identity {
        env: false.into(),
        file: true.into(),
        ..Identity::default()
    }
}

/// An identity for this audience, by which the agent proves itself.
pub(crate) fn identity_for(audience: &str) -> Identity {
    Identity {
        name: "mesh".into(),
        audience: vec![audience.to_owned()].into(),
        change_mode: "noop".into(),
        ttl: Nanoseconds::seconds(3600).into(),
        ..identity()
    }
}

/// The file in which a proxy finds what it is told.
pub(crate) fn sidecar_file(sidecar: &str) -> Template {
    file(SIDECAR_FILE, sidecar)
}

/// A file with this text as it is: the delimiters are in no JSON that we write.
fn file(destination: &str, text: &str) -> Template {
    Template {
        embedded: text.into(),
        destination: destination.into(),
        change_mode: "noop".into(),
        perms: "0644".into(),
        left_delimiter: "<%mesh".into(),
        right_delimiter: "mesh%>".into(),
        ..Template::default()
    }
}

/// A sidecar that fails is started again for ever: giving up would end the application. The delay
/// is short, for after a reboot nothing orders tasks and applications wait in vain for the proxy.
fn restart() -> RestartPolicy {
    RestartPolicy {
        attempts: 10.into(),
        interval: Nanoseconds::seconds(300).into(),
        delay: Nanoseconds::seconds(1).into(),
        mode: "delay".into(),
        ..RestartPolicy::default()
    }
}

/// What Consul's sidecar gets, so that a job that moves needs no other node.
const PROXY_CPU_MHZ: i64 = 250;
const PROXY_MEMORY_MB: i64 = 128;
const HELPER_CPU_MHZ: i64 = 50;
const HELPER_MEMORY_MB: i64 = 32;

/// Where the guard says how the rules are: all tasks of an allocation see it.
const VERDICT: &str = "${NOMAD_ALLOC_DIR}/tmp/mesh-rules.json";
