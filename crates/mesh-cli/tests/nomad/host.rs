//! Groups in the machine's own network: only their users are captured, the machine stays within
//! reach, and rules go when the group does.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use mesh_nomad::client::Register;
use mesh_nomad::model::Job;
use mesh_nomad::model::allocation::Allocation;
use serde_json::{Value, json};

use crate::application::job;
use crate::guard::{intact, now};
use crate::machine::{ADDRESS, until};
use crate::node::{Kind, Node, on_a_node};

/// A job in the machine's network whose application runs as this user.
fn host_job(id: &str, user: &str, number: &str) -> Value {
    let network = json!({ "Mode": "host", "DynamicPorts": [{ "Label": "http" }] });
    let mut job = job(id, "raw_exec", &network);
    let group = &mut job["Job"]["TaskGroups"][0];
    group["Meta"]["mesh.include_uids"] = json!(number);
    group["Tasks"][0]["User"] = json!(user);
    job
}

/// The tables of rules that are ours.
fn tables(node: &Node) -> Vec<String> {
    let said = node.run(&["nft", "list", "tables"]);
    let ours = said
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "));
    let ours = ours.filter(|name| name.starts_with("mesh_"));
    ours.map(str::to_owned).collect()
}

/// Whether a port of the machine answers to somebody outside.
fn answers(node: &Node, port: u16) -> bool {
    let address: SocketAddr = format!("{ADDRESS}:{port}").parse().unwrap();
    node.outside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
}

async fn run(node: &Node, job: &Job) -> Allocation {
    let allocation = node.machine.run(job).await.remove(0);
    intact(node, &allocation, 0).await;
    allocation
}

async fn kill_guard(node: &Node, allocation: &Allocation) {
    let (client, id) = (&node.machine.client, allocation.id.text());
    // One that was just started again is not known to run at once.
    until("the guard is killed", || async {
        client.signal_task(id, "mesh-guard", "SIGKILL").await.ok()
    })
    .await;
}

#[test]
fn an_exclusive_group_has_the_machine_for_itself_and_gives_it_back() {
    on_a_node(Kind::default(), |node| async move {
        assert!(node.gets_out(None, "65534"), "nobody is captured yet");
        let job = node.inject(&host_job("web", "nobody", "65534"), "host-exclusive");
        let allocation = run(&node, &job).await;
        assert!(!node.gets_out(None, "65534"));
        // Others of the machine, and what keeps it within reach.
        assert!(node.gets_out(None, "0") && node.gets_out(None, "1"));
        assert!(node.machine.client.leader().await.is_ok());
        assert!(answers(&node, 4646));
        // The port of the group leads to the proxy, which is not up.
        let client = &node.machine.client;
        let whole = client.allocation(allocation.id.text()).await.unwrap().value;
        let ports = whole.ports();
        let http = ports.iter().find(|port| port.label.text() == "http");
        let http = http.unwrap_or_else(|| panic!("{ports:?}")).value.value();
        let _listener = TcpListener::bind(("0.0.0.0", http)).unwrap();
        assert!(!answers(&node, http));

        // A second one finds no place.
        let other = node.inject(&host_job("other", "daemon", "1"), "host-exclusive");
        let registered = client
            .register_job(&other, &Register::default())
            .await
            .unwrap();
        let evaluation = registered.eval_id.text();
        let evaluation = client.wait_for_evaluation(evaluation).await.unwrap();
        let groups = evaluation.failed_groups.get();
        let groups = groups.unwrap_or_else(|| panic!("it was placed"));
        assert_eq!(groups["app"].nodes_exhausted.value(), 1, "{groups:?}");

        // Without its guard the rules stay; the next guard repairs them.
        kill_guard(&node, &allocation).await;
        assert_eq!(tables(&node), ["mesh_mesh", "mesh_mesh.guard"]);
        node.run(&["nft", "delete", "table", "inet", "mesh_mesh"]);
        intact(&node, &allocation, now() + 1).await;
        assert!(!node.gets_out(None, "65534"));

        // A guard that was killed does not clean up, and the group does all the same.
        kill_guard(&node, &allocation).await;
        node.stop("web").await;
        assert!(node.gets_out(None, "65534") && answers(&node, http));
        let allocation = node.machine.running("other", 1).await.remove(0);
        intact(&node, &allocation, 0).await;
        assert!(node.gets_out(None, "65534") && !node.gets_out(None, "1"));
        node.stop("other").await;
        assert_eq!(tables(&node), [""; 0]);
        assert!(node.gets_out(None, "1"));
    });
}

#[test]
fn groups_of_different_users_share_a_machine() {
    on_a_node(Kind::default(), |node| async move {
        let first = node.inject(&host_job("web", "nobody", "65534"), "host-uid");
        let second = node.inject(&host_job("other", "daemon", "1"), "host-uid");
        let first = run(&node, &first).await;
        let own = |allocation: &Allocation| {
            let table = format!("mesh_nomad-{}", &allocation.id.text()[..8]);
            [table.clone(), table + ".guard"]
        };
        assert_eq!(tables(&node), own(&first));
        assert!(!node.gets_out(None, "65534") && node.gets_out(None, "1"));
        let second = run(&node, &second).await;
        assert!(!node.gets_out(None, "65534") && !node.gets_out(None, "1"));
        assert!(node.gets_out(None, "0"));
        kill_guard(&node, &first).await;
        node.stop("web").await;
        assert_eq!(tables(&node), own(&second));
        assert!(node.gets_out(None, "65534") && !node.gets_out(None, "1"));
        node.stop("other").await;
        assert_eq!(tables(&node), [""; 0]);
    });
}

#[test]
fn a_second_exclusive_group_waits_where_nomad_places_it() {
    let kind = Kind {
        second_address: true,
        ..Kind::default()
    };
    on_a_node(kind, |node| async move {
        let first = node.inject(&host_job("web", "nobody", "65534"), "host-exclusive");
        let first = run(&node, &first).await;
        let second = node.inject(&host_job("other", "daemon", "1"), "host-exclusive");
        let second = node.machine.run(&second).await.remove(0);
        let holds = || !node.gets_out(None, "65534") && node.gets_out(None, "1");
        assert!(holds());
        // Its guard ends without a chance to set a rule, and its end takes none away.
        node.stop("other").await;
        assert!(node.verdict(&second).is_none() && holds());
        let third = node.inject(&host_job("third", "daemon", "1"), "host-exclusive");
        let third = node.machine.run(&third).await.remove(0);
        kill_guard(&node, &first).await;
        intact(&node, &first, now() + 1).await;
        assert!(holds() && node.verdict(&third).is_none());
        node.stop("web").await;
        intact(&node, &third, 0).await;
        assert!(node.gets_out(None, "65534") && !node.gets_out(None, "1"));
        node.stop("third").await;
        assert_eq!(tables(&node), [""; 0]);
    });
}
