//! What an install makes of settings and a cluster: jobs frozen in `tests/golden/install/`, and
//! what it refuses. `UPDATE_EXPECT=1 cargo test -p mesh-nomad --test it install` writes the files
//! anew.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mesh_nomad::inject::Download;
use mesh_nomad::install::{
    Counts, Delivery, Facts, Ingress, OWNER, OWNER_KEY, Plan, Runner, Settings, Shape, Step,
    item_of, node_check, node_removal, plan, render, restore_command, restore_job, with_root_tags,
};
use mesh_nomad::model::Job;
use mesh_nomad::model::node::Node;
use mesh_nomad::sidecar::Sidecar;
use serde_json::{Value, json};

fn node(name: &str, address: &str, drivers: &[&str]) -> Node {
    let healthy: serde_json::Map<_, _> = drivers
        .iter()
        .map(|driver| {
            (
                (*driver).to_owned(),
                json!({ "Detected": true, "Healthy": true }),
            )
        })
        .collect();
    serde_json::from_value(json!({
        "ID": format!("{name}-0000-0000-0000-000000000000"), "Name": name, "Status": "ready",
        "NodePool": "default", "SchedulingEligibility": "eligible", "Drivers": healthy,
        "Attributes": { "unique.network.ip-address": address },
    }))
    .unwrap()
}

fn three() -> Facts {
    let nodes = ["c", "a", "d", "b"].iter().enumerate();
    Facts {
        nodes: nodes
            .map(|(index, name)| node(name, &format!("10.0.0.{index}"), &["raw_exec", "docker"]))
            .collect(),
        ..Facts::default()
    }
}

fn with(shape: Shape, delivery: Delivery) -> Settings {
    Settings {
        shape,
        delivery,
        ..Settings::default()
    }
}

fn cluster() -> Shape {
    Shape::Cluster(Counts::default())
}

fn downloads() -> Delivery {
    Delivery::downloads([Download {
        url: "https://files.example/mesh.tar.gz".into(),
        checksum: "sha256:00ff".into(),
    }])
}

fn images() -> Delivery {
    Delivery::images("mesh:1", "mesh-etcd:1")
}

fn jobs(plan: &Plan) -> Vec<&Job> {
    let jobs = plan.steps.iter().filter_map(|step| match step {
        Step::Job(job) => Some(&**job),
        _ => None,
    });
    jobs.collect()
}

fn check(name: &str, found: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/install")
        .join(format!("{name}.json"));
    let text = format!("{found:#}\n");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, expected, "{name}");
}

#[test]
fn golden_jobs_of_each_way_to_install() {
    for (name, settings) in [
        (
            "dev-program",
            with(Shape::Dev, Delivery::program("/usr/bin/mesh")),
        ),
        ("dev-image", with(Shape::Dev, images())),
        ("cluster-downloads", with(cluster(), downloads())),
        ("cluster-image", with(cluster(), images())),
    ] {
        let facts = Facts {
            acl: true,
            ..three()
        };
        let mut settings = settings;
        settings.ingress.count = 2;
        let plan = plan(&settings, &facts).unwrap();
        let steps: Vec<_> = plan.steps.iter().map(Step::title).collect();
        let mut made = json!({ "steps": steps });
        for job in jobs(&plan) {
            made[job.id.text()] = json!(job);
        }
        made["mesh-check"] = json!(node_check(&settings, &plan.members));
        made["mesh-node-removal"] = json!(node_removal(
            &settings,
            true,
            Some(Duration::from_secs(300))
        ));
        check(name, &made);
    }
}

/// The words of a task of the cluster's job.
fn words(job: &Job, task: &str) -> Vec<String> {
    let task = job.task_groups.items()[0].task(task).unwrap();
    serde_json::from_value(task.config.get().unwrap()["args"].clone()).unwrap()
}

#[test]
fn etcd_gets_its_own_words_however_it_comes_to_the_node() {
    for delivery in [downloads(), images(), Delivery::program("/usr/bin/mesh")] {
        let plan = plan(&with(cluster(), delivery.clone()), &three()).unwrap();
        let etcd = jobs(&plan)[0];
        let own = words(etcd, "etcd");
        let own = own.iter().skip_while(|word| !word.starts_with("--name="));
        let own: Vec<_> = own.map(|word| word.split('=').next().unwrap()).collect();
        assert!(own.contains(&"--initial-cluster"), "{delivery:?}: {own:?}");
        let has_files = words(etcd, "etcd")[0] == "with-files";
        assert_eq!(
            has_files,
            delivery.runner == Runner::RawExec,
            "{delivery:?}"
        );
        if !has_files {
            assert_eq!(words(etcd, "files")[0], "with-files");
        }
    }
}

#[test]
fn the_image_of_etcd_is_asked_for_where_its_members_are() {
    let settings = with(cluster(), images());
    let plan = plan(&settings, &three()).unwrap();
    let check = node_check(&settings, &plan.members);
    let [node, store] = check.task_groups.items() else {
        panic!("{check:?}");
    };
    assert!(node.constraints.items().is_empty());
    let nodes: Vec<_> = plan.members.iter().map(|it| &it.node[..]).collect();
    assert_eq!(
        store.constraints.items()[0].r_target.text(),
        nodes.join(",")
    );
    let trial = with(Shape::Dev, images());
    assert_eq!(
        node_check(&trial, &plan.members).task_groups.items().len(),
        1
    );
}

#[test]
fn the_same_settings_and_cluster_give_the_same_plan_in_any_order_of_nodes() {
    let settings = with(cluster(), downloads());
    let mut turned = three();
    turned.nodes.reverse();
    let (one, other) = (
        plan(&settings, &three()).unwrap(),
        plan(&settings, &turned).unwrap(),
    );
    assert_eq!(one.steps, other.steps);
    let members: Vec<_> = one.members.iter().map(|member| &member.node[..1]).collect();
    assert_eq!(members, ["a", "b", "c"]);
}

/// The cluster after the plan was carried out.
fn after(settings: &Settings, mut facts: Facts) -> Facts {
    for step in plan(settings, &facts).unwrap().steps {
        match step {
            Step::Namespace(namespace) if namespace.name.text() != settings.namespace => {
                facts.ingress_namespace = Some(namespace);
            }
            Step::Namespace(namespace) => facts.namespace = Some(namespace),
            Step::Policy(policy) => facts.policies.push(policy),
            Step::Variable { variable, missing } => {
                let items: BTreeSet<_> = missing.iter().map(|file| item_of(file)).collect();
                facts
                    .variables
                    .entry(variable.path)
                    .or_default()
                    .extend(items);
            }
            Step::Volume(volume) => facts.volumes.push(volume),
            Step::Job(job) => facts.jobs.push(*job),
            other => assert_eq!(other.title(), "", "a new kind of step"),
        }
    }
    facts
}

#[test]
fn a_second_plan_has_the_same_jobs_and_nothing_else() {
    for delivery in [downloads(), images(), Delivery::program("/usr/bin/mesh")] {
        for shape in [Shape::Dev, cluster()] {
            let mut settings = with(shape, delivery.clone());
            settings.ingress.count = 1;
            let mut facts = after(
                &settings,
                Facts {
                    acl: true,
                    ..three()
                },
            );
            // A new node that would have come first.
            facts
                .nodes
                .push(node("A", "10.0.0.9", &["raw_exec", "docker"]));
            let first: Vec<Job> = facts.jobs.clone();
            let second = plan(&settings, &facts).unwrap();
            assert_eq!(second.steps.len(), first.len(), "{:?}", second.steps);
            assert_eq!(jobs(&second), first.iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn tags_of_roots_stay_in_a_later_plan() {
    let settings = with(cluster(), downloads());
    let mut facts = after(&settings, three());
    let roots = ["bb".to_owned(), "aa".to_owned()];
    let tagged = facts
        .jobs
        .iter()
        .cloned()
        .map(|job| with_root_tags(job, &roots));
    facts.jobs = tagged.collect();
    let again = plan(&settings, &facts).unwrap();
    assert_eq!(jobs(&again), facts.jobs.iter().collect::<Vec<_>>());
    let text = json!(jobs(&again)).to_string();
    assert!(
        text.contains(r#"["mesh.root=aa","mesh.root=bb"]"#),
        "{text}"
    );
}

#[test]
fn another_version_is_nowhere_in_what_restarts_what_did_not_change() {
    // Only where programs come from may differ between releases: a change of meta restarts.
    let of = |url: &str| {
        let settings = with(
            cluster(),
            Delivery::downloads([Download {
                url: url.into(),
                checksum: "sha256:00".into(),
            }]),
        );
        let made = plan(&settings, &three()).unwrap();
        jobs(&made)
            .into_iter()
            .map(|job| json!(job).to_string())
            .collect::<Vec<_>>()
    };
    for (old, new) in of("https://a/1").iter().zip(of("https://a/2")) {
        assert_eq!(old.replace("https://a/1", "https://a/2"), new);
    }
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let settings = with(cluster(), downloads());
    let mut facts = Facts {
        acl: true,
        namespace: Some(serde_json::from_value(json!({ "Name": "mesh-system" })).unwrap()),
        ..three()
    };
    facts.jobs = vec![serde_json::from_value(json!({ "ID": "mesh-api" })).unwrap()];
    facts.policies =
        vec![serde_json::from_value(json!({ "Name": "mesh-system-mesh-pilot" })).unwrap()];
    let refusals = plan(&settings, &facts).unwrap_err();
    let places: Vec<_> = refusals.0.iter().map(|refusal| &refusal.path[..]).collect();
    assert_eq!(
        places,
        [
            "namespace mesh-system",
            "job mesh-api",
            "policy mesh-system-mesh-pilot"
        ]
    );
}

#[test]
fn a_job_of_somebody_else_with_another_name_is_let_be() {
    let settings = with(cluster(), downloads());
    let mut facts = three();
    facts.namespace =
        Some(serde_json::from_value(json!({ "Meta": { OWNER_KEY: OWNER } })).unwrap());
    facts.jobs = vec![serde_json::from_value(json!({ "ID": "backup" })).unwrap()];
    assert!(plan(&settings, &facts).is_ok());
}

#[test]
fn too_few_nodes_for_the_store_are_told_with_what_to_do() {
    let facts = Facts {
        nodes: vec![
            node("a", "10.0.0.1", &["docker"]),
            node("b", "10.0.0.2", &["raw_exec"]),
        ],
        ..Facts::default()
    };
    let refusals = plan(&with(cluster(), downloads()), &facts)
        .unwrap_err()
        .to_string();
    assert!(
        refusals.contains("1 of 2 have the driver raw_exec"),
        "{refusals}"
    );
    assert!(refusals.contains("--etcd 1"), "{refusals}");
}

#[test]
fn the_number_of_members_is_odd_and_stays() {
    let of = |etcd| {
        Shape::Cluster(Counts {
            etcd,
            ..Counts::default()
        })
    };
    assert!(plan(&with(of(2), downloads()), &three()).is_err());
    let facts = after(&with(of(1), downloads()), three());
    let refusals = plan(&with(of(3), downloads()), &facts)
        .unwrap_err()
        .to_string();
    assert!(
        refusals.contains("has 1 members, and 3 are wanted"),
        "{refusals}"
    );
}

#[test]
fn a_trial_does_not_become_a_cluster_by_itself() {
    let facts = after(&with(Shape::Dev, downloads()), three());
    let refusals = plan(&with(cluster(), downloads()), &facts)
        .unwrap_err()
        .to_string();
    assert!(refusals.contains("mesh nomad uninstall"), "{refusals}");
}

#[test]
fn gateways_are_in_a_namespace_of_their_own_and_go_when_none_are_wanted() {
    let mut settings = with(Shape::Dev, downloads());
    assert!(
        plan(&settings, &three())
            .unwrap()
            .steps
            .iter()
            .all(|step| !step.title().contains("ingress"))
    );
    settings.ingress.count = 2;
    let mut facts = after(&settings, three());
    let made = facts.jobs.last().unwrap();
    assert_eq!(made.id.text(), "mesh-ingress");
    assert_eq!(made.namespace.text(), "mesh-ingress");
    let group = &made.task_groups.items()[0];
    let ports: Vec<_> = group.networks.items()[0]
        .reserved_ports
        .items()
        .iter()
        .map(|port| port.value.value())
        .collect();
    assert_eq!((group.count.value(), &ports[..]), (2, &[80, 443][..]));
    let sidecar = Sidecar::of_group(group).unwrap();
    assert!(sidecar.gateway);
    assert_eq!(sidecar.labels["istio"], "ingressgateway");

    settings.ingress.count = 0;
    let titles = |facts: &Facts| -> Vec<_> {
        let steps = plan(&settings, facts).unwrap().steps;
        steps.iter().map(Step::title).collect()
    };
    assert_eq!(titles(&facts).last().unwrap(), "job mesh-ingress");
    facts.jobs.pop();
    assert!(!titles(&facts).contains(&"job mesh-ingress".to_owned()));
}

#[test]
fn gateways_do_not_take_what_is_not_theirs() {
    let mut settings = with(cluster(), downloads());
    settings.ingress = Ingress {
        count: 1,
        ports: vec![6443, 0, 80, 80],
    };
    let facts = Facts {
        ingress_namespace: Some(serde_json::from_value(json!({ "Name": "x" })).unwrap()),
        ..three()
    };
    let refusals = plan(&settings, &facts).unwrap_err();
    let places: Vec<_> = refusals.0.iter().map(|refusal| &refusal.path[..]).collect();
    let port = "--ingress-port";
    assert_eq!(places, ["namespace mesh-ingress", port, port, port]);
}

#[test]
fn a_restore_is_beside_the_store_by_the_program_that_the_task_has() {
    for (delivery, program) in [
        (downloads(), "local/bin/mesh"),
        (Delivery::program("/usr/bin/mesh"), "/usr/bin/mesh"),
        (images(), "mesh"),
    ] {
        let settings = with(Shape::Dev, delivery);
        let plan = plan(&settings, &three()).unwrap();
        let job = json!(restore_job(&settings, &plan.members));
        assert!(job.to_string().contains(&plan.members[0].node), "{job:#}");
        let words = restore_command(&settings);
        let home = words.last().unwrap();
        let dev = json!(jobs(&plan)[0]).to_string();
        assert!(dev.contains(home), "{home}: {dev}");
        assert!(words.contains(&program.to_owned()), "{words:?}");
    }
}

#[test]
fn rendered_files_have_every_job_and_no_secret() {
    let mut settings = with(cluster(), images());
    settings.ingress.count = 1;
    let plan = plan(
        &settings,
        &Facts {
            acl: true,
            ..three()
        },
    )
    .unwrap();
    let files = render::files(&settings, &plan);
    let paths: Vec<_> = files.iter().map(|file| &file.path[..]).collect();
    assert!(paths.contains(&"jobs/mesh-etcd.nomad.json"), "{paths:?}");
    let readme = files.iter().find(|file| file.path == "README.md").unwrap();
    for file in &files {
        let is_told = file.path == "README.md" || readme.text.contains(&file.path);
        assert!(is_told, "{}", file.path);
        assert!(!file.text.contains("PRIVATE KEY"), "{}", file.path);
    }
}
