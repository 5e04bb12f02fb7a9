//! The client against a real agent.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_nomad::client::{Acquired, Client, LogOptions, Reason, Register, Stop, Topic, Written};
use mesh_nomad::model::acl::{AclToken, Policy};
use mesh_nomad::model::variable::{Lock, Variable};
use serde_json::json;
use tokio::time::timeout;

use crate::lab::{Lab, PATIENCE, job, until, with_agent};

/// Scales the job `web` from one to two, and reverts it to its first version.
async fn scale_and_revert(lab: &Lab) {
    let client = &lab.client;
    client
        .scale_job("default", "web", "app", 2, "more")
        .await
        .unwrap();
    let running = lab.running("web", 2).await;
    let scale = client.job_scale("default", "web").await.unwrap();
    assert_eq!(scale.task_groups.get().unwrap()["app"].desired.value(), 2);
    let services = client.service("default", "web").await.unwrap();
    assert_eq!(services.value.len(), 2);
    let versions = client.job_versions("default", "web").await.unwrap();
    assert_eq!(versions.versions.items().len(), 2);
    client.revert_job("default", "web", 0).await.unwrap();
    lab.running("web", 1).await;
    client
        .set_eligibility(running[0].node_id.text(), true)
        .await
        .unwrap();
    let checks = client.checks(running[0].id.text()).await.unwrap();
    assert!(checks.is_empty());
}

async fn pages_hold_every_allocation(client: &Client) {
    let request = Client::allocations_request("*");
    let mut pages = pin!(client.pages::<serde_json::Value>(request, 1));
    let mut found = 0;
    while let Some(page) = pages.next().await {
        found += page.unwrap().len();
    }
    assert_eq!(found, client.allocations("*").await.unwrap().value.len());
}

#[test]
fn jobs_are_planned_registered_scaled_reverted_and_stopped() {
    with_agent(false, |lab| async move {
        let client = &lab.client;
        assert!(client.agent().await.unwrap().version().starts_with('2'));
        let job = job("web", 1);
        let plan = client.plan_job(&job).await.unwrap();
        assert_eq!(plan.job_modify_index.value(), 0);
        assert_eq!(
            plan.annotations.get().unwrap().updates.get().unwrap()["app"]
                .place
                .value(),
            1
        );
        assert!(client.validate_job(&job).await.unwrap().is_valid());
        let new = Register {
            enforce_index: Some(0),
            ..Register::default()
        };
        let registered = client.register_job(&job, &new).await.unwrap();
        let again = client.register_job(&job, &new).await.unwrap_err();
        assert_eq!(again.reason(), Some(Reason::IndexEnforced), "{again}");
        let evaluation = client.wait_for_evaluation(registered.eval_id.text());
        let evaluation = timeout(PATIENCE, evaluation).await.unwrap().unwrap();
        let deployment = client.wait_for_deployment(evaluation.deployment_id.text());
        let deployment = timeout(PATIENCE, deployment).await.unwrap().unwrap();
        assert!(deployment.is_successful(), "{deployment:?}");
        // What is stored, planned again, changes nothing.
        let stored = client.job("default", "web").await.unwrap();
        let plan = client.plan_job(&stored).await.unwrap();
        assert_eq!(plan.diff.get().unwrap().kind.text(), "None");
        assert_eq!(
            plan.job_modify_index.value(),
            registered.job_modify_index.value()
        );

        scale_and_revert(&lab).await;
        pages_hold_every_allocation(client).await;
        client
            .stop_job(
                "default",
                "web",
                Stop {
                    purge: true,
                    ..Stop::default()
                },
            )
            .await
            .unwrap();
        assert!(
            client
                .job("default", "web")
                .await
                .unwrap_err()
                .is_not_found()
        );
    });
}

#[test]
fn a_parameterized_job_is_dispatched_once_per_token() {
    with_agent(false, |lab| async move {
        let mut job = job("once", 1);
        job.kind = "batch".into();
        job.parameterized = json!({ "Payload": "optional", "MetaOptional": ["who"] }).into();
        let group = &mut job.task_groups.items_mut()[0];
        group.extra.remove("Services");
        group.services = mesh_nomad::model::Field::Absent;
        group.update = mesh_nomad::model::Field::Absent;
        lab.client
            .register_job(&job, &Register::default())
            .await
            .unwrap();
        let meta = BTreeMap::from([("who".to_owned(), "me".to_owned())]);
        let dispatch = || {
            lab.client
                .dispatch_job("default", "once", b"x", &meta, Some("t1"))
        };
        let first = dispatch().await.unwrap();
        let second = dispatch().await.unwrap();
        assert_eq!(first.job_id, second.job_id);
        assert_eq!(second.eval_id.text(), "");
        let child = lab
            .client
            .job("default", first.job_id.text())
            .await
            .unwrap();
        assert_eq!(child.parent_id.text(), "once");
    });
}

#[test]
fn logs_are_followed_and_commands_run_in_tasks() {
    with_agent(false, |lab| async move {
        let allocation = lab.run(&job("talk", 1)).await.remove(0);
        let id = allocation.id.text();
        let follow = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut logs = lab.client.logs(id, "main", follow).await.unwrap();
        let frame = timeout(PATIENCE, logs.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(&frame.bytes().unwrap()[..], b"hello\n");
        let run = async |command: &str| {
            let command = ["/bin/sh", "-c", command];
            lab.client.run(id, "main", &command).await
        };
        let finished = run("echo out; echo err >&2; exit 3").await.unwrap();
        assert_eq!(finished.stdout, b"out\n");
        assert_eq!(finished.stderr, b"err\n");
        assert_eq!(finished.code, 3);
        assert_eq!(run("true").await.unwrap().code, 0);
        let missing = lab
            .client
            .run(id, "nobody", &["/bin/true"])
            .await
            .unwrap_err();
        assert!(missing.to_string().contains("task not found"), "{missing}");
        lab.client
            .restart_allocation(id, Some("main"))
            .await
            .unwrap();
        until("the task was restarted", || async {
            let found = lab.client.allocation(id).await.ok()?.value;
            let restarts = found.task_states.get()?.get("main")?.restarts.value();
            (restarts == 1).then_some(())
        })
        .await;
    });
}

#[test]
fn variables_are_compared_and_set_and_locked() {
    with_agent(false, |lab| async move {
        let client = &lab.client;
        let variable =
            |value: &str| Variable::new("app/config", [("user".to_owned(), value.to_owned())]);
        let write = |value, expected| {
            let variable = variable(value);
            async move {
                client
                    .write_variable("default", &variable, expected)
                    .await
                    .unwrap()
            }
        };
        let Written::Done(first) = write("a", Some(0)).await else {
            panic!("there was one");
        };
        let Written::Conflict(found) = write("b", Some(0)).await else {
            panic!("it was overwritten");
        };
        assert_eq!(found.item("user"), Some("a"));
        let index = first.modify_index.value();
        assert!(matches!(write("c", Some(index)).await, Written::Done(_)));
        assert!(matches!(
            write("d", Some(index)).await,
            Written::Conflict(_)
        ));
        let stored = client
            .variable("default", "app/config")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(stored.item("user"), Some("c"));
        assert!(
            client
                .variable("default", "app/none")
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(client.variables("default", "app/").await.unwrap().len(), 1);
        client
            .remove_variable("default", "app/config", None)
            .await
            .unwrap();

        let leader = Variable::new("app/leader", [("holder".to_owned(), "a".to_owned())]);
        let lock = Lock {
            ttl: "15s".into(),
            lock_delay: "1s".into(),
            ..Lock::default()
        };
        let acquire = || client.acquire_lock("default", &leader, lock.clone());
        let Acquired::Held(held) = acquire().await.unwrap() else {
            panic!("nobody else is there");
        };
        assert_eq!(acquire().await.unwrap(), Acquired::Busy);
        client.renew_lock("default", &held).await.unwrap();
        client.release_lock("default", &held).await.unwrap();
        assert!(matches!(acquire().await.unwrap(), Acquired::Held(_)));
    });
}

#[test]
fn a_watch_and_the_event_stream_say_what_changes() {
    with_agent(false, |lab| async move {
        let client = &lab.client;
        let request = Client::jobs_request("default");
        let mut watch =
            pin!(client.watch_for::<Vec<serde_json::Value>>(request, Duration::from_secs(60)));
        let first = watch.next().await.unwrap().unwrap();
        assert!(
            first.value.is_empty(),
            "nothing was registered, and nothing is denied"
        );
        let topics = [Topic::all("Service")];
        let mut events = client.events(&topics, "*", None).await.unwrap();
        lab.run(&job("seen", 1)).await;
        let second = timeout(PATIENCE, watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(second.value.len(), 1);
        assert!(second.meta.index > first.meta.index);
        let batch = timeout(PATIENCE, events.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let event = &batch.events.items()[0];
        assert_eq!(event.service_name(), Some("seen"));
        assert!(!event.removes_service());
    });
}

#[test]
fn what_a_token_does_not_allow_is_an_error_and_never_empty() {
    with_agent(true, |lab| async move {
        let Lab { client, .. } = &lab;
        let management = until("the agent bootstraps", || async {
            client.bootstrap_acl().await.ok()
        })
        .await;
        let with = |token: &AclToken| {
            let mut config = client.config().clone();
            config.token =
                mesh_nomad::client::TokenSource::Fixed(token.secret_id.get().unwrap().clone());
            Client::new(config).unwrap()
        };
        let root = with(&management);
        let policy = Policy {
            name: "vars".into(),
            rules:
                "namespace \"default\" { variables { path \"x\" { capabilities = [\"read\"] } } }"
                    .into(),
            ..Policy::default()
        };
        root.write_policy(&policy).await.unwrap();
        let token = AclToken {
            name: "weak".into(),
            kind: "client".into(),
            policies: vec!["vars".to_owned()].into(),
            ..AclToken::default()
        };
        let weak = with(&root.create_token(&token).await.unwrap());
        for error in [
            weak.services("*").await.unwrap_err(),
            weak.jobs("*").await.unwrap_err(),
            weak.allocations("*").await.unwrap_err(),
            weak.nodes().await.unwrap_err(),
            client.jobs("default").await.unwrap_err(),
            weak.events(&[Topic::all("Service")], "*", None)
                .await
                .unwrap_err(),
        ] {
            assert!(error.is_denied(), "{error}");
            assert!(error.hint().is_some());
        }
        // The same for one who may, on tables that nothing was ever written to.
        assert!(root.jobs("*").await.unwrap().value.is_empty());
        assert!(root.allocations("*").await.unwrap().value.is_empty());
        assert!(root.services("*").await.unwrap().value.is_empty());
        assert!(
            root.events(&[Topic::all("Service")], "*", None)
                .await
                .is_ok()
        );
        assert_eq!(root.own_token().await.unwrap().kind.text(), "management");
    });
}
