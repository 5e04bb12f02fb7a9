//! What of the mesh podman cannot do is told before anything is made.

use crate::dockerd::Kind;
use crate::host::on_a_host_of;

#[test]
fn mesh_up_on_podman_names_what_podman_cannot_do_and_keeps_nothing() {
    on_a_host_of(Kind::Podman, |host| {
        let refused = host.mesh(&["up", "--engine", "docker"]);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert!(refused.stderr.contains("podman"), "{refused:?}");
        assert!(!host.home().join("engine.json").exists());
        assert!(!host.home().join("install.json").exists());
        assert_eq!(host.everything(), Vec::<String>::new());
    });
}
