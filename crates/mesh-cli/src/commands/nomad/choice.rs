//! What the command line says about an install, over what an earlier one said.

use mesh_model::TrustDomain;
use mesh_nomad::inject::Download;
use mesh_nomad::install::{CniNetwork, Counts, Delivery, Settings, Shape};

use crate::commands::inject;
use crate::exit::Failure;

/// Where Nomad is and which install is meant.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Place {
    /// Nomad's namespace of the control plane.
    #[arg(long, value_name = "NAME", default_value = "mesh-system")]
    pub(super) namespace: String,
    /// A token of Nomad's that may do all this, where access control is on.
    #[arg(
        long,
        env = "NOMAD_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub(super) token: Option<String>,
}

/// How programs get to the nodes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Programs {
    /// The image with `mesh`, for containers, by a tag or a digest; `mesh image build` makes one.
    #[arg(long, value_name = "IMAGE", value_parser = image,
          conflicts_with_all = ["artifact", "program"])]
    image: Option<String>,
    /// The image with etcd; needed with `--image` unless `--dev`.
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    etcd_image: Option<String>,
    /// What nodes download to `local/bin/` of each task: `mesh`, and `etcd` where it is not in
    /// the nodes' PATH; a file, or an archive. May be repeated.
    #[arg(long, value_name = "URL#sha256:HEX", value_parser = inject::download)]
    artifact: Vec<Download>,
    /// Where `mesh` is on every node already.
    #[arg(long, value_name = "PATH", conflicts_with = "artifact")]
    program: Option<String>,
    /// Where etcd is on nodes, for tasks that are processes; in their PATH unless given.
    #[arg(long, value_name = "PATH")]
    etcd_program: Option<String>,
}

/// How much control plane, and where.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Extent {
    /// One job with every role and a file as the store, for a single node.
    #[arg(long, conflicts_with_all = ["etcd", "api", "ca", "pilot", "mixer"])]
    dev: bool,
    /// Members of etcd: 1, 3 or 5; 3 unless given.
    #[arg(long, value_name = "COUNT")]
    etcd: Option<u16>,
    /// API servers; 2 unless given.
    #[arg(long, value_name = "COUNT")]
    api: Option<u16>,
    /// CAs; 2 unless given.
    #[arg(long, value_name = "COUNT")]
    ca: Option<u16>,
    /// Pilots; 2 unless given.
    #[arg(long, value_name = "COUNT")]
    pilot: Option<u16>,
    /// Mixers; 2 unless given.
    #[arg(long, value_name = "COUNT")]
    mixer: Option<u16>,
    /// Gateways for callers outside the mesh, at most one on a node; none unless given.
    #[arg(long, value_name = "COUNT")]
    ingress: Option<u16>,
    /// Ports of its node that each gateway has for itself: those of the Gateways that select
    /// `istio=ingressgateway`; 80 and 443 unless given. May be repeated.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    ingress_port: Vec<u16>,
    /// Port of the API server on its nodes; 6443 unless given.
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    /// Where nodes keep what has to survive, for tasks that are processes; /var/lib/mesh-nomad
    /// unless given.
    #[arg(long, value_name = "DIR")]
    directory: Option<String>,
    /// The node pool of the control plane.
    #[arg(long, value_name = "POOL")]
    node_pool: Option<String>,
    /// The trust domain of a new mesh; cluster.local unless given.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// The subnet of injected groups on each node; 172.27.64.0/20 unless given.
    #[arg(long, value_name = "CIDR", conflicts_with = "no_nodes")]
    subnet: Option<ipnet::Ipv4Net>,
    /// Leave nodes as they are: no plugin, no network.
    #[arg(long)]
    no_nodes: bool,
}

// === impl Programs ===

impl Programs {
    /// What is said, over what was said before.
    pub(super) fn delivery(
        &self,
        before: Option<&Delivery>,
        is_dev: bool,
    ) -> Result<Delivery, Failure> {
        let mut delivery = if let Some(image) = &self.image {
            let etcd = match (&self.etcd_image, before) {
                (Some(etcd), _) => etcd.clone(),
                (None, Some(before)) if before.runner == mesh_nomad::install::Runner::Docker => {
                    before.etcd.clone()
                }
                (None, _) if is_dev => String::new(),
                (None, _) => {
                    return Err(Failure::usage("--image needs --etcd-image, or --dev"));
                }
            };
            Delivery::images(image, &etcd)
        } else if !self.artifact.is_empty() {
            let mut delivery = Delivery::downloads(self.artifact.iter().cloned());
            keep_etcd(&mut delivery, before);
            delivery
        } else if let Some(program) = &self.program {
            Delivery::program(program)
        } else if let Some(before) = before {
            before.clone()
        } else {
            return Err(Failure::usage("how do programs get to the nodes?").with_hint(
                "name an image (--image), downloads (--artifact), or where they are already (--program)",
            ));
        };
        if let Some(etcd) = &self.etcd_program {
            delivery.etcd.clone_from(etcd);
        } else if delivery
            .downloads
            .iter()
            .any(|download| has_etcd(&download.url))
        {
            "local/bin/etcd".clone_into(&mut delivery.etcd);
        }
        Ok(delivery)
    }

    /// Whether anything is said.
    pub(super) fn is_empty(&self) -> bool {
        self.image.is_none()
            && self.artifact.is_empty()
            && self.program.is_none()
            && self.etcd_program.is_none()
            && self.etcd_image.is_none()
    }
}

/// An image that stays what it is while it has this name. Nomad fetches `latest` anew at each start
/// of a task, also where it is there already, and sees no difference between one and the next.
fn image(text: &str) -> Result<String, String> {
    let says = "name a tag that is not moved, or a digest (`NAME@sha256:HEX`)";
    let last = text.rsplit('/').next().unwrap_or_default();
    let tag = match (text.contains("@sha256:"), last.rsplit_once(':')) {
        (true, _) => return Ok(text.to_owned()),
        (false, None) => return Err(format!("no tag stands for `latest`, which changes: {says}")),
        (false, Some((_, tag))) => tag,
    };
    if tag == "latest" || tag.is_empty() {
        return Err(format!("`{tag}` changes: {says}"));
    }
    Ok(text.to_owned())
}

/// An etcd that was downloaded stays the same where only `mesh` comes from elsewhere.
fn keep_etcd(delivery: &mut Delivery, before: Option<&Delivery>) {
    let mut downloads = delivery.downloads.iter();
    if downloads.any(|download| has_etcd(&download.url)) {
        return;
    }
    let before = before.into_iter().flat_map(|before| &before.downloads);
    let etcd = before.filter(|download| has_etcd(&download.url));
    delivery.downloads.extend(etcd.cloned());
}

/// Whether a download is etcd's own binary.
fn has_etcd(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next() == Some("etcd")
}

// === impl Extent ===

impl Extent {
    /// The settings of the command line, over those of an earlier install.
    pub(super) fn settings(
        &self,
        place: &Place,
        programs: &Programs,
        before: Option<&Settings>,
    ) -> Result<Settings, Failure> {
        let mut settings = before.cloned().unwrap_or_default();
        settings.namespace.clone_from(&place.namespace);
        settings.shape = self.shape(before.map(|before| before.shape));
        let is_dev = settings.shape == Shape::Dev;
        settings.delivery = programs.delivery(before.map(|before| &before.delivery), is_dev)?;
        settings.api_port = self.api_port.unwrap_or(settings.api_port);
        if let Some(directory) = &self.directory {
            settings.directory.clone_from(directory);
        }
        if self.node_pool.is_some() {
            settings.node_pool.clone_from(&self.node_pool);
        }
        if self.trust_domain.is_some() {
            settings.trust_domain.clone_from(&self.trust_domain);
        }
        settings.ingress.count = self.ingress.unwrap_or(settings.ingress.count);
        if !self.ingress_port.is_empty() {
            settings.ingress.ports.clone_from(&self.ingress_port);
        }
        if self.no_nodes {
            settings.network = None;
        } else if let Some(subnet) = self.subnet {
            settings
                .network
                .get_or_insert_with(CniNetwork::default)
                .subnet = subnet.to_string();
        }
        Ok(settings)
    }

    fn shape(&self, before: Option<Shape>) -> Shape {
        let given = [self.etcd, self.api, self.ca, self.pilot, self.mixer];
        let counts = match before {
            _ if self.dev => return Shape::Dev,
            Some(Shape::Dev) if given.iter().all(Option::is_none) => return Shape::Dev,
            Some(Shape::Cluster(counts)) => counts,
            _ => Counts::default(),
        };
        Shape::Cluster(Counts {
            etcd: self.etcd.unwrap_or(counts.etcd),
            api: self.api.unwrap_or(counts.api),
            ca: self.ca.unwrap_or(counts.ca),
            pilot: self.pilot.unwrap_or(counts.pilot),
            mixer: self.mixer.unwrap_or(counts.mixer),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use mesh_nomad::install::Runner;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        extent: Extent,
    }

    fn read(line: &[&str], before: Option<&Settings>) -> Result<Settings, String> {
        let line = ["install"].iter().chain(line);
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        line.extent
            .settings(&line.place, &line.programs, before)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_was_said_once_need_not_be_said_again() {
        let first = read(
            &["--program", "/bin/mesh", "--etcd", "1", "--pilot", "3"],
            None,
        )
        .unwrap();
        assert_eq!(read(&[], Some(&first)).unwrap(), first);
        let second = read(&["--mixer", "1"], Some(&first)).unwrap();
        let Shape::Cluster(counts) = second.shape else {
            panic!("a cluster")
        };
        assert_eq!((counts.etcd, counts.pilot, counts.mixer), (1, 3, 1));
        let dev = read(&["--dev", "--program", "/bin/mesh"], None).unwrap();
        assert_eq!(read(&[], Some(&dev)).unwrap(), dev);
    }

    #[test]
    fn gateways_are_remembered_with_their_ports() {
        let first = ["--dev", "--program", "/bin/mesh", "--ingress", "2"];
        let first = read(&first, None).unwrap();
        assert_eq!(
            (first.ingress.count, &first.ingress.ports[..]),
            (2, &[80, 443][..])
        );
        let second = read(&["--ingress-port", "8080,8443"], Some(&first)).unwrap();
        assert_eq!(
            (second.ingress.count, &second.ingress.ports[..]),
            (2, &[8080, 8443][..])
        );
        assert_eq!(read(&[], Some(&second)).unwrap(), second);
        // What an older release remembers says nothing of gateways.
        let mut older = serde_json::to_value(&second).unwrap();
        older.as_object_mut().unwrap().remove("ingress");
        let older: Settings = serde_json::from_value(older).unwrap();
        assert_eq!(older.ingress.count, 0);
    }

    #[test]
    fn an_image_is_named_so_that_it_stays_the_same() {
        let digest = format!("files.example:5000/mesh@sha256:{}", "0".repeat(64));
        for name in ["mesh:0.1.0", "files.example:5000/a/mesh:1", &digest] {
            assert_eq!(image(name).as_deref(), Ok(name));
        }
        for name in [
            "mesh",
            "mesh:latest",
            "files.example:5000/mesh",
            "mesh:",
            "",
        ] {
            assert!(image(name).is_err(), "{name}");
        }
    }

    #[test]
    fn programs_come_one_way() {
        assert!(read(&[], None).unwrap_err().contains("how do programs"));
        assert!(read(&["--image", "m:1", "--program", "p"], None).is_err());
        assert!(
            read(&["--image", "m:1"], None)
                .unwrap_err()
                .contains("--etcd-image")
        );
        let settings = read(&["--dev", "--image", "m:1"], None).unwrap();
        assert_eq!(settings.delivery.runner, Runner::Docker);
        let urls = [
            "--artifact",
            "http://a/mesh#sha256:0",
            "--artifact",
            "http://a/etcd#sha256:1",
        ];
        let settings = read(&urls, None).unwrap();
        assert_eq!(settings.delivery.mesh, "local/bin/mesh");
        assert_eq!(settings.delivery.etcd, "local/bin/etcd");
        // Another `mesh` alone leaves etcd as it is.
        let later = read(&["--artifact", "http://a/mesh-2#sha256:2"], Some(&settings)).unwrap();
        let urls = later.delivery.downloads.iter().map(|found| &found.url[..]);
        assert_eq!(
            urls.collect::<Vec<_>>(),
            ["http://a/mesh-2", "http://a/etcd"]
        );
        assert_eq!(later.delivery.etcd, "local/bin/etcd");
    }
}
