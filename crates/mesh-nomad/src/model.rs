//! Nomad's objects as its HTTP API gives and takes them, with nothing lost on the way.
//!
//! Every object keeps the fields that it does not know in `extra`, and each field that it does
//! know tells absent, `null` and a value apart ([`Field`]). So a job that was read and is written
//! again is the same job, whatever release of Nomad it came from.

#[macro_use]
mod object;
pub mod acl;
pub mod agent;
pub mod allocation;
pub mod deployment;
pub mod evaluation;
pub mod event;
mod field;
mod job;
pub mod namespace;
pub mod node;
pub mod registration;
pub mod reply;
pub mod variable;
pub mod volume;

pub use self::field::{Field, Nanoseconds};
pub use self::job::{
    Artifact, Check, Cni, Constraint, Dns, Identity, Job, JobDocument, Lifecycle, LogConfig,
    Network, Port, Resources, RestartPolicy, Service, Task, TaskGroup, Template, Update,
    VolumeMount, VolumeRequest,
};
pub use self::object::Object;
