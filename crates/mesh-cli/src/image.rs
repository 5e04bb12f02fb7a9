//! The images of the mesh: which programs and files are in them.

use std::env;
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use mesh_model::sidecar::PROXY_UID;
use mesh_runtime::docker::{ArchivedImage, BuiltImage, archive};
use mesh_runtime::image::{ImageError, ImageSpec, Machine, RootFs, Source, ThisMachine};
use mesh_runtime::{DockerEngine, DockerOptions};

use crate::engine;
use crate::exit::{Failure, UNSUPPORTED};

/// This program in its image.
pub(crate) const MESH: &str = "/usr/bin/mesh";
/// Envoy in the image of the mesh.
pub(crate) const ENVOY: &str = "/usr/bin/envoy";
/// etcd in its image.
pub(crate) const ETCD: &str = "/usr/bin/etcd";

/// The images that there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The control plane, and the sidecar of workloads.
    Mesh,
    /// The store of the control plane.
    Etcd,
}

/// The programs of this machine that images are made from.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Programs {
    /// The Envoy binary; the one in PATH unless given.
    #[arg(long, env = "ENVOY_BIN", value_name = "FILE")]
    pub(crate) envoy: Option<PathBuf>,
    /// The etcd binary; the one in PATH unless given.
    #[arg(long, env = "ETCD_BIN", value_name = "FILE")]
    pub(crate) etcd: Option<PathBuf>,
}

/// An image as it is to be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: ImageSpec,
    /// The programs of this machine that are in it.
    pub(crate) programs: Vec<PathBuf>,
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Mesh, Self::Etcd];

    /// The name that people use, which is of the newest.
    pub(crate) fn name(self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match self {
            Self::Mesh => format!("mesh:{version}"),
            Self::Etcd => format!("mesh-etcd:{version}"),
        }
    }
}

// === impl Programs ===

impl Programs {
    /// What is to be in an image, of what is on this machine.
    ///
    /// # Errors
    ///
    /// With exit code [`UNSUPPORTED`] when a program is not there, and when it needs something that
    /// is not there.
    pub(crate) fn plan(&self, kind: Kind) -> Result<Plan, Failure> {
        let (spec, programs) = match kind {
            Kind::Mesh => {
                let mesh = engine::program()?;
                let envoy = program("envoy", self.envoy.as_deref())?;
                let authorities = AUTHORITIES.iter().map(Path::new).find(|it| it.is_file());
                let spec = mesh_image(&mesh, &envoy, authorities, &ThisMachine);
                (spec, vec![mesh, envoy])
            }
            Kind::Etcd => {
                let etcd = program("etcd", self.etcd.as_deref())?;
                (etcd_image(&etcd, &ThisMachine), vec![etcd])
            }
        };
        let spec = spec.map_err(|error| {
            Failure::doing(format!("planning image {}", kind.name()), &error)
                .with_hint_of(error.hint())
                .with_code(UNSUPPORTED)
        })?;
        Ok(Plan { spec, programs })
    }
}

/// A program of this machine, as a full path without links.
pub(crate) fn program(name: &str, given: Option<&Path>) -> Result<PathBuf, Failure> {
    let found = match given {
        Some(path) => Some(path.to_path_buf()),
        None => env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|directory| directory.join(name))
            .find(|path| path.is_file()),
    };
    let found = found.ok_or_else(|| {
        Failure::new(format!("there is no `{name}` in PATH"))
            .with_code(UNSUPPORTED)
            .with_hint(format!("install it, or name its binary with --{name}"))
    })?;
    fs::canonicalize(&found)
        .map_err(|error| Failure::doing(format!("looking for {}", found.display()), &error))
}

/// Makes an image, unless it is up to date; the first takes as long as copying its programs.
pub(crate) async fn build(engine: &DockerEngine, plan: &Plan) -> Result<BuiltImage, Failure> {
    engine
        .build(&plan.spec, &mut |step| {
            tracing::info!(image = plan.spec.name, step = %step, "building an image");
        })
        .await
        .map_err(|error| engine::failed(&error))
}

/// Writes an image below a directory, whole or not at all; the file and what is in it.
pub(crate) fn write(directory: &Path, plan: &Plan) -> Result<(PathBuf, ArchivedImage), Failure> {
    let doing = |action: &str, path: &Path, error: &dyn std::error::Error| {
        Failure::doing(format!("{action} {}", path.display()), error)
    };
    fs::create_dir_all(directory).map_err(|error| doing("making", directory, &error))?;
    let name = plan.spec.name.replace(':', "-");
    let file = directory.join(format!("{name}-{}.tar", env::consts::ARCH));
    let unfinished = file.with_extension("tar.new");
    let written = fs::File::create(&unfinished)
        .map_err(|error| doing("making", &unfinished, &error))
        .and_then(|out| {
            let out = BufWriter::with_capacity(BUFFER, out);
            // Whoever loads it has what `mesh up --engine docker` would make.
            let owner = DockerOptions::new(directory).owner;
            archive(&plan.spec, &owner, out).map_err(|error| engine::failed(&error))
        })
        .and_then(|archived| {
            fs::rename(&unfinished, &file).map_err(|error| doing("making", &file, &error))?;
            Ok(archived)
        });
    if written.is_err() {
        // There may be none.
        drop(fs::remove_file(&unfinished));
    }
    Ok((file, written?))
}

/// The control plane and the sidecar: this program beside Envoy.
fn mesh_image(
    mesh: &Path,
    envoy: &Path,
    authorities: Option<&Path>,
    machine: &dyn Machine,
) -> Result<ImageSpec, ImageError> {
    let mut root = base()?;
    root.programs(&[(MESH, mesh), (ENVOY, envoy)], machine)?;
    if let Some(authorities) = authorities {
        // Where the libraries of every program look first.
        let place = Source::Machine(authorities.to_path_buf());
        root.file("/etc/ssl/certs/ca-certificates.crt", place, 0o644)?;
    }
    Ok(ImageSpec {
        name: Kind::Mesh.name(),
        entry_point: vec![MESH.to_owned()],
        root,
    })
}

/// The store.
fn etcd_image(etcd: &Path, machine: &dyn Machine) -> Result<ImageSpec, ImageError> {
    let mut root = base()?;
    root.programs(&[(ETCD, etcd)], machine)?;
    Ok(ImageSpec {
        name: Kind::Etcd.name(),
        entry_point: vec![ETCD.to_owned()],
        root,
    })
}

/// What programs expect of any machine: users, names from files before DNS, a place for files of
/// an hour.
fn base() -> Result<RootFs, ImageError> {
    let mut root = RootFs::default();
    let text = |text: String| Source::Bytes(text.into_bytes());
    let passwd = format!(
        "root:x:0:0:root:/:/usr/sbin/nologin\n\
         mesh:x:{PROXY_UID}:{PROXY_UID}:mesh:/:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    );
    let group = format!("root:x:0:\nmesh:x:{PROXY_UID}:\nnogroup:x:65534:\n");
    root.file("/etc/passwd", text(passwd), 0o644)?;
    root.file("/etc/group", text(group), 0o644)?;
    let names = "hosts: files dns\n".to_owned();
    root.file("/etc/nsswitch.conf", text(names), 0o644)?;
    root.directory("/tmp", 0o1777)?;
    Ok(root)
}

/// How much of an archive is written at once.
const BUFFER: usize = 256 << 10;

/// Where distributions keep the certificates of public authorities: Debian, Fedora, Alpine.
const AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_runtime::image::{Entry, Linked};

    use super::*;

    /// A machine whose programs are all static.
    #[derive(Debug)]
    struct Static;

    impl Machine for Static {
        fn linked(&self, _: &Path) -> Result<Option<Linked>, ImageError> {
            Ok(Some(Linked::default()))
        }

        fn search(&self) -> Result<Vec<PathBuf>, ImageError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn the_image_of_the_mesh_holds_what_a_sidecar_needs_and_no_shell() {
        let image = mesh_image(
            Path::new("/opt/mesh"),
            Path::new("/opt/envoy"),
            Some(Path::new("/etc/ssl/cert.pem")),
            &Static,
        )
        .unwrap();
        let paths: BTreeSet<_> = image
            .root
            .entries()
            .filter_map(|(it, _)| it.to_str())
            .collect();
        let expected = [
            "/etc/group",
            "/etc/nsswitch.conf",
            "/etc/passwd",
            "/etc/ssl/certs/ca-certificates.crt",
            "/tmp",
            ENVOY,
            MESH,
        ];
        assert_eq!(paths, expected.into());
        let passwd = image.root.entries().find(|(it, _)| it.ends_with("passwd"));
        let Some((
            _,
            Entry::File {
                source: Source::Bytes(passwd),
                ..
            },
        )) = passwd
        else {
            panic!("{passwd:?}");
        };
        assert!(String::from_utf8_lossy(passwd).contains("mesh:x:1337:1337:"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_flag() {
        let missing = program("no-such-program", None).unwrap_err();
        assert_eq!(missing.to_string(), "there is no `no-such-program` in PATH");
        let hint = missing.hint().unwrap();
        assert!(hint.contains("--no-such-program"), "{hint}");
    }

    #[test]
    fn images_carry_the_version_of_this_program() {
        for kind in Kind::ALL {
            assert!(
                kind.name()
                    .ends_with(concat!(":", env!("CARGO_PKG_VERSION")))
            );
        }
    }
}
