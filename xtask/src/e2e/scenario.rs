//! The scenario: install, deploy, prove row by row, take down.

mod capture;
mod control_plane;
mod deploy;
mod identity;
mod policy;
mod redirect;
mod routing;
mod telemetry;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::row::{Report, Row};
use super::world::{Step, World};

/// Runs every row; whatever happens, the mesh is taken down at the end, unless it is to be kept.
pub(crate) async fn run(root: &Path, home: &Path, keep: bool) -> Report {
    let mut world = World::new(root, home);
    let interrupted = tokio::select! {
        () = rows(&mut world) => false,
        () = interrupt() => true,
    };
    if interrupted {
        world.rows.push(Row::fail(
            "the scenario ran to its end",
            "interrupted".to_owned(),
        ));
        eprintln!("interrupted: taking everything down");
    }
    if keep {
        eprintln!(
            "kept: enter the host with `nsenter --net=/proc/{}/ns/net`",
            std::process::id()
        );
        interrupt().await;
    }
    let down = world.mesh(&["down"]).await;
    world.record(
        "`mesh down` takes everything down",
        down.map(|text| text.trim().replace('\n', "; ")),
    );
    Report {
        rows: world.rows,
        seconds: 0,
    }
}

async fn rows(world: &mut World) {
    let ready = match prepare(world).await {
        Ok(()) => control_plane::comes_up(world).await,
        Err(why) => {
            world.record("the ground is prepared", Err(why));
            false
        }
    };
    if !ready || !deploy::sample(world).await {
        return;
    }
    identity::rows(world).await;
    capture::rows(world).await;
    routing::rows(world).await;
    policy::rows(world).await;
    telemetry::rows(world).await;
    under_load(world).await;
    control_plane::rows(world).await;
}

/// Rows that disturb nothing but their own part of the mesh, at the same time: each has a load of its own.
async fn under_load(world: &mut World) {
    // Every failure must reach the client.
    if let Err(why) = routing::apply(world, "no-retries.yaml").await {
        world.record("retries are off for the rows under load", Err(why));
        return;
    }
    let (mixer, rotation, tampered) = tokio::join!(
        telemetry::without_mixer(world),
        identity::rotation(world),
        redirect::tampered(world),
    );
    world.record("Mixer killed: no failed request", mixer);
    world.record(
        "certificates rotated under load: no failed request",
        rotation,
    );
    world.record(
        "a rule removed by hand is named within 5 s, and no plaintext leaves meanwhile",
        tampered,
    );
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
    let control = world.home().join("control");
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
