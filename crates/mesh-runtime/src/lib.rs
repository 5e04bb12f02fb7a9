//! Container runtime control: one trait, engines for processes and for Docker, sidecar injection.
//!
//! ```text
//! Runtime ◄── ProcessEngine: groups are network namespaces, units are supervised processes
//!    ▲    ◄── DockerEngine (feature `docker`): groups are pause containers, units containers
//!    ▲    ◄── compose (feature `compose`): files, read and planned, are pure
//! enrol ◄── InjectedGroup ◄── inject(Application, MeshFacts), a pure function
//! ```

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

mod capability;
#[cfg(feature = "compose")]
pub mod compose;
#[cfg(feature = "docker")]
pub mod docker;
mod enrol;
mod error;
#[cfg(feature = "docker")]
pub mod image;
pub mod inject;
mod name;
mod order;
pub mod process;
mod redirect;
mod runtime;
mod spec;
mod status;

pub use capability::Capability;
#[cfg(feature = "docker")]
pub use docker::{DockerEngine, DockerOptions};
pub use enrol::{EnrolError, Enrolled, enrol};
pub use error::RuntimeError;
pub use inject::{
    Application, InjectedGroup, JoinToken, MeshFacts, Mode, Resolver, Runner, inject,
};
pub use name::Name;
pub use order::{order, start_group};
pub use process::{ProcessEngine, supervisor};
pub use redirect::{RESOLVER, policy_beside_resolver};
pub use runtime::{
    Adoption, Creation, Event, EventStream, ExecOutput, LogOptions, LogStream, Pending, Removal,
    Runtime, Start, Stop,
};
pub use spec::{
    Attachment, Check, Condition, Contents, Dependency, DirectorySpec, Dns, FileSpec, GroupSpec,
    MountSpec, NetworkSpec, Protocol, PublishedPort, Readiness, RestartPolicy, UnitSpec,
};
pub use status::{Addresses, Exit, Group, GroupStatus, UnitState, UnitStats, UnitStatus};
