//! `cargo xtask dist`: the Debian package and the images, out of one binary and what that binary says
//! about itself.
//!
//! The same commit gives the same bytes: times are the commit's, paths of this machine are mapped
//! away, and compressed files carry neither name nor time.

mod notice;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Failure;
use crate::cmd::Cmd;
use crate::provision;
use crate::release::{self, PACKAGE};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Package the debug build, linked dynamically: for tests.
    #[arg(long)]
    debug: bool,
    /// Where package and images are written; `target/dist`, or `target/dist/debug`.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The package's version, in place of the program's.
    #[arg(long, value_name = "VERSION")]
    package_version: Option<String>,
    /// Write no images, which need Envoy and etcd.
    #[arg(long)]
    no_images: bool,
}

/// What everything is made from.
#[derive(Debug)]
struct Source {
    /// The root of the workspace.
    root: PathBuf,
    /// What cargo says about every package.
    metadata: Value,
    /// The time that everything gets, in seconds since the Unix epoch.
    time: u64,
    /// The package's version.
    version: String,
}

/// The programs of others that are in the images.
#[derive(Debug)]
struct Parts {
    envoy: PathBuf,
    etcd: PathBuf,
}

/// Where everything is laid out that the package is made from; its manifest names it too.
const STAGE: &str = "target/dist/stage";

pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let source = Source::read(root, arguments.package_version.as_deref())?;
    let cargo_deb = provision::cargo_deb(root)?;
    let parts = if arguments.no_images {
        None
    } else {
        Some(Parts::get(root)?)
    };
    let built = if arguments.debug {
        source.build_debug()?
    } else {
        release::build(root)?
    };
    // There is one stage, since the manifest names it: another run waits for it.
    fs::create_dir_all(root.join("target/dist"))?;
    let turn = File::create(root.join("target/dist/lock"))?;
    turn.lock()?;
    let stage = root.join(STAGE);
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    fs::create_dir_all(&stage)?;
    source.stage(&stage, &built)?;

    let output = arguments.output.clone().unwrap_or_else(|| {
        root.join(if arguments.debug {
            "target/dist/debug"
        } else {
            "target/dist"
        })
    });
    fs::create_dir_all(&output)?;
    // The tools do not all run where this one does.
    let output = fs::canonicalize(output)?;
    let package = source.package(&cargo_deb, &output, arguments.debug)?;
    let mut files = vec![package];
    if let Some(parts) = parts {
        files.extend(source.images(&stage.join("mesh"), &output, &parts)?);
    }
    sums(&output, &files)?;
    for file in files {
        println!("{}", file.display());
    }
    Ok(())
}

// === impl Source ===

impl Source {
    fn read(root: &Path, version: Option<&str>) -> Result<Self, Failure> {
        let host = release::host(root)?;
        let text = Cmd::cargo(root)
            .args(["metadata", "--format-version=1", "--locked"])
            .args(["--filter-platform", &host])
            .read()?;
        let metadata: Value = serde_json::from_str(&text)?;
        let own = metadata
            .get("packages")
            .and_then(Value::as_array)
            .and_then(|packages| packages.iter().find(|package| package["name"] == PACKAGE))
            .and_then(|package| package["version"].as_str());
        let version = version.or(own).ok_or("cargo knows no version")?.to_owned();
        Ok(Self {
            root: root.to_owned(),
            time: time(root)?,
            version,
            metadata,
        })
    }

    /// The program as tests use it.
    fn build_debug(&self) -> Result<PathBuf, Failure> {
        Cmd::cargo(&self.root)
            .args(["build", "--package", PACKAGE, "--bins"])
            .run()?;
        Ok(self.root.join("target/debug/mesh"))
    }

    /// Lays out everything that the package's manifest names.
    fn stage(&self, stage: &Path, built: &Path) -> Result<(), Failure> {
        let program = stage.join("mesh");
        Cmd::new("strip", &self.root)
            .args(["--strip-unneeded", "--remove-section=.comment", "-o"])
            .args([&program, built])
            .run()?;
        let man = stage.join("man");
        for (what, directory) in [("man", &man), ("completions", &stage.join("completions"))] {
            Cmd::new(&program, stage)
                .args(["generate", what])
                .arg(directory)
                .run()?;
        }
        let doc = stage.join("doc");
        fs::create_dir(&doc)?;
        fs::copy(self.root.join("CHANGELOG.md"), doc.join("CHANGELOG.md"))?;
        fs::write(doc.join("changelog"), self.changelog()?)?;
        fs::write(doc.join("THIRD-PARTY"), notice::text(&self.metadata)?)?;
        for directory in [&man, &doc] {
            let mut files = Vec::new();
            for entry in fs::read_dir(directory)? {
                files.push(entry?.path());
            }
            // Without name and time, which differ from run to run.
            Cmd::new("gzip", stage).args(["-9n"]).args(files).run()?;
        }
        Ok(())
    }

    /// The changelog in Debian's form, which has one entry: that of users has a file of its own.
    fn changelog(&self) -> Result<String, Failure> {
        let date = Cmd::new("date", &self.root)
            .env("LC_ALL", "C")
            .args(["--utc", "--rfc-email", "--date", &format!("@{}", self.time)])
            .read()?;
        Ok(format!(
            "mesh ({}) unstable; urgency=medium\n\n  * What changed for users is in \
             CHANGELOG.md.gz.\n\n -- The mesh maintainers <maintainers@mesh.example>  {}\n",
            self.version,
            date.trim()
        ))
    }

    /// Makes the package and names it.
    fn package(&self, cargo_deb: &Path, output: &Path, is_quick: bool) -> Result<PathBuf, Failure> {
        let architecture = Cmd::new("dpkg", &self.root)
            .arg("--print-architecture")
            .read()?;
        let name = format!("mesh_{}_{}.deb", self.version, architecture.trim());
        let package = output.join(name);
        let mut cmd = Cmd::new(cargo_deb, &self.root)
            .env("SOURCE_DATE_EPOCH", self.time.to_string())
            .args(["--manifest-path", "crates/mesh-cli/Cargo.toml"])
            // Quiet: its warnings are about a stage that cargo has not built.
            .args([
                "--quiet",
                "--no-build",
                "--no-strip",
                "--locked",
                "--deb-version",
            ])
            .arg(&self.version)
            .arg("--output")
            .arg(&package);
        if is_quick {
            cmd = cmd.args(["--fast", "--compress-type", "gz"]);
        }
        cmd.run()?;
        Ok(package)
    }

    /// Has the program write its images, and names them.
    fn images(
        &self,
        program: &Path,
        output: &Path,
        parts: &Parts,
    ) -> Result<Vec<PathBuf>, Failure> {
        let text = Cmd::new(program, &self.root)
            .args(["image", "build", "--json", "--output"])
            .arg(output)
            .arg("--envoy")
            .arg(&parts.envoy)
            .arg("--etcd")
            .arg(&parts.etcd)
            .read()?;
        let images: Vec<Value> = serde_json::from_str(&text)?;
        let files = images.iter().map(|image| image["file"].as_str());
        let files: Option<Vec<_>> = files.map(|file| file.map(PathBuf::from)).collect();
        files.ok_or_else(|| format!("an image has no file: {text}").into())
    }
}

// === impl Parts ===

impl Parts {
    /// Looks for them, and gets what is missing, before anything long begins.
    fn get(root: &Path) -> Result<Self, Failure> {
        let without = "; `--no-images` makes the package alone";
        let needed = |found: Result<PathBuf, Failure>| {
            found.map_err(|failure| Failure::from(format!("{failure}{without}")))
        };
        Ok(Self {
            envoy: needed(provision::envoy(root))?,
            etcd: needed(provision::program(root, "etcd"))?,
        })
    }
}

/// Writes the digest of every file, as `sha256sum --check` reads it.
fn sums(output: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    let names = files.iter().filter_map(|file| file.file_name());
    let text = Cmd::new("sha256sum", output).args(names).read()?;
    fs::write(output.join("SHA256SUMS"), text)?;
    Ok(())
}

/// The time that everything gets: what the caller says, or the commit's.
///
/// Source: <https://reproducible-builds.org/specs/source-date-epoch/>.
fn time(root: &Path) -> Result<u64, Failure> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => Cmd::new("git", root)
            .args(["log", "-1", "--format=%ct"])
            .read()
            .map_err(|failure| format!("{failure}; set SOURCE_DATE_EPOCH to a Unix time"))?,
    };
    let text = text.trim();
    text.parse()
        .map_err(|_no_number| format!("`{text}` is not a Unix time").into())
}
