//! The catalogue and identities of a real agent.

use std::fs;
use std::time::SystemTime;

use mesh_nomad::catalogue::{FollowSettings, Follower};
use mesh_nomad::client::{Address, Client, Config, Stop, TokenSource};
use mesh_nomad::identity::{Expectation, Refusal, Token, Verifier, VerifyError};
use mesh_nomad::model::Job;
use serde_json::json;
use tokio::time::timeout;

use crate::lab::{Lab, PATIENCE, job, until, with_agent};

/// Waits until the snapshot is as wanted.
async fn see(
    follower: &Follower,
    what: &str,
    is_wanted: impl Fn(&mesh_nomad::catalogue::Snapshot) -> bool,
) {
    let mut snapshots = follower.snapshots();
    let seen = timeout(PATIENCE, snapshots.wait_for(|snapshot| is_wanted(snapshot))).await;
    assert!(
        seen.is_ok_and(|seen| seen.is_ok()),
        "{what}: {:?}, {:?}",
        follower.snapshot(),
        follower.status().borrow()
    );
}

#[test]
fn the_catalogue_follows_a_job_up_down_and_away() {
    with_agent(false, |lab| async move {
        let mut web = job("web", 1);
        web.meta = std::collections::BTreeMap::from([(
            "mesh.service_account".to_owned(),
            "front".to_owned(),
        )])
        .into();
        let follower = Follower::start(lab.client.clone(), FollowSettings::default());
        see(&follower, "whole", |snapshot| snapshot.sequence > 0).await;
        assert!(follower.snapshot().instances.is_empty());
        lab.run(&web).await;
        see(&follower, "one", |snapshot| snapshot.instances.len() == 1).await;
        let snapshot = follower.snapshot();
        let instance = snapshot.instances.values().next().unwrap();
        assert_eq!(instance.workload.service_account.as_str(), "front");
        assert_eq!(instance.workload.services[0].name.as_str(), "web");
        assert_eq!(instance.workload.services[0].ports[0].number, 80);
        assert_eq!(instance.workload.labels["version"], "v1");
        assert_eq!(
            instance.workload.addresses,
            ["10.20.0.1".parse::<std::net::IpAddr>().unwrap()]
        );
        until("it can be scaled up", || async {
            let scaled = lab.client.scale_job("default", "web", "app", 3, "up").await;
            scaled.ok()
        })
        .await;
        see(&follower, "three", |snapshot| snapshot.instances.len() == 3).await;
        let delta = follower.snapshot().since(&snapshot);
        assert!(delta.changed.len() >= 2 && delta.removed.is_empty());
        lab.running("web", 3).await;
        until("it can be scaled down", || async {
            lab.client
                .scale_job("default", "web", "app", 1, "down")
                .await
                .ok()
        })
        .await;
        see(&follower, "one again", |snapshot| {
            snapshot.instances.len() == 1
        })
        .await;
        assert!(follower.snapshot().problems.is_empty());
        lab.client
            .stop_job("default", "web", Stop::default())
            .await
            .unwrap();
        see(&follower, "none", |snapshot| snapshot.instances.is_empty()).await;
        follower.close().await;
    });
}

/// A job with a task that has the identity of an injected proxy, and one that has not.
fn with_identities() -> Job {
    let mut value = serde_json::to_value(job("ident", 1)).unwrap();
    let group = &mut value["TaskGroups"][0];
    let mut task = group["Tasks"][0].clone();
    task["Name"] = json!("mesh-proxy");
    task["Meta"] = json!({ "mesh.role": "proxy" });
    let identity = |name: &str, audience: &str| json!({ "Name": name, "Audience": [audience], "File": true, "TTL": 3_600_000_000_000_i64 });
    task["Identities"] = json!([identity("mesh", "mesh-ca"), identity("other", "other")]);
    let mut plain = task.clone();
    plain["Name"] = json!("main");
    plain["Meta"] = json!({});
    group["Tasks"] = json!([plain, task]);
    serde_json::from_value(value).unwrap()
}

/// A token that Nomad wrote for a task. Its files are on a mount that only the agent sees.
async fn token(lab: &Lab, allocation: &str, task: &str, name: &str) -> Token {
    let text = until("the token is written", || async {
        let inside = lab.inside()?;
        let directory = lab.task_directory(allocation, task);
        let root = format!("/proc/{inside}/root");
        let file = format!("{root}{}/secrets/nomad_{name}.jwt", directory.display());
        fs::read_to_string(file)
            .ok()
            .filter(|text| !text.is_empty())
    })
    .await;
    Token::new(&text)
}

#[test]
fn a_real_identity_is_proven_while_its_allocation_lives() {
    with_agent(false, |lab| async move {
        let allocation = lab.run(&with_identities()).await.remove(0);
        let id = allocation.id.text();
        let verifier = Verifier::new(lab.client.clone(), Expectation::default());
        let now = || {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap();
            i64::try_from(now.as_secs()).unwrap()
        };
        let good = token(&lab, id, "mesh-proxy", "mesh").await;
        let proven = verifier.prove(&good, now()).await.unwrap();
        assert_eq!(proven.account.service_account().as_str(), "ident");
        assert_eq!(proven.workload.as_str(), format!("{id}/app"));
        let other = token(&lab, id, "mesh-proxy", "other").await;
        let refused = verifier.prove(&other, now()).await.unwrap_err();
        assert!(
            matches!(refused, VerifyError::Refused(Refusal::Audience { .. })),
            "{refused}"
        );
        let plain = token(&lab, id, "main", "mesh").await;
        let refused = verifier.prove(&plain, now()).await.unwrap_err();
        assert!(
            matches!(refused, VerifyError::Refused(Refusal::OtherTask { .. })),
            "{refused}"
        );

        // The API of the task, with the token of its file.
        let inside = lab.inside().unwrap();
        let secrets = lab.task_directory(id, "mesh-proxy").join("secrets");
        let secrets = format!("/proc/{inside}/root{}", secrets.display());
        let mut config = Config::new(Address::Unix(format!("{secrets}/api.sock").into()));
        config.token = TokenSource::File(format!("{secrets}/nomad_mesh.jwt").into());
        let own = Client::new(config).unwrap();
        assert_eq!(
            own.service("default", "ident").await.unwrap().value.len(),
            1
        );

        lab.client
            .stop_job("default", "ident", Stop::default())
            .await
            .unwrap();
        let refused = until("the identity of a dead allocation is refused", || async {
            verifier.prove(&good, now()).await.err()
        })
        .await;
        assert!(
            matches!(refused, VerifyError::Refused(Refusal::Dead { .. })),
            "{refused}"
        );
    });
}
