//! Containers that others made: held until nothing can pass, joined, and let go as they were.

use mesh_runtime::docker::{Admission, Asked, Beside, BesideError, Standing};
use mesh_runtime::{
    Application, JoinToken, MeshFacts, NetworkSpec, Removal, Resolver, Runtime as _,
};

use crate::conformance::bed::{SOON, name};
use crate::dockerd::inside;
use crate::host::{DockerBed, IMAGE, on_a_bed};

/// A control plane that lets nobody in, and may be away altogether.
#[derive(Debug)]
struct Closed {
    facts: Option<MeshFacts>,
}

impl Admission for Closed {
    fn facts(&self) -> Asked<'_, MeshFacts> {
        Box::pin(async { self.facts.clone().ok_or_else(|| "it is away".into()) })
    }

    fn token<'a>(&'a self, _application: &'a Application) -> Asked<'a, JoinToken> {
        Box::pin(async { Err("nobody comes in".into()) })
    }
}

fn facts() -> MeshFacts {
    MeshFacts {
        trust_domain: mesh_model::TrustDomain::default(),
        pilots: vec!["10.213.0.1:15012".parse().unwrap()],
        cas: vec!["10.213.0.1:15012".parse().unwrap()],
        root_hashes: vec!["00".to_owned()],
        image: Some(IMAGE.to_owned()),
        mesh: "/guest".into(),
        envoy: None,
        network: name("mesh"),
        resolver: Resolver::Docker,
        certificate_ttl_seconds: None,
    }
}

/// What the daemon says of the container `web`.
fn told(bed: &DockerBed, format: &str) -> String {
    let told = bed.docker(&["inspect", "--format", format, "web"]);
    told.trim().to_owned()
}

fn status(bed: &DockerBed) -> String {
    told(bed, "{{.State.Status}}")
}

fn rules(bed: &DockerBed) -> String {
    let pid = told(bed, "{{.State.Pid}}");
    inside(&pid, &["nft", "list", "tables"])
}

fn is_on_the_mesh(bed: &DockerBed) -> bool {
    told(bed, "{{json .NetworkSettings.Networks}}").contains("mesh_mesh")
}

#[test]
fn a_container_goes_on_once_nothing_can_pass_and_is_let_go_as_it_was() {
    on_a_bed(async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let label = ["--label", "mesh.inject=true"];
        let run = ["run", "--detach", "--name", "web"];
        bed.docker(&[&run, label.as_slice(), &[IMAGE, "/guest", "sleep"]].concat());
        let id = told(bed, "{{.Id}}");

        // Nobody says where the mesh is: it stays paused.
        let away = Closed { facts: None };
        let error = engine.set_beside(&id, &away, SOON).await.unwrap_err();
        assert!(matches!(error, BesideError::Admission { .. }), "{error:?}");
        assert_eq!(status(bed), "paused");
        assert!(!rules(bed).contains("inet mesh_"));
        let askers = engine.askers().await.unwrap();
        let held = Standing::Waiting {
            group: name("web"),
            is_held: true,
        };
        assert_eq!(askers[0].standing, held);

        // Another process goes on. Nobody lets it in, but rules are set: it is let go.
        let engine = bed.open("mesh").await.unwrap();
        let closed = Closed {
            facts: Some(facts()),
        };
        let error = engine.set_beside(&id, &closed, SOON).await.unwrap_err();
        assert!(matches!(error, BesideError::Admission { .. }), "{error:?}");
        assert_eq!(status(bed), "running");
        assert!(rules(bed).contains("inet mesh_") && is_on_the_mesh(bed));
        let group = engine.group(&name("web")).await.unwrap();
        let address = told(bed, "{{.NetworkSettings.Networks.mesh_mesh.IPAddress}}");
        assert_eq!(group.addresses.unwrap().v4.to_string(), address);
        let askers = engine.askers().await.unwrap();
        let unready = Standing::Enrolled {
            group: name("web"),
            is_ready: false,
        };
        assert_eq!(askers[0].standing, unready);

        // A new run has none of this, and gets all of it.
        bed.docker(&["restart", "--time", "0", "web"]);
        assert!(!rules(bed).contains("inet mesh_"));
        engine.set_beside(&id, &closed, SOON).await.unwrap_err();
        assert!(rules(bed).contains("inet mesh_"));

        // Taken away by somebody, nothing of it is left, and who paused it ends that.
        assert_eq!(
            engine.remove_group(&name("web")).await.unwrap(),
            Removal::Removed
        );
        assert!(!rules(bed).contains("inet mesh_") && !is_on_the_mesh(bed));
        bed.docker(&["pause", "web"]);
        engine.set_beside(&id, &closed, SOON).await.unwrap_err();
        assert_eq!(status(bed), "paused");
        bed.docker(&["unpause", "web"]);

        // With the container, what was set beside it goes.
        bed.docker(&["rm", "--force", "web"]);
        let outcome = engine.set_beside(&id, &closed, SOON).await.unwrap();
        assert_eq!(outcome, Beside::Dismissed);
        let outcome = engine.set_beside(&id, &closed, SOON).await.unwrap();
        assert_eq!(outcome, Beside::Nothing);
        assert_eq!(engine.list(&[].into()).await.unwrap(), []);
    });
}

#[test]
fn two_containers_of_one_name_are_told_and_the_second_is_left_alone() {
    on_a_bed(async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let closed = Closed {
            facts: Some(facts()),
        };
        let labels = ["--label", "mesh.inject=true", "--label", "mesh.name=web"];
        let mut ids = Vec::new();
        for container in ["one", "two"] {
            let run = ["run", "--detach", "--name", container];
            let id = bed.docker(&[&run, labels.as_slice(), &[IMAGE, "/guest", "sleep"]].concat());
            ids.push(id.trim().to_owned());
        }
        engine.set_beside(&ids[0], &closed, SOON).await.unwrap_err();
        let outcome = engine.set_beside(&ids[1], &closed, SOON).await.unwrap();
        let Beside::Refused(problems) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(problems.0[0].path, "mesh.name");
        assert!(problems.to_string().contains(&ids[0]), "{problems}");
        let state = ["inspect", "--format", "{{.State.Status}}", "two"];
        assert_eq!(bed.docker(&state).trim(), "running");
        // Once the first is gone, the name is free.
        bed.docker(&["rm", "--force", "one"]);
        engine.set_beside(&ids[1], &closed, SOON).await.unwrap_err();
        let group = engine.group(&name("web")).await.unwrap();
        assert!(group.rules_applied_at_millis.is_some());
        assert!(format!("{:?}", group.spec.attachment).contains(&ids[1]));
    });
}
