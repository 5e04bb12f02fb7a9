//! Containers that others made: their labels say whether they want a sidecar, and for what. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use mesh_model::sidecar::PROXY_UID;
use mesh_model::{
    Namespace, Problem, Problems, ServiceAccount, ServiceName, WorkloadService, label,
};

use super::{
    Application, LABEL_NAME, LABEL_NAMESPACE, LABEL_SERVICE_ACCOUNT, Runner, check, parse_port,
};

/// A container that others made, as its runtime describes it: `docker run`, a Compose project, or
/// whatever else speaks to the daemon.
///
/// ```
/// use mesh_runtime::inject::Container;
///
/// let mut web = Container::new("0123456789ab", "shop-web-1");
/// web.labels = [("mesh.inject", "true"), ("mesh.service", "web"), ("mesh.ports", "http:8080")]
///     .map(|(key, value)| (key.to_owned(), value.to_owned()))
///     .into();
/// let application = web.application().unwrap().unwrap();
/// assert_eq!(application.name.as_str(), "shop-web-1");
/// assert_eq!(application.services[0].name.as_str(), "web");
///
/// web.network_mode = "host".to_owned();
/// let problems = web.application().unwrap_err().to_string();
/// assert!(problems.contains("network mode: `host`"));
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Container {
    /// The runtime's own id, in full.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The user it runs as, as in `1000:1000` or `www-data`; root when empty.
    pub user: String,
    /// Its network, as in `bridge`, `host` or `container:…`.
    pub network_mode: String,
}

/// Label of a container: `true` asks for a sidecar.
pub const LABEL_INJECT: &str = "mesh.inject";
/// Label of a container: the service that it is an instance of; its own name unless given.
pub const LABEL_SERVICE: &str = "mesh.service";
/// Label of a container: the ports of its service, as in `http:8080,tcp:6379`.
pub const LABEL_PORTS: &str = "mesh.ports";
/// Labels of a container that begin so are labels of the workload, as in `mesh.labels.version`.
pub const LABEL_LABELS: &str = "mesh.labels.";

/// Labels that a container has from an image which an engine made.
const OF_IMAGES: [&str; 3] = ["mesh.engine", "mesh.kind", "mesh.content"];

/// What all labels of the mesh begin with.
const OURS: &str = "mesh.";

// === impl Container ===

impl Container {
    /// A container on a network of the runtime's choice, as root, that asks for nothing.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            labels: BTreeMap::new(),
            user: String::new(),
            network_mode: "default".to_owned(),
        }
    }

    /// The application that it is, for [`inject`](super::inject()); none if it asks for no sidecar.
    ///
    /// # Errors
    ///
    /// Everything that is wrong at once: labels by their names, a network that cannot be redirected,
    /// the proxy's user.
    pub fn application(&self) -> Result<Option<Application>, Problems> {
        let mut problems = Problems::default();
        match self.labels.get(LABEL_INJECT).map(String::as_str) {
            Some("true") => {}
            None | Some("false") => return Ok(None),
            Some(other) => problems.add(LABEL_INJECT, other, "`true` or `false`"),
        }
        self.check_place(&mut problems);
        self.check_keys(&mut problems);
        let name: Option<ServiceName> = self.read(LABEL_NAME, &self.plain_name(), &mut problems);
        let namespace: Option<Namespace> = self.read(LABEL_NAMESPACE, "default", &mut problems);
        let account: Option<ServiceAccount> =
            self.read(LABEL_SERVICE_ACCOUNT, "default", &mut problems);
        let services = self.services(name.as_ref(), &mut problems);
        let (Some(name), Some(namespace), Some(account)) = (name, namespace, account) else {
            return Err(problems);
        };
        let mut application = Application::new(namespace, name, account, [""; 0]);
        application.runner = Runner::Container {
            id: self.id.clone(),
        };
        application.services = services;
        let own = |(key, value): (&String, &String)| {
            Some((key.strip_prefix(LABEL_LABELS)?.to_owned(), value.clone()))
        };
        application.labels = self.labels.iter().filter_map(own).collect();
        problems.into_result(Some(application))
    }

    /// Whether anything is said about a sidecar, right or wrong.
    pub fn speaks_of_sidecar(&self) -> bool {
        self.labels.contains_key(LABEL_INJECT)
    }

    fn check_place(&self, problems: &mut Problems) {
        let mode = self.network_mode.as_str();
        let expected = match mode.split_once(':').map_or(mode, |(kind, _)| kind) {
            "host" => Some("a network of its own: the rules would be the host's"),
            "none" => Some("a network: without one nobody can be called"),
            "container" | "ns" => {
                Some("a network of its own: label the container whose network it joins")
            }
            _ => None,
        };
        if let Some(expected) = expected {
            problems.add("network mode", mode, expected);
        }
        let proxy = PROXY_UID.to_string();
        if self.user.split(':').any(|part| part == proxy) {
            let expected = "other than the proxy's, whose traffic goes round the mesh";
            problems.add("user", &self.user, expected);
        }
    }

    /// A label that is misspelt would be silently without effect.
    fn check_keys(&self, problems: &mut Problems) {
        let known = [
            LABEL_INJECT,
            LABEL_NAME,
            LABEL_NAMESPACE,
            LABEL_SERVICE_ACCOUNT,
            LABEL_SERVICE,
            LABEL_PORTS,
        ];
        let unknown = self.labels.iter().filter(|(key, _)| {
            let label = key.strip_prefix(LABEL_LABELS);
            key.starts_with(OURS)
                && !known.contains(&key.as_str())
                && !OF_IMAGES.contains(&key.as_str())
                && label.is_none_or(str::is_empty)
        });
        for (key, value) in &self.labels {
            let Some(own) = key.strip_prefix(LABEL_LABELS).filter(|own| !own.is_empty()) else {
                continue;
            };
            if !label::is_key(own) || !label::is_value(value) {
                let expected = "a label's value, or not under a label's key";
                problems.add(key, value, expected);
            }
        }
        for (key, value) in unknown {
            let expected = format!("the value of a label of the mesh ({})", known.join(", "));
            problems.add(key, value, format!("{expected}, {LABEL_LABELS}KEY"));
        }
    }

    fn services(
        &self,
        name: Option<&ServiceName>,
        problems: &mut Problems,
    ) -> Vec<WorkloadService> {
        let Some(ports) = self.labels.get(LABEL_PORTS) else {
            if let Some(service) = self.labels.get(LABEL_SERVICE) {
                let expected = format!("a service with ports: {LABEL_PORTS} is missing");
                problems.add(LABEL_SERVICE, service, expected);
            }
            return Vec::new();
        };
        let mut parsed = Vec::new();
        for port in ports.split(',') {
            match parse_port(port.trim()) {
                Ok(port) => parsed.push(port),
                Err(problem) => problems.push(at(LABEL_PORTS, problem)),
            }
        }
        let default = name.map_or("", ServiceName::as_str);
        let named = match self.labels.get(LABEL_SERVICE) {
            // Of the name it is told already.
            None if name.is_none() => None,
            _ => self.read(LABEL_SERVICE, default, problems),
        };
        let services: Vec<_> = named
            .map(|name| WorkloadService {
                name,
                ports: parsed,
            })
            .into_iter()
            .collect();
        let mut found = Problems::default();
        check::check_services(&services, &mut found);
        problems
            .0
            .extend(found.0.into_iter().map(|it| at(LABEL_PORTS, it)));
        services
    }

    /// The value of a label, or what holds without it.
    fn read<T: FromStr<Err = Problem>>(
        &self,
        label: &str,
        default: &str,
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.labels.get(label).map_or(default, String::as_str);
        match text.parse() {
            Ok(value) => Some(value),
            Err(problem) => {
                problems.push(at(label, problem));
                None
            }
        }
    }

    /// Its name as that of a workload: Compose joins with `_`, which no DNS label has.
    fn plain_name(&self) -> String {
        let name = self.name.trim_start_matches('/').to_ascii_lowercase();
        name.replace(['_', '.'], "-")
    }
}

fn at(label: &str, problem: Problem) -> Problem {
    Problem {
        path: label.to_owned(),
        ..problem
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::Protocol;
    use proptest::prelude::*;

    use super::*;

    fn container(labels: &[(&str, &str)]) -> Container {
        let mut container = Container::new("c0ffee", "/shop_web_1");
        let labels = labels.iter();
        container.labels = labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        container
    }

    fn problems(container: &Container) -> Vec<(String, String)> {
        let problems = container.application().unwrap_err().0.into_iter();
        problems.map(|it| (it.path, it.value)).collect()
    }

    #[test]
    fn labels_say_who_it_is_and_what_it_serves() {
        let application = container(&[
            ("mesh.inject", "true"),
            ("mesh.name", "web-1"),
            ("mesh.namespace", "shop"),
            ("mesh.service-account", "till"),
            ("mesh.service", "web"),
            ("mesh.ports", "http:80:8080, tcp:6379"),
            ("mesh.labels.version", "v2"),
            ("com.docker.compose.project", "shop"),
            ("mesh.kind", "built"),
        ])
        .application()
        .unwrap()
        .unwrap();
        let named = (application.name.as_str(), application.namespace.as_str());
        assert_eq!(named, ("web-1", "shop"));
        assert_eq!(application.service_account.as_str(), "till");
        let id = "c0ffee".to_owned();
        assert_eq!(application.runner, Runner::Container { id });
        let [service] = application.services.as_slice() else {
            panic!("{application:?}");
        };
        assert_eq!(service.name.as_str(), "web");
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|it| (it.number, it.target, it.protocol))
            .collect();
        let expected = [(80, 8080, Protocol::Http), (6379, 6379, Protocol::Tcp)];
        assert_eq!(ports, expected);
        let labels = [("version".to_owned(), "v2".to_owned())].into();
        assert_eq!(application.labels, labels);
    }

    #[test]
    fn one_label_is_enough_and_without_it_nothing_is_done() {
        let asks = container(&[("mesh.inject", "true")]);
        let application = asks.application().unwrap().unwrap();
        assert_eq!(application.name.as_str(), "shop-web-1");
        assert_eq!(application.namespace.as_str(), "default");
        assert_eq!(application.services, []);
        for silent in [
            container(&[]),
            container(&[("mesh.inject", "false")]),
            container(&[("mesh.name", "Not A Name")]),
        ] {
            assert_eq!(silent.application().unwrap(), None);
        }
        assert!(!container(&[("mesh.name", "x")]).speaks_of_sidecar());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_label_and_value() {
        let mut wrong = container(&[
            ("mesh.inject", "yes"),
            ("mesh.name", "Web"),
            ("mesh.port", "http:80"),
            ("mesh.ports", "http:80:15001,ftp:21,tcp:0"),
            ("mesh.namespace", "-"),
        ]);
        wrong.network_mode = "container:abc".to_owned();
        wrong.user = "web:1337".to_owned();
        let expected = [
            ("mesh.inject", "yes"),
            ("network mode", "container:abc"),
            ("user", "web:1337"),
            ("mesh.port", "http:80"),
            ("mesh.name", "Web"),
            ("mesh.namespace", "-"),
            ("mesh.ports", "ftp"),
            ("mesh.ports", "0"),
        ];
        let expected = expected.map(|(path, value)| (path.to_owned(), value.to_owned()));
        assert_eq!(problems(&wrong), expected);
    }

    #[test]
    fn ports_that_the_sidecar_needs_and_ports_twice_are_refused() {
        let taken = container(&[("mesh.inject", "true"), ("mesh.ports", "http:80:15001")]);
        let expected = [("mesh.ports".to_owned(), "15001".to_owned())];
        assert_eq!(problems(&taken), expected);
        let twice = container(&[("mesh.inject", "true"), ("mesh.ports", "http:80,http:81")]);
        assert_eq!(problems(&twice).len(), 1);
        let without = container(&[("mesh.inject", "true"), ("mesh.service", "web")]);
        let expected = [("mesh.service".to_owned(), "web".to_owned())];
        assert_eq!(problems(&without), expected);
    }

    #[test]
    fn only_a_network_namespace_of_its_own_can_be_redirected() {
        for (mode, is_right) in [
            ("default", true),
            ("bridge", true),
            ("shop_default", true),
            ("host", false),
            ("none", false),
            ("container:0123", false),
            ("ns:/run/netns/x", false),
        ] {
            let mut container = container(&[("mesh.inject", "true")]);
            container.network_mode = mode.to_owned();
            assert_eq!(container.application().is_ok(), is_right, "{mode}");
        }
    }

    proptest! {
        #[test]
        fn whatever_labels_say_they_are_taken_as_a_whole_or_refused(
            inject in prop_oneof![Just("true".to_owned()), ".{0,6}"],
            name in "[a-z0-9-]{0,8}|.{0,8}",
            ports in "(http|tcp|.{0,3}):[0-9]{1,5}(,(grpc|http):[0-9]{1,5})?",
            user in "[0-9]{0,4}(:1337)?",
        ) {
            let mut container = container(&[
                ("mesh.inject", &inject),
                ("mesh.name", &name),
                ("mesh.ports", &ports),
            ]);
            container.user.clone_from(&user);
            match container.application() {
                Ok(None) => prop_assert_eq!(inject, "false"),
                Ok(Some(application)) => {
                    prop_assert_eq!(inject, "true");
                    prop_assert_eq!(application.name.as_str(), name);
                    let served: Vec<_> = application.services.iter().flat_map(|it| &it.ports).collect();
                    prop_assert_eq!(served.len(), ports.split(',').count());
                    prop_assert!(served.iter().all(|it| !(15000..=15090).contains(&it.target)));
                    prop_assert!(!user.split(':').any(|part| part == "1337"));
                }
                Err(problems) => prop_assert!(!problems.0.is_empty()),
            }
        }
    }
}
