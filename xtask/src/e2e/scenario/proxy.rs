//! What a sidecar's Envoy says of itself, past its agent and past Pilot.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::control_plane::pid;
use crate::Ground;
use crate::e2e::nomad;
use crate::e2e::world::{Step, World, ensure};

/// The process of a sidecar's Envoy: the agent's child, whichever of its threads started it.
pub(crate) async fn process(world: &World, group: &str) -> Step<u64> {
    if world.ground() == Ground::Nomad {
        let allocation = nomad::instance(group).await?;
        return allocation.process("mesh-proxy", "envoy");
    }
    let agent = pid(world, group, "sidecar").await?;
    let tasks = std::fs::read_dir(format!("/proc/{agent}/task"));
    let tasks = tasks.map_err(|error| error.to_string())?;
    let children = tasks.flatten().flat_map(|task| {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.collect::<Vec<u64>>()
    });
    let is_envoy = |pid: &u64| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.starts_with("envoy"))
    };
    let found = children.into_iter().find(is_envoy);
    found.ok_or_else(|| format!("the agent {agent} of {group} has no Envoy"))
}

/// The serial of the certificate that Envoy presents.
pub(crate) async fn serial(world: &World, group: &str) -> Step<String> {
    let body = ask(world, group, "/certs").await?;
    let certs: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    let serial = certs.pointer("/certificates/0/cert_chain/0/serial_number");
    let serial = serial.and_then(Value::as_str).map(str::to_owned);
    serial.ok_or_else(|| format!("Envoy of {group} names no certificate: {body}"))
}

/// Responses of the control plane that Envoy has taken since it started: listeners, routes,
/// clusters, endpoints.
pub(crate) async fn updates(world: &World, group: &str) -> Step<u64> {
    let path = "/stats?filter=(lds|cds|rds\\..*|^cluster\\..*)\\.update_success$";
    let body = ask(world, group, path).await?;
    let counts = body
        .lines()
        .filter(|line| !line.contains(".sds."))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    let sum = counts.sum();
    ensure(sum > 0, || {
        format!("Envoy of {group} has taken nothing: {body}")
    })?;
    Ok(sum)
}

/// How many endpoints Envoy calls for a port of a service of the default namespace.
pub(crate) async fn endpoints(world: &World, group: &str, service: &str, port: u16) -> Step<usize> {
    let body = ask(world, group, "/clusters").await?;
    let cluster = format!("outbound|{port}||{service}.default.mesh::");
    let healthy = body
        .lines()
        .filter(|line| line.starts_with(&cluster) && line.ends_with("::health_flags::healthy"));
    Ok(healthy.count())
}

/// Asks the admin interface, a file socket in the sidecar's own directory.
async fn ask(world: &World, group: &str, path: &str) -> Step<String> {
    let failed = |error: std::io::Error| format!("Envoy of {group}, {path}: {error}");
    let directory = directory(world, group).await?;
    // Where it is may be longer than the name of a socket.
    let directory = std::fs::File::open(directory).map_err(failed)?;
    let socket = format!("/proc/self/fd/{}/admin.sock", directory.as_raw_fd());
    let mut stream = UnixStream::connect(&socket).await.map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(failed)?;
    ensure(answer.starts_with("HTTP/1.1 200"), || {
        format!("Envoy of {group}, {path}: {answer}")
    })?;
    // The body may come in chunks, whose lengths stand on lines of their own.
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    Ok(unchunked(body))
}

/// A body without the lengths of its chunks; one that came whole stays as it is.
fn unchunked(body: &str) -> String {
    let mut rest = body;
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n")
        && let Ok(length) = usize::from_str_radix(length, 16)
        && let (Some(chunk), Some(next)) = (after.get(..length), after.get(length + 2..))
    {
        if length == 0 {
            return whole;
        }
        whole.push_str(chunk);
        rest = next;
    }
    body.to_owned()
}

/// The sidecar's own directory, as its agent was told.
async fn directory(world: &World, group: &str) -> Step<PathBuf> {
    if world.ground() == Ground::Nomad {
        return nomad::instance(group).await?.sidecar_directory();
    }
    let agent = pid(world, group, "sidecar").await?;
    let arguments = std::fs::read_to_string(format!("/proc/{agent}/cmdline"));
    let arguments = arguments.map_err(|error| error.to_string())?;
    let mut arguments = arguments.split('\0');
    let config = arguments.find(|argument| *argument == "--config");
    let config = config.and_then(|_| arguments.next());
    let config = config.ok_or_else(|| format!("the agent of {group} names no --config"))?;
    let text = std::fs::read_to_string(config).map_err(|error| format!("{config}: {error}"))?;
    let config: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let directory = config.get("state_dir").and_then(Value::as_str);
    let directory = directory.ok_or_else(|| format!("{text} has no `state_dir`"))?;
    Ok(directory.into())
}
