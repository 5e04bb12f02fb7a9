//! Applications with their sidecars: the order of things, and undoing.

use std::fs;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_runtime::inject::SidecarFiles;
use mesh_runtime::{
    Creation, EnrolError, JoinToken, LogOptions, NetworkSpec, Runtime as _, RuntimeError, enrol,
    inject,
};

use crate::SOON;
use crate::host::{self, name, on_a_host};

#[test]
fn the_first_connection_of_an_enrolled_application_arrives_at_its_sidecar() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let first = ["10.213.99.99", "240.240.1.2", "fd6d:6573:68d5::99"].map(|to| {
            format!("print(socket.create_connection(('{to}', 80)).recv(99).decode(), flush=True)")
        });
        let script = format!("import socket, time\n{}\ntime.sleep(100)", first.join("\n"));
        let application = host::application(&["python3", "-c", &script]);
        let facts = host::facts(host::mesh_binary(host, true));
        let injected = inject(&application, &facts).unwrap();
        let token = JoinToken::new("token-1");
        let enrolled = enrol(&engine, &injected, &token, SOON).await.unwrap();
        assert_eq!(enrolled.creation, Creation::Created);
        let group = enrolled.group.spec.name.clone();
        let options = LogOptions {
            follow: true,
            tail: None,
        };
        let mut log = engine.logs(&group, &name("app"), options).await.unwrap();
        let mut said = String::new();
        while said
            .lines()
            .filter(|line| *line == "by the sidecar")
            .count()
            < 3
        {
            let piece = log.next().await.unwrap().unwrap();
            said.push_str(&String::from_utf8(piece).unwrap());
        }
        let log = host
            .log(&engine, &group, &name("sidecar"), LogOptions::default())
            .await;
        let first = log.lines().next();
        assert_eq!(first, Some("sidecar of shop/web as 1337 with token-1"));

        // Rules before sidecar, sidecar ready before the application.
        let files = SidecarFiles::from(&enrolled.group);
        let sidecar = engine.status(&group, &name("sidecar")).await.unwrap();
        let app = engine.status(&group, &name("app")).await.unwrap();
        let rules = enrolled.group.rules_applied_at_millis;
        assert!(rules.is_some() && rules <= sidecar.started_at_millis);
        assert!(sidecar.ready_at_millis <= app.started_at_millis);
        let verdict = fs::read_to_string(files.verdict()).unwrap();
        assert!(verdict.contains("redirect to :15001"), "{verdict}");

        // With the rules came the source address of inbound calls; of IPv4 all of 127.0.0.0/8 is there.
        let addresses = host::inside(&enrolled.group, || {
            fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap()
        });
        let source = "00000000000000000000000000000006 01 80";
        assert!(addresses.contains(source), "{addresses}");

        // Again: nothing is started anew, the token is fresh.
        let token = JoinToken::new("token-2");
        let again = enrol(&engine, &injected, &token, SOON).await.unwrap();
        assert_eq!(again.creation, Creation::Exists);
        assert_eq!(engine.status(&group, &name("app")).await.unwrap(), app);
        assert_eq!(fs::read_to_string(files.token()).unwrap(), "token-2");
        assert_eq!(again.group.rules_applied_at_millis, rules);
    });
}

#[test]
fn an_application_whose_sidecar_is_never_ready_is_undone_and_its_log_told() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let before = host.look(&engine);
        let ran = host.path("ran");
        let application = host::application(&["touch", ran.to_str().unwrap()]);
        let facts = host::facts(host::mesh_binary(host, false));
        let injected = inject(&application, &facts).unwrap();
        let token = JoinToken::new("t");
        let limit = Duration::from_secs(1);
        let error = enrol(&engine, &injected, &token, limit).await.unwrap_err();
        let EnrolError::Runtime { source, log, .. } = error else {
            panic!("{error:?}");
        };
        assert!(matches!(source, RuntimeError::NotReady { .. }), "{source}");
        assert!(log.contains("sidecar of shop/web"), "{log}");
        assert!(!ran.exists());
        let mut after = host.look(&engine);
        after.retain(|thing| !thing.starts_with("cgroup"));
        assert_eq!(after, before);
    });
}
