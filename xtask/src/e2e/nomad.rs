//! A Nomad of the run's own: one server and one client on a machine of their own, and what the
//! scenario asks of it.

pub(crate) mod cluster;
mod config;
mod files;
mod install;
mod job;
mod lab;
mod look;
mod page;

pub(crate) use self::files::Files;
pub(crate) use self::install::{instance, metrics, pid};
pub(crate) use self::job::{Group, Job, Runs, Service, Task};
pub(crate) use self::lab::{Agent, Lab};
pub(crate) use self::look::{Allocation, allocation, allocations, get};
pub(crate) use self::page::Page;

/// The address of the node, at which Nomad's server listens.
pub(crate) const NODE: &str = "10.20.0.1";
