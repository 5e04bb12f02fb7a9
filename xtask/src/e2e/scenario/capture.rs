//! What a packet capture between the namespaces shows: no meshed request, but one sent in the clear.

use std::net::IpAddr;
use std::time::Duration;

use mesh_tests::call::{self, Call};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command as Process};

use crate::Ground;
use crate::e2e::nomad;
use crate::e2e::world::{Step, World, ensure, eventually};

pub(crate) async fn rows(world: &World) {
    let result = marker(world).await;
    world.record(
        "a packet capture shows the marker of no meshed request",
        result,
    );
    let result = plaintext(world).await;
    let promise = if world.has_ipv6() {
        "plaintext is refused in STRICT, v4 and v6"
    } else {
        "plaintext is refused in STRICT"
    };
    world.record(promise, result);
}

/// Captures on the bridge that joins all workloads.
pub(super) struct Capture {
    child: Child,
    file: std::path::PathBuf,
}

impl Capture {
    pub(super) async fn start(world: &World) -> Step<Self> {
        let file = world.home().join("bridge.pcap");
        let bridge = world.bridge();
        let mut child = Process::new(world.bin("tcpdump"))
            .args(["-i", &bridge, "-U", "-s", "0", "-w"])
            .arg(&file)
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("tcpdump: {error}"))?;
        let stderr = child.stderr.take().ok_or("tcpdump has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        // It says so when it listens; what is sent before is not captured.
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("listening on") {
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self { child, file });
            }
        }
        Err("tcpdump ended before it listened".to_owned())
    }

    /// How often each text stands in the capture.
    pub(super) fn count(&self, texts: &[&str]) -> Step<Vec<usize>> {
        let bytes = std::fs::read(&self.file).map_err(|error| error.to_string())?;
        let count = |text: &&str| {
            bytes
                .windows(text.len())
                .filter(|w| *w == text.as_bytes())
                .count()
        };
        Ok(texts.iter().map(count).collect())
    }

    pub(super) async fn stop(mut self) -> Step<()> {
        self.child.kill().await.map_err(|error| error.to_string())
    }
}

async fn marker(world: &World) -> Step<String> {
    const REQUEST: &str = "marker-of-a-meshed-request";
    const ANSWER: &str = "meshed-details-v1-secret";
    const CLEAR: &str = "marker-sent-in-the-clear";
    let capture = Capture::start(world).await?;

    let mut meshed = Call::get("http://details:9080/only");
    meshed
        .headers
        .insert("x-marker".to_owned(), REQUEST.to_owned());
    for _ in 0..20 {
        let outcome = world.call("productpage-v1", meshed.clone()).await?;
        ensure(outcome.status == 200, || format!("{outcome:?}"))?;
        let marker = outcome.headers.get("x-marker").map(String::as_str);
        ensure(marker == Some(ANSWER), || {
            format!("the answer's marker is {marker:?}")
        })?;
    }
    // From the namespace that plays the host, past every sidecar.
    let target = addresses(world, "details-v1").await?;
    for address in &target {
        let mut clear = Call::get(&url(*address, "/only"));
        clear
            .headers
            .insert("x-marker".to_owned(), CLEAR.to_owned());
        call::once(clear).await;
    }

    let (counts, _) = eventually(Duration::from_secs(5), || async {
        let counts = capture.count(&[REQUEST, ANSWER, CLEAR])?;
        ensure(counts.last() >= Some(&target.len()), || {
            "the clear marker is not in the capture".to_owned()
        })?;
        Ok(counts)
    })
    .await?;
    capture.stop().await?;
    let [request, answer, clear] = counts.as_slice() else {
        return Err("no counts".to_owned());
    };
    ensure(*request == 0 && *answer == 0, || {
        format!(
            "the capture holds the request's marker {request} times, the answer's {answer} times"
        )
    })?;
    Ok(format!(
        "20 meshed requests and answers: markers 0 and 0 times; sent in the clear: {clear} times"
    ))
}

/// Refused while STRICT holds, answered while a policy says PERMISSIVE, refused again after it.
async fn plaintext(world: &World) -> Step<String> {
    let target = addresses(world, "details-v1").await?;
    ensure(
        target.iter().any(IpAddr::is_ipv4)
            && target.iter().any(IpAddr::is_ipv6) == world.has_ipv6(),
        || format!("details-v1 lacks an address: {target:?}"),
    )?;
    for address in &target {
        refused(*address).await?;
    }
    let file = world.sample("permissive.yaml");
    world.kubectl(&["apply", "-f", &file]).await?;
    for address in &target {
        let answered = || async {
            let outcome = call::once(Call::get(&url(*address, "/only"))).await;
            ensure(outcome.status == 200, || {
                format!("PERMISSIVE, {address}: {outcome:?}")
            })
        };
        eventually(Duration::from_secs(10), answered).await?;
    }
    world.kubectl(&["delete", "-f", &file]).await?;
    for address in &target {
        eventually(Duration::from_secs(10), || refused(*address)).await?;
    }
    let families: Vec<_> = target.iter().map(ToString::to_string).collect();
    Ok(format!(
        "{}: reset in STRICT, 200 in PERMISSIVE, reset again",
        families.join(" and ")
    ))
}

async fn refused(address: IpAddr) -> Step<()> {
    let outcome = call::once(Call::get(&url(address, "/only"))).await;
    ensure(outcome.status == 0, || {
        format!("{address} answered plaintext with {}", outcome.status)
    })
}

fn url(address: IpAddr, path: &str) -> String {
    match address {
        IpAddr::V4(v4) => format!("http://{v4}:9080{path}"),
        IpAddr::V6(v6) => format!("http://[{v6}]:9080{path}"),
    }
}

/// The addresses of a group, as the engine gave them.
pub(crate) async fn addresses(world: &World, group: &str) -> Step<Vec<IpAddr>> {
    if world.ground() == Ground::Nomad {
        return Ok(vec![nomad::instance(group).await?.address()?]);
    }
    let status = world.mesh_json(&["status"]).await?;
    let found = status
        .get("groups")
        .and_then(Value::as_array)
        .and_then(|groups| {
            groups
                .iter()
                .find(|g| g.get("name").and_then(Value::as_str) == Some(group))
        })
        .and_then(|found| found.get("addresses"))
        .ok_or_else(|| format!("`mesh status` gives no addresses of {group}"))?;
    serde_json::from_value(found.clone()).map_err(|error| error.to_string())
}
