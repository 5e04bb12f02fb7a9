//! `mesh inject`: a Nomad job file becomes the same file with a sidecar in every task group.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use mesh_model::TrustDomain;
use mesh_nomad::hcl::{self, HclError};
use mesh_nomad::inject::{Download, ModeChoice, Options, Refusals, Report, inject};
use mesh_nomad::model::JobDocument;

use crate::exit::{Failure, OK, Outcome, REFUSED};

/// Print a Nomad job file with a sidecar in every task group.
///
/// HCL comes out as HCL with comments and layout, JSON as JSON. What cannot be meshed is refused,
/// with every reason at once. Groups and jobs say more in their meta: `mesh.inject`, `mesh.mode`,
/// `mesh.upstreams` and others.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job file; `-` for standard input.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    wishes: Wishes,
}

/// What injection is told besides the job.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Wishes {
    /// How traffic gets to the sidecar, for groups that do not say: cni, guard, explicit,
    /// host-exclusive, host-uid.
    #[arg(long, default_value = "cni")]
    mode: ModeChoice,
    /// The image with `mesh` and `envoy`, for tasks that are containers.
    #[arg(long, value_name = "IMAGE", env = "MESH_IMAGE")]
    image: Option<String>,
    /// Where `mesh` is on nodes, for tasks that are processes.
    #[arg(long, value_name = "PATH", default_value = "/usr/local/bin/mesh")]
    program: String,
    /// What tasks that are processes download to `local/bin/` first; may be repeated. `mesh` is
    /// then `--program local/bin/mesh`.
    #[arg(long, value_name = "URL#sha256:HEX", value_parser = download)]
    artifact: Vec<Download>,
    /// The trust domain of the mesh.
    #[arg(long, default_value_t = TrustDomain::default())]
    trust_domain: TrustDomain,
    /// Nomad's namespace with the control plane.
    #[arg(long, value_name = "NAME", default_value = "mesh-system")]
    mesh_namespace: String,
    /// The CNI network that groups with a bridge are moved to.
    #[arg(long, value_name = "NAME", default_value = "mesh")]
    cni_network: String,
    /// Another CNI network with `mesh-cni` in its chain; may be repeated.
    #[arg(long, value_name = "NAME")]
    other_cni_network: Vec<String>,
    /// Inject groups of Consul's own mesh too.
    #[arg(long)]
    allow_connect: bool,
}

pub(crate) fn run(args: Args) -> Outcome {
    let text = read(&args.file)?;
    let name = args.file.display();
    let options = args.wishes.options();
    if is_json(&text) {
        let document = document(&text, &args.file)?;
        let injection = inject(document.job(), &options).map_err(|refusals| refused(&refusals))?;
        tell(&injection.report);
        print_json(&document.with_job(injection.job))?;
    } else {
        let injected = hcl::inject(&text, &options).map_err(|error| match &error {
            HclError::Refused(refusals) => refused(refusals),
            other => Failure::usage(format!("{name}: {other}")).with_hint_of(other.hint()),
        })?;
        tell(&injected.report);
        print!("{}", injected.text);
    }
    Ok(OK.into())
}

// === impl Wishes ===

impl Wishes {
    /// The same as injection takes it.
    pub(super) fn options(self) -> Options {
        Options {
            mode: self.mode,
            trust_domain: self.trust_domain,
            mesh_namespace: self.mesh_namespace,
            cni_network: self.cni_network,
            other_cni_networks: self.other_cni_network.into_iter().collect(),
            image: self.image,
            program: self.program,
            artifacts: self.artifact,
            allow_connect: self.allow_connect,
            ..Options::default()
        }
    }
}

/// Reads a file, or standard input for `-`.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure::doing("reading standard input", &error))?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
        .map_err(|error| Failure::doing(format!("reading {}", file.display()), &error))
}

/// Whether a job file is JSON; HCL begins with a word or a comment.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// The job of a file in JSON.
pub(super) fn document(text: &str, file: &Path) -> Result<JobDocument, Failure> {
    let wrong = |error: serde_json::Error| Failure::usage(format!("{}: {error}", file.display()));
    let value: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
    if value.get("job").is_some() {
        let message = format!("{}: the job is HCL in the syntax of JSON", file.display());
        return Err(Failure::usage(message).with_hint(
            "let Nomad's own parser make JSON of it (`nomad job run -json -output FILE`)",
        ));
    }
    // From the text again, so that an error has its line.
    serde_json::from_str(text).map_err(wrong)
}

/// Prints a job as people read it.
pub(super) fn print_json(document: &JobDocument) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Failure::doing("printing the job", &error))?;
    println!("{text}");
    Ok(())
}

pub(super) fn refused(refusals: &Refusals) -> Failure {
    Failure::new(refusals.to_string()).with_code(REFUSED)
}

/// What was done, apart from the file.
pub(super) fn tell(report: &Report) {
    for group in &report.groups {
        match group.mode {
            Some(mode) => eprintln!(
                "group {}: mode {mode}, proxy by {}",
                group.group,
                group.driver.as_str()
            ),
            None => eprintln!("group {}: left alone, as its meta says", group.group),
        }
        for warning in &group.warnings {
            eprintln!("warning: group {}: {warning}", group.group);
        }
    }
}

/// Reads `URL#sha256:HEX`.
pub(super) fn download(text: &str) -> Result<Download, String> {
    text.rsplit_once('#')
        .filter(|(url, checksum)| !url.is_empty() && checksum.contains(':'))
        .map(|(url, checksum)| Download {
            url: url.to_owned(),
            checksum: checksum.to_owned(),
        })
        .ok_or_else(|| format!("`{text}` is not `URL#sha256:HEX`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_has_a_checksum() {
        let found = download("http://10.0.0.1/mesh?v=1#sha256:abcd").unwrap();
        assert_eq!(found.url, "http://10.0.0.1/mesh?v=1");
        assert_eq!(found.checksum, "sha256:abcd");
        for bad in [
            "http://10.0.0.1/mesh",
            "#sha256:ab",
            "http://10.0.0.1/mesh#abcd",
        ] {
            assert!(download(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_is_told_from_hcl() {
        assert!(is_json("\n { \"Job\": {} }"));
        assert!(!is_json("# a job\njob \"web\" {}"));
    }

    #[test]
    fn hcl_in_the_syntax_of_json_is_told_apart() {
        let failure = document(r#"{"job": {"web": {}}}"#, Path::new("web.json")).unwrap_err();
        assert!(
            failure.to_string().contains("HCL in the syntax of JSON"),
            "{failure}"
        );
        assert!(failure.hint().is_some());
    }
}
