//! The Docker engine on a real daemon: one for each test, in a network and a mount namespace and
//! below a directory of its own. Needs root, `dockerd`, `docker`, and `podman` with `netavark` and
//! `aardvark-dns`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "conformance/lib.rs"]
mod conformance;
#[path = "docker/dockerd.rs"]
mod dockerd;
#[path = "docker/host.rs"]
mod host;

#[path = "docker/compose.rs"]
mod compose;
#[path = "docker/container.rs"]
mod container;
#[path = "docker/daemon.rs"]
mod daemon;
#[path = "docker/image.rs"]
mod image;
#[path = "docker/podman.rs"]
mod podman;
#[path = "docker/redirect.rs"]
mod redirect;
#[path = "docker/unit.rs"]
mod unit;

mod conforms {
    //! The conformance suite on the Docker engine.

    use crate::conformance::suite::conformance;
    use crate::host::on_a_bed;

    conformance!(on_a_bed);
}

mod conforms_on_podman {
    //! The conformance suite on podman, at the socket where it speaks Docker's API.

    use crate::conformance::suite::conformance;
    use crate::host::on_a_podman_bed;

    conformance!(on_a_podman_bed);
}
