//! A machine or a user that cannot run workloads: one sentence, what to do, exit code 4, and nothing
//! is made. Needs root, setpriv and unshare.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tempfile::TempDir;

/// A directory that everybody may enter, with the binary in it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: run `sudo cargo xtask test`"
        );
        let directory = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), open).unwrap();
        // By another process: a file that this one holds open for writing would be inherited by what
        // other tests start meanwhile, and could not be run.
        let copied = Command::new("cp")
            .args([env!("CARGO_BIN_EXE_mesh"), "mesh"])
            .current_dir(directory.path())
            .status();
        assert!(copied.unwrap().success());
        Self { directory }
    }

    /// Runs `mesh` behind a prefix, in a network namespace of its own so that nothing of this
    /// machine can be changed; the exit code and what it said.
    fn mesh(&self, prefix: &[&str], arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new("unshare")
            .arg("--net")
            .args(prefix)
            .arg(self.directory.path().join("mesh"))
            .args(arguments)
            .env("MESH_HOME", self.directory.path().join("home"))
            .env_remove("ENVOY_BIN")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code(), said)
    }

    fn is_untouched(&self) -> bool {
        !self.directory.path().join("home").exists()
    }
}

const NOBODY: &[&str] = &[
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
];

#[test]
fn without_root_every_verb_that_makes_something_says_so() {
    let place = Place::new();
    for arguments in [
        &["up"][..],
        &["run", "--name", "web", "--", "true"],
        &["rm", "default.web"],
        &["stop", "default.web"],
        &["start", "default.web"],
    ] {
        let (code, said) = place.mesh(NOBODY, arguments);
        assert_eq!(code, Some(4), "{arguments:?}: {said}");
        assert!(said.starts_with("error: workloads need root"), "{said}");
        assert!(said.contains("hint: run it as root"), "{said}");
        assert!(place.is_untouched());
    }
}

#[test]
fn without_envoy_no_workload_is_begun() {
    let place = Place::new();
    let arguments = ["run", "--name", "web", "--", "true"];
    let (code, said) = place.mesh(&["env", "PATH="], &arguments);
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.starts_with("error: there is no `envoy` in PATH"),
        "{said}"
    );
    assert!(said.contains("--envoy"), "{said}");
    assert!(place.is_untouched());
}

#[test]
fn root_of_a_user_namespace_is_told_apart() {
    let place = Place::new();
    let (code, said) = place.mesh(&["unshare", "--user", "--map-root-user"], &["up"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("user namespace"), "{said}");
    assert!(place.is_untouched());
}
