//! A task: one process or container of a group.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Constraint, Network, RestartPolicy, Service};
use crate::model::Nanoseconds;

object! {
    /// A task.
    pub struct Task {
        /// Its name within the group.
        name: String = "Name",
        /// What runs it: `docker`, `podman`, `exec`, `raw_exec`, `exec2`, …
        driver: String = "Driver",
        /// Who runs it; containers take numbers, the others names that the host knows.
        user: String = "User",
        /// Options of the driver.
        config: Map<String, Value> = "Config",
        /// Its environment.
        env: BTreeMap<String, String> = "Env",
        /// Services of this task.
        services: Vec<Service> = "Services",
        /// Where it may run.
        constraints: Vec<Constraint> = "Constraints",
        /// What it may use.
        resources: Resources = "Resources",
        /// When it runs, if it is not a main task.
        lifecycle: Lifecycle = "Lifecycle",
        /// Words of the operator.
        meta: BTreeMap<String, String> = "Meta",
        /// The identity that Nomad's own API takes.
        identity: Identity = "Identity",
        /// Identities for others.
        identities: Vec<Identity> = "Identities",
        /// Files that Nomad renders.
        templates: Vec<Template> = "Templates",
        /// Files that Nomad downloads.
        artifacts: Vec<Artifact> = "Artifacts",
        /// Volumes of the group that it mounts.
        volume_mounts: Vec<VolumeMount> = "VolumeMounts",
        /// How much of its output is kept.
        log_config: LogConfig = "LogConfig",
        /// What happens when it ends on its own.
        restart_policy: RestartPolicy = "RestartPolicy",
        /// The signal that asks it to end.
        kill_signal: String = "KillSignal",
        /// How long it may take to end.
        kill_timeout: Nanoseconds = "KillTimeout",
        /// How long it runs on after its services were taken from the catalogue.
        shutdown_delay: Nanoseconds = "ShutdownDelay",
        /// Whether the group ends with it.
        leader: bool = "Leader",
        /// What it is to Consul's mesh.
        kind: String = "Kind",
    }
}

object! {
    /// What a task may use.
    pub struct Resources {
        /// CPU in MHz.
        cpu: i64 = "CPU",
        /// Whole cores.
        cores: i64 = "Cores",
        /// Memory in MiB.
        memory_mb: i64 = "MemoryMB",
        /// Memory in MiB that it may use while the node has some left.
        memory_max_mb: i64 = "MemoryMaxMB",
        /// A network of the task alone; an old form.
        networks: Vec<Network> = "Networks",
    }
}

object! {
    /// When a task runs.
    #[derive(Eq)]
    pub struct Lifecycle {
        /// `prestart`, `poststart` or `poststop`.
        hook: String = "Hook",
        /// Whether it runs as long as the main tasks do.
        sidecar: bool = "Sidecar",
    }
}

object! {
    /// A signed statement of who a task is.
    pub struct Identity {
        /// Its name; `default` for the one that Nomad's own API takes.
        name: String = "Name",
        /// Whom it is for.
        audience: Vec<String> = "Audience",
        /// Whether it is in the environment.
        env: bool = "Env",
        /// Whether it is in a file of the secrets directory.
        file: bool = "File",
        /// Another path of that file.
        filepath: String = "Filepath",
        /// How long one lives; renewed at half.
        ttl: Nanoseconds = "TTL",
        /// What a new one does: `noop`, `restart` or `signal`.
        change_mode: String = "ChangeMode",
        /// The signal for `signal`.
        change_signal: String = "ChangeSignal",
        /// The service that it is of.
        service_name: String = "ServiceName",
    }
}

object! {
    /// A file that Nomad renders.
    pub struct Template {
        /// The text.
        embedded: String = "EmbeddedTmpl",
        /// The file that holds the text.
        source: String = "SourcePath",
        /// Where it goes, from the task's directory.
        destination: String = "DestPath",
        /// What a change does: `noop`, `restart`, `signal` or `script`.
        change_mode: String = "ChangeMode",
        /// The signal for `signal`.
        change_signal: String = "ChangeSignal",
        /// Permission bits in octal.
        perms: String = "Perms",
        /// What opens an action; `{{` if none is said.
        left_delimiter: String = "LeftDelim",
        /// What closes an action; `}}` if none is said.
        right_delimiter: String = "RightDelim",
        /// Whether the lines become environment variables.
        environment: bool = "Envvars",
    }
}

object! {
    /// A file that Nomad downloads.
    pub struct Artifact {
        /// From where.
        source: String = "GetterSource",
        /// Options, `checksum` among them.
        options: BTreeMap<String, String> = "GetterOptions",
        /// `any`, `file` or `dir`.
        mode: String = "GetterMode",
        /// Where it goes, from the task's directory.
        destination: String = "RelativeDest",
    }
}

object! {
    /// A volume in a task.
    pub struct VolumeMount {
        /// The group's name of it.
        volume: String = "Volume",
        /// Where the task sees it.
        destination: String = "Destination",
        /// Whether the task may not write.
        read_only: bool = "ReadOnly",
        /// How mounts below it spread.
        propagation: String = "PropagationMode",
    }
}

object! {
    /// How much of a task's output is kept.
    pub struct LogConfig {
        /// How many files.
        max_files: i64 = "MaxFiles",
        /// How large each, in MiB.
        max_file_size_mb: i64 = "MaxFileSizeMB",
        /// Whether nothing is kept.
        disabled: bool = "Disabled",
    }
}

// === impl Task ===

impl Task {
    /// Whether it is a main task: one without a lifecycle of its own.
    pub fn is_main(&self) -> bool {
        self.lifecycle.get().is_none()
    }
}
