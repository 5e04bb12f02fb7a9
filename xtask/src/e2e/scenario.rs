//! The scenario: install, deploy, prove row by row, take down.

mod capture;
pub(crate) mod cluster;
mod control_plane;
mod deploy;
mod gateway;
mod identity;
mod nomad;
mod policy;
mod proxy;
mod redirect;
mod routing;
mod telemetry;

pub(crate) use self::capture::addresses;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tokio::signal::unix::{SignalKind, signal};

use super::ground::Daemons;
use super::row::Report;
use super::world::{Step, World};

/// Runs every row; whatever happens, the mesh is taken down at the end, unless it is to be kept.
pub(crate) async fn run(world: World, keep: bool) -> Report {
    let mut daemons = Daemons::default();
    let interrupted = tokio::select! {
        () = rows(&world, &mut daemons) => false,
        () = interrupt() => true,
    };
    if interrupted {
        eprintln!("interrupted: taking everything down");
        let interrupted = Err("interrupted".to_owned());
        world.record("the scenario ran to its end", interrupted);
    }
    if keep {
        eprintln!(
            "kept: enter the host with `nsenter --net=/proc/{}/ns/net`",
            std::process::id()
        );
        interrupt().await;
    }
    if !interrupted {
        world.print_logs_of_failures().await;
    }
    world.take_down().await;
    if let Err(why) = daemons.stop().await {
        world.record("the daemons of the run stop", Err(why));
    }
    Report {
        rows: world.into_rows(),
        seconds: 0,
        interrupted,
    }
}

async fn rows(world: &World, daemons: &mut Daemons) {
    let prepared = match prepare(world).await {
        Ok(()) => world.open_ground(daemons).await,
        Err(why) => Err(why),
    };
    if let Some(cluster) = &mut daemons.cluster {
        match prepared {
            Ok(()) => cluster::rows(world, cluster).await,
            Err(why) => drop(world.record("the ground is prepared", Err(why))),
        }
        return;
    }
    let ready = match prepared {
        Ok(()) => control_plane::comes_up(world).await,
        Err(why) => world.record("the ground is prepared", Err(why)),
    };
    if !ready || !deploy::sample(world).await {
        return;
    }
    identity::rows(world).await;
    capture::rows(world).await;
    // From here on requests to details are the loads'; every failure of theirs must reach the client.
    if let Err(why) = routing::apply(world, "no-retries.yaml").await {
        world.record("retries are off for the loads", Err(why));
        return;
    }
    // Certificates are renewed when their time has come; the other rows need not wait for that.
    let others = async {
        routing::rows(world).await;
        policy::rows(world).await;
        gateway::rows(world).await;
        telemetry::rows(world).await;
        control_plane::rows(world).await;
    };
    tokio::join!(identity::rotation(world), others);
    if let Some(lab) = &mut daemons.nomad {
        nomad::rows(world, lab).await;
        let kept = world.page_is_kept(true);
        world.record("README's commands for an agent were run as they are", kept);
    }
}

/// The loopback of the namespace that plays the host, and the directory of control sockets.
async fn prepare(world: &World) -> Step<()> {
    let io = |error: std::io::Error| error.to_string();
    let ip = tokio::process::Command::new(world.bin("ip"))
        .args(["link", "set", "lo", "up"])
        .status()
        .await
        .map_err(io)?;
    if !ip.success() {
        return Err(format!("`ip link set lo up`: {ip}"));
    }
    let control = world.control();
    fs::create_dir_all(&control).map_err(io)?;
    // Instances run as several users and each makes its socket here.
    fs::set_permissions(&control, fs::Permissions::from_mode(0o1777)).map_err(io)
}

async fn interrupt() {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
