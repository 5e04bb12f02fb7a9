//! What injection refuses, with the path, the reason and what to do.

use mesh_nomad::inject::{ModeChoice, Options, inject, uninject};
use mesh_nomad::model::{Job, Port};
use mesh_nomad::sidecar::Mode;
use serde_json::{Value, json};

/// A job that is injected in mode `cni`, before `change` makes it one that is not.
fn job(change: impl FnOnce(&mut Value)) -> Job {
    let mut value = json!({
        "ID": "web",
        "TaskGroups": [{
            "Name": "front",
            "Networks": [{ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] }],
            "Services": [{ "Name": "web", "Provider": "nomad", "PortLabel": "http" }],
            "Tasks": [{ "Name": "app", "Driver": "docker", "Config": { "image": "a:1" } }],
        }],
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn options(mode: Mode) -> Options {
    Options {
        mode: ModeChoice::Mode(mode),
        image: Some("mesh:1".into()),
        ..Options::default()
    }
}

/// The paths of all refusals.
fn refused(mode: Mode, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let refusals = inject(&job(change), &options(mode)).unwrap_err();
    refusals.0.into_iter().map(|refusal| refusal.path).collect()
}

#[test]
fn ways_past_the_proxy_are_refused() {
    let group = "TaskGroups[front]";
    let task = |key: &'static str, value: Value| {
        move |job: &mut Value| job["TaskGroups"][0]["Tasks"][0][key] = value
    };
    let network_mode = json!({ "image": "a:1", "network_mode": "bridge" });
    assert_eq!(
        refused(Mode::Cni, task("Config", network_mode)),
        [format!("{group}.Tasks[app].Config.network_mode")]
    );
    for user in ["1337", "1337:0", "1000:1337", "mesh-proxy"] {
        assert_eq!(
            refused(Mode::Guard, task("User", user.into())),
            [format!("{group}.Tasks[app].User")],
            "{user}"
        );
    }
    assert_eq!(
        refused(
            Mode::Cni,
            task("Resources", json!({ "Networks": [{ "MBits": 1 }] }))
        ),
        [format!("{group}.Tasks[app].Resources.Networks")]
    );
    assert_eq!(
        refused(Mode::Cni, |job| {
            job["TaskGroups"][0]["Networks"][0]["CNI"] =
                json!({ "Args": { "mesh_config": "e30" } });
        }),
        [format!("{group}.Networks[0].CNI.Args[mesh_config]")]
    );
}

#[test]
fn a_network_that_the_mode_is_not_for_is_refused() {
    let network = |mode: &'static str| {
        move |job: &mut Value| job["TaskGroups"][0]["Networks"][0]["Mode"] = mode.into()
    };
    let path = "TaskGroups[front].Networks[0].Mode".to_owned();
    for (mode, found) in [
        (Mode::Cni, "cni/other"),
        (Mode::Guard, "none"),
        (Mode::HostExclusive, "bridge"),
    ] {
        assert!(
            refused(mode, network(found)).contains(&path),
            "{mode} {found}"
        );
    }
    assert!(refused(Mode::Cni, network("host")).contains(&path));
    for mode in [Mode::Cni, Mode::Guard, Mode::Explicit] {
        let without = refused(mode, |job| job["TaskGroups"][0]["Networks"] = Value::Null);
        assert!(
            without.contains(&"TaskGroups[front].Networks".to_owned()),
            "{mode}"
        );
    }
    let mut options = options(Mode::Cni);
    options.other_cni_networks.insert("other".to_owned());
    let injected = inject(&job(network("cni/other")), &options).unwrap().job;
    assert_eq!(
        injected.task_groups.items()[0].networks.items()[0]
            .mode
            .text(),
        "cni/other"
    );
}

#[test]
fn names_of_ours_and_meshes_of_others_are_refused() {
    let paths = refused(Mode::Cni, |job| {
        let group = &mut job["TaskGroups"][0];
        group["Tasks"][0]["Name"] = "mesh-proxy".into();
        group["Networks"][0]["ReservedPorts"] = json!([{ "Label": "mesh_health", "Value": 80 }]);
        group["Services"][0]["Connect"] = json!({ "SidecarService": {} });
        group["Services"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "Name": "other", "PortLabel": "80" }));
    });
    assert_eq!(
        paths,
        [
            "TaskGroups[front].Networks[0].Ports[mesh_health]",
            "TaskGroups[front].Tasks[mesh-proxy].Name",
            "TaskGroups[front].Services[0].Connect",
            "TaskGroups[front].Services[1].Provider",
        ]
    );
}

#[test]
fn all_groups_are_told_at_once_and_nothing_is_changed() {
    let paths = refused(Mode::Cni, |job| {
        job["Namespace"] = "mesh-system".into();
        job["taskgroups"] = json!([]);
        let mut second = job["TaskGroups"][0].clone();
        second["Name"] = "back".into();
        second["Tasks"] = json!([]);
        second["Meta"] = json!({ "mesh.mode": "magic", "mesh.exclude_inbound_ports": "http,nope" });
        job["TaskGroups"].as_array_mut().unwrap().push(second);
    });
    assert_eq!(
        paths,
        [
            "Job.taskgroups",
            "Namespace",
            "TaskGroups[back].Meta[mesh.exclude_inbound_ports]",
            "TaskGroups[back].Meta[mesh.mode]",
            "TaskGroups[back]",
        ]
    );
}

#[test]
fn auto_is_never_weaker_than_cni() {
    let options = |known| Options {
        mode: ModeChoice::Auto,
        every_node_has_cni: known,
        ..options(Mode::Cni)
    };
    let job = job(|_| {});
    let injected = inject(&job, &options(Some(true))).unwrap();
    assert_eq!(injected.report.groups[0].mode, Some(Mode::Cni));
    for known in [Some(false), None] {
        assert!(inject(&job, &options(known)).is_err());
    }
}

#[test]
fn annotations_change_what_is_captured_and_how() {
    let job = job(|job| {
        job["Meta"] = json!({ "mesh_proxy_cpu": "400", "mesh.inject": "true" });
        job["TaskGroups"][0]["Meta"] = json!({
            "mesh.mode": "guard",
            "mesh.exclude_inbound_ports": "http, 9000-9001",
            "mesh.exclude_outbound_cidrs": "10.0.0.0/8",
            "mesh.exclude_uids": "200",
            "mesh.hold_app": "false",
            "mesh.service_account": "front",
            "mesh.labels": "version=v3",
            "mesh.protocol.http": "http2",
            "mesh.exlude_uids": "a slip",
        });
    });
    let injection = inject(&job, &options(Mode::Cni)).unwrap();
    let group = &injection.job.task_groups.items()[0];
    assert_eq!(
        injection.report.groups[0].warnings.len(),
        1,
        "{:?}",
        injection.report
    );
    assert!(group.task("mesh-ready").is_none());
    let proxy = group.task("mesh-proxy").unwrap();
    assert_eq!(proxy.resources.get().unwrap().cpu.value(), 400);
    let sidecar: Value = serde_json::from_str(proxy.templates.items()[0].embedded.text()).unwrap();
    assert_eq!(sidecar["service_account"], "front");
    assert_eq!(sidecar["labels"], json!({ "version": "v3" }));
    assert_eq!(sidecar["services"][0]["protocol"], "http2");
    let guard = group.task("mesh-guard").unwrap();
    let policy: Value = serde_json::from_str(guard.templates.items()[0].embedded.text()).unwrap();
    let excluded = &policy["inbound"]["capture"]["ports"]["all_except"];
    assert_eq!(excluded, &json!([8080, "9000-9001", "15020-15021", 15090]));
    assert_eq!(policy["identities"], json!({ "except": { "uids": [200] } }));
    assert_eq!(uninject(&injection.job).unwrap(), job);
}

#[test]
fn a_group_that_says_no_is_left_alone() {
    let job = job(|job| job["Meta"] = json!({ "mesh.inject": "false" }));
    let injection = inject(&job, &options(Mode::Cni)).unwrap();
    assert_eq!(
        (injection.job, injection.report.groups[0].mode),
        (job, None)
    );
}

#[test]
fn an_edit_after_injection_that_bars_the_way_back_is_told() {
    let injected = inject(&job(|_| {}), &options(Mode::Cni)).unwrap().job;
    let mut value = serde_json::to_value(&injected).unwrap();
    value["TaskGroups"][0]["Networks"][0]["Mode"] = "cni/mine".into();
    let edited: Job = serde_json::from_value(value.clone()).unwrap();
    let refusals = uninject(&edited).unwrap_err();
    assert_eq!(refusals.0[0].path, "TaskGroups[front].Networks[0].Mode");
    assert!(!refusals.0[0].hint.is_empty());
    value["TaskGroups"][0]["Meta"]
        .as_object_mut()
        .unwrap()
        .remove("mesh.inverse");
    let cut: Job = serde_json::from_value(value).unwrap();
    assert_eq!(
        uninject(&cut).unwrap_err().0[0].path,
        "TaskGroups[front].Meta[mesh.inverse]"
    );
}

#[test]
fn what_others_added_after_injection_stays() {
    let injected = inject(&job(|_| {}), &options(Mode::Cni)).unwrap().job;
    let mut value = serde_json::to_value(&injected).unwrap();
    let group = &mut value["TaskGroups"][0];
    group["Tasks"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({ "Name": "new", "Driver": "docker" }));
    group["Meta"]["team"] = "shop".into();
    let edited: Job = serde_json::from_value(value).unwrap();
    let back = uninject(&edited).unwrap();
    let group = &back.task_groups.items()[0];
    let names: Vec<_> = group
        .tasks
        .items()
        .iter()
        .map(|task| task.name.text())
        .collect();
    assert_eq!(names, ["new", "app"]);
    assert_eq!(
        serde_json::to_value(&group.meta).unwrap(),
        json!({ "team": "shop" })
    );
}

#[test]
fn a_check_over_tls_is_refused_unless_checks_stay_as_they_are() {
    let checks = json!([
        { "Type": "http", "Protocol": "https", "Path": "/", "PortLabel": "http" },
        { "Type": "grpc", "GRPCUseTLS": true },
        { "Type": "tcp" },
    ]);
    let paths = refused(Mode::Cni, |job| {
        job["TaskGroups"][0]["Services"][0]["Checks"] = checks.clone();
    });
    let path = |index: usize| format!("TaskGroups[front].Services[0].Checks[{index}]");
    assert_eq!(paths, [path(0), path(1)]);
    let job = job(|job| {
        job["TaskGroups"][0]["Services"][0]["Checks"] = checks;
        job["Meta"] = json!({ "mesh.rewrite_checks": "false", "mesh.port.web": "80" });
    });
    let injection = inject(&job, &options(Mode::Cni)).unwrap();
    let group = &injection.job.task_groups.items()[0];
    assert_eq!(
        group.services.items()[0].checks.items()[0].protocol.text(),
        "https"
    );
    let proxy = group.task("mesh-proxy").unwrap();
    let sidecar: Value = serde_json::from_str(proxy.templates.items()[0].embedded.text()).unwrap();
    assert_eq!(
        (&sidecar["services"][0]["number"], &sidecar["probes"]),
        (&json!(80), &Value::Null)
    );
}

#[test]
fn proxies_that_share_the_hosts_network_share_no_port() {
    let ports = |mode| {
        let job = job(|job| {
            let group = &mut job["TaskGroups"][0];
            group["Networks"] = json!([{ "Mode": "host", "DynamicPorts": [{ "Label": "http" }] }]);
            group["Tasks"][0]["Config"]["network_mode"] = json!("host");
            group["Tasks"][0]["User"] = json!("1000:1000");
        });
        let injected = inject(&job, &options(mode)).unwrap().job;
        let network = &injected.task_groups.items()[0].networks.items()[0];
        let labels = |ports: &[Port]| -> Vec<String> {
            let labels = ports.iter().map(|port| port.label.text().to_owned());
            labels.filter(|label| label.starts_with("mesh_")).collect()
        };
        (
            labels(network.dynamic_ports.items()),
            labels(network.reserved_ports.items()),
        )
    };
    let (dynamic, fixed) = ports(Mode::HostUid);
    for label in ["mesh_health", "mesh_dns", "mesh_metrics"] {
        assert!(dynamic.contains(&label.to_owned()), "{dynamic:?}");
    }
    assert!(fixed.is_empty(), "{fixed:?}");
    let (dynamic, fixed) = ports(Mode::Explicit);
    for label in ["mesh_health", "mesh_dns", "mesh_metrics"] {
        assert!(dynamic.contains(&label.to_owned()), "{dynamic:?}");
    }
    // What every one of them has is taken on a node once.
    assert_eq!(fixed, ["mesh_forward"]);
}
