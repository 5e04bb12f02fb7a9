//! Compose files on a real daemon: what the file, the image and the engine each decide.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use mesh_runtime::compose::{Compose, Plan, PlanOptions, Progress, Reading, apply};
use mesh_runtime::{Creation, LogOptions, Start};

use crate::conformance::bed::{Bed as _, SOON, eventually, log, name};
use crate::host::{DockerBed, on_a_bed};

/// An image that says what it runs, as whom and where.
fn said(bed: &DockerBed) {
    let archive = bed.path("rootfs.tar");
    let made = Command::new("tar")
        .args(["--create", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(bed.path("rootfs"))
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    let change = |text: &str| format!("--change={text}");
    bed.docker(&[
        "import",
        &change(r#"ENTRYPOINT ["/guest"]"#),
        &change(r#"CMD ["self"]"#),
        &change("USER 7:8"),
        &change("WORKDIR /work"),
        archive.to_str().unwrap(),
        "mesh-test/said:1",
    ]);
}

const FILE: &str = "
services:
  web:
    image: mesh-test/guest:1
    entrypoint: [/guest]
    command: http 0.0.0.0:7000
    hostname: front
    user: '0'
    cap_drop: [ALL]
    healthcheck: {test: [CMD, /guest, fetch, '127.0.0.1:7000'], interval: 1s}
    ports: ['127.0.0.1:18080:7000']
    networks: {shop: {ipv4_address: 172.29.0.13, aliases: [www]}}
  image-decides:
    image: mesh-test/said:1
    networks: [shop]
  file-decides:
    image: mesh-test/said:1
    command: [cat, /etc/conf]
    user: '0:0'
    volumes: ['./conf:/etc/conf:ro', 'data:/data']
    networks: [shop]
    depends_on: {image_first: {condition: service_completed_successfully}}
  image_first:
    image: mesh-test/said:1
    command: resolve 127.0.0.11:53 www
    networks: [shop]
    depends_on: {web: {condition: service_healthy}}
  beside:
    image: mesh-test/said:1
    command: [fetch, '127.0.0.1:7000']
    network_mode: service:web
    depends_on: {web: {condition: service_healthy}}
networks: {shop: {ipam: {config: [{subnet: 172.29.0.0/16}]}}}
volumes: {data: }
";

fn plan(bed: &DockerBed) -> Plan {
    let variables = BTreeMap::new();
    let compose = Compose::read(FILE.as_bytes(), &Reading::new("c.yaml", &variables)).unwrap();
    let mut options = PlanOptions::new("c.yaml", bed.path(""));
    options.volumes = Some(bed.path("volumes"));
    compose.plan(&options).unwrap()
}

#[test]
fn a_file_runs_as_it_says_and_as_its_images_say() {
    on_a_bed(async |bed| {
        said(bed);
        fs::write(bed.path("conf"), "written").unwrap();
        let engine = bed.engine().await;
        let plan = plan(bed);
        let mut order = Vec::new();
        let mut note = |progress: Progress<'_>| {
            if let Progress::Started(service, Start::Started) = progress {
                order.push(service.to_owned());
            }
        };
        apply(&*engine, &plan, SOON, &mut note).await.unwrap();
        let place = |service: &str| order.iter().position(|it| it == service).unwrap();
        assert!(place("web") < place("image_first"));
        assert!(place("image_first") < place("file-decides"));

        let wrote = async |group: &str, unit: &str| {
            let (group, unit) = (name(group), name(unit));
            engine.wait_ended(&group, &unit).await.unwrap();
            log(&*engine, &group, &unit, LogOptions::default()).await
        };
        let said = wrote("image-decides", "image-decides").await;
        assert!(
            said.contains("Uid: 7 7 7 7") && said.contains("Gid: 8 8 8 8"),
            "{said}"
        );
        assert!(
            said.contains("Dir: /work") && said.contains("NoNewPrivs: 1"),
            "{said}"
        );
        assert!(said.contains("CapEff: 0000000000000000"), "{said}");
        let read = wrote("file-decides", "file-decides").await;
        assert!(read.ends_with("written\n"), "{read}");
        assert!(bed.path("volumes/data").is_dir());
        assert_eq!(wrote("image-first", "image-first").await, "172.29.0.13\n");
        assert!(wrote("web", "beside").await.contains("here"));

        let guest = bed.path("rootfs/guest");
        let fetch = [guest.to_str().unwrap(), "fetch", "127.0.0.1:18080"];
        let fetched = eventually(async || {
            Some(bed.beside_the_daemon(&fetch)).filter(|it| !it.trim().is_empty())
        });
        assert!(fetched.await.contains("here"));
        let asked = ["inspect", "--format", "{{.Config.Hostname}}", "mesh_web"];
        assert_eq!(bed.docker(&asked).trim(), "front");
    });
}

#[test]
fn a_file_that_runs_is_left_as_it_is_and_completed() {
    on_a_bed(async |bed| {
        said(bed);
        fs::write(bed.path("conf"), "written").unwrap();
        let engine = bed.engine().await;
        let plan = plan(bed);
        apply(&*engine, &plan, SOON, &mut |_| {}).await.unwrap();
        engine.stop_unit(&name("web"), &name("web")).await.unwrap();
        let mut started = Vec::new();
        let mut note = |progress: Progress<'_>| match progress {
            Progress::Network(_, made) | Progress::Group(_, made) => {
                assert_eq!(made, Creation::Exists);
            }
            Progress::Started(service, Start::Started) => started.push(service.to_owned()),
            _ => {}
        };
        // A new process, which knows nothing but what is there.
        let engine = bed.engine().await;
        apply(&*engine, &plan, SOON, &mut note).await.unwrap();
        assert!(started.contains(&"web".to_owned()), "{started:?}");
    });
}
