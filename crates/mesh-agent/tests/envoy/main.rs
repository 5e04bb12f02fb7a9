//! A real Envoy under a real agent, against a small CA and a small Pilot: `ENVOY_BIN` or `envoy` in PATH.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]

mod ca;
mod pilot;
mod resource;
mod world;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_agent::AgentError;
use mesh_proto::mesh::agent::v1::Health;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use world::{World, until};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn envoy_goes_live_and_pilot_hears_of_it() {
    let world = World::new();
    let (pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    assert_eq!(world.call().await.as_deref(), Some("one"));
    until("pilot hears that it is healthy", async || {
        pilot.seen(|seen| seen.health.ends_with(&[Health::Healthy]).then_some(()))
    })
    .await;
    let dump = until("pilot gets the configuration", async || {
        pilot.seen(|seen| seen.dump.clone())
    })
    .await;
    assert!(dump.contains("EndpointsConfigDump"));
    assert!(!dump.contains("PRIVATE KEY"));
    assert_eq!(pilot.seen(|seen| seen.refused.clone()), [""; 0]);

    agent.stop().await;
    assert!(pilot.seen(|seen| seen.health.ends_with(&[Health::Unhealthy])));
    assert_eq!(world.call().await, None);
    assert!(!world.state("admin.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_itself_finds_nothing_wrong_with_the_bootstrap() {
    let world = World::new();
    let agent = world.start_agent();
    until("envoy runs", async || world.envoy_id()).await;
    let checked = Command::new(world.config.envoy.as_ref().unwrap())
        .args(["--mode", "validate", "--log-level", "warning"])
        .arg("--config-path")
        .arg(world.state("envoy.json"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
    // Deprecated fields and missing limits are warnings.
    assert_eq!(said, "");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_outlives_pilot_and_envoy() {
    let world = World::new();
    let (pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    drop(pilot);
    assert_eq!(world.call().await.as_deref(), Some("one"));

    // Envoy dies while Pilot is away: the next one gets what this one had accepted.
    let id = world.envoy_id().unwrap();
    kill(id);
    let next = until("another envoy", async || {
        world.envoy_id().filter(|&next| next != id)
    })
    .await;
    until("it serves the same", async || {
        world.call().await.filter(|body| body == "one")
    })
    .await;
    assert_eq!(world.envoy_id(), Some(next));

    // Pilot returns: nothing changed, nothing is sent.
    let pilot = world.start_pilot();
    until("the resume", async || {
        pilot.seen(|seen| (seen.resumed.len() == 5).then_some(()))
    })
    .await;
    let named: usize = pilot.seen(|seen| seen.resumed.values().map(BTreeMap::len).sum());
    assert_eq!(named, 5);
    world.serve("two");
    until("the change arrives", async || {
        world.call().await.filter(|body| body == "two")
    })
    .await;
    // The changed route, and no other resource.
    assert_eq!(pilot.seen(|seen| seen.sent), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_takes_over_without_a_word_to_envoy() {
    let mut world = World::new();
    let mut replicas = vec![world.start_pilot(), world.start_replica()];
    let _ca = world.start_ca(HOUR);
    let agent = world.start_agent();
    world.wait_ready().await;
    until("both hear that it is healthy", async || {
        let healthy =
            |pilot: &pilot::Pilot| pilot.seen(|seen| seen.health.ends_with(&[Health::Healthy]));
        replicas.iter().all(healthy).then_some(())
    })
    .await;
    // One of them gave the configuration; the other was only registered with.
    let gave = |pilot: &pilot::Pilot| pilot.seen(|seen| seen.sent > 0);
    assert_eq!(replicas.iter().filter(|one| gave(one)).count(), 1);
    let first = replicas.iter().position(gave).unwrap();
    drop(replicas.remove(first));
    let second = &replicas[0];
    until("the other is asked", async || {
        second.seen(|seen| (seen.resumed.len() == 5).then_some(()))
    })
    .await;
    world.serve("two");
    until("the change arrives", async || {
        world.call().await.filter(|body| body == "two")
    })
    .await;
    assert_eq!(second.seen(|seen| seen.sent), 1);
    let reconnects = world
        .admin("/stats?filter=cluster.agent.upstream_cx_total")
        .await;
    agent.stop().await;
    // ADS and SDS of one Envoy, on the connections that it opened at its start.
    let connections = reconnects.unwrap();
    assert!(
        connections.contains("upstream_cx_total: 1\n"),
        "{connections}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_with_everybody_else_away() {
    let world = World::new();
    let (pilot, ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    agent.stop().await;
    drop((pilot, ca));
    std::fs::remove_file(world.file("token")).unwrap();

    let agent = world.start_agent();
    world.wait_ready().await;
    assert_eq!(world.call().await.as_deref(), Some("one"));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client
        .connect(("127.0.0.1", world.ports.dns))
        .await
        .unwrap();
    let query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07reviews\x00\x00\x01\x00\x01";
    client.send(query).await.unwrap();
    let mut answer = [0; 512];
    let length = client.recv(&mut answer).await.unwrap();
    assert!(answer[..length].ends_with(&[240, 240, 0, 1]));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_certificate_reaches_envoy() {
    let world = World::new();
    let (_pilot, _ca) = (world.start_pilot(), world.start_ca(Duration::from_secs(8)));
    let agent = world.start_agent();
    world.wait_ready().await;
    let serial = async || {
        let certs = world.admin("/certs").await?;
        // The body may come in a chunk, with its length around it.
        let body = certs.get(certs.find('{')?..=certs.rfind('}')?)?;
        let json: serde_json::Value = serde_json::from_str(body).ok()?;
        let chain = &json["certificates"][0]["cert_chain"][0];
        assert_eq!(
            chain["subject_alt_names"][0]["uri"].as_str(),
            Some(world::IDENTITY)
        );
        Some(chain["serial_number"].as_str()?.to_owned())
    };
    let first = until("a certificate", &serial).await;
    let second = until("another certificate", async || {
        serial().await.filter(|serial| *serial != first)
    })
    .await;
    assert_ne!(first, second);
    assert_eq!(world.call().await.as_deref(), Some("one"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_resource_is_told_to_pilot_and_not_kept() {
    let world = World::new();
    let (pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    world.put(resource::bad_cluster());
    let reason = until("pilot hears why", async || {
        pilot.seen(|seen| seen.refused.first().cloned())
    })
    .await;
    assert!(!reason.is_empty());
    drop(pilot);
    let id = world.envoy_id().unwrap();
    kill(id);
    until("another envoy serves the same", async || {
        world.envoy_id().filter(|&next| next != id)?;
        world.call().await.filter(|body| body == "one")
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_expressions_are_taken() {
    let world = World::new();
    let (pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    let expression = format!("/api/v[0-9]+/(products|reviews|ratings)/{uuid}(/.*)?");
    world.put(resource::route_by(&expression, "by expression"));
    let path = "/api/v1/reviews/0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f/stars";
    until("the route arrives, or is refused", async || {
        assert_eq!(pilot.seen(|seen| seen.refused.clone()), [""; 0]);
        let answer = world.call_for(path).await?;
        (answer == "by expression").then_some(())
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_looks_names_up_where_the_agent_does() {
    let mut world = World::new();
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    world.config.upstream_dns = vec![upstream.local_addr().unwrap()];
    let asked = tokio::spawn(answer_addresses(upstream));
    let (_pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    world.put(resource::looked_up("elsewhere", "db.example.com"));
    until("the address is found", async || {
        let clusters = world.admin("/clusters").await?;
        clusters.contains("elsewhere::192.0.2.7:80::").then_some(())
    })
    .await;
    agent.stop().await;
    asked.abort();
}

/// A server of DNS that gives 192.0.2.7 for `db.example.com`, and no other name any.
async fn answer_addresses(socket: UdpSocket) {
    use hickory_proto::op::{Message, MessageType, OpCode};
    use hickory_proto::rr::{RData, Record, RecordType, rdata::A};
    let mut buffer = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let asked = Message::from_vec(&buffer[..length]).unwrap();
        let query = asked.queries[0].clone();
        let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
        if query.name().to_ascii() == "db.example.com." && query.query_type() == RecordType::A {
            let address = RData::A(A::new(192, 0, 2, 7));
            answer.add_answer(Record::from_rdata(query.name().clone(), 60, address));
        }
        answer.add_query(query);
        let answer = answer.to_vec().unwrap();
        socket.send_to(&answer, client).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_metrics_are_served_by_tcp_on_both_families() {
    let world = World::new();
    let (_pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    for address in ["127.0.0.1", "::1"] {
        for (path, status) in [
            ("/stats/prometheus", "200"),
            ("/config_dump", "404"),
            ("/stats", "404"),
            ("/stats/prometheus/../../quitquitquit", "404"),
        ] {
            let head = world.metrics(address, path).await.unwrap();
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}")),
                "{path}: {head}"
            );
        }
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_does_not_take_the_directory() {
    let world = World::new();
    let (_pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let agent = world.start_agent();
    world.wait_ready().await;
    let second = mesh_agent::run(world.config.clone(), CancellationToken::new()).await;
    assert!(
        matches!(second, Err(AgentError::AlreadyRunning { .. })),
        "{second:?}"
    );
    agent.stop().await;
}

/// The test runs itself as another process, which plays the agent that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_no_envoy() {
    const ROLE: &str = "MESH_TEST_KILLED_AGENT";
    if let Some(told) = std::env::var_os(ROLE) {
        let told = told.into_string().unwrap();
        let (config, ports) = serde_json::from_str::<(_, [u16; 3])>(&told).unwrap();
        let [readiness, dns, envoy_metrics] = ports;
        let agent = mesh_agent::Agent::new(config).with_ports(mesh_agent::Ports {
            readiness,
            dns,
            envoy_metrics,
        });
        agent.run(CancellationToken::new()).await.unwrap();
        return;
    }
    let world = World::new();
    let (_pilot, _ca) = (world.start_pilot(), world.start_ca(HOUR));
    let ports = [
        world.ports.readiness,
        world.ports.dns,
        world.ports.envoy_metrics,
    ];
    let told = serde_json::to_string(&(&world.config, ports)).unwrap();
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["a_killed_agent_leaves_no_envoy", "--exact", "--nocapture"])
        .env(ROLE, told)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    world.wait_ready().await;
    let envoy = world.envoy_id().unwrap();
    assert!(is_alive(envoy));
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("envoy ends with the agent", async || {
        (!is_alive(envoy)).then_some(())
    })
    .await;

    // And what the killed one left is no hindrance.
    let agent = world.start_agent();
    world.wait_ready().await;
    assert_ne!(world.envoy_id(), Some(envoy));
    agent.stop().await;
}

fn kill(id: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Whether it runs: a process that ended and is not yet waited for does not.
fn is_alive(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}
